"""A stream that its client comes back to: what is kept of it is told again, then what comes, until the answer.

Above: `errands`. Below: `ledger` and `replies`. It may be any gateway's, whoever works on the request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fabric.gateway import rpc
from fabric.gateway.ledger import Ledger
from fabric.gateway.replies import Outbox, parts_of
from fabric_sdk import FabricError
from fabric_sdk.contracts import errors

log = logging.getLogger(__name__)


async def follow(
    ledger: Ledger, session_id: str, outbox: Outbox, place: int, see_to_it: Callable[[], Awaitable[bool]]
) -> None:
    """Put what a stream holds after `place` into its `outbox`, until it is answered.

    `see_to_it` is to find somebody who answers it, and tells whether there is anybody.
    """
    seen = 0

    async def tell_kept() -> bool:
        """Tell what is new; whether the answer is there, told now or before."""
        nonlocal seen
        async for message in ledger.kept(session_id, outbox.stream, after=seen):
            seen, said = message.sequence, message.body.encoded()
            if seen > place:
                outbox.push(said, seen)
            if rpc.read_message(said).method is rpc.UNSET:
                return True
        return False

    try:
        async with ledger.watch(session_id, "event", outbox.stream) as changed:
            while not await tell_kept():
                # Whoever worked on it may have answered in between.
                if not await see_to_it() and not await tell_kept():
                    outbox.push(_lost(outbox.stream))
                    return
                await changed()
    except FabricError as failure:  # the client comes back once more
        log.warning("a stream cannot be followed now: %s", failure)
    finally:
        outbox.finish()


def _lost(stream: str) -> bytes:
    lost = errors.WorkerLost("nobody works on this request any more; whether its work was done is unknown")
    return rpc.error(parts_of(stream)[1], lost.code, str(lost))
