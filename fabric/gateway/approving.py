"""Calls that a person has to allow: asked in the call whoever may decide itself, else held until somebody answers.

Above: `modern`, `errands`, `rest`. Below: the questions' rows, and the tasks. A tool that waits is a held task: it
survives this gateway and everything else, and the same call again joins it. For a resource or a prompt there is nothing
to hold: its call waits for the answer, and then goes on.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from fabric.approvals.model import Answer, Approval, answered, mark_of, question
from fabric.approvals.store import QUESTIONS, Approvals, approval_in
from fabric.gateway import rpc
from fabric.gateway.forward import Asker, linked
from fabric.gateway.gate import Gate
from fabric.gateway.rpc import Refusal
from fabric.gateway.tasks import outcome, params_of
from fabric.gateway.tracing import note
from fabric.gateway.view import Route
from fabric.identity.identity import Identity
from fabric.policy.model import Ask, Rule
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.asking import Asked
from fabric_sdk.contracts.description import Json
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.contracts.task import Record
from fabric_sdk.jetstream import Table
from fabric_sdk.patterns.start import Start

log = logging.getLogger(__name__)

PENDING: Final = 4090
"""JSON-RPC's error code for a call that waits for a person for longer than a call may take."""

_TOOL: Final = "tools/call"
_KEY: Final = "approval"
_OURS: Final = re.compile(rf"{_KEY}:[0-9a-f]{{24}}")
"""What tells our own state from an agent's, which may be any text."""
_MOST_WAITING: Final = 100
"""Questions of one principal: who asks without end must not fill what keeps everybody's keys."""
_MOST_SHOWN: Final = 2000
"""Characters of the arguments in a question to the client."""
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"allow": {"type": "boolean", "title": "Allow it, this once"}},
    "required": ["allow"],
}

AskClient = Callable[[Asked], Awaitable[dict[str, Any]]]
"""Asks the client, and waits for its answers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call that a rule puts before a person."""

    identity: Identity
    door: str
    method: str
    named: str
    route: Route
    params: bytes
    arguments: Any
    rule: Rule

    @property
    def mark(self) -> str:
        """Of the rule: an answer is good for no other."""
        return mark_of(self.rule)

    @property
    def ask(self) -> Ask:
        """How a person is asked."""
        assert self.rule.ask is not None
        return self.rule.ask

    @property
    def bare(self) -> bytes:
        """The params as they were before anything was asked."""
        return rpc.without_members(self.params, rpc.ANSWERS)

    def question(self, now: float, *, task: str = "", key: str | None = None) -> Approval:
        """The question to whoever may answer."""
        act = (self.route.agent, self.method, self.route.name)
        return question(self.rule, self.identity.principal, act, self.arguments, now, task=task, key=key)

    def asked(self) -> Asked:
        """The question to the client itself."""
        shown = self.question(0.0)
        words = f"Allow {shown.agent}/{shown.name}"
        if shown.arguments:
            cut = "…" if len(shown.arguments) > _MOST_SHOWN else ""
            words += f" with {shown.arguments[:_MOST_SHOWN]}{cut}"
        params = {"mode": "form", "message": f"{words}? (rule {self.rule.name})", "requestedSchema": _SCHEMA}
        return Asked({_KEY: {"method": "elicitation/create", "params": params}}, self.state)

    @property
    def state(self) -> str:
        """Tells the client's answer to this question from one to the agent's."""
        return f"{_KEY}:{self.mark}"


