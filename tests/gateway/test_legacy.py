"""The handshake revisions, by the official client and on the wire, on the URL of the current revision.

Proves: TR-1
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from mcp import Client as Sdk
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    LoggingMessageNotificationParams,
    PromptReference,
    ResourceTemplateReference,
    TextContent,
    TextResourceContents,
)
from support.running import Running
from support.waiting import eventually

from gateway.client import BOTH, VERSION_KEY, Client, Json, Wire, events
from gateway.probe import Probe

REVISIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
NEWEST = REVISIONS[-1]
HELLO: Json = {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


class Logged:
    """The log entries that a client was sent."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []

    async def __call__(self, params: LoggingMessageNotificationParams) -> None:
        self.entries.append((params.level, params.data))


@pytest.fixture
def logged() -> Logged:
    return Logged()


@asynccontextmanager
async def sdk_client(
    monkeypatch: pytest.MonkeyPatch, running: Running, revision: str, logged: Logged
) -> AsyncGenerator[Sdk]:
    """The official client, which asks for `revision` as its newest."""
    monkeypatch.setattr("mcp.client.session.LATEST_HANDSHAKE_VERSION", revision)
    async with create_mcp_http_client({"authorization": f"Bearer {running.token}"}) as http:
        transport = streamable_http_client(running.mcp_url, http_client=http)
        async with Sdk(transport, mode="legacy", logging_callback=logged) as client:
            yield client


@pytest.fixture(params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_the_official_client_works_in_each_revision(
    monkeypatch: pytest.MonkeyPatch, hello_fabric: Running, probe: Probe, revision: str, logged: Logged
) -> None:
    async with sdk_client(monkeypatch, hello_fabric, revision, logged) as client:
        assert client.protocol_version == revision
        assert client.server_info is not None
        assert client.server_info.name == "agent-fabric"
        await client.send_ping()  # pyright: ignore[reportDeprecated]

        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == sorted(names)
        assert {"hello_echo", "probe_raw"} <= set(names)
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["hello_greet", "probe_ask"]
        assert "notes://hello/{day}" in [
            template.uri_template for template in (await client.list_resource_templates()).resource_templates
        ]
        assert "probe://probe/plain/a" in [str(each.uri) for each in (await client.list_resources()).resources]

        result = await client.call_tool("hello_echo", {"text": "hi"})
        assert result.content == [TextContent(type="text", text="hi")]
        assert result.is_error is False
        result = await client.call_tool("hello_refuse", {"reason": "no"})
        assert result.is_error is True

        (content,) = (await client.read_resource("notes://hello/monday")).contents
        assert isinstance(content, TextResourceContents)
        assert (str(content.uri), content.text) == ("notes://hello/monday", "note of monday")
        (message,) = (await client.get_prompt("hello_greet", {"name": "Bo"})).messages
        assert message.content == TextContent(type="text", text="Say hello to Bo.")
        for ref, argument in (
            (PromptReference(type="ref/prompt", name="hello_greet"), "name"),
            (ResourceTemplateReference(type="ref/resource", uri="notes://hello/{day}"), "day"),
        ):
            completed = await client.complete(ref, {"name": argument, "value": "B"})
            assert completed.completion.values == ["Ba", "Bb"]


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_progress_and_log_entries_reach_the_official_client(
    monkeypatch: pytest.MonkeyPatch, hello_fabric: Running, probe: Probe, revision: str, logged: Logged
) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with sdk_client(monkeypatch, hello_fabric, revision, logged) as client:
        await client.call_tool("probe_talk", {}, progress_callback=hear)
        assert heard == [(0.5, 1.5, None), (1.5, 1.5, "done")]
        said: list[tuple[str, Any]] = [("debug", "low"), ("warning", {"a": ["b"]}), ("error", 7)]
        await eventually(lambda: logged.entries == said)
        logged.entries.clear()
        await client.set_logging_level("warning")  # pyright: ignore[reportDeprecated]
        await client.call_tool("probe_talk", {})
        await eventually(lambda: logged.entries == said[1:])


async def test_errors_have_the_codes_of_their_time(
    monkeypatch: pytest.MonkeyPatch, hello_fabric: Running, revision: str, logged: Logged
) -> None:
    async with sdk_client(monkeypatch, hello_fabric, revision, logged) as client:
        for uri in ("nothing://such", "nothing://hello/such", "notes://hello/"):
            with pytest.raises(MCPError) as raised:
                await client.read_resource(uri)
            assert raised.value.code == -32002
        with pytest.raises(MCPError) as raised:
            await client.call_tool("hello_nothing", {})
        assert raised.value.code == -32602
        with pytest.raises(MCPError) as raised:
            await client.get_prompt("nothing", {})
        assert raised.value.code == -32602


# on the wire


class Session:
    """A session whose every byte is the test's."""

    def __init__(self, mcp: Client, revision: str, opened: httpx.Response) -> None:
        self._mcp = mcp
        self.opened = opened
        self.id = opened.headers["mcp-session-id"]
        self.headers = {"mcp-session-id": self.id, "mcp-protocol-version": revision}

    @staticmethod
    async def open(mcp: Client, revision: str) -> Session:
        """Shake hands."""
        hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {**HELLO, "protocolVersion": revision}}
        opened = await post(mcp, hello)
        assert opened.status_code == 200, opened.text
        session = Session(mcp, events(opened.text)[0]["result"]["protocolVersion"], opened)
        assert (await session.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
        return session

    async def post(self, body: Json | str, **change: str) -> httpx.Response:
        """Any body, in this session."""
        return await post(self._mcp, body, **{**self.headers, **change})

    async def ask(self, method: str, params: Json | None = None, **change: str) -> Json:
        """The last message that answers a request: its response."""
        response = await self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}, **change)
        assert response.status_code == 200, response.text
        return events(response.text)[-1]


