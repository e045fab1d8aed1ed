"""A completion: an author's function behind MCP's `completion/complete`, for one argument of a prompt or a template.

Above: `Agent`. Below: `Signature`. What was filled in before stands in `ctx.params["context"]["arguments"]`.
"""

from __future__ import annotations

from typing import Any, Final, cast

from pydantic import ValidationError

from fabric_sdk.authoring.signature import Function, Signature, explain
from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams

_MOST: Final = 100
"""Values in one answer, as MCP has it."""


class Completion:
    """What an argument may be, as it is typed."""

    def __init__(self, function: Function) -> None:
        self._signature = Signature(function)
        if len(self._signature.parameters) != 1:
            raise ConfigurationError(
                f"{self._signature.name} cannot complete an argument",
                fix="write `async def …(typed: str) -> list[str]`, with a Context if wanted",
            )
        (self._typed,) = self._signature.parameters

    async def complete(self, typed: str, context: Context) -> dict[str, Any]:
        """Run the function and return an MCP `CompleteResult` without its envelope."""
        try:
            arguments = self._signature.checked({self._typed: typed})
        except ValidationError as wrong:
            raise InvalidParams(f"{typed!r} cannot be completed:\n{explain(wrong)}") from None
        return completed(await self._signature.run(arguments, context))


def asked(params: dict[str, Any]) -> tuple[str, str, str]:
    """What `completion/complete` is about: the prompt's name or the template, the argument, and what was typed of it.

    Raises:
        InvalidParams: it does not say.
    """
    ref, argument = _object(params, "ref"), _object(params, "argument")
    of, name, typed = ref.get("name", ref.get("uri")), argument.get("name"), argument.get("value")
    if not isinstance(of, str) or not isinstance(name, str) or not isinstance(typed, str):
        raise InvalidParams("a completion needs params.ref, params.argument.name and params.argument.value")
    return of, name, typed


def _object(params: dict[str, Any], name: str) -> dict[str, Any]:
    found = params.get(name)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def completed(found: Any) -> dict[str, Any]:
    """An MCP `CompleteResult` of these values: a list, or `None` for none."""
    values = [str(value) for value in cast("list[Any]", found or [])]
    return {"completion": {"values": values[:_MOST], "total": len(values), "hasMore": len(values) > _MOST}}
