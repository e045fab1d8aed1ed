"""From memory to the stream: nothing is lost while the broker is away or the process stops in order; all is bounded.

Proves: SE-5
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from support.nats_server import PrivateNats
from support.waiting import eventually, until

from fabric.audit import reading, trail
from fabric.audit.entry import Entry, Level
from fabric.audit.reading import ANY, Noted, Verdict, Wanted, followed, found, newest, place_of, verified
from fabric.audit.trail import Trail
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import InvalidParams
from fabric_sdk.contracts.streams import AUDIT


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_TOGETHER", 0.02)
    monkeypatch.setattr(trail, "_AGAIN", 0.05)


@asynccontextmanager
async def writing(fabric: Fabric, *, level: Level = "security") -> AsyncGenerator[Trail]:
    """A trail, that is closed in order at the end."""
    it = Trail(fabric.jetstream, "gateway", level)
    task = asyncio.create_task(it.run())
    try:
        yield it
    finally:
        await end([task])
        await it.close()


def entry(who: str, *, agent: str = "shop", at: float | None = None) -> Entry:
    return Entry(at=time.time() if at is None else at, outcome="denied", principal=who, agent=agent, tool="refund")


async def kept(fabric: Fabric, who: str) -> list[Entry]:
    return [each.entry async for each in found(fabric.jetstream, Wanted(principal=who))]


def somebody() -> str:
    return f"p-{uuid4().hex[:8]}"


async def test_all_is_kept_in_order_and_the_end_is_told(fabric: Fabric) -> None:
    who = somebody()
    async with writing(fabric) as it:
        for number in range(2500):
            it.note(entry(who, agent=f"a{number}"))
    assert [each.agent for each in await kept(fabric, who)] == [f"a{number}" for number in range(2500)]
    verdict = await verified(fabric.jetstream)
    assert verdict.whole, verdict.findings
    assert [head.ended for head in verdict.heads][-1]


async def test_what_is_off_costs_and_keeps_nothing(fabric: Fabric) -> None:
    who = somebody()
    async with writing(fabric, level="off") as it:
        it.note(entry(who))
        it.note_often(entry(who))
        it.note_often(entry(who))
        assert len(it) == 0
    assert await kept(fabric, who) == []


async def test_those_alike_are_one_with_their_number_until_they_are_written(fabric: Fabric) -> None:
    who = somebody()
    async with writing(fabric) as it:
        for _ in range(1000):
            it.note_often(entry(who))
        it.note_often(entry(who, agent="other"))
        assert len(it) == 2
        await until(lambda: kept(fabric, who), lambda found: len(found) == 2)
        it.note_often(entry(who))
    assert [each.count for each in await kept(fabric, who)] == [1000, 1, 1]


async def test_what_is_noted_while_the_broker_is_away_is_kept_once_it_is_back(
    breakable: PrivateNats, fabric: Fabric, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fabric_sdk.jetstream.api.PATIENCE", 0.2)
    monkeypatch.setattr(trail, "MOST", 50)
    async with writing(fabric) as it:
        it.note(entry("before"))
        await until(lambda: kept(fabric, "before"), len)
        breakable.kill()
        with caplog.at_level(logging.WARNING):
            for number in range(60):
                it.note(entry("meanwhile", agent=f"a{number}"))
            assert len(it) == 50
            for _ in range(5):
                it.note_often(entry("meanwhile"))
        breakable.start()
        await until(lambda: kept(fabric, "meanwhile"), lambda found: len(found) == 50)
        it.note(entry("after"))
    assert [each.agent for each in await kept(fabric, "meanwhile")] == [f"a{number}" for number in range(50)]
    assert len(await kept(fabric, "after")) == 1
    verdict = await verified(fabric.jetstream)
    assert (verdict.whole, verdict.lost) == (True, 15)


async def test_a_batch_whose_answer_was_lost_is_kept_once(fabric: Fabric, monkeypatch: pytest.MonkeyPatch) -> None:
    who, store = somebody(), fabric.jetstream.store
    lost = iter([True])

    async def forgetful(*asked: object, **more: object) -> object:
        stored = await store(*asked, **more)  # type: ignore[arg-type]
        if next(lost, False):
            raise InvalidParams("as if its answer were lost, and it was sent again")
        return stored

    monkeypatch.setattr(fabric.jetstream, "store", forgetful)
    async with writing(fabric) as it:
        it.note(entry(who))
        await until(lambda: kept(fabric, who), len)
        it.note(entry(who))
    assert len(await kept(fabric, who)) == 2
    assert (await verified(fabric.jetstream)).whole


async def test_who_writes_in_a_writers_name_shows_and_keeps_nobody_from_writing(
    breakable: PrivateNats, fabric: Fabric
) -> None:
    async with writing(fabric) as it:
        it.note(entry("one"))
        await until(lambda: kept(fabric, "one"), len)
        (head,) = (await verified(fabric.jetstream)).heads
        forged = {"writer": head.writer, "number": 2, "at": 0, "previous": head.digest, "previous_at": 0}
        await fabric.jetstream.store(subjects.audit(head.writer), Body({**forged, "last": False, "entries": []}))
        it.note(entry("two"))
        await until(lambda: kept(fabric, "two"), len)
    verdict = await verified(fabric.jetstream)
    assert not verdict.whole
    assert verdict.findings[0].sequence == 3


async def test_a_log_that_was_deleted_shows(breakable: PrivateNats, fabric: Fabric) -> None:
    async with writing(fabric) as it:
        it.note(entry("one"))
        await until(lambda: kept(fabric, "one"), len)
        await fabric.jetstream.request(f"STREAM.DELETE.{AUDIT.name}")
        it.note(entry("two"))
        await until(lambda: kept(fabric, "two"), len)
    (finding,) = (await verified(fabric.jetstream)).findings
    assert "batch 1 is gone" in finding.what


async def test_entries_are_found_by_what_they_say(fabric: Fabric) -> None:
    who, now = somebody(), time.time()
    async with writing(fabric) as it:
        for number in range(5):
            it.note(entry(who, agent=f"a{number}", at=now + number))
    there = [each async for each in found(fabric.jetstream, Wanted(principal=who))]

    async def agents(wanted: Wanted) -> list[str]:
        return [each.entry.agent for each in await newest(fabric.jetstream, wanted, 2)]

    assert await agents(Wanted(principal=who)) == ["a3", "a4"]
    assert await agents(Wanted(principal=who, since=now, until=now + 2)) == ["a1", "a2"]
    assert await agents(Wanted(principal=who, agent="a0")) == ["a0"]
    assert await agents(Wanted(principal=who, outcome="done")) == []
    after = found(fabric.jetstream, Wanted(principal=who), after=place_of(there[2].place))
    assert [each async for each in after] == there[3:]
    for wrong in ("", "1", "x.1", "1.-1", "9" * 40 + ".0"):
        with pytest.raises(InvalidParams):
            place_of(wrong)


async def test_entries_are_followed_as_they_come(fabric: Fabric) -> None:
    who, heard = somebody(), list[Noted]()

    async def follow() -> None:
        async for each in followed(fabric.jetstream, Wanted(principal=who)):
            heard.append(each)

    async with writing(fabric) as it:
        following = asyncio.create_task(follow())
        while not heard:  # it follows from some moment on
            it.note(entry(who))
            await asyncio.sleep(0.05)  # no event tells from when on it follows; another entry does
        it.note(entry(who, agent="last"))
        await eventually(lambda: heard[-1].entry.agent == "last")
        await end([following])


async def test_a_full_log_may_have_forgotten_and_an_empty_one_is_whole(
    breakable: PrivateNats, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = Verdict(whole=True, batches=0, entries=0, lost=0, findings=[], heads=[])
    assert await verified(fabric.jetstream) == empty
    assert [each async for each in found(fabric.jetstream, ANY)] == []
    assert reading._forgets({"max_bytes": 100}, {"bytes": 95}) == float("inf")  # pyright: ignore[reportPrivateUsage]
    assert reading._forgets({"max_bytes": 100}, {"bytes": 5}) == 0  # pyright: ignore[reportPrivateUsage]


def test_noting_takes_no_time() -> None:
    it = Trail(None, "gateway", "calls")  # type: ignore[arg-type]
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(1000):
            it.note(entry("ann"))
        best = min(best, (time.perf_counter() - began) / 1000)
    assert best < 20e-6  # some ten times what it takes, for a machine that is busy
