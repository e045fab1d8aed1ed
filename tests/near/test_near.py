"""Processes of one host call each other over sockets, all else goes over the broker. Proves: RT-2, RT-4, CM-2, CM-5."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from cli.command import HELLO, signal_part, worker
from support.nats_server import PrivateNats, private_nats
from support.waiting import Ear, eventually, until

from fabric_sdk import Agent, Context, Fabric
from fabric_sdk.connecting import SOCKETS, connect, instances
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.patterns.call import Call
from fabric_sdk.transports import callers, nearby, sockets
from fabric_sdk.transports.frames import encode_frame
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.transports.nearest import NearestTransport
from fabric_sdk.transports.sockets import Link
from fabric_sdk.worker import Worker


class Nobody:
    """Owns a link and hears nothing."""

    def take(self, link: Link, message: Message) -> None: ...

    def leave(self, link: Link) -> None: ...

    def lose(self, link: Link) -> None: ...


@pytest.fixture(scope="module")
def server() -> Generator[PrivateNats]:
    with private_nats() as running:
        yield running


@pytest.fixture
def folder() -> Generator[Path]:
    with TemporaryDirectory() as path:  # pytest's own are too deep for a socket
        yield Path(path)


async def near(url: str, folder: Path) -> NearestTransport:
    """A transport that asks who is there for a moment only."""
    broker = await NatsTransport.connect(url)
    return NearestTransport(broker, folder, partial(instances, broker, seconds=0.1))


def socket_files(folder: Path) -> list[Path]:
    return list(folder.glob("*.sock"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@asynccontextmanager
async def client(url: str, folder: Path) -> AsyncGenerator[tuple[Fabric, NearestTransport]]:
    transport = await near(url, folder)
    try:
        async with Fabric.over(transport) as fabric:
            yield fabric, transport
    finally:
        await transport.close()


@asynccontextmanager
async def serving(url: str, folder: Path, agent: Agent, workers: int = 1) -> AsyncGenerator[list[Worker]]:
    """Workers of `agent`, each with a connection of its own; drained at the end."""
    async with AsyncExitStack() as stack:
        started: list[Worker] = []
        for _ in range(workers):
            transport = await near(url, folder)
            stack.push_async_callback(transport.close)
            started.append(Worker(transport, agent))
            await started[-1].start()
            stack.push_async_callback(started[-1].drain)
        yield started


def named(name: str) -> Agent:
    """An agent with tools that may be repeated (`who`), and one that may not (`wait`)."""
    agent = Agent(name)

    @agent.tool(annotations={"readOnlyHint": True})
    async def who(ctx: Context) -> str:
        return ctx.instance

    @agent.tool
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    return agent


async def test_calls_and_answers_do_not_pass_the_broker(server: PrivateNats, folder: Path) -> None:
    heard = Ear()
    async with serving(server.url, folder, named("quiet"), 2), client(server.url, folder) as (fabric, transport):
        await transport.subscribe(subjects.calls("quiet"), heard, queue="others")
        async with Fabric.connect(server.url) as afar:
            await afar.agent("quiet").call("who")  # a folder of its own: there is no short way
        await heard.wait()
        assert await transport.meet("quiet") == 2
        before = len(heard.heard)
        answers = [await fabric.agent("quiet").call("who") for _ in range(20)]
        assert len(set(answers)) == 2  # shared out
        await transport.flush()
        assert len(heard.heard) == before


async def test_all_calls_to_an_instance_share_one_connection(server: PrivateNats, folder: Path) -> None:
    def connections() -> int:
        return len(psutil.Process().net_connections("all"))

    async with serving(server.url, folder, named("shared")), client(server.url, folder) as (fabric, transport):
        assert await transport.meet("shared") == 1
        before = connections()
        agent = fabric.agent("shared")
        await asyncio.gather(agent.call("wait", {"seconds": 0.1}), *(agent.call("who") for _ in range(200)))
        assert connections() == before


async def test_instances_are_found_in_the_background_when_they_come(server: PrivateNats, folder: Path) -> None:
    async with client(server.url, folder) as (fabric, transport):
        async with serving(server.url, folder, named("early")):
            assert await fabric.agent("early").call("who")
            await eventually(lambda: "1 links" in repr(transport), what="a link to the first")
            async with serving(server.url, folder, named("early")):

                async def called() -> str:
                    await fabric.agent("early").call("who")
                    return repr(transport)

                await until(called, lambda said: "2 links" in said, what="a link to the second")
        await eventually(lambda: "0 links" in repr(transport), what="the end of both")


async def test_of_two_fabrics_on_one_host_none_calls_the_others_instances(server: PrivateNats, folder: Path) -> None:
    with private_nats() as other:
        async with (
            serving(server.url, folder, named("twin")) as (ours,),
            serving(other.url, folder, named("twin")),
            client(server.url, folder) as (fabric, transport),
        ):
            assert await transport.meet("twin") == 1
            for _ in range(10):
                assert await fabric.agent("twin").call("who") == ours.instance


async def test_a_worker_that_is_killed_is_noticed_at_once(server: PrivateNats, tmp_path: Path, folder: Path) -> None:
    env = {"FABRIC_NATS_URL": server.url, SOCKETS: str(folder)}
    with worker(HELLO, folder=tmp_path, env=env) as command:
        async with client(server.url, folder) as (fabric, transport):
            await until(lambda: transport.meet("hello"), lambda links: links == 1)  # it asks for 0.1 s
            params = Body({"name": "count", "arguments": {"to": 1000}})
            # Known to be unsafe: else the next worker, which has to start, is asked whether it may be repeated.
            once = Call("hello", "tools/call", params, scope_for(60.0), safe=False)
            call = asyncio.create_task(fabric.caller.call(once))
            await until(lambda: transport.meet("hello"), lambda links: links == 1)
            signal_part(command.pid, "hello-1", signal.SIGKILL)
            # Over the broker, silence would tell after 15 s.
            with pytest.raises(errors.WorkerLost, match="ended before it answered; whether it finished is unknown"):
                await asyncio.wait_for(call, 5)
            # The socket of the dead is swept by the next that starts, which is called in its place.
            await until(lambda: transport.meet("hello"), lambda links: links == 1, what="a link to the next")
            assert len(socket_files(folder)) == 1
            assert await fabric.agent("hello").call("echo", {"text": "still here"}) == "still here"


async def test_workers_that_leave_lose_no_call(server: PrivateNats, folder: Path) -> None:
    async with (
        client(server.url, folder) as (fabric, transport),
        serving(server.url, folder, named("leaving"), 2) as workers,
    ):
        assert await transport.meet("leaving") == 2
        answers: list[str] = []
        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                answers.append(await fabric.agent("leaving").call("wait", {"seconds": 0.01}))

        asking = [asyncio.create_task(ask()) for _ in range(16)]
        await eventually(lambda: len(answers) > 50, what="some answers")
        await workers[0].drain()
        after = len(answers)
        await eventually(lambda: len(answers) > after + 50, what="answers of the other")
        stop.set()
        await asyncio.gather(*asking)
        assert workers[0].failed == workers[1].failed == 0
        assert len(socket_files(folder)) == 1


async def test_what_came_over_the_broker_is_answered_over_the_broker(server: PrivateNats, folder: Path) -> None:
    async with (
        client(server.url, folder) as (fabric, transport),
        serving(server.url, folder, named("patient")) as (only,),
    ):
        calls = [asyncio.create_task(fabric.agent("patient").call("wait", {"seconds": 1.0})) for _ in range(20)]
        await eventually(lambda: "running=20" in repr(only), what="the beginning of all")
        assert await transport.meet("patient") == 1
        assert await fabric.agent("patient").call("who") == only.instance  # over the link
        await only.drain()
        assert await asyncio.gather(*calls) == ["waited"] * 20


async def test_two_instances_of_one_process_answer_over_their_own_links(server: PrivateNats, folder: Path) -> None:
    transport = await near(server.url, folder)
    both = [Worker(transport, named(name)) for name in ("left", "right")]
    for worker_of_one in both:
        await worker_of_one.start()
    async with client(server.url, folder) as (fabric, caller):
        assert await caller.meet("left") == await caller.meet("right") == 1
        slow = [asyncio.create_task(fabric.agent("left").call("wait", {"seconds": 0.2})) for _ in range(50)]
        for _ in range(50):
            await fabric.agent("right").call("who")
        await asyncio.gather(*slow)
        links = list(caller._nearby._links.values())  # pyright: ignore[reportPrivateUsage]
        assert [len(link.open) for link in links] == [0, 0]
    for worker_of_one in both:
        await worker_of_one.drain()
    await transport.close()


async def test_of_two_instances_of_an_agent_in_one_process_one_may_leave(server: PrivateNats, folder: Path) -> None:
    transport = await near(server.url, folder)
    stays, leaves = [Worker(transport, named("twins")) for _ in range(2)]
    await stays.start()
    await leaves.start()
    async with client(server.url, folder) as (fabric, caller):
        assert await caller.meet("twins") == 2
        await leaves.drain()
        assert await caller.meet("twins") == 1
        for number in range(5):
            reply, answer = subjects.reply("0" * 32, time.time() + 5, number), Ear()
            hearing = await caller.subscribe(subjects.replies("0" * 32), answer)
            await caller.publish(Message(subjects.call("twins", "fabric/describe"), EMPTY, reply=reply))
            assert (await answer.wait())[0].header(subjects.Header.STATUS) is None
            await hearing.close()
        assert await fabric.agent("twins").call("who") == stays.instance
        assert "1 links" in repr(caller)
    await stays.drain()
    await transport.close()


async def test_a_link_over_which_no_answer_comes_is_used_no_more(
    server: PrivateNats, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the death of a worker a child of which holds its end of the link; or while a worker is frozen."""
    monkeypatch.setattr(nearby, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(nearby, "LATE_SECONDS", 0.1)
    monkeypatch.setattr(nearby, "_LOOK_SECONDS", 0.05)
    held, there = list[Link](), [{"mute"}]

    async def find(agent: str) -> set[str]:
        return there.pop() if there else set()

    def hold() -> Link:
        held.append(Link(Nobody()))
        return held[-1]

    mute = await asyncio.get_running_loop().create_unix_server(hold, str(folder / "mute.sock"))
    broker = await NatsTransport.connect(server.url)
    caller = NearestTransport(broker, folder, find)
    async with serving(server.url, folder, named("revenant")) as (only,), Fabric.over(caller) as fabric:
        assert await caller.meet("revenant") == 1
        with pytest.raises(errors.DeadlineExceeded):
            await fabric.agent("revenant").call("who", timeout=0.3)
        await asyncio.wait_for(held[-1].gone.wait(), 5)
        assert await fabric.agent("revenant").call("who", timeout=5) == only.instance
    await caller.close()
    mute.close()


async def test_while_the_broker_is_away_calls_on_the_host_go_on(folder: Path) -> None:
    with private_nats() as lonely:
        async with serving(lonely.url, folder, named("robust")), client(lonely.url, folder) as (fabric, transport):
            assert await transport.meet("robust") == 1
            lonely.kill()
            await eventually(lambda: not transport.connected, what="the loss of the broker")
            assert await transport.meet("robust") == 1  # nobody can be asked, and the link is as good as before
            assert await asyncio.wait_for(fabric.agent("robust").call("wait", {"seconds": 0}), 5) == "waited"
            lonely.start()
            await eventually(lambda: transport.connected, what="its return")


async def test_what_is_cancelled_before_it_comes_is_not_begun(server: PrivateNats, folder: Path) -> None:
    agent, begun = Agent("overtaken"), Ear()

    @agent.tool
    async def note() -> None:
        begun(Message("note"))

    async with serving(server.url, folder, agent) as (only,), client(server.url, folder) as (fabric, transport):
        await fabric.agent("overtaken").call("note")
        reply = subjects.reply("0" * 32, 4e9, 1)
        only._calls.cancel(reply)  # pyright: ignore[reportPrivateUsage] - as if its control message had overtaken the call
        answer = Ear()
        await transport.subscribe(subjects.replies("0" * 32), answer)
        await transport.publish(Message(subjects.call("overtaken", "tools/call"), EMPTY, reply=reply))
        await answer.wait()
        assert answer.heard[0].header(subjects.Header.ERROR_CODE) == str(errors.CallCancelled.code)
        assert len(begun.heard) == 1


async def test_a_stranger_at_the_socket_is_turned_away_and_hurts_nobody(server: PrivateNats, folder: Path) -> None:
    async with serving(server.url, folder, named("steady")), client(server.url, folder) as (fabric, transport):
        (path,) = socket_files(folder)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        await reader.read()  # its greeting, and the end
        writer.close()
        assert await transport.meet("steady") == 1
        assert await fabric.agent("steady").call("who")


async def test_a_caller_that_reads_nothing_is_given_up_and_holds_nobody(
    server: PrivateNats, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_STUCK_SECONDS", 0.2)
    agent = Agent("generous")

    @agent.tool
    async def much() -> str:
        return "x" * 500_000

    async with serving(server.url, folder, agent) as (only,), client(server.url, folder) as (fabric, _):
        stuck = Link(Nobody())
        assert await sockets.connect(folder, only.instance, stuck)
        assert stuck._transport is not None  # pyright: ignore[reportPrivateUsage]
        stuck._transport.pause_reading()  # pyright: ignore[reportPrivateUsage]
        for number in range(12):
            reply = subjects.reply("f" * 32, time.time() + 60, number)
            body = Body({"name": "much", "arguments": {}})
            stuck.send(encode_frame(Message(subjects.call("generous", "tools/call"), body, reply=reply))[0])
        await eventually(lambda: only.served == 12, what="the end of all twelve")
        assert len(await fabric.agent("generous").call("much")) == 500_000
        stuck.close()
        await stuck.gone.wait()


async def test_a_call_whose_answer_waits_to_be_read_is_not_answered_again(server: PrivateNats, folder: Path) -> None:
    agent = Agent("generous")

    @agent.tool
    async def much() -> str:
        return "x" * 500_000

    async with serving(server.url, folder, agent) as (only,), client(server.url, folder) as (_, afar):
        again, begun = Ear(), time.time()
        await afar.subscribe(subjects.replies("f" * 32), again)
        slow = Link(Nobody())
        assert await sockets.connect(folder, only.instance, slow)
        assert slow._transport is not None  # pyright: ignore[reportPrivateUsage]
        slow._transport.pause_reading()  # pyright: ignore[reportPrivateUsage]
        for number in range(8):
            reply = subjects.reply("f" * 32, begun + 60, number)
            body = Body({"name": "much", "arguments": {}})
            slow.send(encode_frame(Message(subjects.call("generous", "tools/call"), body, reply=reply))[0])
        await eventually(lambda: 0 < only.served < 8 and "running=" in repr(only), what="answers that wait")
        only.hurry()
        await eventually(lambda: only.served == 8, what="the end of all eight")
        assert only.failed == 0
        await only._transport.flush()  # pyright: ignore[reportPrivateUsage]
        await afar.flush()
        assert not again.heard  # over the broker, which would overtake what waits
        slow.close()
        await slow.gone.wait()


async def test_a_message_that_the_broker_would_not_take_is_refused_here_as_well(
    server: PrivateNats, folder: Path
) -> None:
    async with serving(server.url, folder, named("large")), client(server.url, folder) as (fabric, transport):
        assert await transport.meet("large") == 1
        with pytest.raises(errors.MessageTooLarge, match="the fabric takes"):
            await fabric.caller.transport.publish(
                Message(subjects.call("large", "tools/call"), Message("", EMPTY).body, headers={"X": "x" * 2_000_000})
            )


@pytest.mark.parametrize("why", ["off", "open to others", "somebody else's", "not a folder", "too deep"])
async def test_without_a_folder_of_its_own_everything_goes_over_the_broker(
    server: PrivateNats, folder: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "sockets"
    match why:
        case "open to others":
            path.mkdir()
            path.chmod(0o755)
        case "somebody else's":
            path.symlink_to("/")
        case "not a folder":
            path.touch()
        case "too deep":
            path = folder / ("x" * 120)
        case _:
            pass
    monkeypatch.setenv(SOCKETS, "off" if why == "off" else str(path))
    transport = await connect(server.url)
    assert isinstance(transport, NatsTransport)
    await transport.close()


async def test_the_usual_folder_is_this_users_alone(
    server: PrivateNats, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SOCKETS, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    transport = await connect(server.url)
    assert isinstance(transport, NearestTransport)
    found = (folder / "agent-fabric").stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.geteuid()
    await transport.close()


async def test_a_runtime_folder_of_another_user_is_not_used(
    server: PrivateNats, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `su`, which leaves the variable: its owner could replace what is in there."""
    monkeypatch.delenv(SOCKETS, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "for all"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    transport = await connect(server.url)
    assert not (folder / "agent-fabric").exists()
    await transport.close()


async def test_a_socket_that_cannot_be_made_leaves_the_broker(
    server: PrivateNats, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = folder / "gone"
    async with serving(server.url, folder, named("other")):
        transport = await near(server.url, gone)
        only = Worker(transport, named("distant"))
        await only.start()
        assert "is reached over the broker alone" in caplog.text
        async with client(server.url, folder) as (fabric, _):
            assert await fabric.agent("distant").call("who") == only.instance
        await only.drain()
        await transport.close()


async def test_only_the_sockets_of_the_dead_are_swept(server: PrivateNats, folder: Path) -> None:
    for name in ("dead.sock", "unnamed.new", "beginning.new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(folder / name))
    os.utime(folder / "unnamed.new", (0, 0))
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(folder / "busy.sock"))
        busy.listen(0)
        async with serving(server.url, folder, named("tidy")) as (only,):
            assert names(folder) == {"busy.sock", "beginning.new", f"{only.instance}.sock"}


async def test_a_listener_that_cannot_have_its_name_leaves_nothing(folder: Path) -> None:
    listener = sockets.Listener(folder, "there", lambda: Link(Nobody()))
    (folder / "there.sock").mkdir()
    with pytest.raises(OSError, match=r"there\.sock"):
        await listener.open()
    assert names(folder) == {"there.sock"}
    assert not any("there" in each.laddr for each in psutil.Process().net_connections("unix"))


async def test_a_call_that_is_never_answered_is_forgotten_when_it_is_overdue(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "_FEW", 8)
    there = callers.Callers(folder, lambda message: True)
    link, now = Link(there, "there"), time.time()
    for number in range(100):
        overdue = subjects.reply("c", now - 60, number)
        there.take(link, Message(subjects.call("there", "tools/call"), reply=overdue))
        due = subjects.reply("c", now + 60, number)
        there.take(link, Message(subjects.call("there", "tools/call"), reply=due))
    kept = [there.way(subjects.reply("c", now + 60, number)) for number in range(100)]
    assert kept == [link] * 100
    assert len(there) < 120


async def test_who_is_cancelled_as_the_greeting_comes_leaves_no_connection(folder: Path) -> None:
    listener = sockets.Listener(folder, "there", lambda: Link(Nobody()))
    await listener.open()
    link = Link(Nobody())

    waits = asyncio.Event()

    async def cancel() -> None:
        waits.set()
        await link.greeted.wait()
        connecting.cancel()

    cancelling = asyncio.create_task(cancel())
    await waits.wait()  # so that it hears of the greeting first
    connecting = asyncio.create_task(sockets.connect(folder, "there", link))
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await cancelling
    async with asyncio.timeout(5):
        await link.gone.wait()
    await listener.close()
