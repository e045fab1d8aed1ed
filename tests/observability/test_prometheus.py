"""A real Prometheus scrapes a running fabric: every query answers, and what goes wrong is told. Proves: OP-3."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.command import HELLO, part, worker
from support.durable import KEEPING
from support.nats_server import PrivateNats, free_port, private_nats
from support.running import Running, running_fabric, wait_until

from observability.load import call
from observability.test_rules import ALERTS, DASHBOARDS, RULES

AGENT = Path(__file__).parent / "agent.py"
PROMETHEUS = Path(sys.prefix) / "debian" / "usr" / "bin" / "prometheus"  # `make debian` unpacks it
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
def running(server: PrivateNats) -> Generator[Running]:
    with running_fabric(str(AGENT), env={"FABRIC_NATS_URL": server.url}) as running:
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


def test_dead_letters_are_told(scraping: Scraping, running: Running) -> None:
    call(running, "durable_start_task", {"agent": "shown", "tool": "doom"})
    wait_until(lambda: scraping.fires("FabricDeadLettersGrow", agent="shown"), what="the alert")


def test_an_agent_that_nobody_serves_is_told(scraping: Scraping, running: Running, tmp_path: Path) -> None:
    env = {"FABRIC_NATS_URL": running.nats_url}
    with worker(HELLO, folder=tmp_path, env=env):
        wait_until(lambda: scraping.ask('fabric_leases{agent="hello", state="ready"} > 0'), what="its lease")
        assert not scraping.fires("FabricNoWorkers")
    wait_until(lambda: scraping.fires("FabricNoWorkers", agent="hello"), what="the alert")


def test_lost_brokers_and_gateways_are_told_and_forgotten_when_they_are_back(
    scraping: Scraping, running: Running, server: PrivateNats
) -> None:
    assert not scraping.fires("FabricNatsDown")
    server.kill()
    try:
        wait_until(lambda: scraping.fires("FabricNatsDown", process="gateway"), what="the alert")
        gateway = part(running.pid, "gateway")
        assert gateway is not None
        os.kill(gateway, signal.SIGKILL)  # the next one waits for NATS
        wait_until(lambda: scraping.fires("FabricGatewayDown"), what="the alert")
    finally:
        server.start()
    alerts = ("FabricNatsDown", "FabricGatewayDown")
    wait_until(lambda: not any(map(scraping.fires, alerts)), what="the end of the alerts")
