"""One request of a handshake session that an agent answers: what is known of it, and how its revision words things.

Above: `legacy`, which makes it; `errands`, which sends it on its way. Below: `rpc` and `replies`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import orjson
from opentelemetry.trace import Span

from fabric.gateway import rpc
from fabric.gateway.auditing import CANCELLED, Deed
from fabric.gateway.replies import Outbox
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.sessions import Session
from fabric.gateway.view import Route
from fabric.identity.identity import Identity
from fabric.limits.limiter import Permit
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Trace

_NEW: Final = frozenset(("resultType", "ttlMs", "cacheScope"))
"""Members of a result that these revisions do not know."""


class Errand:
    """One request on its way."""

    def __init__(
        self,
        session: Session,
        identity: Identity,
        request: bytes,
        method: str,
        params: bytes,
        trace: Trace | None = None,
    ) -> None:
        self.session = session
        self.identity = identity
        self.request = request
        """Its JSON-RPC id, as it was written."""
        self.method = method
        self.params = params
        self.trace = trace
        """That HTTP's headers name."""
        self.span: Span | None = None
        """If it is traced."""
        self.outbox = Outbox("")
        self.streams = False
        """Whether the client hears of it by a stream, to which it may come back."""
        self.named = False
        """Whether it says what it wants, …"""
        self.wants = ""
        """… and what that is."""
        self.quiet = False
        """Whether the client takes no streams: it hears the answer, and nothing before."""
        self.round = 0
        """How often it has asked its client something."""
        self.waits = False
        """Whether it waits for its client's answers."""
        self.unwanted = False
        """Whether its client has cancelled it."""
        self.answer: bytes | None = None
        self.code = CANCELLED
        """The error that it ended with; 0: none."""
        self.route: Route | None = None
        """Where it goes, …"""
        self.rule = ""
        """… and the rule that lets it, where that is noted."""
        self.began = time.perf_counter()
        self.refusal: Refusal | None = None
        """Why it was not even begun."""
        self.permit: Permit | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def deed(self) -> Deed:
        """It, as it is noted."""
        return Deed(self.identity, "session", self.method, self.wants, len(self.params))

    def cancel(self) -> None:
        """End it, at its client's wish."""
        self.unwanted = True
        if self.task is not None:
            self.task.cancel()

    async def settled(self, seconds: float | None) -> None:
        """Wait until there is something to tell, or nothing more to come; no longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.outbox.empty and not self.outbox.complete:
                    self.outbox.stir.clear()
                    await self.outbox.stir.wait()


def frames(errand: Errand, params: Params) -> Callable[[str, Body], None]:
    """Turns what comes ahead of the answer into notifications."""
    token = None if params.meta is rpc.UNSET or params.meta.progress_token is rpc.UNSET else params.meta.progress_token
    levels = rpc.levels_from(errand.session.level)

    def hear(kind: str, frame: Body) -> None:
        said = frame.members()
        if kind == "progress" and token is not None:
            known = {"progressToken": orjson.Fragment(bytes(token)), **said}
            errand.outbox.push(rpc.notice("notifications/progress", known))
        elif kind == "log" and said.get("level") in levels and "data" in said:
            errand.outbox.push(rpc.notice("notifications/message", said))

    return hear


def as_it_was(result: Body) -> bytes:
    """A result in the words of these revisions."""
    try:
        return rpc.without_members(result.encoded(), _NEW)
    except ValueError:
        raise errors.HandlerFailed("the agent answered what is no result") from None


def code_of(errand: Errand, code: int) -> int:
    """An error's code in these revisions."""
    reads = errand.method == "resources/read" and errand.named
    return rpc.RESOURCE_NOT_FOUND if reads and code == rpc.INVALID_PARAMS else code


def answer_in(message: rpc.Message) -> Any:
    """The MCP result that a client's answer holds; where it holds an error, that."""
    if message.error is not rpc.UNSET:
        return {"error": rpc.value_of(message.error)}
    return cast("Mapping[str, Any] | None", rpc.value_of(message.result)) or {}
