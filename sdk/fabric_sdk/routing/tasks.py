"""What is to become of a task: pure decisions, made by whoever was given it.

Above: `doing`, `taking`. Below: a task's record and policy. No clock and no I/O: everything is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fabric_sdk.contracts.errors import (
    InvalidParams,
    MessageTooLarge,
    Reject,
    Retry,
    UnencodableResult,
    UnknownMethod,
    UnknownName,
    UnreadableRecord,
)
from fabric_sdk.contracts.task import PRIORITIES, Policy, Priority, Record
from fabric_sdk.jetstream import ClaimLost

WEIGHTS: Final[Mapping[Priority, int]] = {"critical": 64, "high": 16, "normal": 4, "low": 1}
"""How often a class is served while all have something waiting: each its share, and none starves."""

_HOPELESS: Final = (InvalidParams, MessageTooLarge, Reject, UnencodableResult, UnknownMethod, UnknownName, ClaimLost)
"""What the next attempt would end in as well."""

_LONGEST_RETRY: Final = 7 * 86_400.0
"""Seconds that a tool may ask to wait: well within the time for which the record of its task is kept."""

Verdict = Literal["run", "drop", "leave", "look", "expire", "bury"]
Decision = Verdict | Literal["claim"]


@dataclass(frozen=True, slots=True)
class Given:
    """One delivery of a task's message."""

    origin: int
    """The message's place in the queue."""
    delivered: int
    """How often it has been delivered, this time included."""
    redriven: bool = False
    expires: float | None = None
    """Unix time in seconds."""
    round: int = 0
    """Which questions it brings the answers to; 0: it was there before any was asked."""
    contested: bool = False
    """Whether others than its workers may write its record: another message brings it, or whoever looks ends it."""

    @property
    def alone(self) -> bool:
        """Whether nobody was given this task before, as far as the server counts."""
        return self.delivered == 1 and not self.redriven and not self.round


@dataclass(frozen=True, slots=True)
class Seen:
    """What is on record of a task."""

    record: Record | None = None
    place: int = 0
    """Where it stands in its stream; 0: there is none."""
    unreadable: UnreadableRecord | None = None
    """What is on record is none of ours."""
    led: bool | None = None
    """Whether the message that the record speaks of still exists, once somebody has looked."""


def decide(seen: Seen, given: Given, policy: Policy, now: float) -> Decision:
    """What a worker does with a task that it was just given.

    Returns:
        As `judge`; and `claim`: write down that this attempt is, then run it, since there may be another. What `judge`
        would have looked at is decided once that was seen.
    """
    if seen.unreadable is not None:  # perhaps it was done: a person decides, by its letter
        return "bury"
    verdict = judge(seen.record, given, policy, now)
    if verdict == "look" and seen.led is not None:
        verdict = "drop" if seen.led else "run"
    if verdict == "run" and (not given.alone or given.contested or seen.place):
        return "claim"
    return verdict


def judge(record: Record | None, given: Given, policy: Policy, now: float) -> Verdict:
    """What to do with a task that was just given to this worker.

    Returns:
        `run` it; `drop` it, since it has ended or is another message's business; `leave` it to the later attempt that
        has it by now; `look` whether the message that it repeats still exists; `expire` or `bury` it: write that end
        down.
    """
    expired = given.expires is not None and given.expires <= now
    if record is None:
        return "expire" if expired else "run" if given.delivered <= policy.attempts else "bury"
    if record.ended:
        revived = given.redriven and record.state == "dead" and record.origin < given.origin
        return "run" if revived else "drop"
    if given.round < record.rounds:
        return "drop"  # it has led to the questions that are on record
    if record.origin not in (0, given.origin):
        return "look"
    number = given.delivered - record.returned
    if record.state == "running" and number < record.attempt:  # it came to a worker that was frozen
        return "leave"
    if expired and record.attempt == 0:  # it was handed back, and never begun
        return "expire"
    return "run" if number <= policy.attempts else "bury"


def after_failure(failure: BaseException, attempt: int, policy: Policy) -> float | None:
    """Seconds until the next attempt, or `None`: there is to be none."""
    if attempt >= policy.attempts or isinstance(failure, _HOPELESS):
        return None
    if isinstance(failure, Retry):
        asked = policy.wait_after(attempt) if failure.after is None else failure.after
        return min(max(0.0, asked), _LONGEST_RETRY)  # in this order: what is not even a number is at once
    kinds = getattr(failure, "kinds", None) or [kind.__name__ for kind in type(failure).__mro__]
    return policy.wait_after(attempt) if any(kind in policy.retry_on for kind in kinds) else None


class Turns:
    """Whose turn it is among the classes: smooth weighted round robin."""

    def __init__(self, weights: Mapping[Priority, int] = WEIGHTS) -> None:
        self._weights = dict(weights)
        self._credit: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)

    def next(self, waiting: Mapping[Priority, int]) -> Priority | None:
        """The class to serve now, of those that have something waiting; `None` if none has."""
        having: list[Priority] = [priority for priority in PRIORITIES if waiting.get(priority)]
        if not having:
            return None
        for priority in having:
            self._credit[priority] += self._weights[priority]
        chosen = max(having, key=lambda priority: self._credit[priority])
        self._credit[chosen] -= sum(self._weights[priority] for priority in having)
        return chosen
