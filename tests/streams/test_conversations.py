"""What is remembered of a conversation: complete and in order, whoever writes, dies or is restarted. Proves: RT-8."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import pytest
from streams.conftest import End, Serve
from support.nats_server import PrivateNats
from support.waiting import eventually

from fabric_sdk import Agent, Context, Policy
from fabric_sdk.client import Fabric
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.streams import CONVERSATIONS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import JetStream, Reader
from fabric_sdk.patterns import conversation as remembering
from fabric_sdk.patterns.conversation import Conflict, Remembered
from fabric_sdk.tuning import ACK_WAIT

NOTHING = Remembered(None, [], 0)


@pytest.fixture
def name() -> str:
    return f"c-{uuid4().hex}"


async def test_what_was_appended_is_read_back_in_order(fabric: Fabric, server: PrivateNats, name: str) -> None:
    conversation = fabric.conversation(name)
    assert await conversation.read() == NOTHING
    values: list[Any] = ["text", 0, -1.5, True, None, [], {}, {"é": ["漢", {"deep": None}]}, "", "text", "text"]
    versions = [await conversation.append(value) for value in values]
    assert versions == sorted(set(versions))
    async with Fabric.connect(server.url) as other:
        assert await other.conversation(name).read() == Remembered(None, values, versions[-1])


async def test_a_snapshot_takes_the_place_of_all_before_it(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name)
    for number in range(10):
        await conversation.append(number)
    version = await conversation.snapshot({"sum": 45})
    assert await conversation.read() == Remembered({"sum": 45}, [], version)
    await conversation.append(10)
    version = await conversation.append(11)
    assert await conversation.read() == Remembered({"sum": 45}, [10, 11], version)
    version = await conversation.snapshot(None)
    assert await conversation.read() == Remembered(None, [], version), "and that is not an empty one"
    with pytest.raises(Conflict):
        await conversation.append(1, expected=0)


async def test_two_conversations_do_not_mix(fabric: Fabric, name: str) -> None:
    one, other = fabric.conversation(name), fabric.conversation(f"{name}-2")
    for number in range(20):
        await one.append(["one", number])
        await other.append(["other", number])
    await one.snapshot("mine")
    assert (await one.read()).snapshot == "mine"
    assert (await other.read()).entries == [["other", number] for number in range(20)]
    assert await one.forget()
    assert await one.read() == NOTHING
    assert len((await other.read()).entries) == 20


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "two words", "é", "x" * 129, "a\r\nPUB x 0"])
async def test_what_cannot_name_a_conversation_is_refused(fabric: Fabric, name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="letters, digits"):
        fabric.conversation(name)


async def test_what_cannot_be_kept_is_refused_and_costs_nothing(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name)
    version = await conversation.append(1)
    with pytest.raises(errors.MessageTooLarge):
        await conversation.append("x" * fabric.transport.max_message)
    with pytest.raises(errors.InvalidParams):
        await conversation.append(object())
    assert await conversation.read() == Remembered(None, [1], version)


# Compare and set


async def test_of_two_who_write_at_once_exactly_one_wins_each_version(
    fabric: Fabric, server: PrivateNats, name: str
) -> None:
    won: list[list[int]] = [[], []]
    conflicts = 0

    async def write(who: int, conversation: remembering.Conversation) -> None:
        nonlocal conflicts
        while len(won[who]) < 25:
            seen = await conversation.read()
            try:
                won[who].append(await conversation.append([who, len(seen.entries)], expected=seen.version))
            except Conflict:
                conflicts += 1

    async with Fabric.connect(server.url) as other:
        await asyncio.gather(write(0, fabric.conversation(name)), write(1, other.conversation(name)))
    there = await fabric.conversation(name).read()
    assert [place for _, place in there.entries] == list(range(50)), "each saw all that came before"
    assert sorted(who for who, _ in there.entries) == [0] * 25 + [1] * 25
    assert len({*won[0], *won[1]}) == 50
    assert conflicts > 0


async def test_a_version_is_won_once_however_many_want_it(fabric: Fabric, name: str) -> None:
    conversation, version = fabric.conversation(name), 0
    for _ in range(3):
        writes = [conversation.append(number, expected=version) for number in range(10)]
        writes += [conversation.snapshot(number, expected=version) for number in range(10)]
        said = await asyncio.gather(*writes, return_exceptions=True)
        [version] = [each for each in said if isinstance(each, int)]
        assert [type(each) for each in said].count(Conflict) == 19
        assert (await conversation.read()).version == version


async def test_a_write_that_was_stored_though_its_answer_was_lost_has_won(
    fabric: Fabric, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation, really_ask = fabric.conversation(name), JetStream.ask
    version = await conversation.append("before")

    async def ask_and_lose(jetstream: JetStream, message: Message, *how: Any) -> Message:
        answer = await really_ask(jetstream, message, *how)
        if not message.subject.endswith(name):
            return answer
        monkeypatch.setattr(JetStream, "ask", really_ask)
        await conversation.append("by another")
        raise errors.TransportUnavailable("its answer was lost")

    monkeypatch.setattr(JetStream, "ask", ask_and_lose)
    mine = await conversation.append("mine", expected=version)
    assert (await conversation.read()).entries == ["before", "mine", "by another"]
    assert (await conversation.read()).version == mine + 1
    with pytest.raises(Conflict):
        await conversation.append("mine", expected=version)


# Forgetting


async def test_what_is_forgotten_is_gone_and_may_begin_anew(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name)
    assert not await conversation.forget()
    version = await conversation.append(1)
    assert await conversation.forget()
    assert await conversation.read() == NOTHING
    with pytest.raises(Conflict):
        await conversation.append(2, expected=version)
    version = await conversation.append(2, expected=0)
    assert await conversation.read() == Remembered(None, [2], version)


async def test_what_has_expired_is_gone(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name, keep=0.3)
    await conversation.append(1)
    version = await conversation.append(2)
    assert await conversation.read() == Remembered(None, [1, 2], version)
    await asyncio.sleep(0.35)
    assert await fabric.conversation(name).read() == NOTHING, "whoever looks"
    version = await conversation.append(3, expected=0)
    assert await conversation.read() == Remembered(None, [3], version)


async def test_what_has_expired_does_not_come_back_with_the_next_entry(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name, keep=0.3)
    await conversation.snapshot("old")
    await conversation.append(1)
    await asyncio.sleep(0.35)
    version = await fabric.conversation(name).append(2)
    assert await conversation.read() == Remembered(None, [2], version)


async def test_each_entry_puts_the_end_off(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name, keep=1.0)
    for number in range(4):
        await conversation.append(number)
        await asyncio.sleep(0.3)
    assert (await conversation.read()).entries == [0, 1, 2, 3]


async def test_what_is_appended_while_a_reader_finds_it_expired_stays(
    fabric: Fabric, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation, really_last = fabric.conversation(name, keep=0.2), JetStream.last
    await conversation.append("old")
    await asyncio.sleep(0.25)

    async def last_and_then_another(jetstream: JetStream, *what: Any) -> Any:
        found = await really_last(jetstream, *what)
        monkeypatch.setattr(JetStream, "last", really_last)
        await fabric.conversation(name).append("new")
        return found

    monkeypatch.setattr(JetStream, "last", last_and_then_another)
    assert await conversation.read() == NOTHING
    assert (await conversation.read()).entries == ["new"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["forgotten", "summed up"])
async def test_a_reader_is_not_held_up_by_what_goes_while_it_reads(
    fabric: Fabric, name: str, monkeypatch: pytest.MonkeyPatch, when: str, what: str
) -> None:
    monkeypatch.setattr(remembering, "_SILENCE", 0.2)
    conversation, really_open = fabric.conversation(name), Reader.open
    for number in range(5):
        await conversation.append(number)

    async def go() -> None:
        monkeypatch.setattr(Reader, "open", really_open)
        await (conversation.forget() if what == "forgotten" else conversation.snapshot("sum"))

    async def open_meanwhile(reader: Reader) -> int:
        if when == "before":
            await go()
        there = await really_open(reader)
        if when == "after":
            await go()
        return there

    monkeypatch.setattr(Reader, "open", open_meanwhile)
    seen = await asyncio.wait_for(conversation.read(), 10)
    assert (seen.snapshot, seen.entries) == (None if what == "forgotten" else "sum", [])
    assert seen == await conversation.read(), "its version is the one of what it holds"


# Size, and what is lost on the way


async def test_a_long_conversation_is_read_completely_and_in_order(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name)
    await conversation.append(0)
    subject = subjects.conversation(name)
    for first in range(1, 5000, 500):  # many at a time, or the test would wait for the disk five thousand times
        await asyncio.gather(
            *(fabric.jetstream.store(subject, Body(number)) for number in range(first, min(first + 500, 5000)))
        )
    began = time.monotonic()
    there = await conversation.read()
    print(f"read 5000 entries in {time.monotonic() - began:.2f} s")
    assert there.entries == list(range(5000))


async def test_a_server_killed_while_it_is_written_and_read(breakable: PrivateNats, fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name)
    versions: list[int] = []

    async def write() -> None:
        for number in range(60):
            versions.append(await conversation.append(number, expected=versions[-1] if versions else 0))

    async def read() -> None:
        while len(versions) < 60:
            entries = (await conversation.read()).entries
            assert entries == list(range(len(entries)))
            await asyncio.sleep(0.02)

    doing = asyncio.gather(write(), read())
    for count in (10, 30):
        await eventually(lambda count=count: len(versions) >= count, what=f"{count} entries", seconds=20)
        breakable.kill()
        await asyncio.to_thread(breakable.start)
    await asyncio.wait_for(doing, 40)
    breakable.kill()
    breakable.start()
    assert await conversation.read() == Remembered(None, list(range(60)), versions[-1])


async def test_a_worker_killed_between_append_and_end_appends_once(
    breakable: PrivateNats, fabric: Fabric, end: End, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACK_WAIT, "1")
    first = await end("worker")
    task = await fabric.agent("far").start("remember", {"conversation": name, "value": {"said": "once"}})
    await asyncio.wait_for(first.wait(), 10)
    await end("worker")
    version = await task.result(timeout=30)
    assert (await task.status()).attempt == 2
    assert await fabric.conversation(name).read() == Remembered(None, [{"said": "once"}], version)


async def test_an_attempt_that_comes_too_late_for_the_server_to_know_it_appends_once(
    breakable: PrivateNats, fabric: Fabric, serve: Serve, name: str
) -> None:
    config = {**CONVERSATIONS.config(1), "duplicate_window": 100_000_000}  # as two minutes later, so to speak
    await fabric.jetstream.request(f"STREAM.CREATE.{CONVERSATIONS.name}", config)
    agent = Agent("late")

    @agent.tool(task=Policy(attempts=3, first_wait=0.5))
    async def remember(context: Context) -> int:
        assert context.task is not None
        conversation = context.fabric.conversation(name)
        for value in ("twice", "twice", context.task.attempt):
            await conversation.append(value)
        if context.task.attempt == 1:
            raise ValueError
        return await conversation.append("end")

    await serve(agent)
    version = await (await fabric.agent("late").start("remember")).result(timeout=20)
    stored = await fabric.jetstream.end_of(CONVERSATIONS)
    assert stored == version == 7, "the server keeps all that it was sent"
    assert (await fabric.conversation(name).read()).entries == ["twice", "twice", 1, 2, "end"]


async def test_what_has_no_name_of_its_own_is_never_taken_for_a_repetition(fabric: Fabric, name: str) -> None:
    conversation, subject = fabric.conversation(name), subjects.conversation(name)
    await conversation.append("same")
    for _ in range(2):
        await fabric.jetstream.store(subject, Body("same"), {Header.KEY: "foreign"})
    await conversation.append("same")
    assert (await conversation.read()).entries == ["same"] * 4


@pytest.mark.parametrize("expires", ["abc", "nan", "inf", "-inf", ""])
async def test_an_end_that_is_no_number_is_none(fabric: Fabric, name: str, expires: str) -> None:
    conversation = fabric.conversation(name)
    await conversation.append(1)
    await fabric.jetstream.store(subjects.conversation(name), Body(2), {Header.EXPIRES: expires})
    version = await conversation.append(3)
    assert await conversation.read() == Remembered(None, [1, 2, 3], version)
    assert await conversation.version() == version


async def test_an_entry_that_is_no_json_is_passed_over(fabric: Fabric, name: str) -> None:
    conversation = fabric.conversation(name)
    await conversation.append(1)
    for headers in ({}, {Header.SNAPSHOT: "1"}):
        await fabric.jetstream.store(subjects.conversation(name), Body(encoded=b"\xff"), headers)
    version = await conversation.append(2)
    assert await conversation.read() == Remembered(None, [1, 2], version)
