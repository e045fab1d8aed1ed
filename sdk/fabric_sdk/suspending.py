"""Handlers that wait for an answer of whoever called: asked → answered with the question → resumed → answered.

Above: `answering`. Below: contracts. A handler that asks gives its hand to others and stays where it is; its call is
answered with the question. The answer comes with another call, to this very instance, and that one gets what the
handler says next. It may come more than once, since whoever brought it may die: the last one is answered, and told
what the handler asks by now, if it has gone on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import uuid4

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.asking import Asked, Waiting
from fabric_sdk.contracts.envelope import EMPTY, Body, Message

PATIENCE: Final = 900.0
"""Seconds for which a handler waits for an answer."""
_MOST: Final = 4096
"""Handlers that wait at one worker."""
_REMEMBERED: Final = 256
"""Ends that are kept for whoever asks again …"""
_LARGEST_REMEMBERED: Final = 64 * 1024
"""… each of so many bytes at most."""


@dataclass(slots=True, eq=False)
class Suspended:
    """One handler that has asked at least once."""

    id: str = field(default_factory=lambda: uuid4().hex)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A call has one answer: of questions asked at the same time, one goes out after the other."""
    answered: asyncio.Future[dict[str, Any]] | None = None
    """What it waits for now; `None` while it works."""
    key: str = ""
    question: Body = EMPTY
    """What its call was answered with last."""


class Suspensions:
    """All handlers of one worker that wait, or have waited, for an answer."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._jobs: dict[str, Any] = {}
        self._ends: OrderedDict[str, Message] = OrderedDict()
        self.none = asyncio.Event()
        """Set while none waits."""
        self.none.set()

    def __len__(self) -> int:
        return sum(job.suspended.answered is not None for job in self._jobs.values())

    def question(self, job: Any, key: str, request: dict[str, Any], answers: dict[str, Any]) -> Body:
        """Have `job` wait, and give what its call is answered with.

        Raises:
            Overloaded: too many wait already.
        """
        suspended: Suspended = job.suspended
        if len(self._jobs) >= _MOST and suspended.id not in self._jobs:
            raise errors.Overloaded("too many handlers of this worker wait for answers already")
        suspended.answered, suspended.key = asyncio.get_running_loop().create_future(), key
        self._jobs[suspended.id] = job
        self.none.clear()
        suspended.question = Asked({key: request}, Waiting(self._instance, suspended.id, answers).state()).result()
        return suspended.question

    async def answer(self, job: Any) -> Any:
        """What was answered, once it was.

        Raises:
            QuestionLost: nobody answered in time.
        """
        suspended: Suspended = job.suspended
        assert suspended.answered is not None
        try:
            async with asyncio.timeout(PATIENCE):
                return (await suspended.answered)[suspended.key]
        except TimeoutError:
            raise errors.QuestionLost(f"nobody answered within {PATIENCE:g} s") from None
        finally:
            suspended.answered = None
            if not len(self):
                self.none.set()

    def resume(self, message: Message, adopt: Callable[[Any, Message], None]) -> Message | None:
        """Bring a handler its answer; `adopt` is told whose answer goes where from now on.

        Returns:
            What was sent before: the end of a handler that is through, or a question to which this is no answer.

        Raises:
            QuestionLost: no handler waits for this.
        """
        params = message.body.members()
        identifier, answers = str(params.get("id")), params.get("answers")
        if (end := self._ends.get(identifier)) is not None:
            return end
        if (job := self._jobs.get(identifier)) is None:
            raise errors.QuestionLost
        suspended: Suspended = job.suspended
        waiting = suspended.answered
        if waiting is not None and not waiting.done():
            if not isinstance(answers, dict) or suspended.key not in answers:
                return Message("", suspended.question)
            waiting.set_result(cast("dict[str, Any]", answers))
        adopt(job, message)
        return None

    def job(self, identifier: str) -> Any:
        """The one of this id that waits, or goes on after an answer; `None` if it is not here."""
        return self._jobs.get(identifier)

    def ended(self, suspended: Suspended, end: Message) -> None:
        """Remember for a while how a handler ended."""
        self._jobs.pop(suspended.id, None)
        if len(end.body.encoded()) <= _LARGEST_REMEMBERED:
            self._ends[suspended.id] = end
        if len(self._ends) > _REMEMBERED:
            self._ends.popitem(last=False)
        if not len(self):
            self.none.set()

    def give_up(self, why: errors.FabricError) -> None:
        """End all that wait."""
        for job in list(self._jobs.values()):
            waiting = job.suspended.answered
            if waiting is not None and not waiting.done():
                waiting.set_exception(why)
