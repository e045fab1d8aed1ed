"""Whatever comes in at the doors, an answer goes out: never a broken gateway, and never more memory than there is room.

Proves: TR-3, TR-4, SE-6
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Generator
from typing import Any

import httpx
import psutil
import pytest
from gateway.client import headers, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.running import Running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from doors.conftest import url_of

FEW = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
MOST_GROWTH = 64 * 1024 * 1024
"""Bytes that a gateway may have more after a flood: what the interpreter keeps of it, and no more than that."""

TEXT = st.text(max_size=20)
LEAF = st.none() | st.booleans() | st.integers() | TEXT
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
NAMES = st.sampled_from(["hello_echo", "jobs_add", "hello_greet", "asker_size", "access_list_tokens", "é", "%00", "."])
METHODS = st.sampled_from(
    [
        *("tools/call", "prompts/get", "resources/read", "completion/complete", "subscriptions/listen", "tools/list"),
        *("tasks/get", "tasks/update", "tasks/cancel", "ping", "initialize", "notifications/cancelled", "x"),
    ]
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES | LEAF,
        "uri": NAMES | LEAF,
        "cursor": LEAF,
        "taskId": TEXT | LEAF,
        "arguments": st.just({"text": "x"}) | JSON,
        "requestState": TEXT | LEAF,
        "inputResponses": JSON,
        "notifications": st.fixed_dictionaries({}, optional={"resourceSubscriptions": JSON, "taskIds": JSON}) | LEAF,
        "ref": JSON,
        "requestId": LEAF,
    },
)


@pytest.fixture(scope="module")
def http(doors_fabric: Running) -> Generator[httpx.Client]:
    lines = {"authorization": f"Bearer {doors_fabric.token}"}
    with httpx.Client(base_url=url_of(doors_fabric), headers=lines, trust_env=False, timeout=20) as http:
        yield http
        assert http.get("/readyz").status_code == 200


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "OPTIONS"]),
    path=st.sampled_from(["tools", "tasks", "prompts", "resources", "resources/read", "openapi.json", "x"]),
    named=NAMES | TEXT.map(lambda text: "".join(f"%{byte:02X}" for byte in text.encode())),
    query=st.dictionaries(st.sampled_from(["cursor", "uri", "priority", "delay", "x"]), TEXT, max_size=2),
    body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50),
    lines=st.dictionaries(
        st.sampled_from(["content-type", "accept", "idempotency-key", "traceparent", "last-event-id"]),
        st.sampled_from(["application/json", "text/event-stream", "*/*", "x" * 300, "00-0-0-0", ""]),
        max_size=3,
    ),
)
def test_rest_answers_anything(
    http: httpx.Client, method: str, path: str, named: str, query: Any, body: bytes, lines: dict[str, str]
) -> None:
    kinds = {"content-type": "application/json", **lines}
    told = http.request(method, f"/api/{path}/{named}", params=query, content=body, headers=kinds)
    assert told.status_code < 500 or told.status_code in (500, 503), told.text
    if told.status_code == 500:  # an agent may fail with what it was given; the gateway may not
        assert told.json()["code"] == -32603, told.text
        assert "the gateway failed" not in told.json()["detail"]
    if told.status_code >= 400:
        assert told.headers["content-type"] == "application/problem+json"
        assert told.json()["status"] == told.status_code


def socket_of(running: Running) -> ClientConnection:
    lines = {"authorization": f"Bearer {running.token}"}
    url = url_of(running).replace("http", "ws", 1) + "/ws"
    return connect(url, subprotocols=["mcp"], additional_headers=lines, proxy=None)  # type: ignore[list-item]


MESSAGES = st.lists(
    st.builds(request, METHODS, PARAMS, number=st.integers())
    | st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0")},
        optional={"id": LEAF, "method": METHODS | LEAF, "params": PARAMS | LEAF, "result": JSON, "error": JSON},
    )
    | JSON,
    min_size=1,
    max_size=8,
)


@FEW
@given(messages=MESSAGES, raw=st.none() | st.text(max_size=50) | st.binary(max_size=20))
def test_a_socket_answers_anything_and_goes_on(doors_fabric: Running, messages: list[Any], raw: Any) -> None:
    with socket_of(doors_fabric) as socket:
        try:
            for message in messages:
                socket.send(json.dumps(message))
            if raw is not None:
                socket.send(raw)
            socket.send(json.dumps(request("server/discover", number="the last")))  # type: ignore[arg-type]
            until = time.monotonic() + 10
            while (said := json.loads(socket.recv(until - time.monotonic()))).get("id") != "the last":
                assert "the gateway failed" not in str(said.get("error")), said
            assert "result" in said
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd is not None else None
        else:
            return
    assert (code, type(raw)) == (1003, bytes)


@FEW
@given(
    method=st.sampled_from(["GET", "DELETE"]),
    session=st.sampled_from(["0" * 32, "x", "", "../state", "a.b", "*", ">", "é".encode().decode("latin-1")]),
    last=st.none() | st.sampled_from(["session.1", "0.0", "000000000000-31-1.5", "000000000000-5b-1.5", "." * 50]),
)
def test_made_up_sessions_and_events_are_refused(
    http: httpx.Client, method: str, session: str, last: str | None
) -> None:
    lines = {b"mcp-session-id": session.encode("latin-1"), b"accept": b"text/event-stream"}
    told = http.request(method, "/mcp", headers=lines | ({} if last is None else {b"last-event-id": last.encode()}))
    assert told.status_code == 404


@pytest.mark.parametrize("what", ["resourceSubscriptions", "taskIds"])
def test_a_million_subscriptions_are_refused(http: httpx.Client, doors_fabric: Running, what: str) -> None:
    # As many as there is room for in a body; beyond that, the body is refused.
    for count, status in ((10_000, 400), (1_000_000, 413)):
        said = request("subscriptions/listen", {"notifications": {what: ["x"] * count}})
        lines = headers("subscriptions/listen", token=doors_fabric.token)
        assert http.post("/mcp", content=json.dumps(said), headers=lines).status_code == status


async def test_a_flood_of_all_that_is_wrong_costs_bounded_memory(doors_fabric: Running, operator: str) -> None:
    (gateway,) = [pid for name, pid in doors_fabric.pids.items() if name.startswith("gateway")]
    process = psutil.Process(gateway)
    deep, large = b'{"text":' + b"[" * 10_000 + b"]" * 10_000 + b"}", b'{"text":"' + b"x" * 60_000 + b'"}'
    url, limits = url_of(doors_fabric), httpx.Limits(max_connections=16)

    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20, limits=limits) as http:
        lines = {"authorization": f"Bearer {operator}", "content-type": "application/json"}

        async def ask(number: int) -> int:
            name = ("hello_echo", "made_up_" + "x" * (number % 500), f"jobs_{number}")[number % 3]
            wrong = {**lines, "authorization": f"Bearer wrong-{number}"} if number % 50 == 0 else lines
            body = (deep, large, b"\xff", b"")[number % 4]
            return (await http.post(f"/api/tools/{name}", content=body, headers=wrong)).status_code

        await asyncio.gather(*map(ask, range(100)))
        before = process.memory_info().rss
        statuses = set(await asyncio.gather(*map(ask, range(400))))
    assert statuses <= {200, 400, 401, 403, 404, 422, 429}, statuses
    assert process.memory_info().rss - before < MOST_GROWTH
