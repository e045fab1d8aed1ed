"""Children end when their parent ends, however it ends. Proves: RT-6 (no worker outlives its supervisor)."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from process.helpers import Events, Programs
from support.waiting import eventually

from fabric.process import Exited, ProcessSpec, Supervisor, Tether, guard

pytestmark = pytest.mark.anyio

both_tethers = pytest.mark.parametrize("tether", list(Tether))
GUARD = (sys.executable, "-I", "-S", str(Path(guard.__file__)))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@both_tethers
def test_the_whole_family_is_gone_soon_after_its_head_is_killed(
    tether: Tether, loop: str, programs: Programs, tmp_path: Path
) -> None:
    family, said = Path(__file__).with_name("family.py"), tmp_path / "said"
    with said.open("w") as output:
        head = subprocess.Popen([sys.executable, family, programs.mark, tether, loop, "2"], stdout=output)
    try:
        asyncio.run(eventually(lambda: said.read_text().count("\n") == 3, seconds=20.0))
        members = {int(line) for line in said.read_text().splitlines()}
        assert head.pid in members
        assert members <= programs.running
    finally:
        head.kill()
        head.wait()
    asyncio.run(eventually(lambda: not programs.running, seconds=5.0))


@both_tethers
async def test_nothing_is_left_after_an_orderly_stop(tether: Tether, programs: Programs) -> None:
    async with Supervisor(tether=tether) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        assert programs.running
    await eventually(lambda: not programs.running)  # a guard takes a moment to see that it is no longer needed
    assert programs.ended == ["one"]


@both_tethers
async def test_the_tie_does_not_change_what_is_seen_of_the_program(
    tether: Tether, programs: Programs, events: Events
) -> None:
    async with Supervisor(events, tether=tether) as supervisor:
        await supervisor.start(programs.shell("quitter", "exit 7"))
        assert (await events.next(Exited)).code == 7
        await supervisor.remove("quitter")
        await supervisor.start(programs.shell("suicide", "kill -USR1 $$"))
        assert (await events.next(Exited)).signal == "SIGUSR1"


@both_tethers
async def test_a_child_has_its_own_session_so_that_ctrl_c_reaches_the_parent_alone(
    tether: Tether, programs: Programs
) -> None:
    async with Supervisor(tether=tether) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        (status,) = supervisor.statistics()
        assert status.pid is not None
        assert os.getsid(status.pid) == os.getpgid(status.pid) == status.pid


@both_tethers
async def test_a_program_gets_the_usual_signal_handling_and_no_descriptor_but_its_own(
    tether: Tether, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    reads, writes = os.pipe()
    script = "grep SigIgn /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; echo; sleep 1000 & wait"
    spec = ProcessSpec(name="one", argv=("sh", "-c", script), log=log, descriptors=(reads,))
    async with Supervisor(tether=tether) as supervisor:
        await supervisor.start(spec)
        await eventually(lambda: log.read_text().count("\n") == 2)
    os.close(reads)
    os.close(writes)
    ignored, descriptors = log.read_text().splitlines()
    # 32 and 33 are the C library's own, which a program cannot reset; some shells hand them down ignored.
    ours = {number for number in range(1, 65) if int(ignored.split()[1], 16) >> (number - 1) & 1}
    assert ours <= {32, 33}
    opened_by_ls = 1
    assert len(set(descriptors.split()) - {"0", "1", "2", str(reads)}) == opened_by_ls


def test_a_child_whose_parent_is_gone_before_the_tie_is_made_never_runs_its_program(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    no_parent_of_it = os.getppid()
    done = subprocess.run([*GUARD, "prctl", str(no_parent_of_it), "", "touch", str(ran)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not ran.exists()


def test_a_guard_that_finds_its_pipe_closed_ends_the_program_at_once() -> None:
    reads, writes = os.pipe()
    os.close(writes)
    child = subprocess.Popen(
        [*GUARD, "pipe", str(reads), "", "sleep", "1000"], pass_fds=[reads], start_new_session=True
    )
    try:
        assert child.wait(timeout=5) == -signal.SIGKILL
    finally:
        os.close(reads)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def test_a_guard_holds_nothing_that_the_child_inherited(tmp_path: Path) -> None:
    """Else a lock that a server holds would outlive the server."""
    reads, writes = os.pipe()
    held, other_end = os.pipe()
    child = subprocess.Popen(
        [*GUARD, "pipe", str(reads), str(other_end), "true"], pass_fds=[reads, other_end], start_new_session=True
    )
    os.close(other_end)
    os.close(reads)
    assert child.wait(timeout=5) == 0
    readable, _, _ = select.select([held], [], [], 5)
    assert readable, "end of file: nobody has the other end, though the guard still waits"
    os.write(writes, guard.RELEASE)
    os.close(writes)
    os.close(held)
