"""A tool's result, between MCP's JSON and the Python value that its caller wants.

Above: the client, tools, connectors. Below: bodies.
"""

from __future__ import annotations

from typing import Any, Final

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body

WRAPPED: Final = "fabric/wrapped"
"""In a result's `_meta`: `structuredContent` is `{"result": value}` because `value` is no JSON object."""


class NativeResult(Body):
    """A tool's result that still holds the Python value it came from, for callers in the same process."""

    __slots__ = ("native",)
    native: Any


def value_of(result: Body) -> Any:
    """The Python value in an MCP tool result: what the tool returned, else its text, else its content blocks."""
    if isinstance(result, NativeResult):
        return result.native
    value: dict[str, Any] = result.value()
    content: list[dict[str, Any]] = value.get("content") or []
    if value.get("isError"):
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
