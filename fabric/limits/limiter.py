"""The limiter: may this call go ahead? Decided in process, at once, by what is known here of everybody's use.

Above: the gateway, with each call; `sharing`, between calls. Below: buckets. It does no I/O and reads no clock: `now`
is a monotonic time in seconds that only grows. docs/limits.md states what N gateways let through together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil, inf
from typing import Final

from fabric.limits.bucket import DAY, Bucket, Header, headers
from fabric.limits.lockout import Lockouts
from fabric.limits.rules import Limits, Rule
from fabric.limits.spending import LONGEST, MOST_TOLD, Spent, Standing
from fabric.limits.tidy import tidy
from fabric_sdk.contracts.errors import Overloaded

MOST_BUCKETS: Final = 100_000
"""Beyond them, newcomers share one bucket for each limit: a flood of made-up clients gets what one client gets."""
MOST_PLANS: Final = 100_000

LOCKED_OUT: Final = "lockout"


class TooManyCalls(Overloaded):
    """More calls than a limit lets through."""


@dataclass(frozen=True, slots=True)
class Limited:
    """Not now: HTTP 429 with `headers`, and `error` as the JSON-RPC error."""

    rule: str
    """The limit that is used up, or `lockout`."""
    retry_after: int
    """Seconds, 1 or more."""
    headers: tuple[Header, ...]
    """`Retry-After`, and where it is a limit what the draft has to say of it."""

    @property
    def error(self) -> TooManyCalls:
        """The refusal, in words."""
        what = "locked out after too many refusals" if self.rule == LOCKED_OUT else f"the limit {self.rule} is used up"
        return TooManyCalls(
            what,
            fix=f"try again in {self.retry_after} s",
            data={"rule": self.rule, "retryAfter": self.retry_after},
        )


class Permit:
    """Leave for one call, from `take` until `release`."""

    __slots__ = ("_buckets", "_midnight")

    def __init__(self, buckets: tuple[Bucket, ...], midnight: float) -> None:
        self._buckets = buckets
        self._midnight = midnight

    def headers(self, now: float) -> tuple[Header, ...]:
        """What the draft has to say of the tightest limit; nothing once it is released."""
        return headers(self._buckets, now, self._midnight)

    def release(self) -> None:
        """The call has ended, however it did. Again: nothing."""
        for bucket in self._buckets:
            bucket.running -= 1
        self._buckets = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What is told to the registry in one go: the same again until it is answered."""

    number: int
    spent: list[Spent]
    buckets: list[Bucket]
    day: int
    at: float


