"""A process that nobody supervises follows the configuration once, refuses a bad change whole, and tells of a good one.

Proves: OP-1.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cli.command import started
from support.durable import KEEPING
from support.nats_server import private_nats

from fabric.live import CHANGED
from fabric_sdk import Fabric

POLICY = 'rules:\n  - {{name: {name}, principals: ["*"], on: ["*/*"], then: allow}}\n'


async def announced(url: str, count: int) -> list[object]:
    """All changes that were told, once there are so many."""
    found: list[object] = []
    async with asyncio.timeout(10), Fabric.connect(url) as fabric, fabric.subscribe(CHANGED, start="all") as events:
        async for event in events:
            found.append((event.data["process"], event.data["applied"]))
            if len(found) == count:
                return found
    raise AssertionError("the events ended")


def test_the_platform_by_itself(tmp_path: Path) -> None:
    file, ready = tmp_path / "fabric.toml", tmp_path / "ready"
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(POLICY.format(name=name))

    def write(level: str, policy: str) -> None:
        aside = tmp_path / "aside"
        aside.write_text(f'log_level = "{level}"\npolicy = "{policy}.yaml"\n')
        aside.replace(file)

    write("info", "one")
    with private_nats(KEEPING) as nats:
        env = {"FABRIC_NATS_URL": nats.url, "FABRIC_CONFIG": str(file)}
        with started("platform", "--ready-file", ready, folder=tmp_path, env=env) as platform:
            platform.until(ready.exists, what="the platform")

            write("debug", "three")
            platform.until_said("refused, and the old configuration kept: ")
            assert "DEBUG" not in platform.said

            (tmp_path / "two.yaml").write_text(POLICY.format(name="two") + "nonsense: 1\n")
            write("debug", "two")
            platform.until_said("refused, and the old configuration kept: ", times=2)

            (tmp_path / "two.yaml").write_text(POLICY.format(name="two"))
            platform.until_said("changed: the policy of ")
            assert asyncio.run(announced(nats.url, 1)) == [("platform", ["policy", "log_level"])]

            write("info", "two")
            platform.until_said("changed: log_level")
            assert asyncio.run(announced(nats.url, 2))[1] == ("platform", ["log_level"])
            assert platform.said.count("changed: policy, log_level") == 1, "it is followed once"
