"""The limiter by itself, at times that the tests make up: rate, burst, concurrency, day, headers, bounds on memory.

Proves: GW-8, SE-6 (limits for each client, tool and agent; told by the IETF draft's headers).
"""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.limits import limiter as module
from fabric.limits.bucket import DAY
from fabric.limits.rules import Limits, Lockout, Rule
from fabric.limits.spending import Standing
from limits.helpers import NOON, limiter, most_above, permitted, refused, take

STEPS = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.001, 0.01, 0.1, 1.0]), max_size=200)


def test_a_burst_goes_through_at_once_and_then_the_rate() -> None:
    limits = limiter(Rule("r", "client", 10.0, 5))
    assert [take(limits, 100.0) for _ in range(6)] == [True] * 5 + [False]
    assert not take(limits, 100.09)
    assert take(limits, 100.1)
    assert not take(limits, 100.1)
    assert [take(limits, 200.0) for _ in range(6)] == [True] * 5 + [False]


@settings(deadline=None)
@given(STEPS, st.sampled_from([0.5, 3.0, 100.0]), st.integers(1, 20))
def test_no_stretch_of_time_has_more_than_rate_and_burst_and_nobody_is_refused_early(
    steps: list[float], rate: float, burst: int
) -> None:
    limits = limiter(Rule("r", "client", rate, burst))
    now, let_through, tokens = 1000.0, list[float](), float(burst)
    for step in steps:
        now += step
        tokens = min(tokens + step * rate, burst)
        passed = take(limits, now)
        if abs(tokens - 1) > 0.01:  # else rounding may decide either way
            assert passed == (tokens > 1)
        if passed:
            let_through.append(now)
            tokens -= 1
    assert most_above(let_through, rate) <= burst + 0.01


@settings(deadline=None)
@given(STEPS, st.sampled_from([0.5, 3.0, 100.0]), st.integers(1, 20))
def test_who_waits_as_told_is_let_through(steps: list[float], rate: float, burst: int) -> None:
    limits = limiter(Rule("r", "client", rate, burst, daily=1000))
    now = 1000.0
    for step in steps:
        now += step
        if not take(limits, now):
            now += refused(limits, now).retry_after
            assert take(limits, now)


def test_each_client_tool_and_agent_has_its_own() -> None:
    limits = limiter(Rule("r", "client", 1.0, 1))
    assert take(limits, 0.0, client="ann")
    assert take(limits, 0.0, client="bob")
    assert not take(limits, 0.0, client="ann", agent="other", tool="other_tool")
    limits = limiter(Rule("r", "tool", 1.0, 1), Rule("s", "agent", 1.0, 2))
    assert take(limits, 0.0, tool="shop_buy")
    assert not take(limits, 0.0, client="bob", tool="shop_buy")
    assert take(limits, 0.0, tool="shop_sell")
    assert not take(limits, 0.0, tool="shop_third"), "the agent's calls are used up"
    assert take(limits, 0.0, agent="other", tool="other_tool")


def test_what_one_limit_refuses_uses_nothing_of_the_others() -> None:
    limits = limiter(Rule("wide", "client", 1.0, 3), Rule("narrow", "tool", 1.0, 1, tools=("narrow",)))
    assert take(limits, 0.0, tool="narrow")
    assert not any(take(limits, 0.0, tool="narrow") for _ in range(10))
    assert [take(limits, 0.0, tool="other") for _ in range(3)] == [True, True, False]


def test_calls_in_hand_are_counted_until_they_end_and_each_end_counts_once() -> None:
    limits = limiter(Rule("r", "client", concurrency=2))
    first, second = permitted(limits, 0.0), permitted(limits, 0.0)
    told = refused(limits, 0.0)
    assert (told.rule, told.retry_after) == ("r", 1)
    first.release()
    first.release()
    third = permitted(limits, 0.0)
    refused(limits, 0.0)
    third.release()
    second.release()
    assert take(limits, 0.0)


