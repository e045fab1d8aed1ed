"""Dead letters by the handful: which are meant, and what became of each.

Above: the agent `durable`, the command line. Below: the SDK's dead letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.patterns.dead import DeadLetter, Which


@dataclass(slots=True)
class Handled:
    """Ids of tasks, by what became of their letters."""

    done: list[str] = field(default_factory=list[str])
    passed_over: list[str] = field(default_factory=list[str])
    """Somebody else was quicker, or the task is not dead any more."""


def summary(letter: DeadLetter) -> dict[str, Any]:
    """What is said of a letter, but for what may be large."""
    last = letter.errors[-1].get("error") if letter.errors else None
    about = {"id": letter.id, "agent": letter.agent, "tool": letter.tool, "priority": letter.priority}
    return about | {"died": letter.died, "attempts": len(letter.errors), "error": last}


async def chosen(fabric: Fabric, ids: Sequence[str], which: Which, *, everything: bool) -> list[DeadLetter]:
    """The letters of these tasks, or, where `everything` is wanted, all that are meant by `which`.

    Raises:
        InvalidParams: it is not clear which are meant.
        UnknownTask: there is none of one of these ids.
    """
    if ids and (everything or which != Which()):
        raise InvalidParams("dead letters are chosen by id or by filter, not by both", fix="leave one of them out")
    if not ids and not everything:
        raise InvalidParams("no dead letters are chosen", fix="give ids, or ask for all; filters say all of which")
    if ids:
        return [await fabric.dead.show(task_id) for task_id in dict.fromkeys(ids)]
    return [letter async for letter in fabric.dead.find(which)]


async def redrive(fabric: Fabric, letters: Sequence[DeadLetter]) -> Handled:
    """Try these tasks again, the oldest first.

    Raises:
        QueueFull: the queue takes no more; those before are being tried.
    """
    handled = Handled()
    for letter in letters:
        (handled.done if await fabric.dead.redrive(letter) else handled.passed_over).append(letter.id)
    return handled


async def purge(fabric: Fabric, letters: Sequence[DeadLetter]) -> Handled:
    """Forget these letters: exactly these, and none that died since."""
    handled = Handled()
    for letter in letters:
        (handled.done if await fabric.dead.purge(letter) else handled.passed_over).append(letter.id)
    return handled
