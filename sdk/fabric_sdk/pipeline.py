"""The one shape of everything that handles a message, and how such things stack.

Above: agents and whatever wraps them (policy, tracing, limits). Below: `Context` and `Body`. A middleware is a
handler around a handler; `compose` folds a list of them, first one outermost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from fabric_sdk.context import Context
from fabric_sdk.contracts.envelope import Body


@dataclass(slots=True)
class Request:
    """One MCP request: the method (`tools/call`) and its params, not yet decoded."""

    method: str
    params: Body


Handler: TypeAlias = Callable[[Context, Request], Awaitable[Body]]
"""Answers a request with an MCP result, or raises a `FabricError`."""

Middleware: TypeAlias = Callable[[Handler], Handler]


def compose(handler: Handler, middleware: Iterable[Middleware]) -> Handler:
    """`handler` inside all of `middleware`; the first in the list is the first to see a request."""
    for wrap in reversed(list(middleware)):
        handler = wrap(handler)
    return handler