async def post(mcp: Client, body: Json | str, **lines: str) -> httpx.Response:
    given = {"authorization": f"Bearer {mcp.token}", "content-type": "application/json", "accept": BOTH, **lines}
    return await mcp.post(body if isinstance(body, str) else json.dumps(body), given)


@pytest.mark.parametrize(("asked", "given"), [*zip(REVISIONS, REVISIONS, strict=True), ("1999-01-01", NEWEST)])
async def test_the_handshake_settles_the_revision(mcp: Client, asked: str, given: str) -> None:
    session = await Session.open(mcp, asked)
    result = events(session.opened.text)[0]["result"]
    assert result["protocolVersion"] == given
    assert result["capabilities"].keys() == {"tools", "resources", "prompts", "logging", "completions"}


async def test_results_have_none_of_the_members_that_came_later(mcp: Client, revision: str) -> None:
    session = await Session.open(mcp, revision)
    for method, params in (
        ("tools/list", {}),
        ("resources/list", {}),
        ("prompts/list", {}),
        ("tools/call", {"name": "hello_echo", "arguments": {"text": "x"}}),
        ("resources/read", {"uri": "notes://hello/x"}),
        ("prompts/get", {"name": "hello_greet", "arguments": {"name": "x"}}),
        ("ping", {}),
    ):
        result = (await session.ask(method, params))["result"]
        assert not result.keys() & {"resultType", "ttlMs", "cacheScope"}, method


async def test_the_version_header_may_be_missing_after_the_handshake(mcp: Client) -> None:
    session = await Session.open(mcp, "2025-03-26")
    del session.headers["mcp-protocol-version"]
    assert "tools" in (await session.ask("tools/list"))["result"]
    # even where the text of the call holds what a request of the current revision holds
    params = {"name": "hello_echo", "arguments": {"text": VERSION_KEY}}
    assert (await session.ask("tools/call", params))["result"]["content"][0]["text"] == VERSION_KEY


async def test_a_session_that_there_is_not_is_not_found(mcp: Client, revision: str) -> None:
    await Session.open(mcp, revision)
    for wrong in ("0" * 32, "x"):
        lines = {"mcp-session-id": wrong, "mcp-protocol-version": revision}
        assert (await post(mcp, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, **lines)).status_code == 404


