"""Whatever comes in, an answer goes out: pure parts raise nothing but refusals, the gateway never breaks or hangs.

Proves: TR-1, SE-6
"""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import Callable, Generator
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mcp.shared.inbound import InboundLadderRejection, classify_inbound_request
from msgspec import UNSET
from support.running import Running

from fabric.gateway import rpc
from fabric.gateway.admission import Admission, Denied, read_headers
from fabric.gateway.modern import Modern
from fabric.gateway.rpc import Refusal
from fabric.gateway.view import View, mounted
from fabric.settings import load_settings
from fabric_sdk.contracts.description import Description
from gateway.client import BOTH, CAPABILITIES_KEY, VERSION, VERSION_KEY, Json, headers, meta, request

ALIVE = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(max_size=20) | st.sampled_from(["tools/call", "tools/list", "name", "uri", "2.0", VERSION, "é", "\x00"])
LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))

METHODS = [
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "prompts/list",
    "prompts/get",
    "nothing/such",
]
NAMES = ["hello_echo", "hello_greet", "notes://hello/monday", "hello_nothing", "", "é", "=?base64?w6k=?="]


@st.composite
def requests(draw: st.DrawFn) -> Json:
    """A request in which some members, at any depth, are left out, added or replaced."""
    name = draw(st.sampled_from(NAMES))
    params: Json = {"name": name, "uri": name, "arguments": draw(st.just({"text": "x"}) | JSON)}
    found = request(draw(st.sampled_from(METHODS)), params, number=draw(st.integers() | TEXT))
    found["params"]["_meta"]["progressToken"] = draw(st.integers() | TEXT)
    for _ in range(draw(st.integers(0, 3))):
        place: Json = found
        while True:
            inner = [cast("Json", value) for value in place.values() if isinstance(value, dict)]
            if not inner or draw(st.booleans()):
                break
            place = draw(st.sampled_from(inner))
        if place and draw(st.booleans()):
            del place[draw(st.sampled_from(sorted(place)))]
        else:
            place[draw(st.sampled_from(sorted(place)) | TEXT) if place else draw(TEXT)] = copy.deepcopy(draw(JSON))
    return found


def damaged(body: bytes) -> st.SearchStrategy[bytes]:
    """`body` as it is, cut, or with some bytes replaced."""
    place = st.integers(0, max(0, len(body) - 1))
    cut = place.map(lambda end: body[:end])
    wrong = st.tuples(place, st.binary(max_size=3)).map(lambda at: body[: at[0]] + at[1] + body[at[0] + len(at[1]) :])
    return st.just(body) | cut | wrong


BODIES = (
    requests().map(lambda found: json.dumps(found).encode()).flatmap(damaged)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=200)
)
VALUES = st.sampled_from([VERSION, "tools/list", "tools/call", *NAMES[:3], BOTH, "", "application/json", "x"])
LINES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("mcp-protocol-version", "mcp-method", "mcp-name", "accept", "origin", "host", "traceparent"),
                *("content-type", "mcp-param-x", "tracestate", "authorization", "last-event-id", "x-anything"),
            ]
        ),
        VALUES.map(str.encode) | st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0")),
    ),
    max_size=4,
)


# pure parts


def refusal_of(work: Callable[[], object]) -> Refusal | None:
    """How `work` is refused, if it is; nothing else may be raised."""
    try:
        work()
    except Refusal as refusal:
        return refusal
    return None


@given(BODIES)
@example(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"\xff":1,"name":"a"}}')
@example(b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":' + b"9" * 400 + b"}}}")
def test_reading_a_body_ends_in_parts_or_in_a_refusal(body: bytes) -> None:
    read: list[rpc.Rpc] = []
    refusal = refusal_of(lambda: read.append(rpc.read_rpc(body)))
    for part in (rpc.request_id, rpc.read_params):
        refusal = refusal or refusal_of(lambda part=part: part(read[0]))
    if refusal is not None:
        assert refusal.code in (rpc.PARSE_ERROR, rpc.INVALID_REQUEST, rpc.INVALID_PARAMS)
        assert refusal.status == 400
        return
    number, params = rpc.request_id(read[0]), read[0].params
    assert number in body
    for answer in (rpc.answer(number, b"{}"), rpc.error(number, -1, "x")):
        assert orjson.loads(answer)["jsonrpc"] == "2.0"
    if params is not UNSET:
        changed = rpc.with_member(bytes(params), "name", 'other "name"')
        assert json.loads(changed) == {**json.loads(bytes(params)), "name": 'other "name"'}


