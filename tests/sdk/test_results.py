"""Whether a tool says that it failed is asked in one way, which decodes only what may say so. Proves: OP-2."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fabric_sdk.contracts.envelope import Body
from fabric_sdk.results import NativeResult, is_error

FAILED: dict[str, Any] = {"content": [], "isError": True}
NESTED: dict[str, Any] = {"content": [], "structuredContent": {"isError": True, "more": [{"isError": False}]}}
QUOTED: dict[str, Any] = {"content": [{"type": "text", "text": '"isError":true'}]}


@pytest.mark.parametrize(
    ("value", "failed"),
    [
        pytest.param(FAILED, True, id="it says so"),
        pytest.param({"isError": True, **NESTED}, True, id="it says so above what it returns"),
        pytest.param({"isError": False, **NESTED}, False, id="what it returns has such a member"),
        pytest.param({"structuredContent": {"isError": False}, **FAILED}, True, id="what it returns has it as false"),
        pytest.param(NESTED, False, id="only what it returns has such a member"),
        pytest.param(QUOTED, False, id="its text quotes it"),
        pytest.param({"content": [], "isError": None}, False, id="it says nothing"),
        pytest.param({"content": []}, False, id="it names no such member"),
        pytest.param([FAILED], False, id="no object"),
        pytest.param(None, False, id="nothing"),
    ],
)
def test_a_result_says_whether_the_tool_failed(value: Any, failed: bool) -> None:
    assert is_error(Body(value)) is failed
    assert is_error(Body(encoded=orjson.dumps(value))) is failed
    spaced = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    assert is_error(Body(encoded=spaced)) is failed, "written with spaces"


def test_what_is_no_json_is_no_failure_of_a_tool() -> None:
    assert not is_error(Body(encoded=b'{"isError":true'))
    assert not is_error(Body(encoded=b""))


def test_what_does_not_name_it_or_says_that_it_is_false_is_not_decoded() -> None:
    for wire in (b'{"content":[],"isError":false}', b'{"content":[]}'):
        result = Body(encoded=wire)
        assert not is_error(result)
        assert result.known is None


def test_a_value_that_was_returned_is_neither_encoded_nor_searched() -> None:
    result = NativeResult()
    result.native = FAILED
    assert not is_error(result)
    assert result.wire is None
