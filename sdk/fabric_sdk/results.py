"""A tool's result, between MCP's JSON and the Python value that its caller wants.

Above: the client, tools, connectors, and whoever counts or notes what calls came to. Below: bodies.
"""

from __future__ import annotations

from typing import Any, Final, cast

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body

WRAPPED: Final = "fabric/wrapped"
"""In a result's `_meta`: `structuredContent` is `{"result": value}` because `value` is no JSON object."""

_MEMBER: Final = b'"isError"'
_IS_FALSE: Final = b'"isError":false'


class NativeResult(Body):
    """A tool's result that still holds the Python value it came from, for callers in the same process."""

    __slots__ = ("native",)
    native: Any


def is_error(result: Body) -> bool:
    """Whether a tool's result says of itself that the tool failed; false for what is no result.

    It is asked of every call. So a Python value is asked where there is one, and of bytes only those are decoded that
    name the member and do not plainly say that it is false.
    """
    if isinstance(result, NativeResult):
        return False
    if (value := result.known) is None:
        wire = result.wire or b""
        at = wire.find(_MEMBER)
        while at >= 0 and wire.startswith(_IS_FALSE, at):
            at = wire.find(_MEMBER, at + len(_IS_FALSE))
        if at < 0:
            return False
        try:
            value = result.value()
        except ValueError:
            return False
    return isinstance(value, dict) and cast("dict[str, Any]", value).get("isError") is True


def value_of(result: Body) -> Any:
    """The Python value in an MCP tool result: what the tool returned, else its text, else its content blocks."""
    if isinstance(result, NativeResult):
        return result.native
    value: dict[str, Any] = result.value()
    content: list[dict[str, Any]] = value.get("content") or []
    if is_error(result):
        text = "\n".join(block.get("text", "") for block in content if block.get("type") == "text")
        raise errors.ToolError(text or None, data=content)
    if "structuredContent" in value:
        structured = value["structuredContent"]
        meta: dict[str, Any] = value.get("_meta") or {}
        wrapped = meta.get(WRAPPED) or meta.get("fastmcp", {}).get("wrap_result")
        return structured["result"] if wrapped else structured
    if len(content) == 1 and content[0].get("type") == "text":
        return content[0]["text"]
    return content or None
