"""Reads an author's function once: its arguments as JSON Schema, its `Context`, and how to run it.

Above: tools, resources, prompts. Below: pydantic. Coroutines run on the loop; plain functions run in a thread, so
that a blocking call blocks nobody else.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NotRequired, cast

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import ConfigurationError

Function = Callable[..., Any]


class Signature:
    """What is known of a function before it is ever called."""

    def __init__(self, function: Function) -> None:
        source = function
        while isinstance(source, functools.partial):
            source = cast("Function", source.func)
        self.name: str = getattr(source, "__name__", type(source).__name__)
        self.summary = inspect.cleandoc(source.__doc__ or "") or None
        self._hints = _hints(self.name, source if inspect.isroutine(source) else type(source).__call__)
        self.returns: Any = self._hints.pop("return", inspect.Signature.empty)
        self.context_parameter = _context_parameter(self._hints)
        self._defaults: dict[str, Any] = {}
        self._is_async = inspect.iscoroutinefunction(function)
        self._function = function
        try:
            self._arguments: TypeAdapter[dict[str, Any]] = TypeAdapter(self._argument_type(function))
            self._schema = self._arguments.json_schema()
        except PydanticUserError as unfit:
            raise ConfigurationError(
                f"{self.name}: a parameter's type has no JSON Schema: {unfit.message}",
                fix="use types that JSON has, pydantic models or dataclasses",
            ) from None
        self._validator = self._arguments.validator  # the adapter's own method costs as much again as the check
        self.parameters = tuple(
            name for name in inspect.signature(function).parameters if name != self.context_parameter
        )

    def _argument_type(self, function: Function) -> Any:
        """The arguments as a TypedDict: no name of theirs can clash with a model's own attributes."""
        fields: dict[str, Any] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            if name == self.context_parameter:
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConfigurationError(
                    f"{self.name}: parameter {parameter} has no place in a JSON Schema", fix="name each parameter"
                )
            hint, default = self._hints.get(name, Any), parameter.default
            if isinstance(
                default, FieldInfo
            ):  # `= Field(…)`: it belongs to the type, and pydantic fills in its default
                hint = Annotated[hint, default]
                default = parameter.empty if default.is_required() else default
            elif default is not parameter.empty:
                self._defaults[name] = default
            fields[name] = hint if default is parameter.empty else NotRequired[hint]
        arguments = TypedDict(f"{self.name}Arguments", fields)  # type: ignore[operator]
        config = ConfigDict(extra="forbid")
        arguments.__pydantic_config__ = config  # pyright: ignore[reportAttributeAccessIssue] - pydantic's own way
        return arguments

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of the arguments, defaults included."""
        schema = copy.deepcopy(self._schema)
        schema.pop("title", None)
        schema.setdefault("properties", {})
        for name, default in self._defaults.items():
            schema["properties"][name].setdefault("default", to_jsonable_python(default, fallback=repr))
        return schema

    def checked(self, arguments: Any) -> dict[str, Any]:
        """The arguments as the function wants them.

        Raises:
            ValidationError: they do not fit the schema.
        """
        return self._validator.validate_python(arguments)

    def run(self, arguments: dict[str, Any], context: Context) -> Awaitable[Any]:
        """Call the function with checked arguments."""
        if self.context_parameter is not None:
            arguments = {**arguments, self.context_parameter: context}
        return self._function(**arguments) if self._is_async else self._run_in_thread(arguments)

    async def _run_in_thread(self, arguments: dict[str, Any]) -> Any:
        loop = asyncio.get_running_loop()
        carry = contextvars.copy_context()
        result = await loop.run_in_executor(None, lambda: carry.run(self._function, **arguments))
        if inspect.isawaitable(result):  # a wrapped coroutine function does not look like one
            return await cast("Any", result)
        return result


def only_parameter(function: Function) -> tuple[str, str | None] | None:
    """The one parameter of a coroutine function, and that for its context if it has one; `None` for any other function.

    Raises:
        ConfigurationError: it speaks of a type that cannot be seen from there.
    """
    hints = _hints(getattr(function, "__name__", ""), function)
    hints.pop("return", None)
    context = _context_parameter(hints)
    others = [name for name in inspect.signature(function).parameters if name != context]
    return (others[0], context) if len(others) == 1 and inspect.iscoroutinefunction(function) else None


def _hints(name: str, annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except NameError as unknown:
        raise ConfigurationError(f"{name}: {unknown}", fix="import the type where the function can see it") from None


def _context_parameter(hints: Mapping[str, Any]) -> str | None:
    return next((name for name, hint in hints.items() if _is_context(hint)), None)


def _is_context(hint: Any) -> bool:
    """Whether a parameter of this type is for the context: also `Context | None` and `Annotated[Context, …]`."""
    if typing.get_origin(hint) is Annotated:
        return _is_context(typing.get_args(hint)[0])
    choices = typing.get_args(hint)
    return hint is Context or (len(choices) == 2 and Context in choices and type(None) in choices)


def explain(error: ValidationError, whole: str = "arguments") -> str:
    """What is wrong with the arguments, or another `whole`, one line for each; a validator's own words as they are."""
    return "\n".join(
        f"{'.'.join(str(part) for part in problem['loc']) or whole}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    )
