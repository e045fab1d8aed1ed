"""`fabric mcp` on the wire: what a host writes becomes what HTTP wants, and every request gets one answer.

Proves: TR-2
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.inside import fabric_inside
from gateway.client import VERSION_KEY, Json, request
from gateway.probe import Probe
from support.listener import listener
from support.running import FABRIC, Running

from fabric.stdio.bridge import MOST
from fabric.stdio.gateway import LONGEST
from stdio.host import Host, environment
from stdio.speaker import speaking

PING: Json = {"jsonrpc": "2.0", "id": "ping", "method": "ping", "params": {}}


async def test_many_requests_at_once_get_each_its_own_answer(host: Host) -> None:
    count = 300
    asked = [
        request("tools/call", {"name": "hello_echo", "arguments": {"text": f"text {number}"}}, number=number)
        for number in range(count)
    ]
    await host.send(*asked)
    answers = [await host.read() for _ in range(count)]
    told = {answer["id"]: answer["result"]["structuredContent"]["result"] for answer in answers}
    assert told == {number: f"text {number}" for number in range(count)}


async def test_more_than_that_are_refused_and_the_others_answered(host: Host) -> None:
    quick = request("tools/call", {"name": "hello_echo", "arguments": {"text": "hi"}})
    await host.send(*({**quick, "id": number} for number in range(2 * MOST)))
    answers = [await host.read() for _ in range(2 * MOST)]
    assert {answer["id"] for answer in answers} == set(range(2 * MOST))
    codes = {answer["error"]["code"] for answer in answers if "error" in answer}
    assert codes <= {4290, -32600}, "the bridge's own refusal, and the gateway's"
    assert 4290 in codes


GARBAGE = [
    (b'{"jsonrpc": "2.0", "id": 1, "method"', -32700),
    (b"hello", -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "\xff"}', -32700),
    (b'{"params": ' + b"[" * 100_000, -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "half of \\ud83d"}', -32700),
    (b"[]", -32600),
    (b"7", -32600),
    (b"{}", -32600),
    (b'{"jsonrpc": "2.0", "id": 1, "method": 7}', -32600),
    (b'{"jsonrpc": "2.0", "id": 1}', -32600),
]


async def test_a_line_that_is_no_message_gets_an_error_and_the_next_an_answer(host: Host) -> None:
    for line, code in GARBAGE:
        await host.write(line, b"", b"  ")
        refused = await host.answer(None)
        assert refused["error"]["code"] == code, line[:80]
        assert "result" in await host.ask("server/discover")


async def test_a_line_that_is_too_long_is_passed_over(host: Host) -> None:
    for _ in range(2):
        await host.write(b'{"jsonrpc": "2.0", "id": 1, "method": "' + b"x" * LONGEST + b'"}')
        refused = await host.answer(None)
        assert str(LONGEST) in refused["error"]["message"]
    assert (await host.call("hello_echo", text="x"))["structuredContent"] == {"result": "x"}


async def test_what_the_gateway_refuses_is_answered_under_the_id_of_its_request(host: Host) -> None:
    odd = {"jsonrpc": "2.0", "id": "a", "method": "tools/list"}
    await host.send(odd)  # of no revision, in no session
    assert "error" in await host.answer("a")
    for number, params in enumerate(
        ({"name": 7}, {"name": "nobody_knows"}, {"name": None, "_meta": {VERSION_KEY: "ü"}})
    ):
        assert "error" in await host.ask("tools/call", params, number=number)
    assert "error" in await host.ask("tööls/list", number="method")
    large = await host.ask("tools/call", {"name": "hello_echo", "arguments": {"text": "x" * 5_000_000}}, number="large")
    assert "more than 4194304 bytes" in large["error"]["message"]


async def test_names_and_arguments_go_into_headers_in_a_form_that_they_survive(host: Host, probe: Probe) -> None:
    for uri in ("probe://probe//tree/plain", "probe://probe//tree/ü ä"):
        answer = await host.ask("resources/read", {"uri": uri})
        assert answer["result"]["contents"][0]["uri"] == uri, answer
    looks_encoded = await host.ask("tools/call", {"name": "=?base64?YQ==?="})
    assert looks_encoded["error"]["code"] == -32602, "not known; but headers and body agree"
    for region, size in (("eu", 1), ("Köln ", 2), ("", 0)):
        assert (await host.call("probe_routed", region=region, size=size, fast=True))["content"][0][
            "text"
        ] == f"{region} {size} True"


async def test_progress_comes_ahead_of_the_answer(host: Host) -> None:
    meta = {**request("")["params"]["_meta"], "progressToken": "p"}
    await host.send(request("tools/call", {"name": "hello_count", "arguments": {"to": 3}, "_meta": meta}))
    said = [await host.read() for _ in range(4)]
    assert [each["params"]["progress"] for each in said[:3]] == [1, 2, 3]
    assert said[3]["result"]["structuredContent"] == {"result": 3}


async def test_a_cancelled_request_reaches_the_handler_and_is_not_answered(host: Host, probe: Probe) -> None:
    waits = probe.waits["quiet"]
    for number in (1, "one"):
        waits.begun.clear()
        waits.cancelled.clear()
        await host.send(request("tools/call", {"name": "probe_wait", "arguments": {"kind": "quiet"}}, number=number))
        await asyncio.wait_for(waits.begun.wait(), 10)
        await host.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})
        await asyncio.wait_for(waits.cancelled.wait(), 10)
        assert "result" in await host.ask("server/discover", number="after")


async def test_messages_of_one_session_arrive_in_their_order() -> None:
    with speaking() as url:
        async with Host.of("--url", url) as host:
            said: Json = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"elicitation": {}},
                "clientInfo": {"name": "t", "version": "1"},
            }
            await host.send(
                {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": said},
                {"jsonrpc": "2.0", "method": "notifications/initialized"},
                {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "ask", "arguments": {}}},
            )
            assert (await host.answer(1))["result"]["serverInfo"]["name"] == "speaker"
            asked = await host.read()
            assert (asked["method"], asked["params"]["message"]) == ("elicitation/create", "Who?")
            answer = {"action": "accept", "content": {"name": "Ann"}}
            await host.send({"jsonrpc": "2.0", "id": asked["id"], "result": answer})
            assert (await host.answer(2))["result"]["content"][0]["text"] == "Ann"

            session = ""

            async def hears_by_itself() -> bool:
                nonlocal session
                await host.send({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "speak"}})
                both = [await host.read(), await host.read()]
                session = next(each["result"]["content"][0]["text"] for each in both if "result" in each)
                return any(each.get("method") == "notifications/tools/list_changed" for each in both)

            assert await hears_by_itself()
            lines = {"mcp-session-id": session, "accept": "application/json, text/event-stream"}
            async with httpx.AsyncClient(headers=lines, trust_env=False) as http:
                assert (await http.post(url, json=PING)).status_code == 200
                assert await host.end() == 0
                assert (await http.post(url, json=PING)).status_code == 404, "it was ended"


async def test_a_gateway_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mcp"
    async with Host.of("--url", url) as host:
        for ask in (host.ask, host.ask_in_session):
            error = (await ask("tools/list"))["error"]
            assert (error["code"], url in error["message"], "fabric up" in error["message"]) == (5031, True, True)
        await host.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert await host.end() == 0
        assert b"was not passed on" in host.log


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-nobody\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", b""]
)
async def test_something_else_at_the_url_is_an_error(greeting: bytes) -> None:
    async with listener(b"", answer=greeting, stay=bool(greeting)) as other, AsyncExitStack() as stack:
        host = await stack.enter_async_context(Host.of("--url", f"http://127.0.0.1:{other.port}/mcp"))
        assert "error" in await host.ask("tools/list")
        assert "error" in await host.ask("tools/list", number=2)


async def test_a_wrong_token_is_refused_and_never_shown(hello_fabric: Running) -> None:
    secret = "a-secret-that-is-wrong"
    async with Host.of("--url", hello_fabric.mcp_url, FABRIC_TOKEN=secret) as host:
        refused = await host.ask("tools/list")
        assert "FABRIC_TOKEN" in refused["error"]["message"]
        initialize = await host.ask_in_session("initialize", {})
        assert await host.end() == 0
        assert secret not in str((refused, initialize, host.log))


async def test_the_end_of_standard_input_ends_it_at_once(passing_host: Host, probe: Probe) -> None:
    host = passing_host
    waits = probe.waits["loud"]
    waits.cancelled.clear()
    await host.shake_hands()
    await host.send(request("tools/call", {"name": "probe_wait", "arguments": {"kind": "loud"}}, number="slow"))
    await asyncio.wait_for(waits.begun.wait(), 10)
    begin = asyncio.get_running_loop().time()
    assert await host.end() == 0
    assert asyncio.get_running_loop().time() - begin < 2.0
    await asyncio.wait_for(waits.cancelled.wait(), 10)
    assert not host.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_in_order(passing_host: Host, number: signal.Signals) -> None:
    host = passing_host
    await host.ask("server/discover")
    host.process.send_signal(number)
    assert (await host.ended(), host.log) == (0, b"")


async def test_a_host_that_reads_no_more_ends_it(hello_fabric: Running) -> None:
    reads, writes = os.pipe()
    async with Host.of("--url", hello_fabric.mcp_url, stdout=writes) as host:
        os.close(writes)
        await host.send(request("server/discover"))
        assert await asyncio.to_thread(os.read, reads, 1) == b"{"
        os.close(reads)
        assert (await host.ended(), host.log) == (0, b"")


@pytest.mark.parametrize("pipes", ["<{file}", ">/dev/null", "<&-"])
def test_what_is_no_pipe_is_refused(pipes: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("{}\n")
    command = f"sleep 30 | '{FABRIC}' mcp --url http://127.0.0.1:9/mcp {pipes.format(file=file)}"
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert b"have to be pipes" in process.stderr.readline()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_wrong_ways_to_start_it_are_refused(tmp_path: Path) -> None:
    wrong: list[tuple[tuple[Any, ...], dict[str, str], int, tuple[str, ...]]] = [
        (("mcp",), {}, 3, ("no fabric is running here", "fabric up")),
        (("mcp", "--url", "ftp://here"), {}, 2, ("no URL of a gateway",)),
        (("mcp", "--url", "http://h:port/mcp"), {}, 2, ("no URL of a gateway",)),
        (("mcp", "--url", "http://127.0.0.1/mcp"), {"FABRIC_TOKEN": "ü secret"}, 2, ("token cannot be sent",)),
    ]
    for arguments, env, code, words in wrong:
        done = fabric_inside(*arguments, env=env)
        done.refused(code, *words)
        assert not done.out
        assert "secret" not in done.err
