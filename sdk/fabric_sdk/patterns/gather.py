"""Ask everybody and collect what they answer within a stated time.

Guarantee: none beyond the transport's; who does not answer in time is not in the list. For discovery, not for work.
Above: registry, command line. Below: a `Transport`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.transports.base import Transport


async def gather(transport: Transport, subject: str, *, seconds: float, body: Body = EMPTY) -> list[Any]:
    """The decoded JSON answers to one message on `subject` that come within `seconds`.

    Raises:
        TransportUnavailable: the question could not be sent.
    """
    answers: list[Any] = []

    def hear(message: Message) -> None:
        try:
            answers.append(message.body.value())
        except ValueError:
            return  # not one of ours

    client = uuid4().hex
    replies = await transport.subscribe(subjects.replies(client), hear)
    try:
        due = time.time() + seconds
        await transport.publish(Message(subject, body, reply=subjects.reply(client, due, 1)))
        await asyncio.sleep(seconds)
    finally:
        await replies.close()
    return [answer for answer in answers if answer is not None]
