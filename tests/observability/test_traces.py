"""One request's trace, whole: from a client through gateway, agents, a hosted server, a task and an event.

Proves: OP-2.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.command import fabric
from cli.inside import fabric_inside
from gateway.client import headers, meta, request
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import SpanKind
from support.durable import KEEPING
from support.nats_server import private_nats
from support.running import Running, running_fabric, wait_until

from fabric.observability.spans import Kept, Tracer
from fabric.observability.spans_export import FLUSH_SECONDS, Exporting
from fabric.observability.spans_reading import recent, trace
from fabric.observability.spans_wire import batches
from fabric.settings import Settings
from fabric_sdk import Fabric
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Trace
from fabric_sdk.contracts.streams import SPANS
from observability.receiver import Receiver, receiver

HERE = Path(__file__).parent
SECRET = "canary-7f3a"


@pytest.fixture(scope="module")
def backend() -> Generator[Receiver]:
    with receiver() as received:
        yield received


@pytest.fixture(scope="module")
def traced(backend: Receiver) -> Generator[Running]:
    pools = [str(HERE / "agents" / f"{name}.py") for name in ("planner", "reader", "shouter")]
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.url, "OTEL_BSP_SCHEDULE_DELAY": "100", "FABRIC_TRACE_SAMPLING": "0"}
    with running_fabric(*pools, env=env) as running:
        yield running


def call(running: Running, tool: str, *, sampled: bool | None, door: str = "meta") -> str:
    """Call a tool as a client whose own trace is, or is not, sampled; the trace's id."""
    trace_id = secrets.token_hex(16)
    stated = {} if sampled is None else {"traceparent": f"00-{trace_id}-{'ab' * 8}-0{int(sampled)}"}
    said = request("tools/call", {"name": tool, "arguments": {"secret": SECRET}, "_meta": meta()})
    lines = headers("tools/call", tool, token=running.token)
    if door == "meta":
        said["params"]["_meta"] |= stated
    else:
        lines |= stated
    answer = httpx.post(running.mcp_url, content=json.dumps(said), headers=lines, trust_env=False, timeout=30)
    assert "result" in answer.json(), answer.text
    return trace_id


def path(spans: dict[bytes, tuple[str, Span]], span: Span) -> list[str]:
    """The names from the first span to this one."""
    above = spans.get(span.parent_span_id)
    return [*(path(spans, above[1]) if above else ()), span.name]


def attributes(span: Span) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in span.attributes}


ROOT = "tools/call planner_plan"
PLAN = f"{ROOT} > tools/call plan > tools/call plan"
READ = f"{PLAN} > tools/call read > tools/call read"
SHOUT = f"{PLAN} > tools/call shout > tools/call shout"
INDEX = f"{PLAN} > start index > process index"
EVENT = f"{INDEX} > publish texts.indexed"
WHOLE = sorted(
    (
        f"gateway > {ROOT}",
        f"gateway > {ROOT} > tools/call plan",
        f"planner > {PLAN}",
        f"planner > {PLAN} > tools/call read",
        f"reader > {READ}",
        f"reader > {READ} > open file",
        f"planner > {PLAN} > tools/call shout",
        f"shouter > {SHOUT}",
        f"shouter > {SHOUT} > tools/call shout",  # as the MCP SDK tells it
        f"planner > {PLAN} > start index",
        f"reader > {INDEX}",
        f"reader > {INDEX}",  # the first attempt failed
        f"reader > {EVENT}",
        f"reader > {EVENT} > start on/note",
        f"reader > {EVENT} > start on/note > process on/note",
    )
)