# The ladder of checks is pure: it uses none of the parts that a gateway gives it, and would fail loudly if it did.
LADDER = Modern(None, None, None, None, None, None, None, None, server={}, scope="private")  # type: ignore[arg-type]


@given(
    st.sampled_from(METHODS),
    st.dictionaries(st.sampled_from([VERSION_KEY, CAPABILITIES_KEY, "other"]), LEAF | st.just(VERSION), max_size=3)
    | st.just(meta()),
    st.sampled_from(NAMES),
    st.dictionaries(
        st.sampled_from(["mcp-protocol-version", "mcp-method", "mcp-name"]),
        st.sampled_from([VERSION, "2099-01-01", *METHODS[:3], *NAMES]),
        max_size=3,
    ),
    st.booleans(),
)
def test_the_ladder_refuses_what_the_official_one_refuses_with_the_same_code(
    method: str, envelope: Json, name: str, lines: dict[str, str], right: bool
) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": envelope, "name": name, "uri": name}}
    if right:
        lines = {"mcp-protocol-version": VERSION, "mcp-method": method, "mcp-name": name, **lines}
    lines = {key: value for key, value in lines.items() if value.isascii()}
    official = classify_inbound_request(json.loads(json.dumps(body)), headers=lines)
    wanted = official.code if isinstance(official, InboundLadderRejection) else None
    raw = read_headers((key.encode(), value.encode()) for key, value in lines.items())
    call = rpc.read_rpc(json.dumps(body).encode())
    refusal = refusal_of(lambda: LADDER._check(call, raw))  # pyright: ignore[reportPrivateUsage]
    assert (refusal.code if refusal else None) == wanted


OFFERS = Description(
    name="a",
    tools=[{"name": "t"}],
    prompts=[{"name": "p"}],
    resources=[{"uri": "x://y/z"}, {"uri": "urn:x"}],
    resource_templates=[{"uriTemplate": "x://{y}"}],
)


@given(TEXT, st.booleans(), st.sampled_from(METHODS[1:2] + METHODS[3:4] + METHODS[5:7]))
def test_a_view_knows_each_name_and_cursor_or_refuses_it(text: str, rooted: bool, method: str) -> None:
    view = View(mounted([OFFERS], root="a" if rooted else None))
    for ask in (lambda: view.route_uri(text), lambda: view.page(method, text)):
        refusal = refusal_of(ask)
        assert refusal is None or (refusal.code, refusal.status) == (rpc.INVALID_PARAMS, 400)


@given(TEXT.filter(bool))
def test_a_uri_leads_back_whatever_it_is(uri: str) -> None:
    view = View(mounted([OFFERS]))
    route = view.route_uri(*view.shown_uris("a", uri))
    assert (route.agent, route.name) == ("a", uri)


DOOR = Admission(load_settings(token="secret", allowed_hosts="gateway.example"))


@given(st.lists(st.tuples(st.sampled_from([b"host", b"origin", b"authorization", b"accept"]), st.binary(max_size=30))))
def test_nobody_enters_by_chance(lines: list[tuple[bytes, bytes]]) -> None:
    decided = DOOR.decide(read_headers(lines))
    assert isinstance(decided, Denied)
    assert decided.status in (400, 401, 403, 421)
    orjson.dumps(decided.message)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_a_host_or_origin_lets_nobody_in_by_chance(host: bytes, origin: bytes) -> None:
    known = [(b"host", b"localhost"), (b"authorization", b"Bearer secret")]
    assert DOOR.decide(read_headers(known)) == b"secret"
    assert isinstance(DOOR.decide(read_headers([*known, (b"host", b"x" + host)])), Denied)
    assert isinstance(DOOR.decide(read_headers([*known, (b"origin", b"http://x" + origin)])), Denied)


# the gateway itself


@pytest.fixture(scope="module")
def http(hello_fabric: Running) -> Generator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False, timeout=10) as http:
        yield http
        assert http.get(hello_fabric.mcp_url.replace("/mcp", "/readyz")).status_code == 200


def check(response: httpx.Response) -> None:
    """An answer that a client can make sense of."""
    assert response.status_code in (200, 202, 400, 401, 403, 404, 406, 413, 415, 421), response.text
    if response.headers.get("content-type") == "application/json" and response.content:
        body = response.json()
        assert ("error" in body) != ("result" in body)
        if response.status_code == 200:
            assert body["jsonrpc"] == "2.0"
            assert "id" in body


