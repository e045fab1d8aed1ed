"""Ask everybody and collect what they answer within a stated time.

Guarantee: none beyond the transport's; who does not answer in time is not in the list. For discovery, not for work.
Above: `call`, `broadcast`, `connecting`; registry, gateways, command line. Below: a `Transport`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any
from uuid import uuid4

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.transports.base import Transport


async def gather(
    transport: Transport, subject: str, *, seconds: float, body: Body = EMPTY, most: int | None = None
) -> list[Any]:
    """The decoded JSON answers to one message on `subject` that come within `seconds`.

    They are waited for no longer than until there are `most`, or the broker says that nobody hears the subject.

    Raises:
        TransportUnavailable: the question could not be sent.
    """
    answers: list[Any] = []
    complete = asyncio.Event()

    def hear(message: Message) -> None:
        if message.header(Header.STATUS) is not None:
            complete.set()
            return
        try:
            answer = message.body.value()
        except ValueError:
            return  # not one of ours
        if answer is not None:
            answers.append(answer)
        if len(answers) == most:
            complete.set()

    client = uuid4().hex
    replies = await transport.subscribe(subjects.replies(client), hear)
    try:
        due = time.time() + seconds
        await transport.publish(Message(subject, body, reply=subjects.reply(client, due, 1)))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await complete.wait()
    finally:
        await replies.close()
    return answers