def test_a_trace_is_whole_at_a_backend_and_in_the_fabric(traced: Running, backend: Receiver) -> None:
    trace_id = call(traced, "planner_plan", sampled=True)
    wait_until(lambda: len(backend.of(trace_id)) >= len(WHOLE), what=f"{len(WHOLE)} spans")
    told = backend.of(trace_id)
    spans = {span.span_id: (service, span) for service, span in told}
    assert sorted(" > ".join((service, *path(spans, span))) for service, span in told) == WHOLE
    by_name = {span.name: span for _, span in told}
    assert by_name[ROOT].parent_span_id.hex() == "ab" * 8, "the client's own span is above all"
    assert by_name[ROOT].kind == Span.SPAN_KIND_SERVER
    said = attributes(by_name[ROOT])
    assert (said["mcp.method.name"], said["gen_ai.tool.name"]) == ("tools/call", "planner_plan")
    assert said["mcp.protocol.version"] == "2026-07-28"
    assert attributes(by_name["tools/call read"])["messaging.system"] == "nats"
    waited = [1e3 * said["fabric.waited"] for _, span in told if "fabric.waited" in (said := attributes(span))]
    assert any(abs(each - round(each)) > 1e-3 for each in waited), f"{waited} ms are a coarse clock's"
    attempts = sorted(
        (span for _, span in told if span.name == "process index"), key=lambda span: span.start_time_unix_nano
    )
    assert [attributes(each)["fabric.task.attempt"] for each in attempts] == [1, 2]
    assert [each.status.code for each in attempts] == [2, 0]
    assert attributes(attempts[0])["error.type"] == "ValueError"
    assert [event.name for event in attempts[0].events] == ["retry"]
    assert all(each.links[0].span_id == by_name["start index"].span_id for each in attempts), "linked to its cause"
    assert {span.kind for span in attempts} == {Span.SPAN_KIND_CONSUMER}

    env = {"FABRIC_NATS_URL": traced.nats_url}
    document = fabric("trace", trace_id, "--json", env=env).json
    here = [span for each in document["resourceSpans"] for scope in each["scopeSpans"] for span in scope["spans"]]
    assert {span["spanId"] for span in here} == {span.span_id.hex() for _, span in told}
    drawn = fabric("trace", f"00-{trace_id}-{'ab' * 8}-01", env={**env, "COLUMNS": "160"})
    assert drawn.code == 0
    for words in (f"trace {trace_id}", ROOT, "    open file", "error: ValueError", "attempt 2", "retry", "━"):
        assert words in drawn.out
    assert SECRET.encode() not in backend.raw
    assert SECRET not in json.dumps(document)


def test_the_newest_trace_is_listed_and_its_failure_seen(traced: Running, backend: Receiver) -> None:
    trace_id = call(traced, "planner_fail", sampled=True, door="header")
    wait_until(lambda: len(backend.of(trace_id)) >= 3, what="3 spans")
    assert {(span.status.code, attributes(span)["error.type"]) for _, span in backend.of(trace_id)} == {
        (2, "tool_error")
    }
    assert SECRET.encode() not in backend.raw
    env = {"FABRIC_NATS_URL": traced.nats_url}
    listed = fabric("trace", "list", "--json", env=env).json
    assert (listed[0]["id"], listed[0]["name"], listed[0]["failed"]) == (trace_id, "tools/call planner_fail", True)
    assert trace_id in fabric("trace", "last", env=env).out
    newest = fabric("trace", "list", env={**env, "COLUMNS": "80"}).out.splitlines()[1]
    assert re.fullmatch(rf"{trace_id[:8]}  \d\d:\d\d:\d\d  tools/call planner_fail .*", newest)
    assert len(newest) <= 80


def test_who_finds_no_trace_is_told_what_is_traced() -> None:
    with private_nats(KEEPING) as server:
        done, listed = (
            fabric_inside("trace", which, env={"FABRIC_NATS_URL": server.url}) for which in ("last", "list")
        )
    assert Settings.model_fields["trace_sampling"].default == 0.1
    done.refused(2, "no trace is kept", "one in ten, unless FABRIC_TRACE_SAMPLING", "`fabric call`", "is not traced")
    assert (listed.code, "one in ten" in " ".join(listed.err.split())) == (0, True), listed.err


def test_what_is_not_sampled_leaves_nothing(traced: Running, backend: Receiver) -> None:
    before = len(backend.spans)
    unsampled, _ = call(traced, "planner_plan", sampled=False), call(traced, "planner_plan", sampled=None)
    after = call(traced, "planner_fail", sampled=True)  # what came before it is told before it
    wait_until(lambda: len(backend.of(after)) >= 3, what="3 spans")
    assert {span.trace_id.hex() for _, span in backend.spans[before:]} == {after}
    fabric("trace", unsampled, env={"FABRIC_NATS_URL": traced.nats_url}).refused(2, "no such trace", "fix:")


