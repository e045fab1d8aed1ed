"""When a process is restarted. Proves: RT-6 (restarts the dead, at a rate that does no harm)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fabric.process import RestartPolicy

seconds = st.floats(0.001, 1000)
share = st.floats(0, 1)
policies = st.builds(RestartPolicy, first=seconds, longest=seconds, jitter=share, steady=seconds)
failures = st.integers(1, 1_000_000)


@given(policies, failures, share)
def test_a_delay_is_never_negative_nor_longer_than_the_longest(
    policy: RestartPolicy, failed: int, chance: float
) -> None:
    assert 0 <= policy.delay(failed, chance) <= policy.longest


@given(policies, failures, share)
def test_each_failure_doubles_the_delay_until_it_is_the_longest(
    policy: RestartPolicy, failed: int, chance: float
) -> None:
    once, again = policy.delay(failed, chance), policy.delay(failed + 1, chance)
    doubled = min(2 * once, policy.longest * (1 - policy.jitter * chance))
    assert abs(again - doubled) <= 1e-9 * max(again, doubled)


@given(policies, failures, share)
def test_chance_takes_no_more_than_its_share_from_a_delay(policy: RestartPolicy, failed: int, chance: float) -> None:
    full = policy.delay(failed, 0.0)
    assert full * (1 - policy.jitter) <= policy.delay(failed, chance) * (1 + 1e-9) <= full * (1 + 2e-9)


@given(policies, st.integers(0, 1_000_000), st.floats(0, 1e6))
def test_failures_are_counted_until_a_process_has_stayed_up(policy: RestartPolicy, before: int, uptime: float) -> None:
    assert policy.failures(before, uptime) == (1 if uptime >= policy.steady else before + 1)


def test_the_first_restart_comes_at_once_and_the_last_never() -> None:
    policy = RestartPolicy()
    assert policy.delay(policy.failures(0, uptime=0.0), chance=0.0) <= 0.1
    assert policy.delay(10**9, chance=1.0) > 0
