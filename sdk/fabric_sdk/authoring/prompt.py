"""A prompt: an author's function behind MCP's `prompts/get`.

Above: `Agent`. Below: `Signature`. The function returns a string, which becomes a user's message, or a list of
strings, content blocks, and `{"role": …, "content": …}` objects whose content is a string or a block.
"""

from __future__ import annotations

from typing import Any, TypedDict, cast

from pydantic import ValidationError

from fabric_sdk.authoring.content import Block
from fabric_sdk.authoring.signature import Function, Signature, explain
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import InvalidParams


class PromptOptions(TypedDict, total=False):
    """What may be said of a prompt, beside its function."""

    name: str | None
    title: str | None
    description: str | None


class Prompt:
    """One prompt: its MCP description, and how to fill it in."""

    def __init__(
        self, function: Function, *, name: str | None = None, title: str | None = None, description: str | None = None
    ) -> None:
        self._signature = Signature(function)
        self.name = name or self._signature.name
        schema = self._signature.input_schema()
        required = set(schema.get("required", ()))
        arguments: list[dict[str, Any]] = []
        for argument, field in schema["properties"].items():
            described = {"name": argument, "description": field.get("description"), "required": argument in required}
            arguments.append({key: value for key, value in described.items() if value is not None})
        self.arguments = [str(argument["name"]) for argument in arguments]
        described = {
            "name": self.name,
            "title": title,
            "description": description or self._signature.summary,
            "arguments": arguments,
        }
        self.described = {key: value for key, value in described.items() if value is not None}

    async def get(self, arguments: Any, context: Context) -> dict[str, Any]:
        """Run the function and return an MCP `GetPromptResult` without its envelope."""
        try:
            checked = self._signature.checked(arguments)
        except ValidationError as wrong:
            raise InvalidParams(f"invalid arguments for prompt {self.name}:\n{explain(wrong)}") from None
        value = await self._signature.run(checked, context)
        messages = [_message(item) for item in _listed(value)]
        result: dict[str, Any] = {"messages": messages}
        if "description" in self.described:
            result["description"] = self.described["description"]
        return result


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _message(item: Any) -> dict[str, Any]:
    if isinstance(item, dict):
        message = cast("dict[str, Any]", item)
        return {**message, "content": _content(message.get("content", ""))}
    return {"role": "user", "content": _content(item)}


def _content(value: Any) -> Any:
    if isinstance(value, Block):
        return value.block()
    return cast("Any", value) if isinstance(value, dict) else {"type": "text", "text": str(value)}