async def tell(client: Fabric, process: str, *spans: tuple[str, int], names: str = "work") -> None:
    """Have a process tell of a span of each trace, begun then and over at once, in a message for each."""
    kept = Kept()
    for trace_id, start in spans:
        above = Trace(f"00-{trace_id}-{'ab' * 8}-01")
        Tracer(kept, "ours").begin(names, SpanKind.SERVER, above, {}, start=start).end(start + 1)
        for batch in batches({"service.name": process}, kept.take()):
            await client.jetstream.store(batch.subject, Body(encoded=batch.encoded))


def test_every_trace_that_is_kept_is_found_by_its_beginning_and_listed() -> None:
    old, twin, other = "0a1b" + "2" * 28, "c0de" + "3" * 28, "c0de" + "4" * 28
    begun = time.time_ns() - 3_000 * 10**9
    later = [(f"f{number:031x}", begun + 10 + number) for number in range(5000)]

    async def fill(url: str) -> tuple[list[str], int]:
        async with Fabric.connect(url) as client:
            await client.jetstream.ensure(SPANS)
            await tell(client, "gateway", (old, begun), (twin, begun + 1), (other, begun + 2), *later)
            newest = [each.id for each in await recent(client.jetstream, 3)]
            return newest, len(await recent(client.jetstream, 10_000))

    with private_nats(KEEPING) as server:
        assert asyncio.run(fill(server.url)) == ([each for each, _ in later[:-4:-1]], len(later) + 3)
        env = {"FABRIC_NATS_URL": server.url}
        for beginning, trace_id in (("0A1B", old), ("c0de3", twin), ("c0de4", other)):
            done = fabric_inside("trace", beginning, env=env)
            assert (done.code, f"trace {trace_id}" in done.out) == (0, True), done
        several = fabric_inside("trace", "c0de", env=env)
        several.refused(2, "2 traces begin with c0de", f"give more digits of one of {other}, {twin}")
        fabric_inside("trace", "c0df", env=env).refused(2, "no such trace is kept")
        fabric_inside("trace", "0a1", env=env).refused(2, "'0a1' is no trace id", "at least 4")


async def test_a_trace_is_shown_once_every_process_has_told_of_it() -> None:
    with private_nats(KEEPING) as server:
        async with Fabric.connect(server.url) as client:
            await client.jetstream.ensure(SPANS)
            now, trace_id, newer = time.time_ns(), "1" * 32, "2" * 32
            await tell(client, "gateway", (trace_id, now), names="tools/call greet")
            listing = asyncio.create_task(recent(client.jetstream, 1))
            looking = asyncio.create_task(trace(client.jetstream, trace_id))

            async def others() -> None:
                await asyncio.sleep(FLUSH_SECONDS)  # as long as a process may keep what it has to tell
                await tell(client, "worker", (trace_id, now + 1), (newer, now + 2))

            telling = asyncio.create_task(others())
            [listed], whole = await listing, await looking
            await telling
    assert whole is not None
    assert [each.id for each in (listed, whole)] == [trace_id, trace_id]
    assert [span.resource["service.name"] for span in listed.spans] == ["gateway", "worker"]
    assert whole.spans == listed.spans


async def test_spans_are_kept_again_once_a_broker_is_back_that_has_lost_the_stream() -> None:
    kept, scope = Kept(), Trace(f"00-{'1' * 32}-{'ab' * 8}-01")
    with private_nats(KEEPING) as server:
        async with Fabric.connect(server.url) as client:
            back = asyncio.Event()
            client.jetstream.transport.listen(lambda event: back.set() if event == "connected" else back.clear())
            export = Exporting(client.jetstream, kept, {"service.name": "worker"})
            for name in ("before", "after"):
                if name == "after":
                    server.kill()
                    server.start()
                    await back.wait()
                Tracer(kept, "ours").begin(name, SpanKind.SERVER, scope, {}).end()
                await export.flush()
                await client.jetstream.store("fab.span.f", Body({}))  # what was sent before it is there, too
                found = await trace(client.jetstream, scope.trace_id)
                assert found is not None, name
                assert [span.name for span in found.spans] == [name], "the stream is in memory"
    assert kept.dropped == 0
