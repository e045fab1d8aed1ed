"""A question to a person, and what an answer makes of it. Pure: no clock and no I/O.

Above: the store, the agent `approvals`, the gateway. Below: the policy's rules. A question is decided once: granted,
refused or expired. Whoever says the same again changes nothing, and whoever says something else is told.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from fabric.policy.model import Ask, Rule
from fabric_sdk.contracts.errors import InvalidParams

State = Literal["waiting", "granted", "refused", "expired"]
Answer = Literal["granted", "refused"]

MOST_ARGUMENTS: Final = 16_384
"""Characters of a call's arguments that are kept with the question; the held task has all."""
REMEMBERED: Final = 30 * 86_400.0
"""Seconds for which a grant is remembered."""


class Approval(BaseModel):
    """One question. Times are Unix times in seconds."""

    model_config = ConfigDict(frozen=True)

    id: str
    """`<key>-<number>`: the key is what is asked, so the same call joins; the number is this question's own, so that
    a late answer never fits the next one."""
    task: str = ""
    """The held task of the agent that goes on once this is granted; none where nothing but a tool waits."""
    agent: str
    method: str
    name: str
    """Of the tool or prompt, or the resource's URI, as the agent knows it."""
    arguments: str = ""
    """JSON."""
    whole: bool = True
    """Whether these are all of the arguments."""
    principal: str
    """Who asks."""
    rule: str
    mark: str
    """Of the rule as it was."""
    approvers: tuple[str, ...]
    by_asker: bool
    asked: float
    expires: float
    state: State = "waiting"
    decided: float = 0.0
    by: str = ""
    """Who answered."""
    reason: str = ""
    remember: bool = False
    settled: bool = False
    """Whether all that follows from the decision is done."""
    heard: bool = False
    """Whether whoever asked has been given the task, or told what came of it."""

    @property
    def key(self) -> str:
        """Names what is asked."""
        return self.id.partition("-")[0]

    @property
    def ask(self) -> Ask:
        """Who may answer."""
        return Ask(frozenset(self.approvers), self.by_asker, self.expires - self.asked)

    @property
    def words(self) -> str:
        """Why it was not granted."""
        if self.state == "refused":
            return f"{self.by} refused this: {self.reason}" if self.reason else f"{self.by} refused this"
        return "nobody allowed this in time"

    def summary(self) -> dict[str, Any]:
        """What subscribers are told: all but the arguments, which are not for everybody, and our own marks."""
        return self.model_dump(mode="json", exclude={"arguments", "whole", "mark", "settled", "heard"})


class Grant(BaseModel):
    """What a person allowed for longer: one tool of one agent, to one principal, under one rule as it was."""

    model_config = ConfigDict(frozen=True)

    id: str
    principal: str
    agent: str
    method: str
    name: str
    rule: str
    by: str
    expires: float


def question(
    rule: Rule,
    principal: str,
    act: tuple[str, str, str],
    arguments: Any,
    now: float,
    *,
    task: str = "",
    key: str | None = None,
) -> Approval:
    """A new question; `act`: the agent, the method, the name; `key`: what names the work, if something does."""
    assert rule.ask is not None
    agent, method, name = act
    mark, said = mark_of(rule), "" if arguments is None else json.dumps(arguments, sort_keys=True)
    asked = (principal, *act, said, mark) if key is None else (principal, *act, said, mark, key)
    shown = "" if arguments is None else json.dumps(arguments, ensure_ascii=False)
    return Approval(
        id=f"{_digest(asked)}-{secrets.token_hex(4)}",
        task=task,
        agent=agent,
        method=method,
        name=name,
        arguments=shown[:MOST_ARGUMENTS].encode(errors="replace").decode(),
        whole=len(shown) <= MOST_ARGUMENTS,
        principal=principal,
        rule=rule.name,
        mark=mark,
        approvers=tuple(sorted(rule.ask.approvers)),
        by_asker=rule.ask.by_asker,
        asked=now,
        expires=now + rule.ask.seconds,
    )


def mark_of(rule: Rule) -> str:
    """Changes with whatever makes the rule another one to an approver: its condition, and who may approve."""
    assert rule.ask is not None
    condition = rule.when.source if rule.when else ""
    return _digest((rule.name, condition, *sorted(rule.ask.approvers), str(rule.ask.by_asker)))


def grant_key(principal: str, agent: str, method: str, name: str, mark: str) -> str:
    """Where a grant for this lies."""
    return _digest((principal, agent, method, name, mark))


def grant_of(approval: Approval) -> Grant:
    """What is remembered of a question that was granted for longer."""
    key = grant_key(approval.principal, approval.agent, approval.method, approval.name, approval.mark)
    kept = approval.model_dump(include={"principal", "agent", "method", "name", "rule", "by"})
    return Grant(id=key, expires=approval.decided + REMEMBERED, **kept)


def answered(
    approval: Approval, answer: Answer, by: str, now: float, *, reason: str = "", remember: bool = False
) -> Approval:
    """The question with this answer; as it is, if that was its answer already.

    Raises:
        InvalidParams: it has another answer, or expired.
    """
    if approval.state == "waiting":
        if now >= approval.expires:
            raise InvalidParams(f"approval {approval.id!r} has expired", fix="have the call made again")
        change = {"state": answer, "by": by, "decided": now, "reason": reason, "remember": remember}
        return approval.model_copy(update=change)
    if approval.state != answer:
        by_whom = f" by {approval.by}" if approval.by else ""
        raise InvalidParams(
            f"approval {approval.id!r} was {approval.state}{by_whom} already", fix="have the call made again"
        )
    if remember and not approval.remember:
        raise InvalidParams(
            f"approval {approval.id!r} was granted once already", fix="remember the next one of this kind"
        )
    return approval


def expired(approval: Approval, now: float) -> Approval:
    """The question after its time; as it is, if that is still to come or somebody answered."""
    if approval.state != "waiting" or now < approval.expires:
        return approval
    return approval.model_copy(update={"state": "expired", "decided": now})


def joins(approval: Approval, now: float) -> bool:
    """Whether the same call again belongs to this question, and does not ask anew.

    One that waits is joined. What came of a granted one is told to who has not heard it yet. A refusal stands for as
    long as the question would have waited.
    """
    if approval.state == "waiting" or (approval.state == "granted" and not approval.heard):
        return True
    if not approval.settled and (approval.task or approval.remember):
        return True  # what follows from the answer must not be lost
    return approval.state == "refused" and now < approval.expires


def _digest(parts: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()
