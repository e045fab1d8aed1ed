"""The gate before every agent: may they, and how fast. Decided here and now, for all doors in the same way.

Above: `modern`, `errands`, `rest`. Below: policy, grants, limits, the audit log. What somebody may never do is not in
their view at all; here it is decided what depends on arguments, on a person, and on how much was used.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from fabric.approvals.model import grant_key, mark_of
from fabric.approvals.store import GRANTS
from fabric.audit.trail import Trail
from fabric.gateway import rpc
from fabric.gateway.auditing import Auditor, Barred
from fabric.gateway.rpc import Params
from fabric.gateway.topics import about_topics, topic_acts
from fabric.gateway.view import Route, Verb
from fabric.identity.identity import Identity
from fabric.identity.oauth import challenge
from fabric.limits.keeper import LimitsKeeper
from fabric.limits.limiter import LOCKED_OUT, Limited, Limiter, Permit
from fabric.limits.sharing import Sharing
from fabric.live import Announcer, Change
from fabric.observability.metrics_gateway import DENIED, THROTTLED
from fabric.policy.decisions import Standing
from fabric.policy.keeper import PolicyKeeper
from fabric.policy.model import Decision, Rule
from fabric.settings import Settings
from fabric.settings.passing import PROCESS
from fabric_sdk import Fabric
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.jetstream import Table

_VERBS: Final[dict[str, Verb]] = {
    "tools/call": "call",
    "resources/read": "read",
    "prompts/get": "prompt",
}


class Leave(Struct, frozen=True):
    """Leave for one call."""

    permit: Permit | None
    """To be released, whatever comes of the call."""
    rule: str = ""
    """The rule that allowed it, where calls are noted."""


_FREE: Final = Leave(None)


class Gate:
    """Lets calls through, or says why not."""

    def __init__(self, fabric: Fabric, settings: Settings) -> None:
        """Read policy and limits.

        Raises:
            ConfigurationError: one of them cannot be read.
        """
        self.policy = PolicyKeeper(settings.policy)
        self._limits = LimitsKeeper(settings.limits)
        self.limiter = Limiter(self._limits.value, time.monotonic(), time.time())
        self._limits.listen(self.limiter.change)
        self._sharing = Sharing(self.limiter, fabric)
        self._grants = Table(fabric.jetstream, ACCESS, GRANTS)
        self._announcer = Announcer(os.environ.get(PROCESS, "gateway"), lambda: nullcontext(fabric))
        self._settings = settings
        self.policy.listen(lambda _: self._announce("policy", self.policy.path))
        self._limits.listen(lambda _: self._announce("limits", self._limits.path))
        self._trail = Trail(fabric.jetstream, "gateway", settings.audit)
        self.audit = Auditor(self._trail)
        self.policy.listen(lambda policy: self.audit.reloaded(len(policy.rules)))
        self.metadata_url: str | None = None
        """Where a client that lacks a scope learns where to get it."""

    async def run(self) -> None:
        """Follow policy, limits and grants, even out use with other gateways, write the audit log, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.policy.run())
            tasks.create_task(self._limits.run())
            tasks.create_task(self._sharing.run())
            tasks.create_task(self._grants.run())
            tasks.create_task(self._trail.run())
            tasks.create_task(self._announcer.run())

    async def close(self) -> None:
        """Write the rest of the audit log. Call it when `run` has ended."""
        await self._trail.close()

    def follow(self, settings: Settings) -> None:
        """Take policy and limits from where the settings say now."""
        self._settings = settings
        self.policy.move(settings.policy)
        self._limits.move(settings.limits)

    def _announce(self, what: str, file: Path | None) -> None:
        """Tell the fabric that this gateway goes by what a file says now."""
        self._announcer.hear(Change(self._settings, applied=(what,), restart=(), file=file))

    def standing(self, identity: Identity) -> Standing:
        """What the policy says of `identity`; the same for all who are alike."""
        return self.policy.value.standing(identity)

    def pass_through(self, identity: Identity, method: str, named: str, route: Route, params: Params) -> Leave:
        """Leave for one call; the caller has to release its permit.

        Raises:
            Refusal: the policy does not allow it, or a limit is used up.
            AskFirst: a person has to allow it.
        """
        decisions: list[Decision] = []
        if route.allowed_by is None and (verb := _VERBS.get(method)) is not None:
            decisions.append(self.decide(identity, verb, route, lambda: rpc.value_of(params.arguments)))
        if route.of_platform and method == "tools/call" and about_topics(route):
            decisions += self._on_topics(identity, route, params)
        rule = self._hold_to(decisions, identity, method, route) if decisions else ""
        if route.allowed_by is not None:
            rule = route.allowed_by
        permit = self.take(identity, named, route)
        return _FREE if permit is None and not rule else Leave(permit, rule)

    def _hold_to(self, decisions: list[Decision], identity: Identity, method: str, route: Route) -> str:
        """See that nothing is denied, and then that nothing has to be asked for; gives the first rule that allows."""
        for decision in decisions:
            if decision.effect == "deny":
                raise self._forbidden(decision, route)
        for decision in decisions:
            if decision.effect == "ask":
                assert decision.rule is not None
                if not self._granted(identity, method, route, decision.rule):
                    raise AskFirst(decision.rule)
        return decisions[0].rule.name if decisions[0].rule is not None else ""

    def _on_topics(self, identity: Identity, route: Route, params: Params) -> list[Decision]:
        """What the policy says of the topics that a call is about."""
        policy = self.policy.value
        standing = policy.standing(identity)
        return [
            standing.decide(act.verb, "", act.topic, lambda act=act: policy.facts(identity, act.data))
            for act in topic_acts(route, rpc.value_of(params.arguments))
        ]

    def decide(self, identity: Identity, verb: Verb, route: Route, arguments: Callable[[], Any]) -> Decision:
        """What the policy says of this very call."""
        policy = self.policy.value
        standing = policy.standing(identity)
        return standing.decide(verb, route.agent, route.name, lambda: policy.facts(identity, arguments()))

    def take(self, identity: Identity, named: str, route: Route) -> Permit | None:
        """Leave, as far as limits go; nothing where there are none.

        Raises:
            Refusal: one is used up.
        """
        if not self._limits.value.rules:
            return None
        taken = self.limiter.take(identity.principal, route.agent, named, time.monotonic())
        if isinstance(taken, Limited):
            raise limited(taken, route)
        return taken

    def _granted(self, identity: Identity, method: str, route: Route, rule: Rule) -> bool:
        """Whether a person allowed this for longer, under the rule as it is."""
        if not len(self._grants):
            return False
        key = grant_key(identity.principal, route.agent, method, route.name, mark_of(rule))
        row = self._grants.get(key)
        return row is not None and time.time() < row.value["expires"]

    def _forbidden(self, decision: Decision, route: Route) -> Barred:
        DENIED.of().add()
        if decision.needs_scopes:
            said = challenge(metadata=self.metadata_url, error="insufficient_scope", scopes=decision.needs_scopes)
            words = f"a token with the scope {' '.join(sorted(decision.needs_scopes))} is needed"
            lines = ((b"www-authenticate", said),)
            return Barred(rpc.FORBIDDEN, words, "denied", route, status=403, headers=lines)
        rule = decision.rule.name if decision.rule is not None else ""
        words = f"the policy does not allow this{f' (rule {rule})' if rule else ''}"
        return Barred(rpc.FORBIDDEN, words, "denied", route, rule, status=403)


class AskFirst(Exception):
    """A person has to allow this call."""

    def __init__(self, rule: Rule) -> None:
        super().__init__("a person has to allow this")
        self.rule = rule


def limited(by: Limited, route: Route | None = None) -> Barred:
    """The refusal of what a limit stands against: a call, or all that comes from an address."""
    error, outcome = by.error, "locked" if by.rule == LOCKED_OUT else "limited"
    THROTTLED.of(by.rule).add()
    more: dict[str, Any] = {"data": error.data, "status": 429, "headers": by.headers}
    return Barred(error.code, str(error), outcome, route, by.rule, **more)
