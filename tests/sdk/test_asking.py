"""Questions of a task, decided without a broker: what asks, what answers, and which message leads on from where.

Proves: PT-3
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.task import Parked, Policy, Record
from fabric_sdk.routing.asking import park, questions, resumed, take_answers, unpark
from fabric_sdk.routing.tasks import Given, judge

ASKED: dict[str, Any] = {
    "resultType": "input_required",
    "inputRequests": {"a": {"method": "x"}, "b.c": {"method": "y"}},
}
PARAMS = {"name": "tool", "arguments": {"n": 1}, "_meta": {}, "inputResponses": {"old": 1}, "requestState": "old"}


def parked(asked: dict[str, Any] = ASKED) -> tuple[Record, Parked]:
    """A task that has just asked."""
    record = Record("id", "agent", state="running", origin=7)
    park(record, asked, Body(PARAMS), {"Fab-Principal": "somebody"})
    assert record.parked is not None
    return record, record.parked


@pytest.mark.parametrize(
    ("result", "asks"),
    [
        (ASKED, True),
        ({**ASKED, "inputRequests": {}}, False),
        ({"resultType": "input_required", "requestState": "alone"}, False),
        ({"resultType": "complete", "content": [{"type": "text", "text": "input_required"}]}, False),
        (
            {"resultType": "complete", "structuredContent": {"said": ["input_required"]}, "inputRequests": {"a": 1}},
            False,
        ),
    ],
)
def test_only_a_result_with_requests_asks(result: dict[str, Any], asks: bool) -> None:
    assert (questions(orjson.dumps(result)) is not None) is asks


def test_what_is_parked_is_the_call_without_earlier_answers() -> None:
    record, waits = parked()
    assert (record.state, record.rounds, record.ended) == ("input_required", 1, False)
    assert waits["params"] == {"name": "tool", "arguments": {"n": 1}, "_meta": {}}
    assert waits["requests"] == {"1.a": {"method": "x"}, "1.b.c": {"method": "y"}}
    assert parked({**ASKED, "requestState": "new"})[1]["params"]["requestState"] == "new"
    assert Record.of(subjects.record("agent", "id"), record.body()) == record


def test_a_key_names_one_question_for_the_task_s_life() -> None:
    record, first = parked()
    park(record, ASKED, Body(PARAMS), {})
    assert record.parked is not None
    assert not record.parked["requests"].keys() & first["requests"].keys()


def test_answers_are_taken_to_what_is_open_and_once() -> None:
    record, waits = parked()
    assert not take_answers(record, {"a": 1, "2.a": 1, "1.z": 1})
    assert take_answers(record, {"1.b.c": "yes", "1.z": 1})
    assert not take_answers(record, {"1.b.c": "no"})
    assert [*waits["requests"]] == ["1.a"]
    assert take_answers(record, {"1.a": "yes"})
    assert waits["answers"] == {"a": "yes", "b.c": "yes"}
    record.state = "queued"
    assert not take_answers(record, {"1.a": "no"})


def test_a_round_goes_on_by_one_message() -> None:
    record, waits = parked()
    take_answers(record, {"1.a": 1, "1.b.c": 2})
    message = resumed(record, waits)
    assert message.subject == "fab.task.agent.normal.id"
    assert message.headers == {"Fab-Principal": "somebody", "Fab-Round": "1", "Nats-Msg-Id": "id-1"}
    assert message.body.value() == {**waits["params"], "inputResponses": {"a": 1, "b.c": 2}}


def test_what_led_to_the_questions_is_dropped_and_the_answers_run() -> None:
    record, _ = parked()
    policy = Policy()
    assert judge(record, Given(7, 2), policy, 0.0) == "drop"  # its worker died before it took the message off
    assert judge(record, Given(9, 1, round=1), policy, 0.0) == "look"
    record.origin = 9
    assert judge(record, Given(9, 2, round=1), policy, 0.0) == "run"  # that worker died as well
    park(record, ASKED, Body(PARAMS), {})
    assert judge(record, Given(9, 3, round=1), policy, 0.0) == "drop"


def test_what_could_not_be_parked_is_as_before() -> None:
    record, _ = parked()
    unpark(record)
    assert (record.rounds, record.parked) == (0, None)
    unpark(record)
    assert record.rounds == 0


def test_a_policy_knows_three_ways_for_mcp() -> None:
    assert Policy().mcp == "never"
    with pytest.raises(ConfigurationError, match="never, optional, required"):
        Policy(mcp="always")  # pyright: ignore[reportArgumentType]
    assert Policy.of({"_meta": {"fabric/task": {"mcp": "always"}}}) == Policy()
    assert Policy.of({"_meta": {"fabric/task": {"mcp": "required"}}}) == Policy(mcp="required")
