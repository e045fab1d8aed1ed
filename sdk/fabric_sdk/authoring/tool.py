"""A tool: an author's function behind MCP's `tools/call`, the same for every transport.

Above: `Agent`. Below: `Signature`. What the caller did wrong, and what the function raised, come back as a result
with `isError`, as MCP wants it, so that a model can read it and try again.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any, Final, cast

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from fabric_sdk.authoring.content import Block
from fabric_sdk.authoring.signature import Function, Signature, explain
from fabric_sdk.client import NativeResult
from fabric_sdk.context import Context
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import FabricError, ToolError, UnencodableResult

log = logging.getLogger(__name__)

_NO_STRUCTURE: Final = (inspect.Signature.empty, None, type(None), Any)


class Tool:
    """One tool: its MCP description, and how to call it."""

    def __init__(
        self,
        function: Function,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self._signature = Signature(function)
        self.name = name or self._signature.name
        self._returns: TypeAdapter[Any] | None = None
        self._wraps = True
        self.stamp: dict[str, Any] = {}
        """The `_meta` of every result; set by the agent, which knows its own name."""
        described: dict[str, Any] = {"name": self.name, "title": title}
        described["description"] = description or self._signature.summary
        described["inputSchema"] = self._signature.input_schema()
        described["outputSchema"] = self._output_schema()
        described["annotations"] = annotations
        described["_meta"] = meta
        self.described = {key: value for key, value in described.items() if value is not None}

    def _output_schema(self) -> dict[str, Any] | None:
        returns = self._signature.returns
        if returns in _NO_STRUCTURE or (inspect.isclass(returns) and issubclass(returns, Block)):
            return None
        if any(argument is Block for argument in getattr(returns, "__args__", ())):
            return None
        self._returns = TypeAdapter(returns)
        schema = self._returns.json_schema(mode="serialization")
        self._wraps = schema.get("type") != "object"
        if not self._wraps:
            return schema
        definitions = schema.pop("$defs", None)
        wrapped = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
        return wrapped | ({"$defs": definitions} if definitions else {})

    async def call(self, arguments: Any, context: Context) -> Body:
        """Run the function and return an MCP `CallToolResult`."""
        try:
            checked = self._signature.checked(arguments)
        except ValidationError as wrong:
            return self._error(f"invalid arguments for {self.name}:\n{explain(wrong)}")
        try:
            value = await self._signature.run(checked, context)
        except ToolError as said:
            return self._error(said.message)
        except FabricError:
            raise
        except (Exception, SystemExit) as failure:  # a tool that ends the program ends its own call and nobody else's
            log.exception("tool %s failed", self.name)
            return self._error(f"{self.name} failed: {type(failure).__name__}: {failure}")
        return _Result(value, self)

    def _error(self, text: str) -> Body:
        sendable = text.encode(errors="replace").decode()  # what is quoted may be no text
        content = [{"type": "text", "text": sendable}]
        return Body({"content": content, "isError": True, "resultType": "complete", "_meta": self.stamp})

    def encode(self, value: Any) -> dict[str, Any]:
        """The MCP result of a returned `value`."""
        result: dict[str, Any] = {}
        if self._returns is not None:
            plain = value if type(value) is self._signature.returns is str else self._plain(value)
            result["content"] = [
                {"type": "text", "text": plain if type(plain) is str else orjson.dumps(plain).decode()}
            ]
            result["structuredContent"] = {"result": plain} if self._wraps else plain
        else:
            result["content"] = _blocks(value)
        result["resultType"] = "complete"
        result["_meta"] = self.stamp
        return result

    @property
    def wraps(self) -> bool:
        """Whether `structuredContent` is `{"result": value}`."""
        return self._returns is not None and self._wraps

    def _plain(self, value: Any) -> Any:
        assert self._returns is not None
        try:
            return self._returns.dump_python(value, mode="json", warnings="error")
        except PydanticSerializationError as misfit:
            raise UnencodableResult(f"{self.name} returned what its return type does not allow: {misfit}") from misfit


class _Result(NativeResult):
    """A tool's result; MCP's JSON is made only if it leaves the process."""

    __slots__ = ("_tool",)

    def __init__(self, value: Any, tool: Tool) -> None:
        super().__init__()
        self.native = value
        self._tool = tool

    def value(self) -> Any:
        return orjson.loads(self.encoded())

    def encoded(self) -> bytes:
        if self._encoded is None:
            self._encoded = orjson.dumps(self._tool.encode(self.native))
        return self._encoded


def _blocks(value: Any) -> list[dict[str, Any]]:
    """MCP content blocks of a value whose type is not declared."""
    if value is None:
        return []
    if isinstance(value, Block):
        return [value.block()]
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        if any(isinstance(item, Block) for item in items):
            return [block for item in items for block in _blocks(item)]
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    return [{"type": "text", "text": orjson.dumps(to_jsonable_python(value)).decode()}]