async def test_without_a_session_there_is_only_the_handshake(mcp: Client, revision: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert (await post(mcp, body, **{"mcp-protocol-version": revision})).status_code == 400
    assert (await post(mcp, body)).status_code == 400


async def test_delete_ends_a_session(mcp: Client, revision: str) -> None:
    session = await Session.open(mcp, revision)
    token = {"authorization": f"Bearer {mcp.token}"}
    assert (await mcp.http.delete(mcp.url, headers={**session.headers, **token})).status_code == 200
    assert (await session.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code == 404
    assert (await mcp.http.delete(mcp.url, headers={**session.headers, **token})).status_code == 404


async def test_a_session_is_of_no_use_without_the_token(mcp: Client, revision: str) -> None:
    session = await Session.open(mcp, revision)
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    for wrong in ("", "Bearer", "Bearer wrong", f"Basic {mcp.token}"):
        assert (await session.post(body, authorization=wrong)).status_code == 401
    for method in ("GET", "DELETE"):
        assert (await mcp.http.request(method, mcp.url, headers=session.headers)).status_code == 401
    assert (await session.ask("ping"))["result"] == {}


async def test_a_session_has_a_stream_of_its_own(mcp: Client, revision: str) -> None:
    session = await Session.open(mcp, revision)
    lines = {**session.headers, "authorization": f"Bearer {mcp.token}", "accept": "text/event-stream"}
    async with mcp.http.stream("GET", mcp.url, headers=lines) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert (await session.ask("ping"))["result"] == {}


async def test_progress_keeps_its_tokens_type(mcp: Client) -> None:
    session = await Session.open(mcp, NEWEST)
    for token in ("t", 7):
        params = {"name": "hello_count", "arguments": {"to": 2, "pause": 0}, "_meta": {"progressToken": token}}
        response = await session.post({"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": params})
        *ahead, answer = events(response.text)
        assert [event["params"]["progressToken"] for event in ahead] == [token, token]
        assert [event["params"]["progress"] for event in ahead] == [1, 2]
        assert (answer["id"], answer["result"]["structuredContent"]) == ("c", {"result": 2})


async def test_cancelled_is_a_notification_here_and_reaches_the_handler(mcp: Client, probe: Probe) -> None:
    session = await Session.open(mcp, NEWEST)
    waits = probe.waits["quiet"]
    waits.begun.clear()
    waits.cancelled.clear()
    params = {"name": "probe_wait", "arguments": {"kind": "quiet"}}
    call = asyncio.create_task(session.post({"jsonrpc": "2.0", "id": 77, "method": "tools/call", "params": params}))
    await asyncio.wait_for(waits.begun.wait(), 5)
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 77}}
    assert (await session.post(cancelled)).status_code == 202
    await asyncio.wait_for(waits.cancelled.wait(), 5)
    await asyncio.wait_for(call, 5)
    assert (await session.ask("ping"))["result"] == {}


async def test_hanging_up_is_not_cancelling_here(mcp: Client, probe: Probe) -> None:
    session = await Session.open(mcp, NEWEST)
    waits = probe.waits["loud"]
    waits.begun.clear()
    waits.cancelled.clear()
    params = {"name": "probe_wait", "arguments": {"kind": "loud"}, "_meta": {"progressToken": 1}}
    content = json.dumps({"jsonrpc": "2.0", "id": 78, "method": "tools/call", "params": params}).encode()
    lines = {"authorization": f"Bearer {mcp.token}", "content-type": "application/json", "accept": BOTH}
    async with mcp.http.stream("POST", mcp.url, content=content, headers={**lines, **session.headers}) as stream:
        async for line in stream.aiter_lines():
            if "about to wait" in line:
                break
    assert (await session.ask("ping"))["result"] == {}
    assert not waits.cancelled.is_set()
    await session.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 78}})
    await asyncio.wait_for(waits.cancelled.wait(), 5)


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/list", {"cursor": "made up"}, -32602),
        ("tools/list", {"cursor": 5}, -32602),
        ("tools/call", {"arguments": {}}, -32602),
        ("tools/call", {"name": 5}, -32602),
        ("tools/call", {"name": "nothing"}, -32602),
        ("resources/read", {}, -32602),
        ("resources/read", {"uri": 5}, -32602),
        ("resources/read", {"uri": "nothing://such"}, -32002),
        ("prompts/get", {"name": "hello_greet", "arguments": {}}, -32602),
        ("nothing/such", {}, -32601),
        ("server/discover", {}, -32601),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {}}, -32602),
    ],
)
async def test_what_cannot_be_done_is_refused_with_its_code(mcp: Client, method: str, params: Json, code: int) -> None:
    answer = await (await Session.open(mcp, NEWEST)).ask(method, params)
    assert (answer["id"], answer["error"]["code"]) == (1, code)
    assert answer["error"]["message"]


async def test_an_integer_of_any_size_reaches_the_worker(mcp: Client, probe: Probe) -> None:
    session = await Session.open(mcp, NEWEST)
    probe.requests.clear()
    call = {"name": "probe_raw", "arguments": {"big": 10**30}}
    response = await session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    assert events(response.text)[-1]["result"] == {"content": []}
    assert json.loads(probe.requests[0])["arguments"] == {"big": 10**30}


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '{"jsonrpc":"2.0","id":1}', "[" * 10_000])
async def test_what_is_no_request_is_refused_in_a_session_too(mcp: Client, body: str) -> None:
    session = await Session.open(mcp, NEWEST)
    assert (await session.post(body)).status_code == 400
    assert (await session.ask("ping"))["result"] == {}


async def test_a_session_may_come_through_a_connection_that_breaks(mcp: Client) -> None:
    session = await Session.open(mcp, NEWEST)
    lines = {**session.headers, "authorization": f"Bearer {mcp.token}", "accept": "text/event-stream"}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    for _ in range(3):
        async with Wire.to(mcp.url) as wire:
            await wire.send(f"GET /mcp HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode())
            assert await wire.status() in (200, 409)  # the one before may not have been missed yet
    assert (await session.ask("ping"))["result"] == {}
