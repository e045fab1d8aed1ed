"""Parts of a fabric die, hang and lose everything under 200 calls at once. Proves: RT-6, CM-1, CM-2, PT-1, TR-1."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis
from cli.command import HELLO, fabric, part, signal_part, worker
from faults.load import MILL, TOOLS, Answer, Ask, Client, Load, Mill, Wire, http, load, measure, sdk
from support.running import wait_until

from fabric_sdk import Fabric

pytestmark = pytest.mark.timeout(90)

HEARTBEAT = 5.0
"""Seconds between two heartbeats of an instance."""


class Traffic:
    """All that goes on while something breaks."""

    def __init__(self, edge: Load, bus: Load, other: Load, lists: Load) -> None:
        self.loads = {"edge": edge, "bus": bus, "other agent": other, "lists": lists}
        self.edge = edge

    def flows(self, *, since: float | None = None, seconds: float = 20.0) -> float:
        """Wait until all of it flows, by calls begun after `since`; the seconds that took."""
        since = time.monotonic() if since is None else since
        return max(each.flows(since=since, seconds=seconds) for each in self.loads.values())

    def nothing_failed(self) -> None:
        """Hold every call and every list to be answered, and answered right."""
        assert not any(each.failed for each in self.loads.values()), "\n".join(
            f"{name}: {each.summary()}" for name, each in self.loads.items()
        )


@contextmanager
def traffic(node: Mill) -> Generator[Traffic]:
    """200 calls in flight at any time, by HTTP and on the bus, and a client that looks at the tools all the time."""
    with (
        load(http(node), users=160) as edge,
        load(http(node, "press_work"), users=20) as other,
        load(sdk(node), users=20) as bus,
        load(lists(node), users=1) as tools,
    ):
        yield Traffic(edge, bus, other, tools)


def lists(node: Mill) -> Client:
    """Asks for the list of tools; one without every tool is no answer."""

    @asynccontextmanager
    async def client() -> AsyncGenerator[Ask]:
        wire = Wire(node)

        async def ask(text: str) -> Answer:
            await asyncio.sleep(0.05)  # as often as a list can change; it has to leave room for the calls
            shown = {tool["name"] for tool in (await wire.ask("tools/list", {}))["tools"]}
            assert shown >= TOOLS, f"only {shown} are listed"
            return {"text": text, "pid": 0}

        try:
            yield ask
        finally:
            wire.close()

    return client


def instances(node: Mill) -> dict[str, set[int]]:
    """The process ids of each agent's instances, as Redis has them; nothing while the bus alone can tell."""

    async def ask() -> dict[str, Any]:
        async with Fabric.connect(node.nats_url) as fabric:
            return await fabric.agent("registry").call("catalogue", timeout=10.0)

    said = asyncio.run(ask())
    if said["revision"] == 0:
        return {}
    return {agent["name"]: {beat["pid"] for beat in agent["instances"]} for agent in said["agents"]}


def has(catalogue: dict[str, set[int]], wanted: dict[str, set[int]]) -> bool:
    """Whether all these instances are in it."""
    return all(catalogue.get(agent, set()) >= pids for agent, pids in wanted.items())


def living(pids: set[int]) -> set[int]:
    """Without those whose lease still runs though they were killed."""
    return set(filter(psutil.pid_exists, pids))


def await_new(node: Mill, name: str, old: int) -> int:
    """Wait for the supervisor to start a part again; its new process id."""
    seen: list[int] = []

    def found() -> bool:
        pid = part(node.pid, name)
        seen.extend([pid] if pid not in (None, old) else [])
        return bool(seen)

    wait_until(found, what=f"a new {name}")
    return seen[0]


@contextmanager
def held(node: Mill, name: str) -> Generator[None]:
    """Stop a part, and each that the supervisor starts in its place, until the block ends."""
    released = threading.Event()
    stopped = {signal_part(node.pid, name, signal.SIGSTOP)}

    def hold() -> None:
        while not released.wait(0.1):
            pid = part(node.pid, name)
            if pid is not None and pid not in stopped:
                stopped.add(pid)
                os.kill(pid, signal.SIGSTOP)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        yield
    finally:
        released.set()
        holding.join()
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_killed_worker_costs_no_call(node: Mill) -> None:
    with traffic(node) as calls:
        killed, at = signal_part(node.pid, "mill-1", signal.SIGKILL), time.monotonic()
        measure("calls flow", calls.flows(since=at))
        new = await_new(node, "mill-1", killed)
        wait_until(lambda: calls.edge.pids[new], what="an answer of the new worker")
        measure("the new worker answers", time.monotonic() - at)
    calls.nothing_failed()
    measure("slowest call", max(each.seconds for each in calls.edge.outcomes))


def test_a_worker_told_to_stop_finishes_its_calls(node: Mill, tmp_path: Path) -> None:
    with traffic(node) as calls, worker(MILL, folder=tmp_path, env=node.env) as pool:
        extra = part(pool.pid, "mill-1")
        assert extra is not None
        wait_until(lambda: calls.edge.pids[extra], what="an answer of the extra worker")
        said, at = len(node.command.said), time.monotonic()
        stopped = signal_part(node.pid, "mill-3", signal.SIGTERM)
        wait_until(lambda: not psutil.pid_exists(stopped), what="the end of a worker")
        measure("a worker drains", time.monotonic() - at)
        assert pool.stop() == 0
        measure("both have ended", time.monotonic() - at)
        await_new(node, "mill-3", stopped)
        calls.flows()
    calls.nothing_failed()
    assert "ended    mill-3" not in node.command.said[said:], "only an exit code other than 0 is told"


