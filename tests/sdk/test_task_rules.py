"""What becomes of a task, as pure decisions: whether it runs, when again, and whose turn it is.

Proves: MB-2, MB-4, MB-6, MB-8.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, stated
from fabric_sdk.contracts.errors import ConfigurationError, FabricError, InvalidParams, Reject, Retry, UnencodableResult
from fabric_sdk.contracts.scope import Effects
from fabric_sdk.contracts.task import (
    ENDS,
    POLICY_META,
    PRIORITIES,
    Policy,
    Priority,
    Record,
    keyed_task_id,
    largest_params,
    new_task_id,
)
from fabric_sdk.patterns.schedule import pattern_of
from fabric_sdk.routing.tasks import WEIGHTS, Given, Seen, Turns, after_failure, decide, judge

NOW = 1_000.0
SUBJECT = subjects.record("crew", "id")
FIVE = Policy(attempts=5)

policies = st.builds(
    Policy,
    attempts=st.integers(1, 50),
    first_wait=st.floats(0, 100),
    longest_wait=st.floats(0, 1000),
    timeout=st.floats(0.1, 10_000),
    retry_on=st.lists(st.text(max_size=8), max_size=3).map(tuple),
    silence=st.none() | st.floats(0.1, 100),
)
names = st.text(st.characters(codec="utf-8"), max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
states = st.sampled_from(["queued", "running", "completed", "dead", "cancelled", "expired"])
records = st.builds(
    Record,
    id=st.just("id"),
    agent=st.just("crew"),
    tool=names,
    state=states,
    queued=st.floats(0, 1e10),
    changed=st.floats(0, 1e10),
    priority=st.sampled_from(PRIORITIES),
    origin=st.integers(0, 2**53),
    attempt=st.integers(0, 100),
    returned=st.integers(0, 100),
    given=st.integers(0, 100),
    keep=st.floats(1, 1e6),
    expires=st.none() | st.floats(0, 1e10),
    saved=st.lists(json_values, max_size=1),
    steps=st.dictionaries(names, json_values, max_size=3),
    result=st.none() | st.dictionaries(names, json_values, min_size=1, max_size=3),
)


def standing(state: str, *, origin: int = 7, attempt: int = 1, returned: int = 0) -> Record:
    """A record that says so."""
    return Record("id", "crew", state=cast("Any", state), origin=origin, attempt=attempt, returned=returned)


@dataclass
class Point:
    """What orjson writes by itself."""

    x: float
    label: str | None


# judge


@pytest.mark.parametrize(
    ("record", "given", "verdict"),
    [
        pytest.param(None, Given(7, 1), "run", id="new"),
        pytest.param(None, Given(7, 5), "run", id="last attempt"),
        pytest.param(None, Given(7, 6), "bury", id="too many lost workers"),
        pytest.param(None, Given(7, 1, expires=NOW), "expire", id="expired"),
        pytest.param(None, Given(7, 1, expires=NOW + 1), "run", id="not expired yet"),
        pytest.param(None, Given(7, 9, expires=NOW), "expire", id="expired and delivered often"),
        pytest.param(standing("queued", attempt=0, returned=1), Given(7, 2, expires=NOW), "expire", id="never begun"),
        pytest.param(standing("queued"), Given(7, 2, expires=NOW), "run", id="begun in time"),
        pytest.param(standing("running", attempt=2), Given(7, 3), "run", id="its worker was lost"),
        pytest.param(standing("running", attempt=3), Given(7, 2), "leave", id="a later attempt has it"),
        pytest.param(standing("running", attempt=3), Given(7, 3), "run", id="its consumer was made anew"),
        pytest.param(standing("queued", attempt=3), Given(7, 1), "run", id="nobody has it"),
        pytest.param(standing("running", returned=3), Given(7, 8), "run", id="returned ones do not count"),
        pytest.param(standing("running", returned=3), Given(7, 9), "bury", id="nor save from the end"),
        pytest.param(standing("running", origin=3), Given(7, 1), "look", id="another message brought it"),
        pytest.param(standing("queued", origin=0, attempt=0), Given(7, 1), "run", id="of no message yet"),
        pytest.param(standing("dead"), Given(8, 1, redriven=True), "run", id="redriven"),
        pytest.param(standing("dead"), Given(7, 1, redriven=True), "drop", id="dead again, and delivered again"),
        pytest.param(standing("dead"), Given(8, 1), "drop", id="its key was started again"),
        pytest.param(standing("completed"), Given(8, 1, redriven=True), "drop", id="redriven and done"),
    ],
)
def test_what_is_done_with_a_delivery(record: Record | None, given: Given, verdict: str) -> None:
    assert judge(record, given, FIVE, NOW) == verdict


@given(states, st.builds(Given, st.integers(1), st.integers(1), expires=st.none() | st.floats(0, 2 * NOW)), policies)
def test_what_has_ended_never_runs_again_by_itself(state: str, given: Given, policy: Policy) -> None:
    if state in ENDS:
        assert judge(standing(state), given, policy, NOW) == "drop"


# decide


UNREADABLE = errors.UnreadableRecord("what is on record cannot be read")
ELSEWHERE = standing("running", origin=3)


@pytest.mark.parametrize(
    ("seen", "given", "decision"),
    [
        pytest.param(Seen(), Given(7, 1), "run", id="nobody else can have it"),
        pytest.param(Seen(), Given(7, 1, contested=True), "claim", id="another message may bring it"),
        pytest.param(Seen(), Given(7, 2), "claim", id="given before, though nothing was written"),
        pytest.param(Seen(), Given(7, 1, redriven=True), "claim", id="redriven, and its record is gone"),
        pytest.param(Seen(), Given(7, 1, round=1), "claim", id="answered, and its record is gone"),
        pytest.param(Seen(standing("queued"), 4), Given(7, 1), "claim", id="the server counts anew"),
        pytest.param(Seen(standing("completed"), 4), Given(7, 2), "drop", id="done, and not acknowledged"),
        pytest.param(Seen(standing("running", attempt=3), 4), Given(7, 2), "leave", id="a later attempt has it"),
        pytest.param(Seen(), Given(7, 1, expires=NOW, contested=True), "expire", id="too late: nothing is claimed"),
        pytest.param(Seen(), Given(7, 6), "bury", id="too many lost workers: nothing is claimed"),
        pytest.param(Seen(place=4, unreadable=UNREADABLE), Given(7, 1), "bury", id="a person is to decide"),
        pytest.param(Seen(ELSEWHERE, 4), Given(7, 1), "look", id="another message brought it"),
        pytest.param(Seen(ELSEWHERE, 4, led=True), Given(7, 1), "drop", id="and still does"),
        pytest.param(Seen(ELSEWHERE, 4, led=False), Given(7, 1), "claim", id="and is gone"),
    ],
)
def test_what_a_worker_does_with_a_task_it_was_given(seen: Seen, given: Given, decision: str) -> None:
    assert decide(seen, given, FIVE, NOW) == decision


@given(
    st.builds(Seen, st.none() | records, st.integers(0, 9), st.none() | st.just(UNREADABLE), st.none() | st.booleans()),
    st.builds(
        Given, st.integers(1), st.integers(1, 9), st.booleans(), st.none() | st.floats(0, 2 * NOW), st.integers(0, 3)
    ),
    policies,
)
def test_nothing_runs_unclaimed_that_another_may_have(seen: Seen, given: Given, policy: Policy) -> None:
    decision = decide(seen, given, policy, NOW)
    assert decision != "run" or (given.alone and not given.contested and not seen.place)
    assert decision != "look" or seen.led is None, "once somebody has looked, it is decided"


# after a failure


@given(st.integers(1, 100), policies)
def test_the_last_attempt_is_the_last_whatever_it_raised(attempt: int, policy: Policy) -> None:
    if attempt >= policy.attempts:
        assert after_failure(Retry(after=0), attempt, policy) is None


@pytest.mark.parametrize("hopeless", [Reject(), InvalidParams(), UnencodableResult(), errors.UnknownName()])
def test_what_would_end_the_same_way_is_not_tried_again(hopeless: FabricError) -> None:
    assert after_failure(hopeless, 1, FIVE) is None


def test_a_tool_says_itself_when_it_is_tried_again() -> None:
    assert after_failure(Retry(after=0), 1, FIVE) == 0.0
    assert after_failure(Retry(after=7.5), 1, FIVE) == 7.5
    assert after_failure(Retry(after=-1), 1, FIVE) == 0.0
    assert after_failure(Retry(), 3, Policy(first_wait=0.5)) == 2.0
    assert after_failure(Retry(after=0), 1, Policy(retry_on=("KeyError",))) == 0.0


@pytest.mark.parametrize(
    ("failure", "names", "again"),
    [
        (KeyError(), ("KeyError",), True),
        (KeyError(), ("LookupError",), True),
        (KeyError(), ("ValueError", "OSError"), False),
        (errors.DeadlineExceeded(), ("Exception",), True),
        (SystemExit(), ("Exception",), False),
        (KeyError(), (), False),
    ],
    ids=["itself", "its kind", "others", "ours", "no exception", "none"],
)
def test_what_is_tried_again_goes_by_name(failure: BaseException, names: tuple[str, ...], again: bool) -> None:
    assert (after_failure(failure, 1, Policy(retry_on=names)) is not None) is again


@given(policies, st.integers(1, 10_000))
def test_waits_grow_to_their_bound(policy: Policy, attempt: int) -> None:
    wait = policy.wait_after(attempt)
    assert 0 <= wait <= policy.longest_wait
    assert policy.wait_after(attempt + 1) >= wait


# turns


def served(turns: Turns, count: int, *having: Priority) -> list[Priority]:
    """Who is served, of classes that never run dry."""
    waiting: dict[Priority, int] = dict.fromkeys(having, 1)
    return [cast("Priority", turns.next(waiting)) for _ in range(count)]


def test_each_class_has_its_share_while_all_wait() -> None:
    total = sum(WEIGHTS.values())
    assert Counter(served(Turns(), 10 * total, *PRIORITIES)) == {each: 10 * weight for each, weight in WEIGHTS.items()}


@given(st.lists(st.sets(st.sampled_from(PRIORITIES)), max_size=60))
def test_no_class_starves_and_none_is_served_that_has_nothing(before: list[set[Priority]]) -> None:
    turns = Turns()
    for having in before:
        chosen = turns.next(dict.fromkeys(having, 3))
        assert chosen in having if having else chosen is None
    assert set(served(turns, 200 + 85 * len(before), *PRIORITIES)) == set(PRIORITIES)


def test_a_user_sets_the_weights() -> None:
    turns = Turns({"critical": 1, "high": 1, "normal": 1, "low": 3})
    assert Counter(served(turns, 40, "critical", "low")) == {"low": 30, "critical": 10}


def test_a_class_that_comes_late_is_served_next() -> None:
    turns = Turns()
    served(turns, 1000, "low")
    assert served(turns, 1, "critical", "low") == ["critical"]


# policies


@given(policies)
def test_a_policy_comes_back_from_a_tools_description(policy: Policy) -> None:
    described = Body({"name": "x", "_meta": {POLICY_META: policy.meta()}})
    assert Policy.of(Body(encoded=described.encoded()).value()) == policy


@pytest.mark.parametrize(
    "stated", [None, 3, [], {}, {"attempts": 0}, {"attempts": "x"}, {"retry_on": 3}, {"timeout": -1}, {"silence": "x"}]
)
def test_a_policy_that_cannot_be_read_is_the_usual_one(stated: Any) -> None:
    assert Policy.of({"_meta": {POLICY_META: stated}}) == Policy()


def test_one_exception_to_try_again_after_needs_no_list() -> None:
    assert Policy.of({"_meta": {POLICY_META: {"retry_on": "TimeoutError"}}}) == Policy(retry_on=("TimeoutError",))


def test_a_policy_that_cannot_be_read_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    name = uuid4().hex
    for said in ({"attempts": 0}, {"attempts": 0}, 3, 3, None, {"attempts": 1}):
        Policy.of({"name": name, "_meta": {POLICY_META: said}})
    assert [name in record.getMessage() for record in caplog.records] == [True, True]


def test_what_a_newer_version_states_is_passed_over() -> None:
    assert Policy.of({"_meta": {POLICY_META: {"attempts": 2, "moon": "full"}}}) == Policy(attempts=2)


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"timeout": 0}, {"first_wait": -1}, {"longest_wait": -1}, {"silence": 0}], ids=str
)
def test_a_policy_without_an_attempt_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Policy(**wrong)


# records


@given(records)
def test_a_record_comes_back_as_it_was_stored(record: Record) -> None:
    assert Record.of(SUBJECT, Body(encoded=record.body().encoded())) == record


def test_a_result_is_stored_as_the_bytes_that_it_is() -> None:
    assert Record.of(SUBJECT, Record("id", "crew", result=b'{"x":1}').body()).result == {"x": 1}


def test_a_newer_record_is_read() -> None:
    assert Record.of(SUBJECT, Body({"id": "id", "agent": "crew", "moon": "full"})) == Record("id", "crew")


@pytest.mark.parametrize("state", sorted(ENDS))
def test_only_what_was_never_begun_is_overdue(state: str) -> None:
    assert Record("a", "b", expires=NOW).overdue(NOW)
    assert not Record("a", "b", expires=NOW).overdue(NOW - 1)
    assert not Record("a", "b").overdue(NOW)
    assert not Record("a", "b", expires=NOW, attempt=1).overdue(NOW)
    assert not Record("a", "b", expires=NOW, state=cast("Any", state)).overdue(NOW)


@given(st.integers(1, 2**40))
def test_there_is_room_for_how_a_task_ends(most: int) -> None:
    assert 0 < largest_params(most) <= most


json_objects = st.dictionaries(st.sampled_from(list(Record.__slots__)), json_values | st.just("nan"), max_size=6)


@given(json_values | json_objects)
def test_what_is_stored_as_a_record_is_one_or_is_refused_in_words(stored: Any) -> None:
    try:
        record = Record.of(SUBJECT, Body(stored))
    except errors.UnreadableRecord:
        return
    assert (record.id, record.agent) == ("id", "crew")
    assert record.lasts > 0
    assert Record.of(SUBJECT, record.body()).body().encoded() == record.body().encoded()


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b"7",
        b'{"state":"lost"}',
        b'{"attempt":"x"}',
        b'{"returned":-9000000000000}',
        b'{"keep":"abc"}',
        b'{"keep":1e400}',
        b'{"parked":5}',
        b'{"parked":{"requests":{}}}',
        b'{"errors":[{"attempt":1}]}',
        b'{"steps":[]}',
        b'{"priority":["high"]}',
    ],
    ids=lambda stored: stored.decode(errors="replace"),
)
def test_a_broken_record_is_refused(stored: bytes) -> None:
    with pytest.raises(errors.UnreadableRecord):
        Record.of(SUBJECT, Body(encoded=stored))


def test_whose_a_record_is_its_subject_says() -> None:
    record = Record.of(SUBJECT, Body({"id": "other", "agent": "durable"}))
    assert (record.id, record.agent) == ("id", "crew")


# numbers


@pytest.mark.parametrize("text", [None, "", "abc", "nan", "inf", "-inf", "1e999"])
def test_what_is_no_number_in_a_header_is_passed_over(text: str | None) -> None:
    assert subjects.number(text) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_a_header(value: float) -> None:
    assert subjects.number(str(value)) == value


@given(st.floats())
def test_a_tool_waits_for_its_next_attempt_within_bounds(after: float) -> None:
    wait = after_failure(Retry(after=after), 1, FIVE)
    assert wait is not None
    assert 0 <= wait <= 7 * 86_400


# what is to be kept


@pytest.mark.parametrize(
    "value",
    [2**64, "\ud83d", math.nan, {"a": [1.5, math.inf]}, {1: 2}, object(), Point(math.nan, None)],
    ids=lambda value: repr(value)[:20],
)
def test_what_has_no_json_form_is_refused_in_words(value: Any) -> None:
    with pytest.raises(InvalidParams, match=r"^it has no JSON form: .*lists and dicts"):
        stated("it", {"value": value, "nothing": None})


@given(json_values)
def test_what_has_a_json_form_is_stated(value: Any) -> None:
    assert Body(encoded=stated("it", value).encoded()).value() == value


# names


def test_a_key_names_one_task_of_one_agent_and_principal() -> None:
    told = [("crew", "k", None), ("crew", "k", "ann"), ("crew", "k2", None), ("other", "k", None), ("crew", "", "k")]
    ids = [keyed_task_id(*each) for each in told]
    assert len(set(ids)) == len(told)
    assert ids == [keyed_task_id(*each) for each in told]
    assert new_task_id() != new_task_id()


def test_the_same_effects_have_the_same_names_in_each_attempt() -> None:
    first, again, other = Effects("a"), Effects("a"), Effects("b")
    names = [first.name("start", "x"), first.name("start", "x"), first.name("start", "y")]
    assert len({*names, other.name("start", "x")}) == 4
    assert [again.name("start", "y"), again.name("start", "x"), again.name("start", "x")] == [names[2], *names[:2]]


@pytest.mark.parametrize(
    ("said", "pattern"),
    [
        ("every 90s", "@every 90s"),
        (" every 2h ", "@every 2h"),
        ("30 9 * * 1-5", "0 30 9 * * 1-5"),
        ("15 30 9 * * 1-5", "15 30 9 * * 1-5"),
        ("@daily", "@daily"),
        ("nonsense", "nonsense"),
    ],
    ids=str,
)
def test_schedules_in_natss_own_words(said: str, pattern: str) -> None:
    assert pattern_of(said) == pattern
