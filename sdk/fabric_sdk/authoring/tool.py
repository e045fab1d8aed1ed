"""A tool: an author's function behind MCP's `tools/call`, the same for every transport.

Above: `Agent`. Below: `Signature`. What the caller did wrong, and what the function raised, come back as a result
with `isError`, as MCP wants it, so that a model can read it and try again.
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from collections.abc import Sequence
from typing import Any, Final, cast

import orjson
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from fabric_sdk.authoring.content import Block
from fabric_sdk.authoring.signature import Function, Signature, explain
from fabric_sdk.context import Context
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import ConfigurationError, FabricError, HandlerRaised, ToolError, UnencodableResult
from fabric_sdk.contracts.task import POLICY_META, Policy, checked_policy
from fabric_sdk.results import WRAPPED, NativeResult

log = logging.getLogger(__name__)

_NO_STRUCTURE: Final = (inspect.Signature.empty, None, type(None), Any)

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")  # what MCP 2026-07-28 asks clients to take


class ToolOptions(typing.TypedDict, total=False):
    """What may be said of a tool, beside its function."""

    name: str | None
    """The function's own, unless said otherwise."""
    title: str | None
    description: str | None
    """The function's docstring, unless said otherwise."""
    annotations: dict[str, Any] | None
    """MCP's `ToolAnnotations`."""
    meta: dict[str, Any] | None
    task: Policy | None
    """How it is tried where it runs as a task."""


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
        task: Policy | None = None,
    ) -> None:
        policy = checked_policy(task)
        self._signature = Signature(function)
        self.name = self._signature.name if name is None else name
        if _NAME.fullmatch(self.name) is None:
            raise ConfigurationError(
                f"{self.name!r} cannot name a tool",
                fix="use 1 to 128 letters, digits, underscores, hyphens and dots; name= gives a tool another name",
            )
        self._returns: TypeAdapter[Any] | None = None
        self._wraps = True
        self.stamp: dict[str, Any] = {}
        """The `_meta` of every result; set by the agent, which knows its own name."""
        described: dict[str, Any] = {"name": self.name, "title": title}
        described["description"] = description or self._signature.summary
        described["inputSchema"] = self._signature.input_schema()
        described["outputSchema"] = self._output_schema()
        described["annotations"] = annotations
        described["_meta"] = {**(meta or {}), POLICY_META: policy.meta()} if policy else meta
        self.described = {key: value for key, value in described.items() if value is not None}

    def _output_schema(self) -> dict[str, Any] | None:
        returns = self._signature.returns
        if returns in _NO_STRUCTURE or _has_blocks(returns):
            return None
        try:
            self._returns = TypeAdapter(returns)
            schema = self._returns.json_schema(mode="serialization")
        except PydanticUserError as unfit:
            raise ConfigurationError(
                f"{self.name}: its return type has no JSON Schema: {unfit.message}",
                fix="return a type that JSON has, a pydantic model or a dataclass, or declare none",
            ) from None
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
            if context.task is not None:  # its policy decides what becomes of it, and wants to know what it was
                raise HandlerRaised.of(failure) from failure
            log.exception("tool %s failed", self.name)
            return self._error(f"{self.name} failed: {type(failure).__name__}: {failure}")
        return _Result(value, self) if context.task is None else Body(encoded=self.encoded(value))

    def _error(self, text: str) -> Body:
        sendable = text.encode(errors="replace").decode()  # what is quoted may be no text
        return Body({"content": [_text(sendable)], "isError": True, "resultType": "complete", "_meta": self.stamp})

    def encoded(self, value: Any) -> bytes:
        """The MCP result of a returned `value`, in JSON.

        Raises:
            UnencodableResult: it has no JSON form, or is not of the declared type.
        """
        try:
            return orjson.dumps(self.encode(value))
        except (TypeError, ValueError) as unfit:
            raise UnencodableResult(
                f"{self.name} returned what has no JSON form: {unfit}",
                fix="return text, numbers, lists and dicts of them, pydantic models or dataclasses",
            ) from unfit

    def encode(self, value: Any) -> dict[str, Any]:
        """The MCP result of a returned `value`."""
        if self._returns is not None:
            plain = value if type(value) is self._signature.returns is str else self._plain(value)
            wraps = self._wraps
        elif (content := _content(value)) is not None:
            return {"content": content, "resultType": "complete", "_meta": self.stamp}
        else:  # structured although its type is not declared, or the caller would get its text and not the value
            plain = to_jsonable_python(value)
            wraps = not isinstance(plain, dict)
        text = plain if type(plain) is str else orjson.dumps(plain).decode()
        return {
            "content": [_text(text)],
            "structuredContent": {"result": plain} if wraps else plain,
            "resultType": "complete",
            "_meta": {**self.stamp, WRAPPED: True} if wraps else self.stamp,
        }

    def _plain(self, value: Any) -> Any:
        assert self._returns is not None
        try:
            return self._returns.dump_python(value, mode="json", warnings="error")
        except PydanticSerializationError:
            pass
        declared = inspect.formatannotation(self._signature.returns)
        raise UnencodableResult(
            f"{self.name} returned {self._misfit(value)}, which its return type {declared} does not allow",
            fix="return what it declares, or declare what it returns",
        )

    def _misfit(self, value: Any) -> str:
        """What is wrong with a returned `value`, in words."""
        assert self._returns is not None
        try:
            self._returns.validate_python(value)
        except ValidationError as wrong:
            return f"{type(value).__name__} ({'; '.join(explain(wrong, 'the value').splitlines()[:3])})"
        return type(value).__name__


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
            try:
                self._encoded = self._tool.encoded(self.native)
            except UnencodableResult as unfit:
                log.error("%s", unfit)
                raise
        return self._encoded


def _has_blocks(declared: Any) -> bool:
    """Whether a return type is a content block, or a list or choice of some."""
    if inspect.isclass(declared) and issubclass(declared, Block):
        return True
    return any(_has_blocks(part) for part in typing.get_args(declared))


def _content(value: Any) -> list[dict[str, Any]] | None:
    """MCP content blocks of nothing, text, a block, or a list with a block in it; `None` for any other value."""
    if value is None:
        return []
    if isinstance(value, str):
        return [_text(value)]
    if isinstance(value, Block):
        return [value.block()]
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[Any]", value)
        if any(isinstance(item, Block) for item in items):
            return [block for item in items for block in _beside_blocks(item)]
    return None


def _beside_blocks(item: Any) -> list[dict[str, Any]]:
    content = _content(item)
    return [_text(to_json(item).decode())] if content is None else content


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
