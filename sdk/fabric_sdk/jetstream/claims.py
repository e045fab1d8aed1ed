"""What is too large for one message: kept in pieces, with a small message that says where (the claim check).

Above: tasks and events. Below: JetStream. The pieces go by themselves after a stated time, so a claim that nobody
redeems costs nothing for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from uuid import uuid4

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.streams import OBJECTS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import largest_params
from fabric_sdk.jetstream.api import JetStream, WrongSequence

_PIECE: Final = 512 * 1024
"""Bytes; below what any NATS server takes."""
_CLAIM: Final = re.compile(r"([0-9a-f]{32})\.([0-9]{1,6})\.([0-9]{1,15})")


class ClaimLost(errors.HandlerFailed):
    """What was too large for one message is no longer kept."""


class Claims:
    """Keeps what is too large, and gives it back."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream

    def are_needed_for(self, size: int) -> bool:
        """Whether so many bytes do not fit into one message with others."""
        return size > largest_params(self._jetstream.transport.max_message)

    async def keep(self, encoded: bytes, seconds: float) -> str:
        """Keep `encoded` for so long; returns the claim.

        Raises:
            QueueFull: no more can be kept.
        """
        await self._jetstream.ensure(OBJECTS)
        name = uuid4().hex
        pieces = [encoded[start : start + _PIECE] for start in range(0, len(encoded), _PIECE)]
        headers = {Header.TTL: f"{max(1, round(seconds))}s", Header.EXPECTED: "0"}
        for number, piece in enumerate(pieces):
            with suppress(WrongSequence):  # its answer was lost, and it was stored: nobody else knows the name
                await self._jetstream.store(subjects.piece(name, number), Body(encoded=piece), headers)
        return f"{name}.{len(pieces)}.{len(encoded)}"

    async def redeem(self, claim: str) -> Body:
        """What was kept.

        Raises:
            ClaimLost: it is no longer kept, or was never whole.
        """
        if (said := _CLAIM.fullmatch(claim)) is None:
            raise ClaimLost(f"{claim[:100]!r} is no claim")
        name, count, size = said.groups()
        await self._jetstream.ensure(OBJECTS)
        pieces: list[bytes] = []
        for number in range(int(count)):
            found = await self._jetstream.last(OBJECTS, subjects.piece(name, number))
            if found is None:
                raise ClaimLost
            pieces.append(found.body.encoded())
        whole = b"".join(pieces)
        if len(whole) != int(size):
            raise ClaimLost
        return Body(encoded=whole)

    async def let_go(self, headers: Mapping[str, str] | None) -> None:
        """Keep no longer what is too large for the message with these headers; should this fail, it goes by itself."""
        if (claim := (headers or {}).get(Header.CLAIM)) is not None:
            with suppress(errors.FabricError):
                await self.drop(claim)

    async def drop(self, claim: str) -> None:
        """Keep it no longer."""
        if (said := _CLAIM.fullmatch(claim)) is not None:
            await self._jetstream.purge(OBJECTS, subjects.pieces(said[1]))
