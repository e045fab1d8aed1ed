"""MCP over WebSocket, by a real client: both eras on one connection, live both ways, and nothing that outlives it.

Proves: TR-3
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable

import httpx
import pytest
from gateway.client import CAPABILITIES_KEY, LEVEL_KEY, meta, request
from gateway.probe import Probe
from support.running import Running
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from doors.conftest import MAX_BODY
from doors.ways import Json, ask, said, socket_to
from fabric.gateway.websocket import MOST_IN_HAND
from fabric_sdk import Fabric
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message

HELLO: Json = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


@pytest.fixture
async def socket(url: str, operator: str) -> AsyncGenerator[ClientConnection]:
    async with socket_to(url, operator) as socket:
        yield socket


async def send(socket: ClientConnection, method: str, params: Json | None = None, *, number: object = None) -> None:
    """A message as a handshake session sends it."""
    message: Json = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    await socket.send(json.dumps(message if number is None else {**message, "id": number}))


async def open_session(socket: ClientConnection, **capabilities: object) -> Json:
    await send(socket, "initialize", {**HELLO, "capabilities": capabilities}, number="hello")
    opened = await said(socket)
    await send(socket, "notifications/initialized")
    return opened


async def still_serves(socket: ClientConnection) -> None:
    result = (await ask(socket, "tools/call", {"name": "hello_echo", "arguments": {"text": "on"}}))["result"]
    assert result["structuredContent"] == {"result": "on"}


async def serves_on(socket: ClientConnection) -> None:
    async with asyncio.timeout(10):
        while True:
            await still_serves(socket)


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """How the connection was closed from the other side."""
    async with asyncio.timeout(10):
        await socket.wait_closed()
    return socket.close_code or 0, socket.close_reason or ""


# who comes in


async def test_a_browser_sends_its_token_as_a_subprotocol(url: str, operator: str) -> None:
    async with socket_to(url, None, f"bearer.{operator}", origin="https://app.example") as socket:
        assert socket.subprotocol == "mcp"
        await still_serves(socket)


@pytest.mark.parametrize(
    ("offers", "more", "status"),
    [
        (["mcp"], {}, 401),
        (["mcp", "bearer.fab_wrong"], {}, 401),
        (["mcp", "bearer."], {}, 401),
        (["bearer.{token}"], {}, 400),
        ([], {"authorization": "Bearer {token}"}, 400),
        (["mcp", "bearer.{token}"], {"authorization": "Bearer {token}"}, 400),
        (["mcp", "bearer.{token}", "bearer.{token}x"], {}, 400),
        (["mcp", "bearer.{token}"], {"origin": "https://evil.example"}, 403),
    ],
)
async def test_who_may_not_enter_is_told_by_http(
    url: str, operator: str, offers: list[str], more: dict[str, str], status: int
) -> None:
    lines = {name: value.format(token=operator) for name, value in more.items()}
    if offers:
        lines["sec-websocket-protocol"] = ", ".join(offer.format(token=operator) for offer in offers)
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url.replace("http", "ws", 1) + "/ws", additional_headers=lines, proxy=None):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["message"]


async def test_a_foreign_host_is_refused(url: str, operator: str) -> None:
    lines = {
        "host": "evil.example",
        "authorization": f"Bearer {operator}",
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-protocol": "mcp",
    }
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{url}/ws", headers=lines)).status_code == 421
        with_a_body = await http.request("GET", f"{url}/ws", headers=lines, content=b"x" * 10)
        assert with_a_body.status_code == 400


async def test_a_token_in_the_query_is_none(url: str, operator: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{url.replace('http', 'ws', 1)}/ws?token={operator}", subprotocols=["mcp"], proxy=None):  # type: ignore[list-item]
            pass
    assert refused.value.response.status_code == 401


async def test_there_is_one_path(url: str, operator: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(f"{url}/mcp", operator):
            pass
    assert refused.value.response.status_code == 404


async def test_who_loses_the_token_loses_the_connection(url: str, operator: str, key: Callable[..., str]) -> None:
    token = key("fired", roles=["clerk"])
    async with socket_to(url, token) as mine, socket_to(url, operator) as other:
        await still_serves(mine)
        revoke = {"name": "access_revoke_token", "arguments": {"id": token.split("_")[1]}}
        assert "isError" not in (await ask(other, "tools/call", revoke))["result"]
        with pytest.raises(ConnectionClosed):
            await serves_on(mine)  # the word travels
        assert mine.close_code == 1008
        assert "revoked" in (mine.close_reason or "")


# the current revision


async def test_many_requests_are_worked_on_at_once(socket: ClientConnection, probe: Probe) -> None:
    wait = request("tools/call", {"name": "probe_wait", "arguments": {"kind": "quiet"}}, number="slow")
    await socket.send(json.dumps(wait))
    numbers = [str(number) for number in range(MOST_IN_HAND - 1)]
    for number in numbers:
        call = request("tools/call", {"name": "hello_echo", "arguments": {"text": number}}, number=number)
        await socket.send(json.dumps(call))
    answers = [await said(socket) for _ in numbers]
    assert {each["id"]: each["result"]["structuredContent"]["result"] for each in answers} == {n: n for n in numbers}


async def test_progress_and_log_come_before_the_answer(socket: ClientConnection, probe: Probe) -> None:
    about = meta(progressToken="p", **{LEVEL_KEY: "warning"})
    await socket.send(json.dumps(request("tools/call", {"name": "probe_talk", "arguments": {}, "_meta": about})))
    heard = [await said(socket) for _ in range(5)]
    assert [each.get("method", "answer") for each in heard] == [
        "notifications/progress",
        "notifications/message",
        "notifications/progress",
        "notifications/message",
        "answer",
    ]
    assert heard[0]["params"]["progressToken"] == "p"
    assert heard[-1]["result"]["structuredContent"] == {"result": "said"}


async def test_a_request_is_cancelled_by_a_notification(socket: ClientConnection, probe: Probe) -> None:
    wait = {"name": "probe_wait", "arguments": {"kind": "quiet"}}
    await socket.send(json.dumps(request("tools/call", wait, number="slow")))
    await asyncio.wait_for(probe.waits["quiet"].begun.wait(), 10)
    await send(socket, "notifications/cancelled", {"requestId": "slow"})
    await asyncio.wait_for(probe.waits["quiet"].cancelled.wait(), 10)
    await still_serves(socket)  # and nothing was said of it


async def test_a_client_that_leaves_cancels_its_requests(url: str, operator: str, probe: Probe) -> None:
    async with socket_to(url, operator) as socket:
        await open_session(socket)
        for kind in probe.waits:
            modern = request("tools/call", {"name": "probe_wait", "arguments": {"kind": kind}}, number=kind)
            if kind == "loud":
                del modern["params"]["_meta"]  # in the session
            await socket.send(json.dumps(modern))
            await asyncio.wait_for(probe.waits[kind].begun.wait(), 10)
    for wait in probe.waits.values():
        await asyncio.wait_for(wait.cancelled.wait(), 10)


async def test_an_agent_asks_and_is_answered_with_the_next_request(socket: ClientConnection) -> None:
    params: Json = {"name": "asker_size", "arguments": {}, "_meta": meta(**{CAPABILITIES_KEY: {"elicitation": {}}})}
    asked = (await ask(socket, "tools/call", params))["result"]
    assert asked["resultType"] == "input_required"
    answers = {each: {"action": "accept", "content": {"size": "L"}} for each in asked["inputRequests"]}
    params |= {"inputResponses": answers, "requestState": asked["requestState"]}
    result = (await ask(socket, "tools/call", params, number=2))["result"]
    assert result["structuredContent"]["result"].startswith("accept: ")
    assert "L" in result["structuredContent"]["result"]


async def test_a_subscriber_hears_what_changes_until_it_cancels(
    socket: ClientConnection, doors_fabric: Running, probe: Probe
) -> None:
    uri = "probe://probe/plain/a"
    acknowledged = await ask(
        socket, "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}, number="sub"
    )
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    async with Fabric.connect(doors_fabric.nats_url) as fabric:
        told = Message(subjects.changed("probe"), Body({"resource": "probe://plain/a"}))
        await fabric.transport.publish(told)
        assert (await said(socket))["params"]["uri"] == uri
        await send(socket, "notifications/cancelled", {"requestId": "sub"})
        await fabric.transport.publish(told)
    await still_serves(socket)


# a handshake session


async def test_a_session_is_the_connection_s(url: str, operator: str, probe: Probe, doors_fabric: Running) -> None:
    async with socket_to(url, operator) as socket:
        opened = await open_session(socket)
        assert opened["id"] == "hello"
        assert opened["result"]["protocolVersion"] == "2025-11-25"
        await send(socket, "ping", number=1)
        assert await said(socket) == {"jsonrpc": "2.0", "id": 1, "result": {}}
        uri = "probe://probe/plain/a"
        await send(socket, "resources/subscribe", {"uri": uri}, number=2)
        assert (await said(socket))["id"] == 2
        async with Fabric.connect(doors_fabric.nats_url) as fabric:
            await fabric.transport.publish(Message(subjects.changed("probe"), Body({"resource": "probe://plain/a"})))
        assert (await said(socket))["params"] == {"uri": uri}
        call = {"name": "hello_count", "arguments": {"to": 2, "pause": 0.1}, "_meta": {"progressToken": 7}}
        await send(socket, "tools/call", call, number=3)
        heard = [await said(socket) for _ in range(3)]
        assert [each["params"]["progress"] for each in heard[:2]] == [1, 2]
        assert heard[2]["result"]["structuredContent"] == {"result": 2}
        await still_serves(socket)  # the current revision, beside it


async def test_a_session_is_asked_over_its_connection(socket: ClientConnection) -> None:
    await open_session(socket, elicitation={})
    await send(socket, "tools/call", {"name": "asker_size", "arguments": {}}, number=1)
    asked = await said(socket)
    assert asked["method"] == "elicitation/create"
    answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"size": "XL"}}}
    await socket.send(json.dumps(answer))
    answered = await said(socket)
    assert answered["id"] == 1
    assert "XL" in answered["result"]["structuredContent"]["result"]


async def test_a_session_s_request_is_cancelled(socket: ClientConnection, probe: Probe) -> None:
    await open_session(socket)
    await send(socket, "tools/call", {"name": "probe_wait", "arguments": {"kind": "quiet"}}, number=5)
    await asyncio.wait_for(probe.waits["quiet"].begun.wait(), 10)
    await send(socket, "notifications/cancelled", {"requestId": 5})
    await asyncio.wait_for(probe.waits["quiet"].cancelled.wait(), 10)
    await still_serves(socket)


# what is wrong


@pytest.mark.parametrize(
    ("text", "number", "code"),
    [
        ("no json", None, -32700),
        ("[]", None, -32600),
        ("[" * 5000, None, -32600),
        ('{"jsonrpc":"1.0","id":1,"method":"ping"}', None, -32600),
        ('{"jsonrpc":"2.0","id":[1],"method":"ping"}', None, -32600),
        ('{"jsonrpc":"2.0","id":1,"method":"ping"}', 1, -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"initialize","params":[]}', 1, -32602),
        (json.dumps(request("nothing/such")), 1, -32601),
        (json.dumps(request("tools/call", {"name": "nothing"})), 1, -32602),
        (json.dumps(request("tools/list")).replace("2026-07-28", "2031-01-01"), 1, -32022),
    ],
)
async def test_a_bad_message_is_answered_and_the_next_one_served(
    socket: ClientConnection, text: str, number: object, code: int
) -> None:
    await socket.send(text)
    refused = await said(socket)
    assert (refused["id"], refused["error"]["code"]) == (number, code), refused
    await still_serves(socket)


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","id":"x.1","result":{}}',
        '{"jsonrpc":"2.0","method":"notifications/cancelled"}',
        '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1234567890123456789012345678901234567890}}',
        '{"jsonrpc":"2.0","method":"notifications/cancelled","params":7}',
        '{"jsonrpc":"2.0","method":"notifications/nothing"}',
    ],
)
async def test_what_means_nothing_is_passed_over(socket: ClientConnection, text: str) -> None:
    await socket.send(text)
    await still_serves(socket)


async def test_an_id_is_used_once_at_a_time(socket: ClientConnection) -> None:
    for _ in range(2):
        await socket.send(json.dumps(request("tools/call", {"name": "hello_hang", "arguments": {}}, number="same")))
    refused = await said(socket)
    assert (refused["id"], refused["error"]["code"]) == ("same", -32600)


async def test_there_is_one_session_a_connection(socket: ClientConnection) -> None:
    await open_session(socket)
    await send(socket, "initialize", HELLO, number=2)
    assert (await said(socket))["error"]["code"] == -32600


async def test_a_flood_is_refused_request_by_request(socket: ClientConnection) -> None:
    hang: Json = {"name": "hello_hang", "arguments": {}}
    ids = [f"hang {number}" for number in range(MOST_IN_HAND + 5)]
    for each in ids:
        await socket.send(json.dumps(request("tools/call", hang, number=each)))
    refused = [await said(socket) for _ in range(5)]
    assert [each["id"] for each in refused] == ids[MOST_IN_HAND:]
    assert {each["error"]["code"] for each in refused} == {4290}
    await send(socket, "notifications/cancelled", {"requestId": ids[0]})
    async with asyncio.timeout(10):
        while "error" in await ask(socket, "tools/list"):  # its place is free as soon as it has ended
            pass


async def test_binary_frames_close(socket: ClientConnection) -> None:
    await socket.send(b"{}")
    assert await closed(socket) == (1003, "a message is one text frame")


async def test_a_message_has_no_more_bytes_than_a_body(socket: ClientConnection) -> None:
    await socket.send("x" * (MAX_BODY + 1))
    assert (await closed(socket))[0] == 1009
