"""A stream handler: an author's function behind one kind of stream.

Above: `Agent`. Below: `patterns.stream`. The function runs for as long as the stream lives; when it returns, its
direction ends.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Final

from fabric_sdk.context import Context
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.subjects import checked_token
from fabric_sdk.patterns.stream import Stream

RUN: Final = "streams/run"
"""The method by which a worker has a stream handled; it never travels."""


class Streaming:
    """One kind of stream that an agent offers."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = checked_token(getattr(function, "__name__", ""))
        self._function = function
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters)
        self._context = next((name for name in parameters if hints.get(name) is Context), None)
        streams = [name for name in parameters if name != self._context]
        if len(streams) != 1 or not inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"{self.name} cannot handle streams",
                fix="write `async def …(stream: Stream)`, with a Context or without",
            )
        self._stream = streams[0]
        self.described = {"name": self.name, "description": inspect.cleandoc(function.__doc__ or "") or None}

    async def run(self, stream: Stream, context: Context) -> None:
        """Handle one stream."""
        given: dict[str, Any] = {self._stream: stream}
        if self._context is not None:
            given[self._context] = context
        await self._function(**given)
