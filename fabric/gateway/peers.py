"""What gateways of one fabric tell each other: who works on which request, and which is to be cancelled.

Above: `errands`. Below: the bus. A gateway that is gone is known at once, since nobody hears its subject any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import uuid4

from fabric_sdk import Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.patterns.gather import gather

_ALL: Final = "all"
_ANSWER_SECONDS: Final = 3.0
"""How long a gateway that is there but says nothing is waited for."""


class Peers:
    """This gateway among the others."""

    def __init__(
        self, fabric: Fabric, works_on: Callable[[str, str], bool], cancel: Callable[[str, bytes], bool]
    ) -> None:
        """`works_on` tells whether a session's stream is answered here, `cancel` cancels a session's request here."""
        self.replica = uuid4().hex[:12]
        self._fabric = fabric
        self._works_on = works_on
        self._cancel = cancel
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Begin to hear what the others say."""
        await self._fabric.transport.subscribe(subjects.gateway(self.replica), self._hear_question)
        await self._fabric.transport.subscribe(subjects.gateway(_ALL), self._hear_cancel)

    async def works_on(self, replica: str, session_id: str, stream: str) -> bool:
        """Whether `replica` is there, and works on a session's request, which is answered by `stream`."""
        if replica == self.replica:
            return self._works_on(session_id, stream)
        said = Body({"session": session_id, "stream": stream})
        subject = subjects.gateway(replica)
        return True in await gather(self._fabric.transport, subject, seconds=_ANSWER_SECONDS, body=said, most=1)

    async def cancel(self, session_id: str, request: bytes) -> None:
        """Cancel a session's request, wherever it is worked on."""
        if not self._cancel(session_id, request):
            said = Body({"session": session_id, "request": request.decode()})
            with suppress(errors.TransportUnavailable):
                await self._fabric.transport.publish(Message(subjects.gateway(_ALL), said))

    def _hear_question(self, message: Message) -> None:
        with suppress(ValueError, KeyError, TypeError):
            said = message.body.members()
            answer = Message(message.reply, Body(self._works_on(said["session"], said["stream"])))
            task = asyncio.create_task(self._answer(answer))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, answer: Message) -> None:
        with suppress(errors.FabricError):  # whoever asked will ask again
            await self._fabric.transport.publish(answer)

    def _hear_cancel(self, message: Message) -> None:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            said = message.body.members()
            self._cancel(said["session"], said["request"].encode())