def test_a_day_ends_at_midnight_and_a_clock_that_is_set_changes_only_that() -> None:
    limits = limiter(Rule("r", "client", daily=2))
    assert [take(limits, 0.0) for _ in range(3)] == [True, True, False]
    assert refused(limits, 100.0).retry_after == DAY / 2 - 100
    limits.tick(DAY / 2 - 1, NOON + DAY / 2 - 1)
    assert refused(limits, DAY / 2 - 1).retry_after == 1
    limits.tick(DAY / 2, NOON + DAY / 2)
    assert [take(limits, DAY / 2) for _ in range(3)] == [True, True, False]
    limits.tick(DAY / 2, NOON + DAY / 2 + 3600)
    assert refused(limits, DAY / 2).retry_after == DAY - 3600


def test_of_several_limits_the_one_that_takes_longest_is_told() -> None:
    limits = limiter(Rule("second", "client", 1.0, 1), Rule("minute", "client", 1 / 60, 1))
    assert take(limits, 0.0)
    told = refused(limits, 0.0)
    assert (told.rule, told.retry_after) == ("minute", 60)
    error = told.error
    assert (error.code, error.retryable, error.started) == (4290, True, False)
    assert str(error) == "the limit minute is used up (try again in 60 s)"
    assert error.data == {"rule": "minute", "retryAfter": 60}


@pytest.mark.parametrize(
    ("rule", "used", "headers"),
    [
        (Rule("r", "client", 100.0, 250), 1, ('"r";q=250;w=3', '"r";r=249;t=1')),
        (Rule("r", "client", 1 / 60, 5), 2, ('"r";q=5;w=300', '"r";r=3;t=60')),
        (Rule("r", "client", daily=10), 4, ('"r-daily";q=10;w=86400', '"r-daily";r=6;t=43200')),
        (
            Rule("r", "client", concurrency=4),
            3,
            ('"r-concurrency";q=4;qu="concurrent-requests"', '"r-concurrency";r=1'),
        ),
        (Rule("r", "client", 10.0, 100, 4, 1000), 2, ('"r-concurrency";q=4;qu="concurrent-requests"', None)),
    ],
)
def test_the_tightest_limit_stands_in_the_headers(rule: Rule, used: int, headers: tuple[str, str | None]) -> None:
    limits = limiter(rule, Rule("wide", "agent", 1e6, 1_000_000))
    for _ in range(used - 1):
        permitted(limits, 0.0)
    said = dict(permitted(limits, 0.0).headers(0.0))
    assert said[b"ratelimit-policy"].decode() == headers[0]
    assert headers[1] in (None, said[b"ratelimit"].decode())


def test_a_refusal_says_when_to_come_again_and_that_nothing_is_left() -> None:
    limits = limiter(Rule("r", "client", 1 / 60, 1), Rule("wide", "client", 1e6, 1_000_000))
    assert take(limits, 0.0)
    assert refused(limits, 0.5).headers == (
        (b"retry-after", b"60"),
        (b"ratelimit-policy", b'"r";q=1;w=60'),
        (b"ratelimit", b'"r";r=0;t=60'),
    )


def test_without_limits_everything_goes_through_and_nothing_is_said() -> None:
    permit = permitted(limiter(), 0.0)
    assert permit.headers(0.0) == ()
    permit.release()


def test_what_is_idle_is_forgotten_and_what_is_not_is_kept() -> None:
    limits = limiter(Rule("r", "client", 1.0, 2, 2), Rule("s", "tool", daily=2, tools=("daily",)))
    running = permitted(limits, 0.0, client="running")
    take(limits, 0.0, client="idle")
    take(limits, 0.0, client="idle", tool="daily")
    limits.report(0.0)
    before = limits.size
    limits.tick(0.5, NOON + 0.5)
    assert limits.size == before, "all are still filling up"
    limits.tick(10.0, NOON + 10)
    assert limits.size == 2, "what runs, and what the day counts"
    running.release()
    assert take(limits, 10.0, client="running")
    assert take(limits, 10.0, client="late", tool="daily")
    assert not take(limits, 10.0, client="late", tool="daily")


def test_a_flood_of_made_up_clients_gets_no_more_than_one_and_fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BUCKETS", 100)
    monkeypatch.setattr(module, "MOST_PLANS", 100)
    limits = limiter(Rule("r", "client", 1.0, 5))
    assert [take(limits, 0.0, client="real") for _ in range(2)] == [True, True]
    assert sum(take(limits, 0.0, client=f"made-up-{number}") for number in range(5000)) == 99 + 5
    assert limits.size <= 200
    assert [take(limits, 0.0, client="real") for _ in range(4)] == [True] * 3 + [False]
    limits.report(0.0)
    limits.tick(60.0, NOON + 60)
    assert [take(limits, 60.0, client="late") for _ in range(6)] == [True] * 5 + [False], "there is room again"


