"""Lines from a host become HTTP requests, and what comes back becomes lines: many at once, each with its answer.

Above: `serving`. Below: `gateway`, and `handshake` for the revisions with sessions. A request names its revision
(since 2026-07-28), or belongs to the session that `initialize` opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from msgspec import UNSET

from fabric.stdio.gateway import LONGEST, Gateway
from fabric.stdio.handshake import Handshake
from fabric.stdio.messages import HEADER_MISMATCH, NULL, Message, Params, failed, headers, read, read_params
from fabric.stdio.relay import Relay, Say
from fabric.stdio.tools import Tools
from fabric_sdk.cancelling import end
from fabric_sdk.contracts.errors import FabricError, MessageTooLarge, Overloaded

log = logging.getLogger(__name__)

MOST: Final = 1024
"""Messages under way at once; a gateway serves as many requests, unless it is told to serve more."""

Work = Callable[[], Awaitable[None]]


class Bridge:
    """Between one host and one gateway."""

    def __init__(self, gateway: Gateway, say: Say) -> None:
        self._gateway = gateway
        self._say = say
        self._handshake = Handshake(gateway, say)
        self._tools = Tools(gateway)
        self._tasks: set[asyncio.Task[None]] = set()
        self._before: asyncio.Task[None] | None = None
        """What has to have arrived before anything that the host says after it."""
        self._asked: dict[bytes, asyncio.Task[None]] = {}
        """The requests under way that are cancelled by hanging up, by id."""

    def hear(self, line: bytes | None) -> None:
        """Take a line from the host, `None` for one that was too long; all that follows from it happens later."""
        try:
            if line is None:
                raise MessageTooLarge(f"the line has more than {LONGEST} bytes")
            message = read(line)
        except FabricError as failure:
            self._start(partial(self._say, failed(NULL, failure)))
            return
        params = read_params(message)
        if message.is_request:
            self._hear_request(message, params, line)
        elif message.method == "notifications/cancelled" and self._hang_up(params):
            pass
        else:
            self._before = self._start(partial(self._pass_on, message, params, line))

    async def close(self) -> None:
        """Hang up on everything, and end the session."""
        await end(self._tasks)
        await self._handshake.close()

    def _hear_request(self, message: Message, params: Params, line: bytes) -> None:
        if len(self._tasks) >= MOST:
            busy = Overloaded(f"{MOST} messages are under way already", fix="ask again when some are answered")
            self._start(partial(self._say, failed(message.number, busy)))
        elif message.method == "initialize":
            self._before = self._start(partial(self._answer, message, partial(self._handshake.open, line)))
        elif params.version is None:
            self._start(partial(self._answer, message, partial(self._ask_in_session, line)))
        else:
            ask = partial(self._ask, message, params, line)
            number = message.number
            self._asked[number] = task = self._start(partial(self._answer, message, ask))
            task.add_done_callback(lambda done: self._asked.pop(number) if self._asked.get(number) is done else None)

    def _hang_up(self, params: Params) -> bool:
        """Cancel a request; false if that is the session's to do."""
        number = NULL if params.request_id is UNSET else bytes(params.request_id)
        if (task := self._asked.get(number)) is not None:
            task.cancel()
        return task is not None or not self._handshake.was_made

    def _start(self, work: Work) -> asyncio.Task[None]:
        task = asyncio.create_task(_after(self._before, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, message: Message, ask: Callable[[Relay], Awaitable[None]]) -> None:
        relay = Relay(message.number, self._say)
        try:
            await ask(relay)
        except FabricError as failure:
            await relay.fail(failure)
        except Exception:  # a host waits for ever for an answer that does not come
            log.exception("a request failed here")
            await relay.fail(FabricError("`fabric mcp` failed", fix="its log says how"))

    async def _ask(self, message: Message, params: Params, line: bytes, relay: Relay) -> None:
        lines = headers(str(message.method), params)
        if message.method != "tools/call":
            async with self._gateway.ask(line, lines) as reply:
                await relay.all_of(reply)
            return
        async with self._gateway.ask(line, lines | self._tools.headers(params)) as reply:
            if await relay.all_of(reply, but=HEADER_MISMATCH):
                return
        await self._tools.learn(params)
        async with self._gateway.ask(line, lines | self._tools.headers(params)) as reply:
            await relay.all_of(reply)

    async def _ask_in_session(self, line: bytes, relay: Relay) -> None:
        async with self._handshake.ask(line) as reply:
            await relay.all_of(reply)

    async def _pass_on(self, message: Message, params: Params, line: bytes) -> None:
        """Send what has no answer: a notification, or the host's answer to the server."""
        what = "an answer" if message.method is UNSET else message.method
        try:
            if params.version is None:
                sending = self._handshake.ask(line)
            else:
                sending = self._gateway.ask(line, headers(str(message.method), params))
            async with sending as reply:
                refused = [said async for said in reply.messages]
        except FabricError as failure:
            log.warning("%s was not passed on: %s", what, failure)
            return
        if refused:
            log.warning("the gateway did not take %s: HTTP %d", what, reply.status)
        elif message.method == "notifications/initialized":
            self._handshake.listen()


async def _after(before: asyncio.Task[None] | None, work: Work) -> None:
    if before is not None and not before.done():
        await asyncio.wait([before])
    await work()
