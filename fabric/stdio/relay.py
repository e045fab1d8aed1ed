"""What comes back for one request: everything in order, and exactly one answer.

Above: `bridge`, `handshake`. Below: `messages`. It writes lines and decides nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fabric.stdio.gateway import GatewayLost, NotUnderstood, Reply
from fabric.stdio.messages import Message, NotOurs, answer_to, error_code, failed, read
from fabric_sdk.contracts.errors import FabricError

Say = Callable[[bytes], Awaitable[None]]
"""Writes one line to the host."""


class Relay:
    """Says to the host what comes back for one request."""

    def __init__(self, request: bytes, say: Say) -> None:
        """`request`: the id, as it was written."""
        self._request = request
        self._say = say
        self.answer: Message | None = None
        """Once it was said."""

    async def all_of(self, reply: Reply, *, but: int | None = None) -> bool:
        """Say all of a reply, to its end; false for an answer that is an error of the code `but`, which is kept.

        Raises:
            NotUnderstood: something in it is no message.
            GatewayLost: it ended without an answer.
        """
        async for line in reply.messages:
            try:
                message = read(line)
            except NotOurs:
                raise NotUnderstood(f"what answers is no MCP gateway: HTTP {reply.status} {line[:200]!r}") from None
            if not message.is_answer:
                await self._say(line)
            elif but is not None and error_code(message) == but:
                return False
            else:
                self.answer = message
                await self._say(answer_to(self._request, message, line))
        if self.answer is None:
            raise GatewayLost
        return True

    async def fail(self, failure: FabricError) -> None:
        """Say that no answer comes, unless one did."""
        if self.answer is None:
            await self._say(failed(self._request, failure))
