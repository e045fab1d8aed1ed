"""What a slow or silent client costs, which status an error has, and where a schema's references lead once it is moved.

Proves: TR-3, TR-4
"""

from __future__ import annotations

import asyncio
import socket as sockets
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fabric.gateway import rpc, websocket
from fabric.gateway.http import MOST_WAITING, WHOLE
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.openapi import document, moved
from fabric.gateway.problems import problem_of
from fabric.gateway.rpc import Refusal
from fabric.gateway.upgraded import Upgraded
from fabric.gateway.view import Mount, View
from fabric.gateway.websocket import Door, Outlet, Reply
from fabric.identity.identity import OPERATOR
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.description import Description

NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"message":"%b"}}'


class Client:
    """The other end of a socket: it reads when the test says so, and keeps what it read."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.asked = asyncio.Event()
        """Set once something is sent to it."""
        self.read: list[str] = []

    async def send(self, event: Any) -> None:
        self.asked.set()
        await self.reads.wait()
        self.read.append(event["text"])


async def test_a_slow_reader_misses_progress_and_no_answer() -> None:
    client = Client()
    outlet = Outlet(client.send)
    answers = [asyncio.create_task(Reply(outlet, b"1")(whole(b'{"answer":%d}' % number))) for number in range(3)]
    await client.asked.wait()
    note = NOTE % (b"x" * 10_000)
    for _ in range(1000):  # ten times what may wait
        await outlet.note(note)
    assert not any(answer.done() for answer in answers)
    client.reads.set()
    await asyncio.gather(*answers)
    assert [text for text in client.read if "answer" in text] == ['{"answer":0}', '{"answer":1}', '{"answer":2}']
    kept = sum(map(len, client.read))
    assert MOST_WAITING - len(note) < kept < MOST_WAITING + len(note)


async def test_what_came_first_is_told_first() -> None:
    client = Client()
    client.reads.set()
    outlet = Outlet(client.send)
    reply = Reply(outlet, b"7")
    stream = b"".join((rpc.event(NOTE % b"a"), b": still working\r\n\r\n", b"id: x.1\r\n" + rpc.event(b'{"result":1}')))
    await reply({"type": "http.response.start", "status": 200, "headers": []})
    await reply({"type": "http.response.body", "body": stream, "more_body": True})
    assert client.read == [(NOTE % b"a").decode(), '{"result":1}']


async def test_a_refusal_gets_the_id_of_its_request() -> None:
    client = Client()
    client.reads.set()
    await Reply(Outlet(client.send), b'"mine"')(whole(rpc.error(rpc.NULL, -32600, 'say "id":null')))
    assert client.read == ['{"jsonrpc":"2.0","id":"mine","error":{"code":-32600,"message":"say \\"id\\":null"}}']


async def test_a_client_that_is_gone_fails_nobody() -> None:
    async def gone(event: Any) -> None:
        raise OSError

    await Outlet(gone).say(b"{}")


def whole(body: bytes) -> dict[str, Any]:
    return {"type": WHOLE, "status": 200, "headers": (), "body": body}


async def test_who_asks_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "IDLE_SECONDS", 0.05)
    sent: list[Any] = []

    async def never(*_: Any) -> Any:
        return await asyncio.get_running_loop().create_future()

    async def identify() -> Any:
        return OPERATOR

    async def send(event: Any) -> None:
        sent.append(event)

    await Door(never, never, KeptOpen(1))(OPERATOR, identify, never, send)  # type: ignore[arg-type]
    assert [event["type"] for event in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1000


async def test_who_takes_nothing_loses_the_connection() -> None:
    """By a real server: its buffers fill, its pings go unanswered, and its application is told."""
    told = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "x" * 1_000_000})
        except OSError:
            told.set()

    config = uvicorn.Config(
        app, ws=Upgraded, lifespan="off", log_config=None, ws_ping_interval=0.1, ws_ping_timeout=0.2
    )
    listener = sockets.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname(), limit=1024)
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n")
        writer.write(b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(told.wait(), 10)
    finally:
        writer.close()
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("failure", "status", "headers"),
    [
        (errors.InvalidParams(), 400, ()),
        (errors.UnknownMethod(), 404, ()),
        (errors.MessageTooLarge(), 413, ()),
        (errors.CapabilityMissing(), 422, ()),
        (errors.Overloaded(), 429, ((b"retry-after", b"1"),)),
        (errors.HandlerFailed(), 500, ()),
        (errors.WorkerLost(), 502, ()),
        (errors.AgentUnavailable(), 503, ((b"retry-after", b"1"),)),
        (errors.TransportUnavailable(), 503, ((b"retry-after", b"1"),)),
        (errors.DeadlineExceeded(), 504, ()),
        (Refusal(rpc.INVALID_PARAMS, "no"), 400, ()),
        (Refusal(4030, "no", status=403, headers=((b"www-authenticate", b"x"),)), 403, ((b"www-authenticate", b"x"),)),
        (Refusal(4030, "a person refused this"), 403, ()),
        (Refusal(4090, "nobody has allowed this yet"), 409, ()),
        (Refusal(4290, "no", status=429, headers=((b"retry-after", b"7"),)), 429, ((b"retry-after", b"7"),)),
        (ValueError("secret"), 500, ()),
    ],
)
def test_an_error_has_its_status(failure: Exception, status: int, headers: Any) -> None:
    problem = problem_of(failure)
    assert (problem.status, problem.headers) == (status, headers)
    assert b"secret" not in problem.body()


# schemas

Strategy = st.SearchStrategy[Any]


def nest(inner: Strategy) -> Strategy:
    """Schemas around schemas, with properties that are called as keywords, and values that look like references."""
    return st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"anyOf": st.tuples(inner, inner).map(list)}),
        st.fixed_dictionaries({"properties": st.fixed_dictionaries({"$ref": inner, "default": inner})}),
        st.fixed_dictionaries({"properties": st.fixed_dictionaries({"x": inner}), "default": st.just({"$ref": "#/x"})}),
    )


def contain(inner: Strategy) -> Strategy:
    names = st.sampled_from(["x", "$ref", "default"])
    return st.one_of(st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=2))


LEAVES: list[Any] = [{"type": "integer"}, {"type": "string"}, {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, True]
nested: Strategy = st.recursive(st.sampled_from(LEAVES), nest, max_leaves=6)
values: Strategy = st.recursive(st.sampled_from([1, "x", None]), contain, max_leaves=5)


def valid(schema: Any, value: Any) -> bool:
    validator: Any = Draft202012Validator(schema)
    return validator.is_valid(value)


@given(nested, nested, nested, values)
def test_a_moved_schema_means_what_it_meant(root: Any, a: Any, b: Any, value: Any) -> None:
    below = {"a": {"type": "array", "items": a}, "b": {"type": "object", "properties": {"x": b}}}
    schema = {"properties": {"x": root}, "items": root, "$defs": below}
    place = "#/components/schemas/t.arguments"
    whole = {"components": {"schemas": {"t.arguments": moved(schema, place)}}, "$ref": place}
    assert valid(whole, value) == valid(schema, value)


def test_only_references_into_itself_are_moved() -> None:
    kept: Any = {"$ref": "https://example.com/x", "const": {"$ref": "#/a"}, "enum": [{"$ref": "#"}]}
    assert moved(kept, "#/there") == kept
    own: Any = {"properties": {"a": {"$id": "https://example.com/a", "$ref": "#/b"}, "b": {"$ref": "#/$defs/b"}}}
    assert moved(own, "#/there")["properties"] == {"a": own["properties"]["a"], "b": {"$ref": "#/there/$defs/b"}}
    assert moved({"items": {"$ref": "#"}}, "#/there") == {"items": {"$ref": "#/there"}}


def test_tools_that_differ_in_strange_characters_stay_apart() -> None:
    names = ["a/b", "a_b", "a b", "ä"]
    tools: Any = [{"name": name, "inputSchema": {"type": "object", "title": name}} for name in names]
    made = document(View([Mount(Description(name="x", tools=tools))]), "/")
    titles = [
        schema.get("title") for name, schema in made["components"]["schemas"].items() if name.endswith(".arguments")
    ]
    assert sorted(map(str, titles)) == sorted(names)
    assert {"/api/tools/a%2Fb", "/api/tools/a_b", "/api/tools/a%20b", "/api/tools/%C3%A4"} <= made["paths"].keys()