class Limiter:
    """The limits of one gateway."""

    def __init__(self, limits: Limits, now: float, unix: float) -> None:
        self._rules = limits.rules
        self._lockouts = Lockouts(limits.lockout)
        self._buckets: dict[str, Bucket] = {}
        self._plans: dict[tuple[str, str, str], tuple[Bucket, ...]] = {}
        self._crowd = tuple(Bucket(rule, f"{rule.name}:*") for rule in limits.rules)
        self._changed: list[Bucket] = []
        self._report: Report | None = None
        self._reports = 0
        self._day = -1
        self._midnight = 0.0
        self.tick(now, unix)

    @property
    def size(self) -> int:
        """How much is kept; bounded."""
        return len(self._buckets) + len(self._plans) + len(self._lockouts)

    def change(self, limits: Limits) -> None:
        """Hold to other limits from now on. What was used of a limit stays used, as long as it keeps its name."""
        buckets = {name: bucket for name, bucket in self._buckets.items() if _carried_over(bucket, limits.rules)}
        crowd = {bucket.rule.name: bucket for bucket in self._crowd if _carried_over(bucket, limits.rules)}
        self._rules = limits.rules
        self._lockouts.change(limits.lockout)
        self._buckets = buckets
        self._crowd = tuple(crowd.get(rule.name) or Bucket(rule, f"{rule.name}:*") for rule in limits.rules)
        self._plans.clear()

    def take(self, client: str, agent: str, tool: str, now: float) -> Permit | Limited:
        """Leave for one call of `client`, or why not. Nothing is used by a call that is refused.

        Args:
            client: the principal: whoever has many tokens is still one client.
            agent: whose tool it is.
            tool: as the client calls it.
            now: seconds.
        """
        if left := self._lockouts.left(client, now):
            return _locked(left)
        buckets = self._plans.get((client, agent, tool))
        if buckets is None:
            buckets = self._plan(client, agent, tool)
        for bucket in buckets:
            if bucket.free > now + bucket.slack or bucket.running >= bucket.concurrency or bucket.today >= bucket.daily:
                return self._refuse(client, buckets, now)
        for bucket in buckets:
            free = bucket.free
            bucket.free = (free if free > now else now) + bucket.period
            bucket.running += 1
            bucket.today += 1
            if not bucket.unsent:
                bucket.first = now
                self._changed.append(bucket)
            bucket.unsent += 1
        return Permit(buckets, self._midnight)

    def strike(self, key: str, now: float) -> None:
        """Count a wrong token against `key`, such as a remote address; too many lock it out."""
        self._lockouts.strike(key, now)

    def locked(self, key: str, now: float) -> Limited | None:
        """Why `key` is not to be looked at now, if it is locked out."""
        left = self._lockouts.left(key, now)
        return _locked(left) if left else None

    def tick(self, now: float, unix: float) -> None:
        """Look after the day, and forget what is idle. Several times a second.

        Args:
            now: as ever.
            unix: Unix time in seconds, which may be set back and forth.
        """
        day = int(unix // DAY)
        self._midnight = now + (day + 1) * DAY - unix
        if day != self._day:
            self._day = day
            for bucket in (*self._buckets.values(), *self._crowd):
                bucket.today = 0
        self._lockouts.tidy(now)
        if tidy(self._buckets, lambda bucket: bucket.idle(now)):
            self._plans.clear()  # they hold the buckets that were forgotten

    def report(self, now: float) -> Report | None:
        """What the other gateways have to know: the same as before, until `settle`; `None` if there is nothing."""
        if self._report is None and self._changed:
            changed, self._changed = self._changed[:MOST_TOLD], self._changed[MOST_TOLD:]
            buckets = [bucket for bucket in changed if bucket.shared]
            spent = [self._spent(bucket, now) for bucket in buckets]
            for bucket in changed:
                bucket.unsent = 0
            if buckets:
                self._reports += 1
                self._report = Report(self._reports, spent, buckets, self._day, now)
        return self._report

    def settle(self, standings: Sequence[Standing]) -> None:
        """Take in what came back to the last report: what all gateways together have used.

        Raises:
            ValueError: it is not an answer to this report, which is told again.
        """
        if (report := self._report) is None:
            return
        for bucket, standing in zip(report.buckets, standings, strict=True):
            bucket.free = max(bucket.free, report.at + standing.ahead + bucket.unsent * bucket.period)
            if report.day == self._day:
                bucket.today = max(bucket.today, standing.used + bucket.unsent)
        self._report = None

    def _spent(self, bucket: Bucket, now: float) -> Spent:
        # What nobody could be told in time is forgiven: those who come after an outage do not pay for it.
        age = min(now - bucket.first, LONGEST)
        seconds = min(bucket.unsent * bucket.period, bucket.rule.burst * bucket.period + age)
        uses = min(bucket.unsent, bucket.today)  # without those of yesterday
        return Spent(
            bucket=bucket.name,
            age=age,
            seconds=seconds,
            day=self._day if bucket.daily < inf else None,
            uses=uses,
            known=bucket.today - uses,
        )

    def _plan(self, client: str, agent: str, tool: str) -> tuple[Bucket, ...]:
        whose = {"client": client, "agent": agent, "tool": tool}
        buckets = tuple(
            self._bucket(rule, whose[rule.per], crowd)
            for rule, crowd in zip(self._rules, self._crowd, strict=True)
            if rule.matches(client, agent, tool)
        )
        if len(self._plans) >= MOST_PLANS:
            self._plans.clear()
        self._plans[client, agent, tool] = buckets
        return buckets

    def _bucket(self, rule: Rule, whose: str, crowd: Bucket) -> Bucket:
        # A digest, as names may be of any length and kind, and are nobody's business in Redis.
        digest = blake2b(whose.encode(errors="surrogatepass"), digest_size=12).hexdigest()
        name = f"{rule.name}:{digest}"
        if (bucket := self._buckets.get(name)) is None:
            if len(self._buckets) >= MOST_BUCKETS:
                return crowd
            bucket = self._buckets[name] = Bucket(rule, name)
        return bucket

    def _refuse(self, client: str, buckets: tuple[Bucket, ...], now: float) -> Limited:
        waits = [(bucket.wait(now, self._midnight), bucket) for bucket in buckets]
        wait, worst = max(waits, key=lambda each: each[0])
        if worst.rule.per == "client":  # that others use up a tool is nobody's fault
            self._lockouts.strike(client, now)
        seconds = max(ceil(wait), 1)
        return Limited(worst.rule.name, seconds, (_retry(seconds), *headers((worst,), now, self._midnight)))


def _carried_over(bucket: Bucket, rules: Sequence[Rule]) -> bool:
    """Have a bucket count by the rule of its name, if there still is one for the same."""
    rule = next((rule for rule in rules if (rule.name, rule.per) == (bucket.rule.name, bucket.rule.per)), None)
    if rule is not None:
        bucket.change(rule)
    return rule is not None


def _locked(left: float) -> Limited:
    seconds = max(ceil(left), 1)
    return Limited(LOCKED_OUT, seconds, (_retry(seconds),))


def _retry(seconds: int) -> Header:
    return b"retry-after", b"%d" % seconds