def exchange(url: str, sent: bytes, *, hang_up: bool = False) -> bytes:
    """What is answered to these bytes until the gateway hangs up; to do neither is an error."""
    at = urlsplit(url)
    said = b""
    with socket.create_connection((at.hostname, at.port), timeout=10) as connection:
        try:
            connection.sendall(sent)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                said += part
        except (ConnectionResetError, BrokenPipeError):
            return said  # hung up on, with something left to read
    return said


@ALIVE
@given(body=BODIES, lines=LINES)
def test_the_gateway_answers_any_body_with_any_headers(
    hello_fabric: Running, http: httpx.Client, body: bytes, lines: list[tuple[str, bytes]]
) -> None:
    usual = {"host": "localhost", "connection": "close", **headers("tools/list", token=hello_fabric.token)}
    said = [(name, value.encode()) for name, value in usual.items() if name not in dict(lines)] + lines
    head = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in said)
    length = b"content-length: %d\r\n" % len(body)
    answer = exchange(hello_fabric.mcp_url, b"POST /mcp HTTP/1.1\r\n" + head + length + b"\r\n" + body)
    status, _, rest = answer.partition(b"\r\n")
    assert status.split()[1].decode() in ("200", "202", "400", "401", "403", "404", "406", "413", "415", "421"), answer
    content = rest.partition(b"\r\n\r\n")[2]
    if content.startswith(b"{"):
        assert ("error" in json.loads(content)) != ("result" in json.loads(content))


@ALIVE
@given(found=requests())
def test_the_gateway_answers_any_request_with_the_headers_it_needs(
    hello_fabric: Running, http: httpx.Client, found: Json
) -> None:
    method, params = found.get("method"), found.get("params")
    if not (isinstance(method, str) and method.isascii() and method.isprintable() and method == method.strip()):
        method = "tools/list"
    member = "uri" if method == "resources/read" else "name"
    name: Any = params.get(member) if isinstance(params, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    lines = headers(method, None, token=hello_fabric.token)
    if isinstance(name, str) and name.isascii() and name.isprintable() and name == name.strip():
        lines["mcp-name"] = name
    check(http.post(hello_fabric.mcp_url, content=json.dumps(found), headers=lines))


@ALIVE
@given(
    message=st.fixed_dictionaries(
        {},
        optional={
            "jsonrpc": st.just("2.0") | LEAF,
            "id": st.integers() | TEXT | LEAF,
            "method": st.sampled_from([*METHODS, "ping", "logging/setLevel", "notifications/cancelled", "initialize"])
            | LEAF,
            "params": st.fixed_dictionaries(
                {},
                optional={
                    "name": st.sampled_from(NAMES) | LEAF,
                    "uri": st.sampled_from(NAMES) | LEAF,
                    "cursor": JSON,
                    "arguments": st.just({"text": "x"}) | JSON,
                    "level": LEAF,
                    "_meta": st.fixed_dictionaries({}, optional={"progressToken": LEAF, VERSION_KEY: LEAF}) | JSON,
                },
            )
            | JSON,
        },
    )
)
def test_a_session_of_the_handshake_revisions_answers_any_message(
    hello_fabric: Running, http: httpx.Client, session: dict[str, str], message: Json
) -> None:
    response = http.post(hello_fabric.mcp_url, content=json.dumps(message), headers=session)
    assert response.status_code in (200, 202, 400, 404), response.text
    if response.status_code == 200 and "event-stream" in response.headers["content-type"]:
        data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        answer = json.loads(data[-1])
        if "error" in answer:
            assert answer["error"]["code"] < -32000, answer
    ping = http.post(hello_fabric.mcp_url, content='{"jsonrpc":"2.0","id":1,"method":"ping"}', headers=session)
    assert ping.status_code == 200, ping.text


@pytest.fixture(scope="module")
def session(hello_fabric: Running, http: httpx.Client) -> dict[str, str]:
    lines = headers("initialize", token=hello_fabric.token)
    del lines["mcp-protocol-version"]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    opened = http.post(hello_fabric.mcp_url, content=json.dumps(body), headers=lines)
    return {**lines, "mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}


HEAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@ALIVE
@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from(
            [HEAD, b"\r\n", b"\r\n\r\n", b"5\r\n", b"0\r\n\r\n", b"GET ", b" HTTP/1.1\r\n", b"Host: x\r\n"]
        )
        | st.sampled_from(
            [b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n", b"Content-Length: "]
        ),
        max_size=8,
    )
)
def test_any_bytes_on_a_connection_are_answered_or_hung_up_on(hello_fabric: Running, parts: list[bytes]) -> None:
    assert b"HTTP/1.1 5" not in exchange(hello_fabric.mcp_url, b"".join(parts), hang_up=True)