def test_a_killed_registry_costs_no_call_and_no_tool(node: Mill) -> None:
    with traffic(node) as calls:
        killed, at = signal_part(node.pid, "registry-1", signal.SIGKILL), time.monotonic()
        new = await_new(node, "registry-1", killed)
        wait_until(lambda: new in instances(node)["registry"], what="the new registry in its own catalogue")
        measure("the catalogue answers", time.monotonic() - at)
        calls.flows(since=at)
    calls.nothing_failed()


def test_a_redis_that_lost_everything_is_filled_within_one_heartbeat(node: Mill) -> None:
    before = {agent: living(pids) for agent, pids in instances(node).items()}
    with traffic(node) as calls, cast(Any, redis.Redis).from_url(node.redis_url) as client:
        for _ in range(3):  # so that it happens at different moments between two heartbeats
            client.flushall()
            at = time.monotonic()
            wait_until(lambda: has(instances(node), before), seconds=HEARTBEAT, what="the whole catalogue")
            measure("the catalogue is whole", time.monotonic() - at)
            calls.flows()
    calls.nothing_failed()
    listed = fabric("ps", "--json", env=node.env).json["agents"]
    assert {each["name"] for each in listed} >= {"mill", "press", "registry"}


def test_redis_may_be_away_for_20_seconds_while_an_agent_comes_and_a_worker_hangs(node: Mill, tmp_path: Path) -> None:
    with traffic(node) as calls:
        with held(node, "valkey-server"):
            at = time.monotonic()
            with worker(HELLO, folder=tmp_path, env=node.env) as pool:
                wait_until(lambda: asyncio.run(_says(node, "hi")) == "hi", what="a tool of the new agent")
                measure("Redis away: a new agent is served", time.monotonic() - at)
                assert not instances(node), "only the bus can tell"
                assert pool.stop() == 0
            hung, since = signal_part(node.pid, "mill-2", signal.SIGSTOP), time.monotonic()
            measure("worker hangs: calls flow", calls.flows(since=since))
            time.sleep(max(0.0, since + 8.0 - time.monotonic()))  # the fault: longer than a silence, within a lease
            os.kill(hung, signal.SIGCONT)
            before = calls.edge.pids[hung]
            wait_until(lambda: calls.edge.pids[hung] > before, what="an answer of the worker that hung")
            time.sleep(max(0.0, at + 20.0 - time.monotonic()))  # the fault: longer than any lease
            calls.flows()
        at = time.monotonic()
        wait_until(
            lambda: len(instances(node).get("mill", ())) >= 4, seconds=2 * HEARTBEAT, what="the catalogue in Redis"
        )
        measure("Redis back: the catalogue is in it", time.monotonic() - at)
        calls.flows()
    calls.nothing_failed()
    measure("slowest call", max(each.seconds for each in calls.edge.outcomes))


async def _says(node: Mill, text: str) -> str | None:
    wire = Wire(node)
    try:
        return (await wire.ask("tools/call", {"name": "hello_echo", "arguments": {"text": text}}, name="hello_echo"))[
            "structuredContent"
        ]["result"]
    except Exception:
        return None
    finally:
        wire.close()


def test_a_killed_nats_server_costs_no_safe_call_and_leaves_the_others_with_a_clear_answer(node: Mill) -> None:
    with (
        load(http(node), users=120) as edge,
        load(sdk(node), users=30) as bus,
        load(http(node, "mill_change"), users=30) as edge_change,
        load(sdk(node, "change"), users=20) as bus_change,
    ):
        killed, at = signal_part(node.pid, "nats-server", signal.SIGKILL), time.monotonic()
        await_new(node, "nats-server", killed)
        for name, calls in (("edge", edge), ("bus", bus)):
            took = calls.flows(since=at)
            measure(f"calls flow at the {name}", took)
            assert took < 10.0
    for calls in (edge, bus):
        assert not calls.failed, calls.summary()
    done = Counter(node.done.read_text().splitlines())
    assert set(done.values()) == {1}, f"done more than once: {done.most_common(3)}"
    for calls in (edge_change, bus_change):
        assert all(each.retryable for each in calls.failed), calls.summary()
        measure("slowest call that must not be repeated", max(each.seconds for each in calls.outcomes))


def test_a_killed_gateway_breaks_connections_and_nothing_else(node: Mill) -> None:
    with load(http(node), users=180) as edge, load(sdk(node), users=20) as bus:
        killed = signal_part(node.pid, "gateway", signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(killed), what="the end of the gateway")
        at = time.monotonic()
        measure("calls flow", edge.flows(since=at))
    assert not bus.failed, bus.summary()
    assert all(isinstance(each.failure, (OSError, EOFError)) for each in edge.failed), edge.summary()
    assert len(edge.failed) <= 180, "each user lost the one connection it had"
    assert all(each.began < at for each in edge.failed), "later ones wait for the next gateway"
    measure("slowest call", max(each.seconds for each in edge.outcomes))


def test_everything_is_killed_at_once_but_the_supervisor(node: Mill) -> None:
    parts = ("nats-server", "valkey-server", "registry-1", "gateway", "mill-1", "mill-2", "mill-3", "mill-4")
    with load(http(node), users=150) as edge, load(sdk(node), users=50) as bus:
        # Found first: a call that follows three workers into their deaths, one after the other, is given up by design.
        for pid in [part(node.pid, name) for name in parts]:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        at = time.monotonic()
        for name, calls in (("edge", edge), ("bus", bus)):
            measure(f"calls flow at the {name}", calls.flows(since=at))
    assert not bus.failed, bus.summary()
    assert all(isinstance(each.failure, (OSError, EOFError)) for each in edge.failed), edge.summary()
