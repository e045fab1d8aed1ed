"""Three gateways behind a plain balancer, each killed once under 300 sessions of the handshake era.

Every session has a stream open, a subscription, and a question of an agent to answer while gateways die.
Proves: TR-1, GW-5
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from faults.balancer import balancer
from gateway.client import Json, tools
from gateway.handshake import Heard, Session, accept
from support.nats_server import HOST
from support.replicas import Replica, replicas, until_ready
from support.running import Running, running_fabric, wait_until
from support.waiting import eventually

ASKER = Path(__file__).parent.parent / "gateway" / "asker.py"
SESSIONS = 300
GROUP = 30
NOTE = "note://asker/one"

T = TypeVar("T")


class User:
    """One client: goes on, wherever the balancer sends it, until it has its answer."""

    def __init__(self, url: str, session: Session, number: int) -> None:
        self.url, self.session, self.number = url, session, number
        self.listens = False
        self.updates = 0
        self.lost_streams = 0
        self.question: Json | None = None
        self.answers: list[Json] = []
        self._tasks = [asyncio.create_task(each) for each in (self._listen(), self._order())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        """Keep the session's own stream open."""
        last: str | None = None
        while True:
            try:
                async with self.session.listen(self.url, last=last) as stream:
                    last, self.listens = await stream.begun(), True
                    while True:
                        told = await stream.next(seconds=120)
                        self.updates += told["method"] == "notifications/resources/updated"
            except (httpx.TransportError, EOFError):
                self.listens = False
                self.lost_streams += 1

    async def _order(self) -> None:
        """Call, and come back to the answer's stream for as long as there is no answer."""
        last: str | None = None
        while not self.answers:
            what, number = f"hat {self.number}", f"call {self.number}"
            again = self.session.call(self.url, "asker_order", what=what, number=number)
            try:
                async with again if last is None else self.session.listen(self.url, last=last) as stream:
                    try:
                        await self._hear(stream)
                    finally:
                        last = stream.last or last
            except (httpx.TransportError, EOFError):
                self.lost_streams += 1
        assert len(self.answers) == 1

    async def _hear(self, stream: Heard) -> None:
        while True:
            message = await stream.next(seconds=120)
            if "method" not in message:
                self.answers.append(message)
            elif message["method"] == "elicitation/create":
                self.question = message

    async def persist(self, what: Callable[[], Awaitable[T]]) -> T:
        """Do something again for as long as connections break."""
        while True:
            try:
                return await what()
            except httpx.TransportError:
                await asyncio.sleep(0.01)  # as a client does: a replica that is being replaced refuses at once

    async def answer(self) -> None:
        """Answer what was asked."""
        question = self.question
        assert question is not None
        await self.persist(lambda: self.session.answer(self.url, question, accept(size=self.number)))

    @property
    def right(self) -> bool:
        """Whether the answer is the one to this very call."""
        result = {"result": f"hat {self.number} {self.number}"}
        return [each.get("result", {}).get("structuredContent") for each in self.answers] == [result]


@pytest.fixture(scope="module")
def fabric() -> Generator[Running]:
    with running_fabric(f"{ASKER}:agent", "--processes", "2") as running:
        wait_until(lambda: "asker_order" in tools(running), what="the list of tools")
        yield running


async def opened(url: str, token: str | None, http: httpx.AsyncClient, number: int) -> User:
    session = await Session.open(http, url, token)
    assert (await session.ask(url, "resources/subscribe", {"uri": NOTE}))["result"] == {}
    return User(url, session, number)


async def kill(replica: Replica) -> None:
    await asyncio.to_thread(replica.kill)
    await asyncio.to_thread(replica.start)
    await asyncio.to_thread(until_ready, [replica])


@pytest.mark.timeout(240)  # above the bounds inside, so that what is late gets named: 18 s alone, 65 s beside others
async def test_no_session_and_no_answer_is_lost(fabric: Running) -> None:
    statuses: dict[int, int] = {}

    async def count(response: httpx.Response) -> None:
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

    def group() -> httpx.AsyncClient:  # a pool of many connections would be slow
        limits = httpx.Limits(max_connections=None)
        hooks = {"response": [count]}
        return httpx.AsyncClient(trust_env=False, verify=False, timeout=120, limits=limits, event_hooks=hooks)

    users: list[User] = []
    with replicas(fabric, 3) as three:
        async with (
            balancer([replica.port for replica in three]) as port,
            AsyncExitStack() as clients,
        ):
            url, began = f"http://{HOST}:{port}/mcp", time.monotonic()
            try:
                for first in range(0, SESSIONS, GROUP):
                    http = await clients.enter_async_context(group())
                    some = range(first, first + GROUP)
                    users += await asyncio.gather(*(opened(url, fabric.token, http, number) for number in some))
                await eventually(lambda: all(user.question for user in users), seconds=60, what="all questions")
                ready = time.monotonic()
                for turn, replica in enumerate(three):
                    await asyncio.gather(kill(replica), *(user.answer() for user in users[turn::3]))
                await eventually(lambda: all(user.answers for user in users), seconds=60, what="all answers")
                answered = time.monotonic()
                await eventually(lambda: all(user.listens for user in users), seconds=60, what="all streams")
                before = [user.updates for user in users]
                touch: Json = {"name": "asker_touch", "arguments": {"uri": "note://one"}}
                await users[0].session.ask(url, "tools/call", touch, number="touch")
                heard = lambda: all(user.updates > old for user, old in zip(users, before, strict=True))  # noqa: E731
                await eventually(heard, seconds=30, what="the update at all subscribers")
                pings = await asyncio.gather(
                    *(user.persist(lambda u=user: u.session.ask(url, "ping")) for user in users)
                )
            finally:
                await asyncio.gather(*(user.close() for user in users))
    broken = sum(user.lost_streams for user in users)
    print(
        f"\n{len(users)} sessions with all in flight after {ready - began:.1f} s; 3 gateways killed, all answered "
        f"after {answered - ready:.1f} s; {broken} streams broke and were come back to; "
        f"responses by status: {statuses}"
    )
    assert [user.number for user in users if not user.right] == []
    assert [each for each in pings if each.get("result") != {}] == []
    assert statuses.keys() <= {200, 202}, "a session was not found"
    assert broken >= SESSIONS
