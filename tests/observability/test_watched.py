"""A running fabric, watched from outside. Proves: OP-2, OP-3, SE-7."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.command import started
from cli.inside import fabric_inside
from docs.pages import codes, read, table
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families,  # pyright: ignore[reportUnknownVariableType] - untyped
)
from support.running import Running, running_fabric, wait_until

from observability.load import TRACE, call, page, total

HELLO = Path(__file__).parent.parent / "agents" / "hello.py"
ECHO = {"agent": "hello", "tool": "echo", "method": "tools/call"}


class Collector(HTTPServer):
    """An OpenTelemetry collector, as far as metrics over HTTP go."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.names: dict[tuple[str, str], set[str]] = {}
        """Of the metrics that came, by the service and the instance that sent them."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/metrics"


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        said = ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, Collector)
        for resource in said.resource_metrics:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            names = {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
            assert about["service.namespace"] == "agent-fabric"
            self.server.names.setdefault((about["service.name"], about["service.instance.id"]), set()).update(names)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what a test prints is read when it fails."""


@pytest.fixture(scope="module")
def collector() -> Generator[Collector]:
    with Collector() as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every process writes down what it has to say."""
    return tmp_path_factory.mktemp("logs")


def canary(where: str) -> str:
    """What must come to light nowhere."""
    return f"canary-{where}-5ecre7"


@pytest.fixture(scope="module")
def watched(collector: Collector, logs: Path) -> Generator[Running]:
    """Two gateways and two workers, all asked over one page, and sending to a collector."""
    env = {"FABRIC_TOKEN": canary("token"), "FABRIC_LOG_LEVEL": "debug", "FABRIC_LOG_FILE": str(logs / "fabric.log")}
    env |= {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    with running_fabric(str(HELLO), "--processes", "2", "--gateways", "2", env=env) as running:
        yield running


def test_one_page_has_every_process_and_no_call_is_missed_or_counted_twice(watched: Running) -> None:
    before = page(watched.metrics_url)
    for _ in range(20):
        assert call(watched, "hello_echo", text="hi").status_code == 200
    after = page(watched.metrics_url)
    for side in ("gateway", "worker"):
        name = f"fabric_{side}_calls_total"
        assert total(after, name, {**ECHO, "outcome": "ok"}) - total(before, name, {**ECHO, "outcome": "ok"}) == 20
    for process in ("gateway", "gateway-2", "hello-1", "hello-2", "durable-1", "registry-1"):
        assert total(after, "process_resident_memory_bytes", {"process": process}) > 0
        assert total(after, "fabric_nats_connected", {"process": process}) == 1
    for process in ("nats-server", "valkey-server", "hello-2"):
        assert total(after, "fabric_process_up", {"process": process}) == 1
    assert total(after, "fabric_leases", {"agent": "hello", "state": "ready"}) == 2
    assert total(after, "fabric_stream_limit_messages", {"stream": "FAB_TASKS"}) == 1_000_000


def test_the_page_is_openmetrics_with_exemplars_and_units(watched: Running) -> None:
    call(watched, "hello_echo", text="hi")
    families = {family.name: family for family in text_string_to_metric_families(page(watched.metrics_url))}
    seconds = families["fabric_gateway_call_duration_seconds"]
    assert (seconds.type, seconds.unit) == ("histogram", "seconds")
    assert {sample.exemplar.labels["trace_id"] for sample in seconds.samples if sample.exemplar} == {TRACE}
    assert families["fabric_gateway_call_size_bytes"].unit == "bytes"
    plain = httpx.get(watched.metrics_url, trust_env=False)
    assert plain.headers["content-type"].startswith("text/plain")
    assert "trace_id" not in plain.text


def test_how_calls_end_is_counted_by_its_name(watched: Running) -> None:
    before = page(watched.metrics_url)
    call(watched, "hello_refuse", reason="no")
    call(watched, "hello_crash")
    call(watched, "hello_nothing", text="hi")
    call(watched, "hello_echo", token="wrong", text="hi")
    after = page(watched.metrics_url)
    expected = [
        ("fabric_worker_calls_total", {"tool": "refuse", "outcome": "tool_error"}),
        ("fabric_worker_calls_total", {"tool": "crash", "outcome": "tool_error"}),
        ("fabric_gateway_calls_total", {"tool": "crash", "outcome": "ok"}),
        ("fabric_gateway_refusals_total", {"status": "401"}),
    ]
    for name, labels in expected:
        assert total(after, name, labels) - total(before, name, labels) == 1, (name, labels)
    assert "hello_nothing" not in after


def test_every_metric_is_on_the_page_of_the_docs_and_none_that_there_is_not(watched: Running) -> None:
    call(watched, "hello_echo", text="hi")
    rows = table(read("docs/metrics.md"), "metric", "labels", "what it is")
    told = {name: set(codes(row["labels"])) for row in rows for name in codes(row["metric"])}
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page(watched.metrics_url)):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            found.setdefault(name, set()).update(set(sample.labels) - {"process", "le"})
    found["fabric_process_up"] = found["fabric_process_restarts_total"] = {"process"}
    assert told == found


def test_the_public_port_tells_no_metrics(watched: Running) -> None:
    public = watched.mcp_url.removesuffix("/mcp")
    assert httpx.get(f"{public}/metrics", trust_env=False).status_code == 404
    assert watched.metrics_url.startswith("http://127.0.0.1:")


def test_top_shows_one_picture_after_the_other_where_there_is_no_screen(watched: Running, tmp_path: Path) -> None:
    env = {"FABRIC_NATS_URL": watched.nats_url}
    with started("top", "--interval", "0.5", folder=tmp_path, env=env) as shown:
        shown.until_said("AGENT", times=2)
    assert "\x1b" not in shown.said


def test_a_collector_is_sent_the_same(watched: Running, collector: Collector) -> None:
    everybody = {"gateway": 2, "hello": 2, "durable": 1, "registry": 1}
    wait_until(
        lambda: Counter(service for service, _ in list(collector.names)) == everybody,
        what="metrics of every process at the collector, under the name that its spans have",
    )
    call(watched, "hello_echo", text="hi")

    def sent_by(service: str) -> set[str]:
        return {name for (of, _), names in collector.names.items() if of == service for name in names}

    wait_until(
        lambda: "fabric_gateway_call_duration_seconds" in sent_by("gateway"),
        what="the gateway's histogram at the collector",
    )
    assert "fabric_stream_messages" in sent_by("durable")


def test_lines_say_by_themselves_who_and_what_they_are_about(watched: Running, logs: Path) -> None:
    call(watched, "hello_crash")
    lines = [json.loads(line) for path in logs.glob("fabric.hello-*.log") for line in path.read_text().splitlines()]
    (line, *_) = [line for line in lines if line["message"] == "tool crash failed"]
    assert (line["agent"], line["trace_id"], line["principal"]) == ("hello", TRACE, "operator")
    assert line["process"] in ("hello-1", "hello-2")
    assert line["level"] == "error"
    assert "something unexpected" in line["exception"]
    assert re.fullmatch("[0-9a-f]{16}", line["instance"])


def test_lines_of_a_task_name_it(watched: Running, logs: Path) -> None:
    assert call(watched, "durable_start_task", arguments={"agent": "hello", "tool": "crash"}).status_code == 200

    def told() -> list[dict[str, Any]]:
        said = "".join(path.read_text() for path in logs.glob("fabric.hello-*.log"))
        return [line for line in map(json.loads, said.splitlines()) if "task_id" in line]

    wait_until(told, what="a line of the task")
    assert told()[0]["attempt"] >= 1


def test_no_secret_and_no_payload_comes_to_light(watched: Running, logs: Path, collector: Collector) -> None:
    said: list[str] = []
    argument, base = canary("argument"), watched.mcp_url.removesuffix("/mcp")
    for tool, arguments in (("echo", {"text": argument}), ("echo", {"txet": argument}), ("crash", {"of": argument})):
        call(watched, f"hello_{tool}", arguments)
    call(watched, "hello_unencodable", of=argument)
    call(watched, "hello_nothing", text=argument)
    said.append(call(watched, "hello_echo", token=canary("wrong"), text="hi").text)
    own = {"authorization": f"Bearer {watched.token}", "content-type": "application/json", "x-secret": canary("header")}
    for path in ("/mcp", "/api/tools/hello_echo", "/api/tools/hello_echo?key=" + canary("url"), "/" + canary("path")):
        httpx.post(base + path, content=b'{"broken": "' + argument.encode(), headers=own, trust_env=False)
    basic = f"http://someone:{canary('password')}@{base.removeprefix('http://')}/mcp"
    said.append(httpx.post(basic, json={}, trust_env=False).text)
    said += [page(watched.metrics_url), *(path.read_text() for path in logs.iterdir())]
    said += [name for names in collector.names.values() for name in names]
    assert len(said) > 8  # the pages, and a log of each process
    found = {word for text in said for word in re.findall(r"canary-\w+-5ecre7", text)}
    assert found == set()


@pytest.mark.parametrize(
    "name", ["FABRIC_NATS_URL", "FABRIC_REDIS_URL", "FABRIC_PUBLIC_URL", "FABRIC_JWT_ISSUER", "FABRIC_JWT_JWKS_URL"]
)
def test_a_wrong_setting_is_refused_without_its_password(name: str) -> None:
    refused = fabric_inside("up", "--ephemeral", env={name: f"ftp://user:{canary('setting')}@host"})
    refused.refused(2, name)
    assert "canary" not in refused.out + refused.err


def test_top_shows_each_agent_once(watched: Running) -> None:
    env = {"FABRIC_NATS_URL": watched.nats_url}
    call(watched, "hello_echo", text="hi")
    shown = {row["agent"]: row for row in fabric_inside("top", "--once", "--interval", "0.5", "--json", env=env).json}
    assert (shown["hello"]["instances"], shown["hello"]["waiting"]) == (2, 0)
    assert {"registry", "durable"} <= set(shown)
    table = fabric_inside("top", "--once", "--interval", "0.5", env=env)
    assert table.code == 0
    assert table.out.split()[:3] == ["AGENT", "UP", "CALLS/S"]
    assert "hello" in table.out
