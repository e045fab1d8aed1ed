"""Questions of a task: a tool that answers `input_required` parks its task, and is run again with the answers.

This is MCP's own way of asking (multi round-trip requests) inside a task: a tool asks in both in the same words, and
what is asked waits on record, in no worker. Each round of answers has its own attempts.

Above: the attempt, which parks; `patterns.task`, which takes answers. Below: a task's record. No clock and no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import Parked, Record


def questions(result: bytes) -> dict[str, Any] | None:
    """The MCP result that asks something, if `result` is one."""
    if b'"input_required"' not in result:
        return None
    said = orjson.loads(result)
    return said if said.get("resultType") == "input_required" and said.get("inputRequests") else None


def park(record: Record, asked: Mapping[str, Any], params: Body, headers: Mapping[str, str]) -> None:
    """Make `record` wait for the answers to what a tool `asked` when it was given `params`."""
    record.rounds += 1
    kept = {name: value for name, value in params.members().items() if name not in ("inputResponses", "requestState")}
    if asked.get("requestState") is not None:
        kept["requestState"] = asked["requestState"]
    requests = {f"{record.rounds}.{key}": request for key, request in asked["inputRequests"].items()}
    record.state = "input_required"
    record.parked = Parked(requests=requests, answers={}, params=kept, headers=dict(headers))


def hold(record: Record, reason: str, params: Body, headers: Mapping[str, str]) -> None:
    """Make `record` that of a task which waits for leave to begin. It asks nothing, so no answer lets it go."""
    # As after a question: a worker that is given what goes on looks at the record first.
    record.state, record.reason, record.rounds = "held", reason, 1
    record.parked = Parked(requests={}, answers={}, params=params.members(), headers=dict(headers))


def unpark(record: Record) -> None:
    """Take back what `park` did."""
    if record.parked is not None:
        record.rounds, record.parked = record.rounds - 1, None


def take_answers(record: Record, answers: Mapping[str, Any]) -> bool:
    """Note the answers to what is asked now, and no others; tell whether there was any."""
    parked = record.parked
    if parked is None or record.state != "input_required":
        return False
    taken = parked["requests"].keys() & answers.keys()
    for key in taken:
        del parked["requests"][key]
        parked["answers"][key.partition(".")[2]] = answers[key]
    return bool(taken)


def resumed(record: Record, parked: Parked) -> Message:
    """The message that brings a parked task its answers; however often it is sent in one round, it is one message."""
    answers = {"inputResponses": parked["answers"]} if parked["answers"] else {}
    params = Body({**parked["params"], **answers})
    headers = {Header.ROUND: str(record.rounds), Header.MESSAGE_ID: f"{record.id}-{record.rounds}"}
    return Message(
        subjects.task(record.agent, record.priority, record.id), params, headers={**parked["headers"], **headers}
    )
