"""Children, and all that they start, end when their parent ends, however it ends. Proves: RT-6 (no worker outlives its
supervisor).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cli.command import alive, family
from process.helpers import Events, Programs
from support.waiting import eventually

from fabric.process import Exited, ProcessSpec, Ready, Restarting, RestartPolicy, Supervisor, Tether, guard

pytestmark = pytest.mark.anyio

both_tethers = pytest.mark.parametrize("tether", list(Tether))
GUARD = (sys.executable, "-I", "-S", str(Path(guard.__file__)))


FAMILY = Path(__file__).with_name("family.py")
ESCAPEES = 3


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@both_tethers
def test_the_whole_family_is_gone_soon_after_its_head_is_killed(
    tether: Tether, loop: str, programs: Programs, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    size = 3 + (ESCAPEES if tether is Tether.TREE else 0)
    with said.open("w") as output:
        head = subprocess.Popen([sys.executable, FAMILY, programs.mark, tether, loop, "2"], stdout=output)
    try:
        asyncio.run(eventually(lambda: said.read_text().count("\n") == size, seconds=20.0))
        members = {int(line) for line in said.read_text().splitlines()}
        assert head.pid in members
        assert members <= programs.running
        everything = family(head.pid)
    finally:
        head.kill()
        head.wait()
    asyncio.run(eventually(lambda: not programs.running and not alive(everything), seconds=5.0))


def only_child(programs: Programs) -> ProcessSpec:
    """One that leaves others behind, ready as soon as they are there."""

    async def probe() -> None:
        if len(programs.running) < 1 + ESCAPEES:
            raise RuntimeError("not all are there")

    return ProcessSpec(
        name="one", argv=(sys.executable, str(FAMILY), programs.mark, Tether.TREE, "asyncio", "0"), probe=probe
    )


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, a process that leaves the group gets away")


@linux
async def test_what_a_dead_process_left_behind_is_gone_before_its_restart(programs: Programs, events: Events) -> None:
    async with Supervisor(events, restart=RestartPolicy(first=60.0)) as supervisor:
        await supervisor.start(only_child(programs))
        os.kill((await events.next(Ready)).pid, signal.SIGKILL)
        await events.next(Restarting)
        assert not programs.running


@linux
async def test_what_a_stopped_process_left_behind_is_gone(programs: Programs) -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(only_child(programs))
    assert not programs.running


@linux
async def test_a_program_ends_with_its_keeper_and_is_started_again(programs: Programs, events: Events) -> None:
    async with Supervisor(events, restart=RestartPolicy(first=0.01)) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        first = await events.next(Ready)
        keeper = psutil.Process(first.pid).parent()
        assert keeper is not None
        keeper.kill()
        assert (await events.next(Exited)).signal == "SIGKILL"
        assert (await events.next(Ready)).pid != first.pid
        await eventually(lambda: not psutil.pid_exists(first.pid))


@both_tethers
async def test_nothing_is_left_after_an_orderly_stop(tether: Tether, programs: Programs) -> None:
    async with Supervisor(tether=tether) as supervisor:
        await supervisor.start(programs.patient("one", probe=programs.is_up("one")))
        assert programs.running
    assert not programs.running
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
    hangups = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup`, if it runs this, means all that comes after it
    script = "grep SigIgn /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; echo; sleep 1000 & wait"
    spec = ProcessSpec(name="one", argv=("sh", "-c", script), log=log, descriptors=(reads,))
    async with Supervisor(tether=tether) as supervisor:
        await supervisor.start(spec)
        await eventually(lambda: log.read_text().count("\n") == 2)
    signal.signal(signal.SIGHUP, hangups)
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


def keeper(channel: socket.socket, tether: Tether, *kept: int) -> subprocess.Popen[bytes]:
    """One that keeps nothing yet."""
    arguments = [tether, str(channel.fileno()), ",".join(map(str, kept))]
    return subprocess.Popen([*GUARD, *arguments], pass_fds=[channel.fileno(), *kept], start_new_session=True)


@both_tethers
def test_a_keeper_whose_parent_is_gone_before_it_was_told_everything_runs_nothing(
    tether: Tether, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = keeper(theirs, tether)
        ours.send(b"%d\ntouch\0%b" % (1000, os.fsencode(ran)))
    assert child.wait(timeout=5) == 0
    assert not ran.exists()


@both_tethers
def test_a_keeper_holds_nothing_that_the_program_inherited(tether: Tether) -> None:
    """Else a lock that a server holds would outlive the server."""
    held, other_end = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = keeper(theirs, tether, other_end)
        os.close(other_end)
        lets_go = f"import os, time; os.close({other_end}); time.sleep(1000)"
        program = "\0".join([sys.executable, "-c", lets_go]).encode()
        ours.send(b"%d\n%b" % (len(program), program))
        try:
            readable, _, _ = select.select([held], [], [], 5)
            assert readable, "end of file: nobody has the other end, though the program still runs"
            assert child.poll() is None
        finally:
            ours.shutdown(socket.SHUT_WR)
            child.wait(timeout=5)
            os.close(held)
