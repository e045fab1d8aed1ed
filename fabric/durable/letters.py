"""Dead letters by the handful: which are meant, and what became of each.

Above: the agent `durable`, the command line. Below: the SDK's dead letters. Thousands may be meant: none is held longer
than it takes to handle it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import InvalidParams, UnreadableRecord
from fabric_sdk.patterns.dead import DeadLetter, Which

_NAMED: Final = 1000
"""Ids that are told of what was handled: the answer has to fit into a message."""


@dataclass(slots=True)
class Handled:
    """What became of letters."""

    done: int = 0
    passed_over: int = 0
    """Somebody else was quicker, the task is not dead any more, or what is on record of it cannot be read."""
    ids: list[str] = field(default_factory=list[str])
    """Of the tasks whose letters are done with: the first thousand."""


def summary(letter: DeadLetter) -> dict[str, Any]:
    """What is said of a letter, but for what may be large."""
    last = letter.errors[-1].get("error") if letter.errors else None
    about = {"id": letter.id, "agent": letter.agent, "tool": letter.tool, "priority": letter.priority}
    about |= {"died": letter.died, "attempts": len(letter.errors), "error": last}
    return about | {"sequence": letter.sequence}


async def chosen(fabric: Fabric, ids: Sequence[str], which: Which, *, everything: bool) -> AsyncGenerator[DeadLetter]:
    """The letters of these tasks, or, where `everything` is wanted, all that are meant by `which`.

    Raises:
        InvalidParams: it is not clear which are meant.
        UnknownTask: there is none of one of these ids.
    """
    if ids and (everything or which != Which()):
        raise InvalidParams("dead letters are chosen by id or by filter, not by both", fix="leave one of them out")
    if not ids and not everything:
        raise InvalidParams("no dead letters are chosen", fix="give ids, or ask for all; filters say all of which")
    if not ids:
        async for letter in fabric.dead.find(which):
            yield letter
        return
    for letter in [await fabric.dead.show(task_id) for task_id in dict.fromkeys(ids)]:  # nothing, if one is wrong
        yield letter


async def redrive(fabric: Fabric, letters: AsyncIterable[DeadLetter]) -> Handled:
    """Try these tasks again, the oldest first.

    Raises:
        QueueFull: the queue takes no more; those before are being tried.
    """
    return await _handled(letters, fabric.dead.redrive)


async def purge(fabric: Fabric, letters: AsyncIterable[DeadLetter]) -> Handled:
    """Forget these letters: exactly these, and none that died since."""
    return await _handled(letters, fabric.dead.purge)


async def _handled(letters: AsyncIterable[DeadLetter], handle: Callable[[DeadLetter], Awaitable[bool]]) -> Handled:
    handled = Handled()
    async for letter in letters:
        try:
            done = await handle(letter)
        except UnreadableRecord:  # nobody knows whether it is to be tried: its letter stays
            done = False
        if not done:
            handled.passed_over += 1
            continue
        handled.done += 1
        if handled.done <= _NAMED:
            handled.ids.append(letter.id)
    return handled
