"""A real Prometheus scrapes a running fabric: every query answers, and each alert fires once its cause is there.

The rules are the file that is shipped, read when the tests run; all that is changed in it is time: each window becomes
20 s and each `for:` none, so that what takes minutes or days is seen within seconds. Thresholds stay as they are.
Proves: OP-3
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.command import HELLO, part, signal_part, worker
from registry.servers import Server, valkey
from registry.servers import running as running_redis
from support.debian import DEBIAN
from support.durable import KEEPING
from support.nats_server import PrivateNats, free_port, private_nats
from support.running import Running, running_fabric, wait_until

from fabric_sdk import Fabric
from fabric_sdk.contracts.streams import TASKS
from observability.load import call
from observability.test_rules import ALERTS, DASHBOARDS, RULES

AGENT = Path(__file__).parent / "agent.py"
PROMETHEUS = DEBIAN / "usr" / "bin" / "prometheus"
WORKER = f"{AGENT.stem}-1"
FILLED = 45
"""Seconds in which most of a window of 20 s is blocked: a busy machine makes the calls that block it slowly."""
AT_ONCE = 2
"""Calls that the agent's worker handles."""
LIMITS = """
limits: [{name: each-client, per: client, tools: [shown_look_again], rate: 1/m}]
"""
_CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}}
rule_files: [rules.yml]
scrape_configs: [{{job_name: fabric, static_configs: [{{targets: ["{target}"]}}]}}]
"""


class Scraping:
    """A Prometheus."""

    def __init__(self, port: int) -> None:
        self._api = f"http://127.0.0.1:{port}/api/v1"

    def ready(self) -> bool:
        with suppress(httpx.HTTPError, ValueError):  # it is not there, or says in words that it is not ready
            return bool(self.ask("up == 1"))
        return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that a query finds now; a query that is none fails."""
        answer = httpx.get(f"{self._api}/query", params={"query": query}, trust_env=False, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def fires(self, alert: str, **labels: str) -> bool:
        """Whether this alert fires now."""
        said = ", ".join(f'{name}="{value}"' for name, value in {"alertname": alert, **labels}.items())
        return bool(self.ask(f'ALERTS{{alertstate="firing", {said}}}'))

    def silent(self, *alerts: str) -> bool:
        """Whether none of these fires."""
        return not any(map(self.fires, alerts))


@contextmanager
def prometheus(folder: Path, target: str) -> Generator[Scraping]:
    """It, with the alert rules on short windows, until the block ends."""
    rules = re.sub(r"for: \w+", "for: 0s", re.sub(r"\[\d+[mhd]\]", "[20s]", RULES.read_text()))
    (folder / "rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(_CONFIGURATION.format(target=target))
    port = free_port()
    command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        scraping = Scraping(port)
        wait_until(scraping.ready, what="a first scrape")
        yield scraping
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def server() -> Generator[PrivateNats]:
    with private_nats(KEEPING) as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Generator[Server]:
    with running_redis(valkey()) as redis:
        yield redis


@pytest.fixture(scope="module")
def running(server: PrivateNats, redis: Server, tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    limits = tmp_path_factory.mktemp("limits") / "limits.yaml"
    limits.write_text(LIMITS)
    env = {"FABRIC_NATS_URL": server.url, "FABRIC_REDIS_URL": redis.url, "FABRIC_LIMITS": str(limits)}
    env["FABRIC_CALL_TIMEOUT"] = "2"
    with running_fabric(str(AGENT), "--concurrency", str(AT_ONCE), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def scraping(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Generator[Scraping]:
    target = running.metrics_url.removeprefix("http://").removesuffix("/metrics")
    with prometheus(tmp_path_factory.mktemp("prometheus"), target) as scraping:
        yield scraping


def test_every_query_of_dashboards_and_alerts_answers_under_load(running: Running, scraping: Scraping) -> None:
    panels = [panel for _, panels in DASHBOARDS["DASHBOARDS"].values() for panel in panels]
    wanted = {query.replace("$__rate_interval", "20s") for panel in panels for query in panel.queries.values()}
    with pytest.raises(httpx.ReadTimeout):
        call(running, "shown_hang", timeout=0.5)

    def all_answer() -> bool:
        for tool in ("look", "change"):
            call(running, f"shown_{tool}")
        wanted.difference_update([query for query in wanted if scraping.ask(query)])
        return not wanted

    call(running, "durable_start_task", {"agent": "shown", "tool": "doom"})
    with suppress(AssertionError):
        wait_until(all_answer, what="an answer to every query")
    assert wanted == set()
    for rule in ALERTS.values():
        scraping.ask(rule["expr"])


def test_each_alert_has_a_drill() -> None:
    assert set(re.findall(r'"(Fabric[A-Z]\w+)"', Path(__file__).read_text())) == set(ALERTS)


def test_dead_letters_are_told(scraping: Scraping, running: Running) -> None:
    call(running, "durable_start_task", {"agent": "shown", "tool": "doom"})
    wait_until(lambda: scraping.fires("FabricDeadLettersGrow", agent="shown"), what="the alert")


def test_a_limit_that_stands_against_a_client_is_told(scraping: Scraping, running: Running) -> None:
    assert scraping.silent("FabricClientsAreThrottled")

    def flooded() -> bool:
        call(running, "shown_look_again")
        return scraping.fires("FabricClientsAreThrottled", rule="each-client")

    wait_until(flooded, what="the alert")


def test_an_agent_that_hangs_is_told_by_what_waits_what_is_slow_and_what_fails(
    scraping: Scraping, running: Running
) -> None:
    burns, full = ("FabricErrorBudgetBurnsFast", "FabricErrorBudgetBurnsSlowly"), "FabricWorkersFull"
    assert scraping.silent(*burns, full)
    told: set[str] = set()

    def all_told() -> bool:
        told.update(each for each in burns if scraping.fires(each))
        told.update(each for each in ("FabricCallsAreSlow",) if scraping.fires(each, **{"class": "write"}))
        told.update(each for each in (full,) if scraping.fires(each, agent="shown"))
        return told == {*burns, full, "FabricCallsAreSlow"}

    calling = True

    def keep_calling() -> None:
        while calling:
            call(running, "shown_hang")

    with ThreadPoolExecutor(AT_ONCE * 4) as clients:
        for _ in range(AT_ONCE * 4):
            clients.submit(keep_calling)
        try:
            wait_until(all_told, what="the alerts")
        finally:
            calling = False


def test_a_handler_that_blocks_its_event_loop_is_told(scraping: Scraping, running: Running) -> None:
    assert scraping.silent("FabricEventLoopBlocked")

    def blocked() -> bool:
        call(running, "shown_block")
        return scraping.fires("FabricEventLoopBlocked", process=WORKER)

    wait_until(blocked, seconds=FILLED, what="the alert")


def test_a_process_that_ends_again_and_again_is_told(scraping: Scraping, running: Running) -> None:
    assert scraping.silent("FabricProcessRestarts")
    ended: set[int | None] = {None}
    for _ in range(4):
        wait_until(lambda: part(running.pid, WORKER) not in ended, what="the next process")
        ended.add(signal_part(running.pid, WORKER, signal.SIGKILL))
    wait_until(lambda: scraping.fires("FabricProcessRestarts", process=WORKER), what="the alert")


def test_a_lost_redis_is_told_and_forgotten_when_it_is_back(
    scraping: Scraping, running: Running, redis: Server
) -> None:
    assert scraping.silent("FabricRedisDown")
    redis.stop()
    try:
        wait_until(lambda: scraping.fires("FabricRedisDown"), what="the alert")
    finally:
        redis.start()
    wait_until(lambda: scraping.silent("FabricRedisDown"), what="the end of the alert")


def test_an_agent_that_nobody_serves_is_told_and_what_piles_up_for_it_before_its_stream_is_full(
    scraping: Scraping, running: Running, tmp_path: Path
) -> None:
    env = {"FABRIC_NATS_URL": running.nats_url}
    with worker(HELLO, folder=tmp_path, env=env):
        wait_until(lambda: scraping.ask('fabric_leases{agent="hello", state="ready"} > 0'), what="its lease")
        assert scraping.silent("FabricNoWorkers", "FabricBacklogGrows", "FabricStreamFull")
    wait_until(lambda: scraping.fires("FabricNoWorkers", agent="hello"), what="the alert")
    asyncio.run(pile_up(running.nats_url, 110, room=150))
    wait_until(lambda: scraping.ask('fabric_queue_waiting{agent="hello", queue="normal"} == 110'), what="the backlog")
    asyncio.run(pile_up(running.nats_url, 20))
    wait_until(lambda: scraping.fires("FabricBacklogGrows", agent="hello", queue="normal"), what="the alert")
    wait_until(lambda: scraping.fires("FabricStreamFull", stream=TASKS.name), what="the alert")


async def pile_up(url: str, count: int, *, room: int | None = None) -> None:
    """Start tasks of `hello`; `room` is for how many the stream has some from now on, as an operator may bound it."""
    async with Fabric.connect(url) as fabric:
        if room is not None:
            config = (await fabric.jetstream.request(f"STREAM.INFO.{TASKS.name}"))["config"]
            await fabric.jetstream.request(f"STREAM.UPDATE.{TASKS.name}", {**config, "max_msgs": room})
        await fabric.start_all([fabric.agent("hello").plan("echo", {"text": "hi"}) for _ in range(count)])


def test_lost_brokers_and_gateways_are_told_and_forgotten_when_they_are_back(
    scraping: Scraping, running: Running, server: PrivateNats
) -> None:
    assert scraping.silent("FabricNatsDown", "FabricGatewayDown")
    server.kill()
    try:
        wait_until(lambda: scraping.fires("FabricNatsDown", process="gateway"), what="the alert")
        gateway = part(running.pid, "gateway")
        assert gateway is not None
        os.kill(gateway, signal.SIGKILL)  # the next one waits for NATS
        wait_until(lambda: scraping.fires("FabricGatewayDown"), what="the alert")
    finally:
        server.start()
    wait_until(lambda: scraping.silent("FabricNatsDown", "FabricGatewayDown"), what="the end of the alerts")
