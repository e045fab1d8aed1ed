"""The bridge's pure rules: no line breaks them, and what HTTP repeats is what the message says.

Proves: TR-2
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway.client import VERSION, VERSION_KEY, Json
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import decode_header_value, mcp_param_headers, x_mcp_header_map

from fabric.stdio.messages import (
    Message,
    NotOurs,
    answer_to,
    error_code,
    failed,
    headers,
    one_line,
    read,
    read_params,
)
from fabric.stdio.tools import param_headers, wanted_headers
from fabric_sdk.contracts.errors import FabricError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
IDS = st.integers() | st.text()
MEMBERS = ["jsonrpc", "id", "method", "params", "result", "error", "_meta", "name", "uri", "requestId", VERSION_KEY]


def message(**members: Any) -> Message:
    return read(json.dumps({"jsonrpc": "2.0", **members}).encode())


@given(st.binary() | st.dictionaries(st.sampled_from(MEMBERS), VALUES).map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_message_or_is_refused(line: bytes) -> None:
    try:
        found = read(line)
    except NotOurs:
        return
    params = read_params(found)
    json.loads(found.number)
    if found.is_request:
        assert all(value.isascii() and value.isprintable() for value in headers(str(found.method), params).values())
    else:
        error_code(found)


@given(st.text(), st.sampled_from(["tools/call", "prompts/get"]))
def test_a_name_comes_out_of_its_header_as_it_went_in(name: str, method: str) -> None:
    asked = message(id=1, method=method, params={"name": name, "_meta": {VERSION_KEY: VERSION}})
    lines = headers(method, read_params(asked))
    assert decode_header_value(lines.pop("mcp-name")) == name
    assert lines == {"mcp-protocol-version": VERSION, "mcp-method": method}


@pytest.mark.parametrize(
    "params", [None, [], {}, {"name": "x"}, {"_meta": 7}, {"_meta": {VERSION_KEY: 7}}, {"_meta": {"progressToken": 1}}]
)
def test_a_request_that_names_no_revision_has_no_headers(params: Any) -> None:
    asked = message(id=1, method="tools/call", params=params)
    assert headers("tools/call", read_params(asked)) == {}


@given(IDS, VALUES)
def test_an_answer_has_the_id_of_its_request(number: int | str, value: Any) -> None:
    request = json.dumps(number).encode()
    for kind in ("result", "error"):
        for stated in (None, number, "server-error"):
            line = json.dumps({"jsonrpc": "2.0", "id": stated, kind: value}).encode()
            assert json.loads(answer_to(request, read(line), line)) == {"jsonrpc": "2.0", "id": number, kind: value}
    failure = json.loads(failed(request, FabricError("what", fix="how")))
    assert (failure["id"], failure["error"]["message"]) == (number, "what (how)")


@given(VALUES)
def test_a_message_keeps_its_meaning_on_one_line(value: Any) -> None:
    spread = json.dumps(value, indent=1, ensure_ascii=False).encode(errors="replace")
    assert json.loads(one_line(spread)) == json.loads(spread)
    assert b"\n" not in one_line(spread.replace(b"\n", b"\r\n"))


TYPES = {"type": st.sampled_from(["string", "integer", "boolean"])}
LEAVES: st.SearchStrategy[Json] = st.fixed_dictionaries(
    TYPES, optional={"x-mcp-header": st.sampled_from(["Region", "A-b", "c.1"])}
)
NAMES = st.sampled_from(["a", "b", "c"])
SCHEMAS: st.SearchStrategy[Json] = st.recursive(
    LEAVES, lambda inner: st.fixed_dictionaries({"properties": st.dictionaries(NAMES, inner)})
)
ARGUMENTS = st.recursive(SCALARS, lambda inner: st.dictionaries(NAMES, inner), max_leaves=8)


@given(st.dictionaries(NAMES, SCHEMAS), st.dictionaries(NAMES, ARGUMENTS))
def test_the_headers_of_arguments_are_those_of_the_official_sdk(properties: Any, arguments: Any) -> None:
    schema = {"type": "object", "properties": properties}
    wanted = wanted_headers(schema)
    assert wanted == x_mcp_header_map(schema)
    theirs = {name.lower(): decode_header_value(value) for name, value in mcp_param_headers(wanted, arguments).items()}
    ours = {name.lower(): decode_header_value(value) for name, value in param_headers(wanted, arguments).items()}
    assert ours == theirs


@pytest.mark.parametrize("schema", [None, 7, {"properties": 7}, {"properties": {"a": {"x-mcp-header": "a b\n"}}}])
def test_a_schema_that_makes_no_sense_wants_no_headers(schema: Any) -> None:
    assert wanted_headers(schema) == {}
