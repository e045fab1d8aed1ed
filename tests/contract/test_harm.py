"""What one bad call or message may cost: a bounded number of workers, its own answer, and nobody else's.

Proves: PT-1, CM-2.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count

import pytest
from support.nats_server import PrivateNats
from support.waiting import Ear

from fabric_sdk import Agent
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Scope, scope_for
from fabric_sdk.patterns import call as calling
from fabric_sdk.patterns.call import Call
from tests.contract.conftest import Stage

pytestmark = pytest.mark.anyio

_numbers = count()


@pytest.fixture
def name() -> str:
    return f"harm-{next(_numbers)}"


class Unusual(BaseException):
    """Not an Exception, as a few libraries' signals are."""


async def test_a_call_over_which_every_worker_falls_silent_costs_three_and_no_more(
    stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "SILENCE", 0.3)
    silent, client = Ear(), await stage.client()
    await client.transport.subscribe(subjects.calls(name), silent, queue=subjects.POOL)
    with pytest.raises(errors.WorkerLost):
        await client.caller.call(Call(name, "tools/call", Body({}), scope_for(30.0), safe=True))
    assert len(silent.heard) == 1 + calling.MOST_LOST


async def test_a_handler_that_raises_no_ordinary_exception_is_answered(stage: Stage, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def odd() -> None:
        raise Unusual("as ever")

    worker = await stage.serve(agent)
    with pytest.raises(errors.HandlerFailed, match="Unusual: as ever"):
        await (await stage.client()).agent(name).call("odd", timeout=10.0)
    assert worker.failed == 1


async def test_a_call_whose_deadline_passed_while_the_loop_was_busy_never_begins(stage: Stage, name: str) -> None:
    agent, begun = Agent(name), list[int]()

    @agent.tool
    async def block() -> None:
        time.sleep(0.4)  # noqa: ASYNC251 - the fault itself: a handler that blocks its worker's loop

    @agent.tool
    async def work() -> None:
        begun.append(1)

    await stage.serve(agent)
    client = await stage.client()
    blocked = asyncio.create_task(client.agent(name).call("block"))
    await asyncio.sleep(0)  # it is sent first
    late = Call(name, "tools/call", Body({"name": "work"}), Scope(time.time() + 0.2))
    with pytest.raises(errors.DeadlineExceeded):
        await client.caller.call(late)
    await blocked
    assert await client.agent(name).call("block") is None  # all that came before has been looked at by now
    assert begun == []


async def test_headers_that_are_no_text_deafen_nobody(nats_stage: Stage, shared_nats: PrivateNats, name: str) -> None:
    agent = Agent(name)

    @agent.tool
    async def ping() -> str:
        return "pong"

    await nats_stage.serve(agent)
    client = await nats_stage.client()
    reader, writer = await asyncio.open_connection("127.0.0.1", shared_nats.port)
    await reader.readline()  # INFO
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
    for head in (b"X\r\n\r\n", b"NATS/1.0\r\n\r\n", b"NATS/1.0 \xff\xff\xff\r\n\r\n"):
        writer.write(b"HPUB %b %d %d\r\n%b\r\n" % (subjects.control(name).encode(), len(head), len(head), head))
    writer.write(b"PUB %b \xff\xfe 0\r\n\r\nPING\r\n" % subjects.control(name).encode())
    await writer.drain()
    await reader.readuntil(b"PONG\r\n")
    writer.close()
    assert await client.agent(name).call("ping", timeout=5.0) == "pong"