class Approving:
    """Has persons asked, for one gateway."""

    def __init__(self, fabric: Fabric, gate: Gate, *, timeout: float) -> None:
        """`timeout`: seconds for which a call waits for a person and then for its result."""
        self._fabric = fabric
        self._gate = gate
        self._timeout = timeout
        self._approvals = Approvals(fabric)
        self._table = Table(fabric.jetstream, ACCESS, QUESTIONS, self._changed)
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    async def run(self) -> None:
        """Follow what becomes of questions, until cancelled."""
        await self._table.run()

    # asked in the call

    def may_decide(self, wanted: Wanted, capabilities: Any) -> bool:
        """Whether the client itself can be asked: its rule lets it, and it has somebody to ask."""
        able = isinstance(capabilities, dict) and "elicitation" in capabilities
        return able and self._gate.policy.value.may_approve(wanted.ask, wanted.identity, wanted.identity.principal)

    async def judge(self, wanted: Wanted, answers: Mapping[str, Any]) -> None:
        """Go by what the client answered.

        Raises:
            Refusal: it did not allow the call.
        """
        allowed = _is_yes(answers.get(_KEY))
        answer: Answer = "granted" if allowed else "refused"
        now = time.time()
        self._gate.audit.judged(wanted, answer, "")
        await self._tell(answered(wanted.question(now), answer, wanted.identity.principal, now))
        if not allowed:
            raise _not_allowed()

    async def in_session(
        self, wanted: Wanted, asker: Asker, capabilities: Any, ask: AskClient, answers: Mapping[str, Any] | None
    ) -> Body | None:
        """What came of a call of a session, or nothing: it may go on. `answers`: the client was asked already.

        Raises:
            Refusal, FabricError: as `judge` and `result`.
        """
        if answers is None and self.may_decide(wanted, capabilities):
            answers = await ask(wanted.asked())
        if answers is None or not self.may_decide(wanted, capabilities):  # who was asked may have lost the role since
            return await self.result(wanted, asker)
        await self.judge(wanted, answers)
        return None

    # held

    async def task(self, wanted: Wanted, asker: Asker) -> Record:
        """The task that waits for leave, or the one like it that does already; for a client that asks for its end.

        Raises:
            KeyReused: the asker's key names another one.
        """
        start = self._start(wanted, asker)
        if (begun := await self._begun(start)) is not None:
            return begun
        approval = await self._put(wanted, asker, start, heard=True)
        if not approval.heard:
            await self._heard(approval)
        return await self._fabric.tasks.read(approval.agent, approval.task)

    async def result(self, wanted: Wanted, asker: Asker) -> Body | None:
        """What came of a call, once a person allowed it; nothing, if it may go on now.

        Raises:
            Refusal: a person refused it, nobody answered in time, or the call has waited for too long.
            KeyReused: as `task`.
            FabricError: the broker refuses, or does not answer.
        """
        start = self._start(wanted, asker) if wanted.method == _TOOL else None
        if start is not None and await self._begun(start) is not None:
            tasks = self._fabric.tasks
            return await self._came_of(
                wanted.route, await tasks.wait(start.agent, start.id, timeout=self._timeout, on_frame=asker.on_frame)
            )
        approval = await self._put(wanted, asker, start, heard=False)
        try:
            async with asyncio.timeout(self._timeout):
                if not approval.task:
                    approval = await self._decided(approval)
                    record = None
                else:
                    record = await self._ended(approval, asker)
        except TimeoutError:
            note(asker.span, "approval pending", approval=approval.id)
            raise _pending(approval) from None
        await self._heard(approval)
        note(asker.span, f"approval {self._now(approval).state}", approval=approval.id)
        if record is None:
            if approval.state != "granted":
                raise Refusal(rpc.FORBIDDEN, approval.words)
            return None
        return await self._came_of(wanted.route, record)

    async def _came_of(self, route: Route, record: Record) -> Body:
        """The result of a task that has ended.

        Raises:
            Refusal: it has none.
        """
        if record.state == "completed":
            return linked(route, await self._fabric.tasks.result(record))
        error = outcome(record).get("error") or errors.to_wire(errors.TaskCancelled())
        raise Refusal(error["code"], error["message"])

    async def _begun(self, start: Start) -> Record | None:
        """The task that the asker's key names, unless it waits for leave: whatever came of that, it is not asked anew.

        Raises:
            KeyReused: it is another one.
        """
        record = await self._fabric.tasks.of_key(start)
        return None if record is None or record.state == "held" else record

    async def _put(self, wanted: Wanted, asker: Asker, start: Start | None, *, heard: bool) -> Approval:
        """Put the question, and hold the task; or join what there is."""
        task, key = (start.id, start.key) if start else ("", None)
        fresh = wanted.question(time.time(), task=task, key=key).model_copy(update={"heard": heard})
        self._check_room(fresh)
        if start is not None and key is not None and not await self._hold(start, fresh):
            # Of two that come at once the record says which is the key's: the other must not be asked about it.
            await self._fabric.tasks.of_key(start)
        approval = await self._approvals.put(fresh)
        if approval.id == fresh.id:
            self._gate.audit.judged(wanted, "asked", approval.id)
        if approval.state != "waiting":
            return approval
        if start is not None:
            start.id = approval.task
            held = key is not None or await self._hold(start, approval)
            if not held and (await self._fabric.tasks.read(start.agent, start.id)).ended:
                await self._approvals.withdraw(approval)  # whoever asked has cancelled it: this is another call
                return await self._put(wanted, asker, self._start(wanted, asker), heard=heard)
        note(asker.span, "approval asked for", approval=approval.id)
        await self._tell(approval)
        return approval

    async def _hold(self, start: Start, approval: Approval) -> bool:
        return await self._fabric.tasks.hold(start, f"it waits for approval {approval.id}")

    def _start(self, wanted: Wanted, asker: Asker) -> Start:
        params = params_of(wanted.named, wanted.route, wanted.bare)
        try:
            orjson.dumps([[params.members()]])  # as deep as its record has it; JSON is read deeper than it is written
        except TypeError:
            words = "the arguments are nested too deeply to wait for approval; nest them less than 250 deep"
            raise Refusal(rpc.INVALID_PARAMS, words) from None
        scope = scope_for(self._timeout, principal=asker.principal, trace=asker.trace)
        # A person has allowed one call: what is not known to bear repeating is not repeated for a worker that was lost.
        once = not wanted.route.repeatable
        return Start(agent=wanted.route.agent, params=params, scope=scope, key=asker.key, once=once)

    def _check_room(self, fresh: Approval) -> None:
        if self._table.get(fresh.key) is not None:
            return
        waiting = (approval_in(row) for _, row in self._table)
        mine = (each for each in waiting if each is not None and each.principal == fresh.principal)
        if sum(each.state == "waiting" for each in mine) >= _MOST_WAITING:
            raise Refusal(
                errors.Overloaded.code, f"{_MOST_WAITING} calls of {fresh.principal} wait for a person already"
            )

    async def _decided(self, approval: Approval) -> Approval:
        """The question once it is answered."""
        changed = asyncio.Event()
        self._waiting[approval.key].add(changed)
        try:
            while (approval := self._now(approval)).state == "waiting":
                await changed.wait()
                changed.clear()
            return approval
        finally:
            self._waiting[approval.key].discard(changed)
            if not self._waiting[approval.key]:
                del self._waiting[approval.key]

    def _now(self, approval: Approval) -> Approval:
        """The same question, as far as this gateway has heard of it."""
        row = self._table.get(approval.key)
        there = approval_in(row) if row is not None else None
        return there if there is not None and there.id == approval.id else approval

    def _changed(self, key: str) -> None:
        for changed in self._waiting.get(key, ()):
            changed.set()

    async def _ended(self, approval: Approval, asker: Asker) -> Record:
        """The task once it has ended.

        Raises:
            AnswerRequired: it asks something, which only a client that knows tasks can answer.
        """
        async with self._fabric.tasks.watch(approval.agent, approval.task, asker.on_frame) as changes:
            async for record in changes:
                if record.state == "input_required":
                    raise errors.AnswerRequired(
                        fix="make the call again with the tasks extension declared: it joins this one"
                    )
                if record.ended:
                    return record
        raise AssertionError("a task is watched until it ends")

    async def _heard(self, approval: Approval) -> None:
        try:
            await self._approvals.heard(approval.id)
        except FabricError as failure:  # the same call will be told the same
            log.warning("that approval %s was heard cannot be noted: %s", approval.id, failure)

    async def _tell(self, approval: Approval) -> None:
        try:
            await self._approvals.tell(approval)
        except FabricError as failure:  # it can be listed all the same
            log.warning("subscribers cannot be told of approval %s: %s", approval.id, failure)


def is_ours(asked: Asked) -> bool:
    """Whether a client was asked by this gateway, and not by an agent."""
    return asked.state is not None and _OURS.fullmatch(asked.state) is not None


def check_allowed(answers: Mapping[str, Any]) -> None:
    """See that the client allowed what a rule had it asked, which is not there any more.

    Raises:
        Refusal: it did not; a person's no stands, whatever becomes of the rule.
    """
    if not _is_yes(answers.get(_KEY)):
        raise _not_allowed()


def _not_allowed() -> Refusal:
    return Refusal(rpc.FORBIDDEN, "whoever was asked did not allow this")


def _is_yes(said: Any) -> bool:
    """Whether an MCP `ElicitResult` allows the call."""
    answer = cast("Json", said) if isinstance(said, dict) else {}
    content: Any = answer.get("content")
    return answer.get("action") == "accept" and isinstance(content, dict) and cast("Json", content).get("allow") is True


def _pending(approval: Approval) -> Refusal:
    words = (
        f"a person has to allow this, and nobody has yet: approval {approval.id}; make the same call again to wait on"
    )
    data = {"approval": approval.id, "approvers": list(approval.approvers), "expires": approval.expires}
    return Refusal(PENDING, words, data=data)
