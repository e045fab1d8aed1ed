"""The current revision on the wire: each rung of the ladder of checks, each method, streams, cancellation.

Proves: TR-1, PT-1, GW-4 (resources and templates are listed and read)
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any, cast

import httpx
import msgspec
import pytest

from fabric.gateway.app import Gateway
from fabric.settings import load_settings
from fabric_sdk import Fabric
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.worker import Worker
from gateway.client import (
    BOTH,
    CAPABILITIES_KEY,
    LEVEL_KEY,
    NAMED,
    VERSION,
    VERSION_KEY,
    Client,
    Json,
    Wire,
    events,
    meta,
    refusal,
    request,
    written,
)
from gateway.fakes import FakeRegistry, offering
from gateway.probe import Probe

ECHO: Json = {"name": "hello_echo", "arguments": {"text": "hi"}}
LISTS = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}
SERVER = "io.modelcontextprotocol/serverInfo"


def with_meta(*missing: str, **changed: Any) -> Json:
    """Params whose `_meta` lacks or changes something."""
    return {"_meta": {key: value for key, value in meta(**changed).items() if key not in missing}}


# what is no request


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", -32700, id="nothing"),
        pytest.param(b"{", -32700, id="cut"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}}', -32700, id="too-much"),
        pytest.param(b"\xef\xbb\xbf{}", -32700, id="byte-order-mark"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":NaN}', -32700, id="nan"),
        pytest.param(b'{"jsonrpc":"2.0","id":"a\nb","method":"tools/list"}', -32700, id="line-break-in-a-string"),
        pytest.param(b'{"jsonrpc":"2.0","id":"\\ud800","method":"tools/list"}', -32700, id="half-a-surrogate-pair"),
        pytest.param(b'{"jsonrpc":"2.0","id":"\xff","method":"tools/list"}', -32700, id="no-utf8-in-the-id"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"\xc0\xaf":1}}', -32700, id="no-utf8-in-a-name"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"params":' + b"[" * 10_000 + b"]" * 10_000 + b"}", -32700, id="deep"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"params":' + b"[" * 10_000, -32700, id="deep-and-cut"),
        pytest.param(b"[]", -32600, id="empty-batch"),
        pytest.param(json.dumps([request("tools/list")]).encode(), -32600, id="batch"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600, id="response"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}', -32600, id="error-response"),
        pytest.param(b'"tools/list"', -32600, id="string"),
        pytest.param(b"null", -32600, id="null"),
        pytest.param(b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}', -32600, id="jsonrpc-1"),
        pytest.param(b'{"jsonrpc":2.0,"id":1,"method":"tools/list"}', -32600, id="jsonrpc-number"),
        pytest.param(b'{"id":1,"method":"tools/list"}', -32600, id="jsonrpc-missing"),
        pytest.param(b'{"jsonrpc":"2.0","id":1}', -32600, id="method-missing"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":["tools/list"]}', -32600, id="method-no-string"),
        *(
            pytest.param(
                b'{"jsonrpc":"2.0","id":%b,"method":"tools/list"}' % number, -32600, id=f"id-{number.decode()}"
            )
            for number in (b"null", b"1.5", b"1.0", b"1e2", b"true", b"[]", b"{}")
        ),
    ],
)
async def test_what_is_no_request_is_refused_without_an_id(mcp: Client, content: bytes, code: int) -> None:
    refusal(await mcp.post(content, mcp.headers("tools/list")), 400, code)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(b"0", id="zero"),
        pytest.param(b"-7", id="negative"),
        pytest.param(b"9007199254740993", id="beyond-a-double"),
        pytest.param(b"123456789012345678901234567890", id="beyond-64-bits"),
        pytest.param(b'""', id="empty"),
        pytest.param(b'"1"', id="digits-as-string"),
        pytest.param('"é\\u00e9\\n\\/\U0001f600"'.encode(), id="escapes-as-written"),
        pytest.param(b'"' + b"x" * 10_000 + b'"', id="long"),
    ],
)
async def test_an_id_comes_back_byte_for_byte(mcp: Client, number: bytes) -> None:
    for method, params in (("tools/list", {}), ("tools/call", ECHO), ("nothing/such", {})):
        content = json.dumps(request(method, params, number=0)).encode().replace(b'"id": 0', b'"id":' + number, 1)
        response = await mcp.post(content, mcp.headers(method, params.get("name")))
        assert response.content.startswith(b'{"jsonrpc":"2.0","id":' + number + b',"')
        assert response.status_code == (404 if method == "nothing/such" else 200)


# params and _meta


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(None, id="null"),
        pytest.param([1], id="array"),
        pytest.param("text", id="string"),
        pytest.param({"_meta": None}, id="meta-null"),
        pytest.param({"_meta": []}, id="meta-array"),
        pytest.param({"_meta": {}}, id="meta-empty"),
        pytest.param(with_meta(VERSION_KEY), id="no-version"),
        pytest.param(with_meta(CAPABILITIES_KEY), id="no-capabilities"),
        pytest.param(with_meta(traceparent=1), id="traceparent-no-string"),
    ],
)
async def test_params_that_lack_what_every_request_needs_are_refused(mcp: Client, params: Any) -> None:
    body = {"jsonrpc": "2.0", "id": "p", "method": "tools/list", "params": params}
    refusal(await mcp.post(json.dumps(body), mcp.headers("tools/list")), 400, -32602, number="p")


async def test_a_request_without_params_is_refused(mcp: Client) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    error = refusal(await mcp.post(json.dumps(body), mcp.headers("tools/list")), 400, -32602, number=1)
    assert "_meta" in error["message"]


async def test_what_is_missing_in_meta_is_named(mcp: Client) -> None:
    for key in (VERSION_KEY, CAPABILITIES_KEY):
        response = await mcp.ask("tools/list", with_meta(key))
        assert key in refusal(response, 400, -32602, number=1)["message"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        pytest.param({"_meta": meta(progressToken=1.5)}, "progressToken", id="token-float"),
        pytest.param({"_meta": meta(progressToken=True)}, "progressToken", id="token-bool"),
        pytest.param({"_meta": meta(progressToken={"a": 1})}, "progressToken", id="token-object"),
        pytest.param({"_meta": meta(**{LEVEL_KEY: "loud"})}, "log level", id="level-unknown"),
        pytest.param({"_meta": meta(**{LEVEL_KEY: ["info"]})}, "log level", id="level-no-string"),
    ],
)
async def test_wishes_that_mean_nothing_are_refused(mcp: Client, params: Json, said: str) -> None:
    assert said in refusal(await mcp.ask("tools/call", {**ECHO, **params}), 400, -32602, number=1)["message"]


async def test_a_number_of_thousands_of_digits_is_refused_and_not_computed(mcp: Client) -> None:
    for key in ("progressToken", LEVEL_KEY, VERSION_KEY):
        content = json.dumps(request("tools/call", {**ECHO, "_meta": {**meta(), key: 0}}))
        content = content.replace(f'"{key}": 0', f'"{key}": {"9" * 5000}')
        refusal(await mcp.post(content, mcp.headers("tools/call", "hello_echo")), 400, -32602, number=1)


# headers


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name"])
@pytest.mark.parametrize("value", [None, "", "hello_Echo", "tools/Call", "2026-07-29", "=?base64?!?=", "hello_echo x"])
async def test_a_header_that_is_not_what_the_body_says_is_refused(mcp: Client, name: str, value: str | None) -> None:
    lines = mcp.headers("tools/call", "hello_echo")
    del lines[name]
    if value is not None:
        lines[name] = value
    refusal(await mcp.post(json.dumps(request("tools/call", ECHO)), lines), 400, -32020, number=1)


@pytest.mark.parametrize("name", ["mcp-protocol-version", "mcp-method", "mcp-name", "Mcp-Method"])
async def test_a_routing_header_that_comes_twice_is_refused(mcp: Client, name: str) -> None:
    lines = mcp.headers("tools/call", "hello_echo")
    twice = [*lines.items(), (name, lines[name.lower()])]
    error = refusal(await mcp.post(json.dumps(request("tools/call", ECHO)), twice), 400, -32020, number=1)
    assert name.lower() in error["message"]


async def test_the_case_of_a_headers_name_and_white_space_around_its_value_do_not_matter(mcp: Client) -> None:
    lines = {name.title(): f" \t{value} \t " for name, value in mcp.headers("tools/call", "hello_echo").items()}
    async with Wire.to(mcp.url) as wire:
        await wire.send(written(mcp.url, lines, json.dumps(request("tools/call", ECHO)).encode()))
        assert await wire.status() == 200


@pytest.mark.parametrize("space", [b"\x0b", b"\x0c", b"\xa0", b"\x85"])
async def test_only_spaces_and_tabs_are_white_space(mcp: Client, space: bytes) -> None:
    lines = mcp.headers("tools/call")
    content = json.dumps(request("tools/call", ECHO)).encode()
    async with Wire.to(mcp.url) as wire:
        await wire.send(written(mcp.url, lines, content, more=b"mcp-name: hello_echo" + space + b"\r\n"))
        assert await wire.status() == 400


async def test_a_name_may_be_in_base64(mcp: Client, probe: Probe) -> None:
    for name, status in (("hello_echo", 200), ("héllo", 400)):
        encoded = f"=?base64?{base64.b64encode(name.encode()).decode()}?="
        response = await mcp.ask("tools/call", {**ECHO, "name": name}, change={"mcp-name": encoded})
        assert response.status_code == status
        if status != 200:  # the header was right, so the name was looked for
            refusal(response, 400, -32602, number=1)
    uri = "probe://probe//tree/ü"
    encoded = f"=?base64?{base64.b64encode(uri.encode()).decode()}?="
    response = await mcp.ask("resources/read", {"uri": uri}, change={"mcp-name": encoded})
    assert base64.b64decode(response.json()["result"]["contents"][0]["blob"]).decode() == "ü"


@pytest.mark.parametrize("version", ["2099-01-01", 20260728, None, ["2026-07-28"]])
async def test_a_version_in_the_body_that_the_header_does_not_state_is_refused(mcp: Client, version: Any) -> None:
    refusal(await mcp.ask("tools/list", with_meta(**{VERSION_KEY: version})), 400, -32020, number=1)


async def test_headers_are_looked_at_before_the_version_is(mcp: Client) -> None:
    params = with_meta(**{VERSION_KEY: "2099-01-01"})
    change = {"mcp-protocol-version": "2099-01-01", "mcp-method": "tools/call"}
    refusal(await mcp.ask("tools/list", params, change=change), 400, -32020, number=1)


@pytest.mark.parametrize("version", ["2099-01-01", "2026-07-28 ", "", "DRAFT"])
async def test_an_unknown_version_is_answered_with_those_there_are(mcp: Client, version: str) -> None:
    params = with_meta(**{VERSION_KEY: version})
    response = await mcp.ask("tools/list", params, change={"mcp-protocol-version": version.strip()})
    if version != version.strip():  # white space counts in the body
        refusal(response, 400, -32020, number=1)
        return
    error = refusal(response, 400, -32022, number=1)
    assert error["data"] == {"supported": [VERSION], "requested": version}


async def test_the_version_may_be_written_with_escapes(mcp: Client) -> None:
    content = json.dumps(request("tools/list")).replace(f'"{VERSION}"', '"2026\\u002d07-28"')
    assert (await mcp.post(content, mcp.headers("tools/list"))).status_code == 200


# methods


@pytest.mark.parametrize(
    "method",
    [
        "nothing/such",
        "",
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "tasks/list",
        "fabric/describe",
    ],
)
async def test_an_unknown_method_is_not_found(mcp: Client, method: str) -> None:
    error = refusal(await mcp.ask(method, number="m"), 404, -32601, number="m")
    assert repr(method) in error["message"]


async def test_a_notification_is_accepted_without_a_word(mcp: Client) -> None:
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    response = await mcp.post(json.dumps(body), mcp.headers("notifications/cancelled"))
    assert (response.status_code, response.content) == (202, b"")


async def test_a_notification_of_an_unknown_version_is_refused(mcp: Client) -> None:
    lines = {**mcp.headers("notifications/cancelled"), "mcp-protocol-version": "2099-01-01"}
    refusal(await mcp.post('{"jsonrpc":"2.0","method":"notifications/cancelled"}', lines), 400, -32022)


async def test_discover_says_what_there_is(mcp: Client) -> None:
    result = await mcp.result("server/discover")
    assert result["supportedVersions"] == [VERSION]
    assert result["capabilities"].keys() == {"tools", "resources", "prompts", "completions", "extensions"}
    assert (result["resultType"], result["cacheScope"]) == ("complete", "private")
    assert result["ttlMs"] >= 0
    assert result["_meta"][SERVER]["name"] == "agent-fabric"


@pytest.mark.parametrize("method", LISTS)
async def test_a_list_is_the_same_each_time_and_for_one_token_only(mcp: Client, probe: Probe, method: str) -> None:
    first, second = [await mcp.ask(method) for _ in range(2)]
    assert first.content == second.content
    result = first.json()["result"]
    assert (result["resultType"], result["cacheScope"]) == ("complete", "private")
    assert isinstance(result["ttlMs"], int)
    assert result["ttlMs"] >= 0
    assert result["_meta"][SERVER]["name"] == "agent-fabric"
    key = {"resources/list": "uri", "resources/templates/list": "uriTemplate"}.get(method, "name")
    names = [entry[key] for entry in result[LISTS[method]]]
    assert names == sorted(names)
    assert names


async def test_without_tokens_lists_are_for_everybody() -> None:
    registry, bus = FakeRegistry(), MemoryTransport()
    registry.agents = {"a": offering("a", "x")}
    worker = Worker(bus, registry.agent())
    await worker.start()
    async with Fabric.over(bus) as fabric:
        gateway = Gateway(fabric, load_settings(anonymous=True))
        transport = httpx.ASGITransport(cast("Any", gateway))
        async with gateway.run(), httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            anybody = Client("/mcp", None, http)
            for method in ("server/discover", *LISTS):
                assert (await anybody.result(method))["cacheScope"] == "public"
            assert [tool["name"] for tool in (await anybody.result("tools/list"))["tools"]] == ["a_x"]
    await worker.drain(0.0)


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("cursor", ["", "made up", "YWZ0ZXI6", "YmVmb3JlOmE=", "é", "//79", 5, ["a"], {}])
async def test_a_cursor_that_was_not_made_here_is_refused(mcp: Client, method: str, cursor: Any) -> None:
    refusal(await mcp.ask(method, {"cursor": cursor}), 400, -32602, number=1)


# what reaches an agent


async def test_a_tool_is_called(mcp: Client) -> None:
    result = await mcp.call("hello_echo", text="hi")
    assert result["content"] == [{"type": "text", "text": "hi"}]
    assert result["structuredContent"] == {"result": "hi"}
    assert result["resultType"] == "complete"
    assert not result.get("isError")
    assert "ttlMs" not in result


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        pytest.param("hello_refuse", {"reason": "not on Fridays"}, "not on Fridays", id="the-tools-own"),
        pytest.param("hello_crash", {}, "RuntimeError: something unexpected", id="an-exception"),
        pytest.param("hello_echo", {}, "text: Field required", id="argument-missing"),
        pytest.param("hello_echo", {"text": 5}, "text: Input should be a valid string", id="argument-of-wrong-type"),
        pytest.param("hello_echo", {"text": "a", "b": 1}, "b: Extra inputs are not permitted", id="argument-too-many"),
        pytest.param("hello_count", {"to": "x"}, "to: Input should be a valid integer", id="no-number"),
    ],
)
async def test_a_failure_of_a_tool_is_a_result_that_a_model_can_read(
    mcp: Client, tool: str, arguments: Json, said: str
) -> None:
    result = await mcp.call(tool, **arguments)
    assert result["isError"] is True
    assert result["resultType"] == "complete"
    assert said in result["content"][0]["text"]


@pytest.mark.parametrize("method", NAMED)
async def test_a_name_that_is_not_offered_is_refused(mcp: Client, method: str) -> None:
    for name in ("nothing", "hello_nothing", "hello", "registry_nothing", "_", "x" * 5000, "nothing://hello/such"):
        error = refusal(await mcp.ask(method, {NAMED[method]: name}), 400, -32602, number=1)
        assert method != "resources/read" or error["data"] == {"uri": error["data"]["uri"]}


@pytest.mark.parametrize("method", NAMED)
@pytest.mark.parametrize("name", [None, 5, ["hello_echo"]])
async def test_a_name_that_is_no_string_is_refused(mcp: Client, method: str, name: Any) -> None:
    params = {} if name is None else {NAMED[method]: name}
    refusal(await mcp.ask(method, params, change={"mcp-name": "hello_echo"}), 400, -32602, number=1)


async def test_resources_are_listed_and_read_under_the_agents_name(mcp: Client, probe: Probe) -> None:
    uris = {entry["uri"] for entry in (await mcp.result("resources/list"))["resources"]}
    assert uris >= {"probe://probe/plain/a", "fabric://probe/urn:probe:one"}
    templates = {entry["uriTemplate"] for entry in (await mcp.result("resources/templates/list"))["resourceTemplates"]}
    assert templates >= {"notes://hello/{day}", "probe://probe//tree/{+path}"}
    for uri in ("probe://probe/plain/a", "fabric://probe/urn:probe:one"):
        (content,) = (await mcp.result("resources/read", {"uri": uri}))["contents"]
        assert (content["uri"], content["text"]) == (uri, "some text")
    result = await mcp.result("resources/read", {"uri": "probe://probe//tree/a/b%20c"})
    (content,) = result["contents"]
    assert content["uri"] == "probe://probe//tree/a/b%20c"
    assert base64.b64decode(content["blob"]) == b"a/b c"
    assert (result["resultType"], result["cacheScope"]) == ("complete", "private")
    assert result["ttlMs"] >= 0


@pytest.mark.parametrize(
    ("ref", "argument"),
    [
        ({"type": "ref/prompt", "name": "hello_greet"}, "name"),
        ({"type": "ref/resource", "uri": "notes://hello/{day}"}, "day"),
    ],
)
async def test_arguments_are_completed_by_the_agent(mcp: Client, ref: Json, argument: str) -> None:
    found = await mcp.result("completion/complete", {"ref": ref, "argument": {"name": argument, "value": "B"}})
    assert found["completion"] == {"values": ["Ba", "Bb"], "total": 2, "hasMore": False}
    unknown = {"ref": {"type": "ref/prompt", "name": "hello_nothing"}, "argument": {"name": "x", "value": ""}}
    refusal(await mcp.ask("completion/complete", unknown), 400, -32602, number=1)


async def test_prompts_are_listed_and_filled_in_under_the_agents_name(mcp: Client, probe: Probe) -> None:
    names = [entry["name"] for entry in (await mcp.result("prompts/list"))["prompts"]]
    assert names == ["hello_greet", "probe_ask"]
    result = await mcp.result("prompts/get", {"name": "hello_greet", "arguments": {"name": "Bo"}})
    assert result["messages"] == [{"role": "user", "content": {"type": "text", "text": "Say hello to Bo."}}]
    assert result["resultType"] == "complete"
    refusal(await mcp.ask("prompts/get", {"name": "hello_greet"}), 400, -32602, number=1)


@pytest.mark.parametrize(
    "arguments",
    [
        b"{}",
        b'{ "spaced" :\t[ 1 , 2 ] }',
        b'{"n":[1,1.0,-0,-0.0,1e400,1E+2,0.1e-7,123456789012345678901234567890,3.141592653589793238462643]}',
        b'{"s":"\\u0041\\u00e9\\ud83d\\ude00\\/\\b","t":"\xc3\xa9"}',
        b'{"twice":1,"twice":2}',
        b'{"name":"other","arguments":{"arguments":null}}',
        b"[1]",
        b'"text"',
        b"null",
    ],
)
async def test_arguments_reach_the_worker_byte_for_byte(mcp: Client, probe: Probe, arguments: bytes) -> None:
    params = {"name": "probe_raw", "arguments": 0, "other": {"b": 1, "a": 2}}
    content = json.dumps(request("tools/call", params)).encode().replace(b'"arguments": 0', b'"arguments":' + arguments)
    probe.requests.clear()
    assert (await mcp.post(content, mcp.headers("tools/call", "probe_raw"))).status_code == 200
    (arrived,) = probe.requests
    members = msgspec.json.decode(arrived, type=dict[str, msgspec.Raw])
    assert bytes(members["arguments"]) == arguments
    assert bytes(members["name"]) == b'"raw"'
    assert bytes(members["other"]) == b'{"b": 1, "a": 2}'
    assert json.loads(bytes(members["_meta"]))[VERSION_KEY] == VERSION


async def test_a_member_that_comes_twice_is_what_comes_last_on_both_sides(mcp: Client, probe: Probe) -> None:
    content = json.dumps(request("tools/call", {"name": "probe_raw", "arguments": {"a": 1}}))
    content = content.replace('"name": "probe_raw"', '"name": "hello_die", "\\u006eame": "probe_raw"')
    probe.requests.clear()
    assert (await mcp.post(content, mcp.headers("tools/call", "probe_raw"))).status_code == 200
    assert json.loads(probe.requests[0])["name"] == "raw"


async def test_a_worker_that_cannot_read_the_arguments_says_so(mcp: Client) -> None:
    content = json.dumps(request("tools/call", ECHO)).replace('"hi"', "1e400")
    refusal(await mcp.post(content, mcp.headers("tools/call", "hello_echo")), 400, -32602, number=1)


async def test_megabytes_pass(mcp: Client, probe: Probe) -> None:
    text = "é" * 1_500_000
    assert (await mcp.call("probe_large", text=text))["structuredContent"] == {"result": len(text)}
    assert (await mcp.call("hello_echo", text=text))["structuredContent"] == {"result": text}


@pytest.mark.parametrize(
    ("arguments", "lines", "status"),
    [
        pytest.param({}, {}, 200, id="neither"),
        pytest.param({"region": "eu"}, {"Region": "eu"}, 200, id="same"),
        pytest.param({"region": "eu"}, {"rEGION": " eu "}, 200, id="case-of-the-name"),
        pytest.param({"region": "eu"}, {}, 400, id="header-missing"),
        pytest.param({"region": "eu"}, {"Region": "us"}, 400, id="different"),
        pytest.param({"region": "eu"}, {"Region": "EU"}, 400, id="case-of-the-value"),
        pytest.param({"region": "eu"}, {"Region": "=?base64?ZXU=?="}, 200, id="base64"),
        pytest.param({"region": "ü"}, {"Region": "=?base64?w7w=?="}, 200, id="base64-utf8"),
        pytest.param({"region": "eu"}, {"Region": "=?base64?ZXU?="}, 400, id="base64-broken"),
        pytest.param({}, {"Region": "eu"}, 400, id="argument-missing"),
        pytest.param({"size": 42}, {"Size": "42"}, 200, id="integer"),
        pytest.param({"size": 42}, {"Size": "42.0"}, 200, id="integer-by-value"),
        pytest.param({"size": 42}, {"Size": "43"}, 400, id="other-integer"),
        pytest.param({"fast": True}, {"Fast": "true"}, 200, id="bool"),
        pytest.param({"fast": True}, {"Fast": "True"}, 400, id="bool-in-python"),
        pytest.param({}, {"Unknown": "1"}, 200, id="not-asked-for"),
        pytest.param([1], {}, 200, id="arguments-no-object"),
    ],
)
async def test_headers_that_a_tool_asks_for_are_held_against_its_arguments(
    mcp: Client, probe: Probe, arguments: Any, lines: dict[str, str], status: int
) -> None:
    change = {f"mcp-param-{name}": value.strip() for name, value in lines.items()}
    response = await mcp.ask("tools/call", {"name": "probe_routed", "arguments": arguments}, change=change)
    if status == 200:
        assert response.status_code == 200, response.text
    else:
        refusal(response, 400, -32020, number=1)


async def test_a_header_that_a_tool_asks_for_may_not_come_twice(mcp: Client, probe: Probe) -> None:
    content = json.dumps(request("tools/call", {"name": "probe_routed", "arguments": {"region": "eu"}}))
    twice = [*mcp.headers("tools/call", "probe_routed").items(), *[("mcp-param-region", "eu")] * 2]
    refusal(await mcp.post(content, twice), 400, -32020, number=1)


async def test_principal_deadline_and_trace_reach_the_worker(mcp: Client, probe: Probe) -> None:
    parent, state = f"00-{'a' * 32}-{'b' * 16}-01", "vendor=1,other=2"
    inside: Json = {"_meta": meta(traceparent=parent, tracestate=state)}
    whence: Json = {"name": "probe_whence"}
    came = (await mcp.result("tools/call", {**whence, **inside}))["structuredContent"]
    assert came["principal"] == "operator"
    assert _follows(came["trace"], [parent, state])
    assert 250 < came["remaining"] <= 300
    outside = {"traceparent": parent.replace("a", "c"), "tracestate": state}
    response = await mcp.ask("tools/call", whence, change=outside)
    assert _follows(response.json()["result"]["structuredContent"]["trace"], [outside["traceparent"], state])
    response = await mcp.ask("tools/call", {**whence, **inside}, change=outside)
    assert _follows(response.json()["result"]["structuredContent"]["trace"], [parent, state])
    unsampled = [f"{parent[:-1]}0", state]
    inside = {"_meta": meta(traceparent=unsampled[0], tracestate=state)}
    assert (await mcp.result("tools/call", {**whence, **inside}))["structuredContent"]["trace"] == unsampled
    for wrong in ("", "x", f"00-{'a' * 32}-{'b' * 16}-01\r\nFab-Principal: root", parent.upper()):
        came = (await mcp.result("tools/call", {**whence, "_meta": meta(traceparent=wrong)}))["structuredContent"]
        assert (came["principal"], came["trace"]) == ("operator", None)


def _follows(came: list[str], sent: list[str]) -> bool:
    """Whether what came is the same sampled trace, below a span of ours."""
    same = came[1] == sent[1] and came[0][:35] == sent[0][:35] and came[0][-2:] == sent[0][-2:] == "01"
    return same and came[0][36:52] != sent[0][36:52]


# streams


@pytest.mark.parametrize("token", ["t", "-7", "", 7, 0, -1, 2**53 + 1, 10**30])
async def test_progress_comes_ahead_of_the_answer_with_the_token_as_it_was(mcp: Client, token: Any) -> None:
    params: Json = {"name": "hello_count", "arguments": {"to": 3, "pause": 0}, "_meta": meta(progressToken=token)}
    response = await mcp.ask("tools/call", params, number="c")
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["x-accel-buffering"] == "no"
    assert "mcp-session-id" not in response.headers
    *ahead, answer = events(response.text)
    assert [(event["method"], event["params"]["progress"]) for event in ahead] == [
        ("notifications/progress", number) for number in (1, 2, 3)
    ]
    for event in ahead:
        assert event["params"]["progressToken"] == token
        assert type(event["params"]["progressToken"]) is type(token)
        assert event["params"]["total"] == 3
    assert (answer["id"], answer["result"]["structuredContent"]) == ("c", {"result": 3})


@pytest.mark.parametrize("accept", ["application/json", "*/*", "application/*", "application/json;q=0.5", ""])
async def test_who_takes_no_stream_gets_the_answer_alone(mcp: Client, accept: str) -> None:
    params: Json = {"name": "hello_count", "arguments": {"to": 3, "pause": 0}, "_meta": meta(progressToken=1)}
    response = await mcp.ask("tools/call", params, accept=accept)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["result"]["structuredContent"] == {"result": 3}


@pytest.mark.parametrize("accept", ["Application/JSON, Text/Event-Stream", "text/event-stream;q=1, application/json"])
async def test_accept_is_read_as_http_wants_it(mcp: Client, accept: str) -> None:
    params: Json = {"name": "hello_count", "arguments": {"to": 1, "pause": 0}, "_meta": meta(progressToken=1)}
    response = await mcp.ask("tools/call", params, accept=accept)
    assert response.headers["content-type"] == "text/event-stream"
    lines = [(name, value) for name, value in mcp.headers("tools/call", "hello_count").items() if name != "accept"]
    lines += [("accept", part) for part in BOTH.split(", ")]
    response = await mcp.post(json.dumps(request("tools/call", params)), lines)
    assert response.headers["content-type"] == "text/event-stream"


async def test_nothing_comes_ahead_of_the_answer_unasked(mcp: Client, probe: Probe) -> None:
    assert (await mcp.call("hello_count", to=2, pause=0))["structuredContent"] == {"result": 2}
    assert (await mcp.call("probe_talk"))["structuredContent"] == {"result": "said"}


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["low", {"a": ["b"]}, 7]),
        ("warning", [{"a": ["b"]}, 7]),
        ("error", [7]),
        ("emergency", []),
    ],
)
async def test_log_entries_come_from_the_level_that_was_asked_for(
    mcp: Client, probe: Probe, level: str, heard: list[Any]
) -> None:
    response = await mcp.ask("tools/call", {"name": "probe_talk", "_meta": meta(**{LEVEL_KEY: level})})
    if not heard:
        assert response.headers["content-type"] == "application/json"
        return
    *ahead, answer = events(response.text)
    assert [event["params"]["data"] for event in ahead] == heard
    assert {event["method"] for event in ahead} == {"notifications/message"}
    assert {event["params"]["logger"] for event in ahead} <= {"probe", "mine"}
    assert answer["result"]["structuredContent"] == {"result": "said"}


async def test_progress_and_log_entries_keep_their_order(mcp: Client, probe: Probe) -> None:
    wishes = meta(**{LEVEL_KEY: "debug", "progressToken": "p"})
    response = await mcp.ask("tools/call", {"name": "probe_talk", "_meta": wishes})
    kinds = [event.get("method", "answer").rpartition("/")[2] for event in events(response.text)]
    assert kinds == ["message", "progress", "message", "progress", "message", "answer"]


async def test_a_failure_after_progress_is_the_last_event(mcp: Client, probe: Probe) -> None:
    for kind, member in (("tool", "result"), ("fabric", "error")):
        params: Json = {"name": "probe_stumble", "arguments": {"kind": kind}, "_meta": meta(progressToken=1)}
        response = await mcp.ask("tools/call", params, number=kind)
        assert response.status_code == 200
        ahead, answer = events(response.text)
        assert ahead["params"]["progress"] == 1
        assert answer["id"] == kind
        assert answer[member].get("isError") or answer[member]["code"] == -32603


# the client leaves


async def leave(mcp: Client, probe: Probe, kind: str, accept: str, *, first: bytes = b"") -> None:
    """Hang up on a call that waits, once it has begun and `first` has come, and see it cancelled in the worker."""
    waits = probe.waits[kind]
    waits.begun.clear()
    waits.cancelled.clear()
    params: Json = {"name": "probe_wait", "arguments": {"kind": kind}, "_meta": meta(progressToken=1)}
    content = json.dumps(request("tools/call", params)).encode()
    async with Wire.to(mcp.url) as wire:
        await wire.send(written(mcp.url, mcp.headers("tools/call", "probe_wait", accept=accept), content))
        if first:
            await wire.read_until(first)
        await asyncio.wait_for(waits.begun.wait(), 5)
        assert not waits.cancelled.is_set()
    await asyncio.wait_for(waits.cancelled.wait(), 5)
    await mcp.still_serves()


async def test_hanging_up_cancels_the_handler_of_a_client_without_streams(mcp: Client, probe: Probe) -> None:
    await leave(mcp, probe, "quiet", "application/json")


async def test_hanging_up_cancels_the_handler_before_the_stream_has_begun(mcp: Client, probe: Probe) -> None:
    await leave(mcp, probe, "quiet", BOTH)


async def test_hanging_up_cancels_the_handler_in_the_middle_of_the_stream(mcp: Client, probe: Probe) -> None:
    await leave(mcp, probe, "loud", BOTH, first=b"about to wait")


async def test_a_client_that_stays_cancels_nothing(mcp: Client, probe: Probe) -> None:
    answers = await asyncio.gather(*(mcp.call("hello_whoami", wait=0.2) for _ in range(20)))
    assert {answer["structuredContent"]["principal"] for answer in answers} == {"operator"}


async def test_requests_on_one_connection_are_answered_in_their_order(mcp: Client) -> None:
    texts = [f"number {number}" for number in range(20)]
    async with Wire.to(mcp.url) as wire:
        for text in texts:
            content = json.dumps(request("tools/call", {**ECHO, "arguments": {"text": text}}, number=text)).encode()
            await wire.send(written(mcp.url, mcp.headers("tools/call", "hello_echo"), content))
        for text in texts:
            head = await wire.read_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            body = await wire.read_until(b"true}}}")
            assert json.loads(body)["id"] == text
            assert json.loads(body)["result"]["structuredContent"] == {"result": text}


async def test_who_manages_the_fabric_reaches_its_own_agents(mcp: Client) -> None:
    names = [entry["name"] for entry in (await mcp.result("tools/list"))["tools"]]
    assert {"hello_echo", "registry_catalogue", "durable_list_tasks"} <= set(names)
    listed = await mcp.result("tools/call", {"name": "durable_list_tasks", "arguments": {}})
    assert listed["structuredContent"] == {"result": []}
