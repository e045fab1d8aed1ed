"""What may be sent again: never work that has begun, unless a repeat does no harm. Proves: PT-1, CM-2."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import (
    AgentUnavailable,
    CallCancelled,
    DeadlineExceeded,
    FabricError,
    HandlerFailed,
    InvalidParams,
    Overloaded,
    TransportClosed,
    TransportUnavailable,
    WorkerLost,
    to_wire,
)
from fabric_sdk.contracts.scope import Scope
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.patterns import call as calling
from fabric_sdk.patterns.call import Call, Caller
from fabric_sdk.routing.retry import BACKOFF, FIRST_WAIT, is_safe, may_repeat
from fabric_sdk.transports.memory import MemoryTransport

pytestmark = pytest.mark.anyio


KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, FabricError)]

any_error = st.sampled_from(KINDS).map(lambda kind: kind())


@given(any_error, st.booleans())
def test_work_that_may_have_begun_is_repeated_only_if_that_is_safe(error: FabricError, safe: bool) -> None:
    if may_repeat(error, safe=safe):
        assert error.retryable
        assert safe or not error.started


@given(any_error)
def test_what_may_be_repeated_unsafely_may_be_repeated_safely(error: FabricError) -> None:
    assert may_repeat(error, safe=True) >= may_repeat(error, safe=False)


@pytest.mark.parametrize(
    "error", [ValueError(), TimeoutError(), KeyboardInterrupt(), CallCancelled(), TransportClosed()]
)
def test_other_ends_are_ends(error: BaseException) -> None:
    assert not may_repeat(error, safe=True)


@pytest.mark.parametrize(
    ("annotations", "safe"),
    [
        (None, False),
        ({}, False),
        ({"readOnlyHint": True}, True),
        ({"idempotentHint": True}, True),
        ({"readOnlyHint": False, "idempotentHint": True}, True),
        ({"readOnlyHint": False, "idempotentHint": False}, False),
        ({"destructiveHint": False}, False),
        ({"readOnlyHint": None}, False),
    ],
)
def test_mcp_annotations_say_what_is_safe(annotations: dict[str, Any] | None, safe: bool) -> None:
    assert is_safe(annotations) is safe


@given(st.integers(1, 1000))
def test_waits_grow_at_random_and_stay_short(attempt: int) -> None:
    class State:
        attempt_number = attempt

    wait = BACKOFF(State())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert 0 <= wait <= min(2 * FIRST_WAIT * 2 ** min(attempt - 1, 20), 2.0)


# A caller against an agent that answers as it is told

REFUSALS: list[type[FabricError]] = [Overloaded, AgentUnavailable, TransportUnavailable]
LOSSES: list[type[FabricError]] = [WorkerLost]
ENDS: list[type[FabricError]] = [HandlerFailed, InvalidParams, DeadlineExceeded, CallCancelled]

scripts = st.lists(st.sampled_from([*REFUSALS, *LOSSES, *ENDS]), max_size=6)


@pytest.fixture(scope="module", autouse=True)
def without_waiting() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calling, "FIRST_WAIT", 0.0)
        patch.setattr(calling, "BACKOFF", wait_none())
        yield


@settings(max_examples=200)
@given(scripts, st.sampled_from(["yes", "no", "asked: yes", "asked: no", "asked: cannot say"]))
async def test_a_caller_repeats_what_it_may_and_nothing_else(script: list[type[FabricError]], safe: str) -> None:
    transport, begun, asked = MemoryTransport(), list[bool](), list[bool]()
    left = list(script)

    def answer(message: Message) -> None:
        kind = left.pop(0) if left else None
        begun.append(kind is None or kind.started)
        reply = Message(message.reply, Body({"done": True}))
        if kind is not None:
            wire = to_wire(kind("as told"))
            headers = {Header.ERROR_CODE: str(wire["code"]), Header.ERROR: "as told"}
            reply = Message(message.reply, Body(wire), headers=headers)
        answers.append(asyncio.get_running_loop().create_task(transport.publish(reply)))

    async def ask() -> bool:
        asked.append(True)
        if "cannot" in safe:
            raise AgentUnavailable
        return safe.endswith("yes")

    answers = list[asyncio.Task[None]]()
    await transport.subscribe(subjects.calls("told"), answer, queue=subjects.POOL)
    caller = Caller(transport)
    await caller.open()
    known = {"yes": True, "no": False}.get(safe)
    call = Call("told", "tools/call", Body({}), Scope(time.time() + 30), safe=ask if known is None else known)
    ended: FabricError | None = None
    try:
        await caller.call(call)
    except FabricError as failure:
        ended = failure
    await caller.close()

    repeats_are_safe = safe.endswith("yes")
    expected, lost = 0, 0
    for kind in script:
        expected += 1
        lost += kind is WorkerLost
        if lost > calling.MOST_LOST or not (kind.retryable and (repeats_are_safe or not kind.started)):
            break
    else:
        expected += 1
    assert len(begun) == expected
    assert repeats_are_safe or not any(begun[:-1]), "work that had begun was sent again"
    last = script[expected - 1] if expected <= len(script) else None
    assert (ended is None) == (last is None)
    if ended is not None and last is not None:
        assert ended.code == last.code
    assert len(asked) <= 1, "asked once at most"
    assert not asked or any(kind in LOSSES for kind in script[:expected]), "asked only when it matters"
