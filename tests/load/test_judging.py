"""What a load test concludes from what it measured. The load itself is `make load`, too long for a suite.

Proves: OP-6 (load tests: their verdict), OP-7 (misses are told)
"""

from __future__ import annotations

import random
import tomllib

import pytest
from docs.pages import ROOT
from hypothesis import given
from hypothesis import strategies as st

from loadtests.judging import Figures, Target, misses, percentile, read, trend

TIMES = st.dictionaries(st.floats(0, 10_000), st.integers(1, 1000), min_size=1)


def entry(method: str, name: str, times: dict[str, int], failed: int = 0) -> dict[str, object]:
    """A line of locust's, as it writes it."""
    asked = sum(times.values()) + failed
    return {"method": method, "name": name, "response_times": times, "num_requests": asked, "num_failures": failed}


def test_classes_are_read_one_by_one_and_all_together() -> None:
    found = read([entry("mcp", "modern", {"1": 90, "20": 10}), entry("task", "end", {"300": 10}, failed=2)], 10.0)
    assert set(found) == {"mcp.modern", "task.end", "all"}
    assert found["mcp.modern"] == Figures(requests=100, errors=0, rate=10.0, p50=1, p95=20, p99=20, longest=20)
    assert (found["all"].requests, found["all"].errors, found["all"].rate) == (112, 2, 11.0)
    assert (found["all"].p50, found["all"].p95, found["all"].longest) == (1, 300, 300)


@given(TIMES, st.floats(0.01, 1))
def test_a_percentile_is_a_time_that_so_many_did_not_exceed(times: dict[float, int], part: float) -> None:
    found, count = percentile(times, part), sum(times.values())
    assert found in times
    assert sum(many for ms, many in times.items() if ms <= found) >= part * count - 1e-6
    assert sum(many for ms, many in times.items() if ms < found) <= part * count


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(rate=2000), ["1000 requests/s, not 2000"]),
        (Target(p95=50), ["p95 60 ms, not 50"]),
        (Target(errors=0.0001), ["1 errors of 5000"]),
        (Target(rate=900, p95=100, errors=0.001), []),
    ],
)
def test_each_target_is_held(target: Target, words: list[str]) -> None:
    found = Figures(requests=5000, errors=1, rate=1000, p50=10, p95=60, p99=90, longest=200)
    allowed = target if target.errors else Target(rate=target.rate, p95=target.p95, errors=1)
    missed = misses("paced", found, allowed)
    assert len(missed) == len(words)
    assert all(word in said for word, said in zip(words, missed, strict=True))


def test_no_request_at_all_is_a_miss() -> None:
    nothing = Figures(requests=0, errors=0, rate=0, p50=0, p95=0, p99=0, longest=0)
    assert misses("mixed", nothing, Target())


@given(st.integers(0, 1000))
def test_a_leak_is_told_from_noise_and_from_a_start_that_settles(seed: int) -> None:
    chance = random.Random(seed)
    times = [10.0 * number for number in range(120)]
    noise = [(at, 100 + chance.uniform(-3, 3)) for at in times]
    settling = [(at, 100 + chance.uniform(-1, 1) + min(at, 200) / 5) for at in times]
    leaking = [(at, 100 + chance.uniform(-3, 3) + at / 20) for at in times]
    assert not trend(noise).is_up(least=16, part=0.1)
    assert not trend(settling).is_up(least=16, part=0.1)
    assert trend(leaking).is_up(least=16, part=0.1)
    assert trend(leaking).growth == pytest.approx(45, abs=8)


def test_a_line_of_too_few_points_or_without_change_is_not_up() -> None:
    assert not trend([]).is_up(least=0, part=0)
    assert not trend([(0.0, 1.0), (1.0, 9.0)]).is_up(least=0, part=0)
    assert not trend([(float(at), 5.0) for at in range(40)]).is_up(least=0, part=0)


def test_the_load_generator_stays_out_of_the_environment_that_tests_run_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert any(each.startswith("locust") for each in project["dependency-groups"]["load"])
    locked = (ROOT / "requirements/dev.txt").read_text()
    assert "\nlocust==" not in locked
    assert "\ngevent==" not in locked
    assert "--hash=sha256:" in (ROOT / "requirements/load.txt").read_text()
