"""The configuration changes under load: a bad change is refused whole, a good one holds, and no call fails.

Proves: OP-1, RT-6, CM-7.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cli.command import part, up
from faults.load import MILL, CallFailed, Mill, Wire, http, load
from support.running import wait_until

from fabric_sdk import Fabric

CONFIGURATION = """\
log_level = "{level}"
port = {port}
limits = "limits.yaml"

[pools.mill]
target = "{target}"
processes = {processes}
"""
LIMIT = "limits:\n  - {name: changes, per: client, tools: [mill_change], rate: 1/h}\n"


async def limited(node: Mill) -> bool:
    """Whether a second change is one too many."""
    wire = Wire(node)
    try:
        for _ in range(2):
            await wire.call("mill_change", {"text": "x", "work": 0})
    except CallFailed as refused:
        return refused.code == 4290
    finally:
        wire.close()
    return False


async def announced(node: Mill, file: Path) -> dict[str, object]:
    """What was told first of what a file says now."""
    async with (
        asyncio.timeout(10),
        Fabric.connect(node.nats_url) as fabric,
        fabric.subscribe("fabric.config.changed", filter=f"data.file == '{file}'", start="all") as events,
    ):
        async for event in events:
            return event.data
    raise AssertionError("nothing was announced")


def test_a_bad_change_is_refused_and_a_good_one_holds_and_no_call_fails(tmp_path: Path) -> None:
    file, limits = tmp_path / "fabric.toml", tmp_path / "limits.yaml"

    def write(level: str, processes: int | str, port: int = 0) -> None:
        aside = tmp_path / "aside"
        aside.write_text(CONFIGURATION.format(level=level, processes=processes, port=port, target=MILL))
        aside.replace(file)

    write("warning", 2)
    limits.write_text("limits: []\n")
    with up("--ephemeral", "--config", file, folder=tmp_path) as running:
        node, command = Mill(**vars(running), done=tmp_path), running.command
        with load(http(node, work=0.05), users=20) as going:
            assert not asyncio.run(limited(node))
            before = command.family()

            write("debug", '"three"')
            command.until_said(f"refused, and the old configuration kept: {file}:7: pools.mill.processes: 'three': ")
            going.flows()
            assert command.family() == before
            assert "DEBUG" not in command.said

            write("info", 4, port=1)
            limits.write_text(LIMIT)
            command.until(lambda: all(part(node.pid, f"mill-{number}") for number in range(1, 5)), what="four workers")
            command.until_said("pool mill has 4 processes, after 2")
            wait_until(lambda: asyncio.run(limited(node)), what="the new limit")
            command.until_said("changed: log_level", times=2)  # the gateway and the workers, at their new level
            command.until(lambda: len(going.pids) == 4, what="a share of the calls for each of the four")

            limits.write_text("limits: []\n")
            write("info", 1, port=1)
            command.until_said("pool mill has 1 processes, after 4")
            going.flows()
        assert going.failed == [], going.summary()
        assert asyncio.run(announced(node, limits)) | {"host": ""} == {
            "host": "",
            "process": "gateway",
            "file": str(limits),
            "applied": ["limits"],
            "restart": [],
        }
        assert asyncio.run(announced(node, file)) | {"host": ""} == {
            "host": "",
            "process": "fabric up",
            "file": str(file),
            "applied": ["log_level", "pools.mill.processes"],
            "restart": [],
        }
