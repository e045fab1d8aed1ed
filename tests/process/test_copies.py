"""Copies of a process: scaled, and renewed one after the other. Proves: RT-6 (N workers, scaled, reloaded), CM-7."""

from __future__ import annotations

import pytest
from process.helpers import Events, Programs

from fabric.process import Copies, ProcessSpec, ProcessStartError, Ready, Stopped, Supervisor

pytestmark = pytest.mark.anyio


class Worker:
    """Describes the copies of one worker; the test decides whether they still work."""

    def __init__(self, programs: Programs) -> None:
        self.broken = False
        self._programs = programs

    def __call__(self, number: int) -> ProcessSpec:
        name = f"worker-{number}"
        if self.broken:
            return self._programs.shell(name, "exit 1", probe=self._programs.is_up("never"))
        return self._programs.patient(name, probe=self._programs.is_up(name))


@pytest.fixture
def worker(programs: Programs) -> Worker:
    return Worker(programs)


def pids(supervisor: Supervisor) -> set[int | None]:
    return {status.pid for status in supervisor.statistics()}


async def test_copies_are_started_and_stopped_until_there_are_as_many_as_asked_for(
    worker: Worker, programs: Programs
) -> None:
    async with Supervisor() as supervisor:
        copies = Copies(supervisor, worker)
        await copies.scale(3)
        assert copies.names == ("worker-1", "worker-2", "worker-3")
        first = supervisor.statistics()[0].pid
        await copies.scale(1)
        assert copies.names == ("worker-1",)
        assert supervisor.statistics()[0].pid == first, "the oldest is left alone"
        assert sorted(programs.ended) == ["worker-2", "worker-3"], "each was told, not killed"
        await copies.scale(2)
        assert copies.names == ("worker-1", "worker-2")
        await copies.scale(0)
        assert supervisor.statistics() == ()
        with pytest.raises(ValueError, match="-1"):
            await copies.scale(-1)


async def test_a_roll_renews_every_copy_and_never_has_fewer_than_before(
    worker: Worker, programs: Programs, events: Events
) -> None:
    async with Supervisor(events) as supervisor:
        copies = Copies(supervisor, worker)
        await copies.scale(3)
        before = pids(supervisor)
        await copies.roll()
        assert not before & pids(supervisor)
        assert len(copies.names) == 3
        assert len(programs.running) == 3
        alive = 0
        counts: list[int] = []
        for event in events.seen:
            alive += isinstance(event, Ready) - isinstance(event, Stopped)
            counts.append(alive)
        assert min(counts[counts.index(3) :]) == 3


async def test_the_numbers_of_copies_do_not_grow_with_each_roll(worker: Worker) -> None:
    async with Supervisor() as supervisor:
        copies = Copies(supervisor, worker)
        await copies.scale(1)
        for _ in range(3):
            await copies.roll()
        assert set(copies.names) <= {"worker-1", "worker-2"}


async def test_a_roll_to_a_broken_version_is_reported_and_the_old_copies_go_on(worker: Worker) -> None:
    async with Supervisor() as supervisor:
        copies = Copies(supervisor, worker)
        await copies.scale(2)
        before = pids(supervisor)
        worker.broken = True
        with pytest.raises(ProcessStartError):
            await copies.roll()
        assert pids(supervisor) == before
        worker.broken = False
        await copies.roll()
        assert not before & pids(supervisor)


async def test_scaling_out_that_fails_leaves_the_copies_there_were(worker: Worker) -> None:
    async with Supervisor() as supervisor:
        copies = Copies(supervisor, worker)
        await copies.scale(1)
        before = pids(supervisor)
        worker.broken = True
        with pytest.raises(ProcessStartError):
            await copies.scale(3)
        assert pids(supervisor) == before
        assert copies.names == ("worker-1",)
