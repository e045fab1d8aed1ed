"""A supervisor starts, watches, restarts and stops processes. Proves: RT-6, CM-2 (unhealthy is restarted)."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from process.helpers import Events, Programs
from support.waiting import eventually

from fabric.process import (
    Exited,
    HealthPolicy,
    ProcessEvent,
    ProcessSpec,
    ProcessStartError,
    Ready,
    Restarting,
    RestartPolicy,
    Started,
    State,
    Stopped,
    Supervisor,
    SupervisorStopped,
    Tether,
    Unhealthy,
)

pytestmark = pytest.mark.anyio

QUICK = RestartPolicy(first=0.01, longest=0.1, steady=60.0)
WATCHFUL = HealthPolicy(interval=0.02, timeout=0.2, failures=3)


class Health:
    """A probe whose answer the test decides."""

    def __init__(self) -> None:
        self.trouble: str | None = None

    async def __call__(self) -> None:
        if self.trouble:
            raise RuntimeError(self.trouble)


async def test_start_returns_when_every_process_is_ready(programs: Programs, events: Events) -> None:
    async with Supervisor(events) as supervisor:
        names = ("one", "two", "three")
        await supervisor.start(*(programs.patient(name, probe=programs.is_up(name)) for name in names))
        assert {event.name for event in events.seen if isinstance(event, Ready)} == set(names)
        statistics = supervisor.statistics()
        assert [status.name for status in statistics] == list(names)
        assert all(status.state is State.READY and status.restarts == 0 for status in statistics)
        assert {status.pid for status in statistics} <= programs.running


async def test_a_process_that_dies_before_it_is_ready_tells_its_exit_code_and_last_words(
    programs: Programs, tmp_path: Path, events: Events
) -> None:
    log = tmp_path / "log"
    log.write_text("from an earlier run\n")
    spec = programs.shell("broken", "echo cannot find my file >&2; exit 3", log=log, probe=programs.is_up("broken"))
    async with Supervisor(events) as supervisor:
        with pytest.raises(ProcessStartError) as raised:
            await supervisor.start(programs.patient("fine", probe=programs.is_up("fine")), spec)
        assert supervisor.statistics() == ()
    assert raised.value.name == "broken"
    assert raised.value.lines == ("cannot find my file",)
    assert "exited with code 3 before it was ready" in str(raised.value)
    assert str(log) in str(raised.value)
    await eventually(lambda: not programs.running)  # what was started with it is stopped again


async def test_a_process_that_is_not_ready_in_time_is_killed_and_says_why(programs: Programs, events: Events) -> None:
    spec = programs.stubborn("slow", probe=programs.is_up("never"), startup=0.2)
    async with Supervisor(events) as supervisor:
        with pytest.raises(ProcessStartError, match=r"slow was not ready within 0.2 s: never is not up"):
            await supervisor.start(spec)
    await eventually(lambda: not programs.running)
    assert any(isinstance(event, Unhealthy) for event in events.seen)


async def test_a_missing_program_is_reported_by_name() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(ProcessStartError, match="could not be started: No such file or directory: no-such-program"):
            await supervisor.start(ProcessSpec(name="typo", argv=("no-such-program",)))


async def test_whatever_keeps_a_process_from_being_started_is_reported(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def racing(*_: object, **__: object) -> None:
        raise RuntimeError("Racing with another loop to spawn a process.")  # as uvloop does

    monkeypatch.setattr("asyncio.create_subprocess_exec", racing)
    async with Supervisor() as supervisor:
        with pytest.raises(ProcessStartError, match="could not be started: Racing with another loop"):
            await supervisor.start(programs.patient("one"))


async def test_a_file_that_is_no_program_is_reported_with_what_the_system_says(tmp_path: Path) -> None:
    program = tmp_path / "garbage"
    program.write_bytes(b"\x7fELF and nothing behind it")
    program.chmod(0o700)
    spec = ProcessSpec(name="garbage", argv=(str(program),), log=tmp_path / "log", probe=never)
    async with Supervisor() as supervisor:
        with pytest.raises(ProcessStartError, match="Exec format error"):
            await supervisor.start(spec)


async def test_a_killed_process_is_restarted(programs: Programs, events: Events) -> None:
    async with Supervisor(events, restart=QUICK) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        first = await events.next(Ready)
        os.kill(first.pid, signal.SIGKILL)
        exited = await events.next(Exited)
        assert (exited.pid, exited.signal, exited.code) == (first.pid, "SIGKILL", None)
        second = await events.next(Ready)
        assert second.pid != first.pid
        (status,) = supervisor.statistics()
        assert (status.pid, status.state, status.restarts) == (second.pid, State.READY, 1)


async def test_what_a_dead_process_left_in_its_group_is_gone_before_its_restart(
    programs: Programs, events: Events
) -> None:
    async with Supervisor(events, restart=RestartPolicy(first=60.0)) as supervisor:
        await supervisor.start(programs.stubborn("one", probe=programs.is_up("one")))
        await eventually(lambda: len(programs.running) == 2)
        os.kill((await events.next(Ready)).pid, signal.SIGKILL)
        await events.next(Restarting)
        await eventually(lambda: not programs.running)


async def test_a_process_that_keeps_dying_is_restarted_ever_more_rarely_and_never_given_up(
    programs: Programs, events: Events
) -> None:
    policy = RestartPolicy(first=0.01, longest=0.05, jitter=0.0)
    async with Supervisor(events, restart=policy) as supervisor:
        await supervisor.start(programs.shell("dying", "exit 1"))
        restarts = [await events.next(Restarting) for _ in range(6)]
    assert [event.failures for event in restarts] == [1, 2, 3, 4, 5, 6]
    assert [event.seconds for event in restarts] == [0.01, 0.02, 0.04, 0.05, 0.05, 0.05]


async def test_a_process_that_stayed_up_is_restarted_as_quickly_as_the_first_time(
    programs: Programs, events: Events
) -> None:
    async with Supervisor(events, restart=RestartPolicy(first=0.01, steady=0.0)) as supervisor:
        await supervisor.start(programs.shell("dying", "exit 1"))
        restarts = [await events.next(Restarting) for _ in range(4)]
    assert [event.failures for event in restarts] == [1, 1, 1, 1]


async def test_a_process_that_lives_but_fails_its_probe_is_killed_and_restarted(
    programs: Programs, events: Events
) -> None:
    health = Health()
    async with Supervisor(events, restart=QUICK, health=WATCHFUL) as supervisor:
        await supervisor.start(programs.stubborn("hung", probe=health))
        first = await events.next(Ready)
        health.trouble = "no answer"
        unhealthy = await events.next(Unhealthy)
        assert unhealthy.pid == first.pid
        assert unhealthy.reason == "failed 3 health checks in a row: no answer"
        health.trouble = None
        assert (await events.next(Exited)).signal == "SIGKILL"
        assert (await events.next(Ready)).pid != first.pid


async def test_a_probe_that_hangs_counts_as_failed(programs: Programs, events: Events) -> None:
    answers = asyncio.Event()
    answers.set()

    async def probe() -> None:
        await answers.wait()

    async with Supervisor(events, restart=QUICK, health=HealthPolicy(0.01, timeout=0.05, failures=2)) as supervisor:
        await supervisor.start(programs.patient("hung", probe=probe))
        answers.clear()
        assert "took longer than 0.05 s" in (await events.next(Unhealthy)).reason
        answers.set()
        await events.next(Ready)


async def test_a_few_failed_probes_between_good_ones_are_forgiven(programs: Programs, events: Events) -> None:
    asked = 0
    enough = asyncio.Event()

    async def two_of_three_fail() -> None:
        nonlocal asked
        asked += 1
        if asked > 12:
            enough.set()
        if asked % 3:
            raise RuntimeError("not now")

    async with Supervisor(events, health=HealthPolicy(0.001, timeout=1.0, failures=3)) as supervisor:
        await supervisor.start(programs.patient("moody", probe=two_of_three_fail))
        await asyncio.wait_for(enough.wait(), 5)
    assert not [event for event in events.seen if isinstance(event, Unhealthy)]


async def test_layers_are_stopped_in_the_reverse_order_of_their_start(programs: Programs) -> None:
    async with Supervisor() as supervisor:
        for name in ("broker", "registry", "gateway"):
            await supervisor.start(programs.patient(name, probe=programs.is_up(name)))
    assert programs.ended == ["gateway", "registry", "broker"]


async def test_a_replaced_process_keeps_its_place_in_the_order(programs: Programs, events: Events) -> None:
    async with Supervisor(events) as supervisor:
        for name in ("broker", "gateway"):
            await supervisor.start(programs.patient(name, probe=programs.is_up(name)))
        old = supervisor.statistics()[0].pid
        await supervisor.replace("broker")
        status = supervisor.statistics()[0]
        assert (status.name, status.state) == ("broker", State.READY)
        assert status.pid != old
    assert programs.ended == ["broker", "gateway", "broker"]


async def test_two_who_replace_the_same_process_leave_one_of_it(programs: Programs) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        await asyncio.gather(supervisor.replace("one"), supervisor.replace("one"), return_exceptions=True)
        await eventually(lambda: len(programs.running) == 1)
        assert {status.pid for status in supervisor.statistics()} == programs.running


async def test_a_process_replaced_by_a_broken_one_is_reported_and_tried_again(
    programs: Programs, events: Events
) -> None:
    async with Supervisor(events, restart=QUICK) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        broken = programs.shell("one", "exit 5", probe=never)
        with pytest.raises(ProcessStartError, match="exited with code 5"):
            await supervisor.replace("one", broken)
        assert (await events.next(Restarting)).name == "one"
        await supervisor.replace("one", programs.patient("one", probe=programs.is_up("one")))


async def test_a_process_that_ignores_sigterm_is_killed_after_its_grace_with_its_whole_group(
    programs: Programs, events: Events
) -> None:
    supervisor = Supervisor(events)
    await supervisor.start(programs.stubborn("one", probe=programs.is_up("one"), grace=0.1))
    await eventually(lambda: len(programs.running) == 2)
    await supervisor.stop()
    assert (await events.next(Exited)).signal == "SIGKILL"
    await eventually(lambda: not programs.running)


def finishing(programs: Programs) -> ProcessSpec:
    """One that is told to end and finishes its work, which takes for ever, unless it is told again."""
    begun = programs.folder / "begun"
    script = f"trap 'touch {begun}' TERM; trap 'echo one >>{programs.folder}/ended; exit 0' INT"
    script += f"; touch {programs.folder}/up; while :; do sleep 0.01; done"
    return programs.shell("one", script, grace=60.0)


async def test_a_stop_that_is_cancelled_hurries_those_that_finish_their_work(programs: Programs) -> None:
    supervisor = Supervisor()
    await supervisor.start(finishing(programs))
    await eventually((programs.folder / "up").exists)
    stop = asyncio.create_task(supervisor.stop())
    await eventually((programs.folder / "begun").exists)
    stop.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({stop})
    assert stop.cancelled()
    assert programs.ended == ["one"]
    assert not programs.running
    assert supervisor.statistics() == ()


async def test_a_cancellation_on_the_way_to_the_stop_hurries_it_too(programs: Programs) -> None:
    """A second Ctrl-C often comes before all that is ended ahead of the processes has ended."""
    started = asyncio.Event()

    async def serve() -> None:
        async with Supervisor() as supervisor:
            await supervisor.start(finishing(programs))
            await eventually((programs.folder / "up").exists)
            started.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await started.wait()
    serving.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({serving})
    assert serving.cancelled()
    assert programs.ended == ["one"]
    assert not programs.running


async def test_a_stop_that_is_cancelled_leaves_no_layer_behind(programs: Programs) -> None:
    supervisor = Supervisor()
    await supervisor.start(programs.patient("broker", probe=programs.is_up("broker")))
    await supervisor.start(programs.stubborn("one", probe=programs.is_up("one"), grace=60.0))
    stop = asyncio.create_task(supervisor.stop())
    await eventually(lambda: supervisor.statistics()[-1].state is State.STOPPING)
    stop.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({stop})
    assert programs.ended == ["broker"]
    assert not programs.running


async def test_stop_ends_a_start_that_is_still_waiting(programs: Programs, events: Events) -> None:
    supervisor = Supervisor(events)
    start = asyncio.create_task(supervisor.start(programs.patient("one", probe=never)))
    await events.next(Started)
    await supervisor.stop()
    with pytest.raises(ProcessStartError, match="stopped before it was ready"):
        await start
    await eventually(lambda: not programs.running)


async def test_a_cancelled_start_leaves_nothing_behind(programs: Programs, events: Events) -> None:
    async with Supervisor(events) as supervisor:
        start = asyncio.create_task(supervisor.start(programs.patient("one", probe=never)))
        await events.next(Started)
        start.cancel()
        await asyncio.wait({start})
        assert start.cancelled()
        await eventually(lambda: not programs.running)
        assert supervisor.statistics() == ()


async def test_stop_does_not_wait_for_the_next_restart(programs: Programs, events: Events) -> None:
    async with Supervisor(events, restart=RestartPolicy(first=3600.0, longest=3600.0)) as supervisor:
        await supervisor.start(programs.shell("dying", "exit 1"))
        await events.next(Restarting)
        assert supervisor.statistics()[0].state is State.WAITING
        async with asyncio.timeout(5):
            await supervisor.stop()
    assert isinstance(events.seen[-1], Stopped)


async def test_a_stopped_supervisor_starts_nothing_more(programs: Programs) -> None:
    supervisor = Supervisor()
    await supervisor.stop()
    with pytest.raises(SupervisorStopped):
        await supervisor.start(programs.patient("late"))


async def test_a_name_can_be_taken_once(programs: Programs) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(programs.patient("one"))
        with pytest.raises(ValueError, match="one"):
            await supervisor.start(programs.patient("one"))


async def test_a_removed_process_is_stopped_and_forgotten(programs: Programs) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(*(programs.patient(name, probe=programs.is_up(name)) for name in ("one", "two")))
        await supervisor.remove("one")
        assert programs.ended == ["one"]
        assert [status.name for status in supervisor.statistics()] == ["two"]
        with pytest.raises(KeyError):
            await supervisor.remove("one")


async def test_a_process_whose_removal_nobody_waits_for_any_more_is_forgotten_when_it_has_ended(
    programs: Programs, events: Events
) -> None:
    async with Supervisor(events) as supervisor:
        await supervisor.start(programs.stubborn("one", probe=programs.is_up("one"), grace=0.1))
        removal = asyncio.create_task(supervisor.remove("one"))
        await asyncio.sleep(0)
        removal.cancel()
        await events.next(Stopped)
        await eventually(lambda: supervisor.statistics() == ())
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))


async def test_a_receiver_of_events_that_fails_does_not_end_supervision(programs: Programs, events: Events) -> None:
    def failing(event: ProcessEvent) -> None:
        events(event)
        raise RuntimeError("cannot print")

    async with Supervisor(failing, restart=QUICK) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        os.kill((await events.next(Ready)).pid, signal.SIGKILL)
        await events.next(Ready)


async def test_events_tell_the_whole_life_in_order(programs: Programs, events: Events) -> None:
    async with Supervisor(events, restart=QUICK) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        os.kill((await events.next(Ready)).pid, signal.SIGKILL)
        await events.next(Ready)
    kinds = [type(event) for event in events.seen]
    assert kinds == [Started, Ready, Exited, Restarting, Started, Ready, Exited, Stopped]


async def test_a_process_gets_its_environment_and_folder_and_secrets_are_not_shown(
    programs: Programs, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = 'echo "$SECRET $HOME"; pwd; sleep 1000 & wait'
    spec = programs.shell("one", script, env={"SECRET": "s3cret"}, cwd=tmp_path, log=log)
    async with Supervisor() as supervisor:
        await supervisor.start(spec)
        await eventually(lambda: log.read_text().count("\n") == 2)
    assert log.read_text().splitlines() == [f"s3cret {os.environ['HOME']}", str(tmp_path)]
    assert log.stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in repr(spec)


async def test_a_log_that_grows_too_long_is_moved_aside_while_its_process_runs(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric.process.output.LIMIT", 10_000)
    log, aside = tmp_path / "log", tmp_path / "log.1"
    script = "trap 'exit 0' TERM; while :; do echo a line of some length; sleep 0.0005; done"
    async with Supervisor(health=WATCHFUL) as supervisor:
        await supervisor.start(programs.shell("chatty", script, log=log))
        await eventually(aside.exists, seconds=10)
        await eventually(lambda: 0 < log.stat().st_size < 10_000)
    assert aside.stat().st_size > 10_000
    assert aside.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("tether", list(Tether))
async def test_restarts_do_not_pile_up_descriptors(
    tether: Tether, programs: Programs, tmp_path: Path, events: Events
) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with Supervisor(events, restart=RestartPolicy(first=0.001, longest=0.001), tether=tether) as supervisor:
        await supervisor.start(programs.shell("dying", "exit 1", log=tmp_path / "log"))
        await events.next(Restarting)
        before = opened()
        for _ in range(20):
            await events.next(Restarting)
        assert opened() < before + 20


async def never() -> None:
    """The probe of what never becomes ready."""
    raise RuntimeError("never")
