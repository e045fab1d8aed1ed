"""compose.yaml, run without containers: its commands, environment, mounts, secrets, order and health checks are real.

The review example's own driver calls through the balancer while a NATS node, a gateway, a worker, Redis, the platform
and the registry go away.
Proves: OP-5 (compose: it starts, is wired, survives), MB-3 (a node's death, with streams on three servers), GW-5, SE-7
(secrets from files)
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import httpx
import psutil
import pytest
from redis.asyncio import Redis
from support.debian import DEBIAN
from support.running import wait_until
from support.waiting import until

from deploy.stack import ROOT, Stack, running
from fabric.registry import keys
from fabric_sdk import Fabric
from fabric_sdk.contracts.streams import CATALOGUE
from fabric_sdk.jetstream import Missing

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="each service needs a loopback address of its own"),
    pytest.mark.skipif(not (DEBIAN / "usr/sbin/haproxy").exists(), reason="`make debian` unpacks haproxy"),
]

TREE = ROOT / "examples" / "review"
BALANCER = "127.0.77.19"

sys.path.insert(0, str(TREE))  # a folder of programs, and no package
driver: Any = importlib.import_module("driver")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with running(ROOT / "compose.yaml", folder, REVIEW_ROOT=str(TREE), FABRIC_ALLOWED_HOSTS=BALANCER) as stack:
        yield stack


@pytest.fixture
def token(stack: Stack) -> str:
    return (stack.secrets / "fabric_token").read_text().strip()


async def reviewed(token: str, meanwhile: Callable[[], object]) -> list[str]:
    """The calls that failed of the demo's review of a small tree, in the middle of which something happens."""
    async with driver.connected(f"http://{BALANCER}:8420/mcp", token) as client:
        answers: list[Any] = (await driver.review(client, half_way=meanwhile)).answers
    assert len(answers) == 2 * len(list(TREE.glob("*.py")))
    return [f"{answer.tool} {answer.path}: {answer.problem}" for answer in answers if answer.problem]


def nats_url(stack: Stack) -> str:
    return stack.here("registry", (stack.secrets / "nats_url").read_text())


async def streams(stack: Stack) -> dict[str, int]:
    """How many servers keep each stream that there is."""
    found: dict[str, int] = {}
    async with Fabric.connect(nats_url(stack)) as fabric:
        for stream in CATALOGUE:
            try:
                about = await fabric.jetstream.request(f"STREAM.INFO.{stream.name}")
            except Missing:
                continue
            if about["config"]["storage"] == "file":  # what is kept in memory may get lost with its server
                found[stream.name] = about["config"]["num_replicas"]
    return found


def scraped(stack: Stack) -> dict[str, str]:
    """How each of Prometheus's targets is."""
    answer = httpx.get(f"http://{stack.services['prometheus'].address}:9090/api/v1/targets", trust_env=False)
    targets: list[dict[str, Any]] = answer.json()["data"]["activeTargets"]
    return {target["discoveredLabels"]["__address__"]: target["health"] for target in targets}


async def test_it_is_wired_as_written(stack: Stack, token: str) -> None:
    assert stack.services["balancer"].address == BALANCER
    assert await reviewed(token, lambda: None) == []
    kept = await streams(stack)
    assert set(kept.values()) == {3}, kept
    assert "FAB_ACCESS" in kept
    addresses = {name: service.address for name, service in stack.services.items()}
    fabrics = {name for name, service in stack.services.items() if service.image.startswith("agent-fabric/")}
    wait_until(lambda: scraped(stack)[f"{BALANCER}:8404"] == "up", what="the first scrape of the balancer")
    assert scraped(stack).keys() >= {f"{addresses[name]}:9464" for name in fabrics}


async def test_a_client_by_another_name_and_one_without_a_token_are_refused(token: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{BALANCER}:8420", trust_env=False) as http:
        (host, nobody) = await asyncio.gather(
            http.post("/mcp", headers={"Host": "fabric.example", "Authorization": f"Bearer {token}"}),
            http.post("/mcp", headers={"Content-Type": "application/json"}),
        )
    assert (host.status_code, nobody.status_code) == (421, 401)


async def test_the_replica_has_what_the_registry_wrote(stack: Stack) -> None:
    password = (stack.secrets / "valkey_client").read_text().strip()
    async with Redis(host=stack.services["valkey-replica"].address, password=password) as replica:
        assert await replica.hgetall(keys.DIGESTS), "no agent is known there"


async def test_a_pool_whose_supervisor_dies_goes_whole_and_does_what_was_accepted_once_it_is_back(
    stack: Stack, token: str
) -> None:
    supervisor = psutil.Process(stack.pid("pool-linter"))
    workers = supervisor.children(recursive=True)
    assert len(workers) >= 2
    supervisor.kill()
    _, left = psutil.wait_procs(workers, timeout=10)
    assert not left, "they outlive it"
    async with Fabric.connect(nats_url(stack)) as fabric:
        task = await fabric.agent("linter").start("lint", {"path": "linter.py"})
        stack.kill("pool-linter")  # a container ends with its first process, and the engine starts it anew
        stack.start("pool-linter")
        assert (await task.result(timeout=20))["path"] == "linter.py"
    await until(lambda: reviewed(token, lambda: None), lambda failed: failed == [], what="what fails")


# In this order, and none comes back: in the end one of everything is gone.
@pytest.mark.parametrize("harm", ["a linter", "valkey", "gateway-1", "nats-1", "platform", "registry"])
async def test_no_call_fails_and_nothing_accepted_is_lost_while_it_dies(stack: Stack, token: str, harm: str) -> None:
    topic = f"kept.{harm.replace(' ', '-')}"
    async with Fabric.connect(nats_url(stack)) as fabric:
        for number in range(20):
            await fabric.publish(topic, number)
    kill = a_linter(stack).kill if harm == "a linter" else partial(stack.kill, harm)
    assert await reviewed(token, kill) == []
    assert await reviewed(token, lambda: None) == []  # it is away from the start
    async with Fabric.connect(nats_url(stack)) as fabric, fabric.replay(topic) as events:
        assert [event.data async for event in events] == list(range(20))


def a_linter(stack: Stack) -> psutil.Process:
    """One of the processes of a pool that serve calls."""
    below = psutil.Process(stack.pid("pool-linter")).children(recursive=True)
    return next(each for each in below if each.cmdline()[1:3] == ["-m", "fabric.pool.process"])