@pytest.mark.parametrize("name", ["", "\x00", "\ud800", "a b\r\nretry-after: 0", "x" * 100_000, "*", "ü:☃"])
def test_any_name_is_a_name(name: str) -> None:
    limits = limiter(Rule("r", "client", 1.0, 1), Rule("s", "tool", inf, daily=1))
    assert take(limits, 0.0, client=name, tool=name)
    assert not take(limits, 0.0, client=name, tool=name)
    report = limits.report(0.0)
    assert report is not None
    assert all(spent.bucket.isascii() and len(spent.bucket) < 100 for spent in report.spent)


def test_an_answer_counts_beside_what_was_used_while_it_was_on_its_way() -> None:
    limits = limiter(Rule("r", "client", 1.0, 10, daily=13))
    assert take(limits, 0.0)
    report = limits.report(0.0)
    assert report is not None
    assert [(spent.seconds, spent.uses) for spent in report.spent] == [(1.0, 1)]
    assert [take(limits, 0.0) for _ in range(3)] == [True] * 3
    assert limits.report(0.0) is report, "the same until it is answered"
    limits.settle([Standing(ahead=6.0, used=8)])
    assert [take(limits, 0.0) for _ in range(2)] == [True, False]
    assert [take(limits, 100.0) for _ in range(2)] == [True, False], "13 of the day: 8 in all, 3 on the way, 2 since"


def test_an_answer_for_yesterday_says_nothing_of_today() -> None:
    limits = limiter(Rule("r", "client", daily=2))
    running = permitted(limits, 0.0)
    assert limits.report(0.0) is not None
    limits.tick(1.0, NOON + DAY)
    limits.settle([Standing(ahead=0.0, used=2)])
    assert [take(limits, 1.0) for _ in range(3)] == [True, True, False]
    running.release()


def test_an_answer_that_does_not_fit_is_none() -> None:
    limits = limiter(Rule("r", "client", daily=2))
    assert take(limits, 0.0)
    report = limits.report(0.0)
    with pytest.raises(ValueError, match="argument"):
        limits.settle([])
    assert limits.report(1.0) is report


def test_uses_of_yesterday_are_told_for_the_rate_alone() -> None:
    limits = limiter(Rule("r", "client", 1.0, 10, daily=5))
    assert [take(limits, 0.0) for _ in range(4)] == [True] * 4
    limits.tick(0.1, NOON + DAY)
    assert take(limits, 0.1)
    report = limits.report(0.1)
    assert report is not None
    (spent,) = report.spent
    assert (spent.seconds, spent.uses, spent.known, spent.day) == (5.0, 1, 0, int(NOON // DAY) + 1)


def test_other_limits_hold_at_once_and_what_was_used_stays_used_under_the_same_name() -> None:
    limits = limiter(Rule("r", "client", 1.0, 2), Rule("c", "client", concurrency=1))
    held = permitted(limits, 100.0)
    assert refused(limits, 100.0).rule == "c"
    limits.change(Limits((Rule("r", "client", 1.0, 3),), None))
    assert [take(limits, 100.0) for _ in range(3)] == [True, True, False], "one of the three was used before"
    limits.change(Limits((Rule("r", "tool", 1.0, 1), Rule("c", "client", concurrency=1)), None))
    assert [take(limits, 100.0) for _ in range(2)] == [True, False], "what another is counted for begins anew"
    limits.change(Limits())
    assert all(take(limits, 100.0) for _ in range(9))
    held.release()


def test_without_a_lockout_nobody_is_locked_out_any_more() -> None:
    limits = limiter(lockout=Lockout(after=1, within=60, seconds=60, longest=60))
    limits.strike("10.0.0.1", 100.0)
    assert limits.locked("10.0.0.1", 100.0)
    limits.change(Limits())
    assert limits.locked("10.0.0.1", 100.0) is None
