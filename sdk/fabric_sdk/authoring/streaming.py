"""A stream handler: an author's function behind one kind of stream.

Above: `Agent`. Below: `patterns.stream`. The function runs for as long as the stream lives; when it returns, its
direction ends.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from fabric_sdk.authoring.signature import only_parameter
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
        if (parameters := only_parameter(function)) is None:
            raise ConfigurationError(
                f"{self.name} cannot handle streams",
                fix="write `async def …(stream: Stream)`, with a Context or without",
            )
        self._stream, self._context = parameters
        self.described = {"name": self.name, "description": inspect.cleandoc(function.__doc__ or "") or None}

    async def run(self, stream: Stream, context: Context) -> None:
        """Handle one stream."""
        given: dict[str, Any] = {self._stream: stream}
        if self._context is not None:
            given[self._context] = context
        await self._function(**given)
