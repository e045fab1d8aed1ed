"""Lock-out: who goes on being refused gets nothing for a while, each time for longer; nobody pays for others.

Proves: GW-8, SE-6 (abuse is locked out).
"""

from __future__ import annotations

import pytest

from fabric.limits import lockout as module
from fabric.limits.limiter import Limiter
from fabric.limits.rules import Lockout, Rule
from limits.helpers import NOON, limiter, permitted, refused, take

LOCKOUT = Lockout(after=3, within=10, seconds=20, longest=80)


@pytest.fixture
def limits() -> Limiter:
    return limiter(Rule("r", "client", 1.0, 1), Rule("t", "tool", 1 / 60, 1, tools=("rare",)), lockout=LOCKOUT)


def strike(limits: Limiter, now: float, times: int = 3, key: str = "address:1.2.3.4") -> None:
    for _ in range(times):
        limits.strike(key, now)


def left(limits: Limiter, now: float, key: str = "address:1.2.3.4") -> int:
    """Seconds for which it is locked out."""
    locked = limits.locked(key, now)
    return 0 if locked is None else locked.retry_after


def test_who_goes_on_being_refused_is_locked_out_whatever_is_asked_for(limits: Limiter) -> None:
    assert take(limits, 0.0)
    assert [refused(limits, 0.1).rule for _ in range(3)] == ["r"] * 3
    told = refused(limits, 0.1, tool="another")
    assert (told.rule, told.retry_after, told.headers) == ("lockout", 20, ((b"retry-after", b"20"),))
    assert str(told.error) == "locked out after too many refusals (try again in 20 s)"
    assert refused(limits, 19.5).retry_after == 1
    assert take(limits, 20.1)
    assert take(limits, 0.1, client="bob"), "it is the client's alone"


def test_refusals_over_a_long_time_do_no_harm(limits: Limiter) -> None:
    for now in range(0, 600, 6):
        assert take(limits, float(now))
        assert refused(limits, float(now)).rule == "r"


def test_what_others_used_up_is_held_against_nobody(limits: Limiter) -> None:
    assert take(limits, 0.0, client="bob", tool="rare")
    for second in range(1, 30):
        assert refused(limits, float(second), tool="rare").rule == "t"
    assert take(limits, 30.0)


def test_each_lock_out_is_twice_as_long_up_to_the_longest_and_good_behaviour_is_rewarded(limits: Limiter) -> None:
    now, lengths = 0.0, list[int]()
    for _ in range(5):
        strike(limits, now)
        lengths.append(left(limits, now))
        now += lengths[-1]
        assert left(limits, now) == 0
    assert lengths == [20, 40, 80, 80, 80]
    strike(limits, now + LOCKOUT.longest + 1)
    assert left(limits, now + LOCKOUT.longest + 1) == 20


def test_wrong_tokens_count_against_an_address(limits: Limiter) -> None:
    strike(limits, 0.0, 2)
    assert left(limits, 0.0) == 0
    strike(limits, 11.0, 2)
    assert left(limits, 11.0) == 0, "the first two were too long ago"
    strike(limits, 12.0, 1)
    assert left(limits, 12.0) == 20
    assert left(limits, 12.0, key="address:5.6.7.8") == 0
    strike(limits, 13.0, 100)
    assert left(limits, 13.0) == 19, "who is locked out already is not counted"


def test_without_a_rule_nobody_is_locked_out() -> None:
    limits = limiter(Rule("r", "client", 1.0, 1))
    permitted(limits, 0.0)
    for _ in range(1000):
        assert refused(limits, 0.0).rule == "r"
    strike(limits, 0.0, 1000)
    assert left(limits, 0.0) == 0


def test_what_is_remembered_is_bounded_and_forgotten_in_time(limits: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 50)
    for number in range(1000):
        strike(limits, 0.0, key=f"address:{number}")
    assert limits.size == 50
    limits.tick(20 + LOCKOUT.longest, NOON)
    assert limits.size == 50
    limits.tick(20 + LOCKOUT.longest + 1.0, NOON)
    assert limits.size == 0
