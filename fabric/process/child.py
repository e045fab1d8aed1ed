"""The life of one supervised process: start, wait until ready, watch, restart, until told to stop.

Above: `supervisor`. Below: `launch` (one run of it), `policy` (the decisions), `output` (its log).
It refuses to know the other processes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from dataclasses import dataclass

from fabric.process import output
from fabric.process.errors import ProcessStartError
from fabric.process.events import (
    Exited,
    OnEvent,
    ProcessEvent,
    ProcessStatus,
    Ready,
    Restarting,
    Started,
    State,
    Stopped,
    Unhealthy,
)
from fabric.process.launch import Launched, Tether, launch
from fabric.process.policy import HealthPolicy, RestartPolicy
from fabric.process.spec import Probe, ProcessSpec

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.02  # seconds between the first two probes of a starting process; it doubles up to …
_LONGEST_PAUSE = 0.5  # … this, so that a quick start is seen at once and a slow one is not pestered
_IDLE_ENDS_WITHIN = 0.2  # seconds that a hurried process gets before it is told so: most need no more
_HURRIED_ENDS_WITHIN = 1.0  # seconds it gets then, to say goodbye


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a supervisor treats all of its processes."""

    on_event: OnEvent
    restart: RestartPolicy
    health: HealthPolicy
    tether: Tether


class Child:
    """One supervised process, over all of its runs."""

    def __init__(self, spec: ProcessSpec, conduct: Conduct) -> None:
        self.spec = spec
        self._conduct = conduct
        self._state = State.STARTING
        self._launched: Launched | None = None
        self._began = 0.0
        self._restarts = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Whoever does not wait for readiness still hears of a failed start by its events.
        self._first_ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._life = asyncio.create_task(self._live(), name=f"supervise {spec.name}")

    async def ready(self) -> None:
        """Wait until it is ready for the first time. Raises ProcessStartError if its first run fails before that."""
        await self._first_ready

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when it is gone. Again and again: no harm."""
        self._stop.set()
        # Not `await self._life`: a caller that is cancelled while waiting must not cancel the orderly end.
        await asyncio.wait({self._life})

    def hurry(self) -> None:
        """Have its stop, now or later, take a second and not its grace."""
        self._hurry.set()

    @property
    def status(self) -> ProcessStatus:
        """It, now."""
        uptime = asyncio.get_running_loop().time() - self._began if self._launched else 0.0
        pid = self._launched.pid if self._launched else None
        return ProcessStatus(self.spec.name, pid, self._state, self._restarts, uptime)

    async def _live(self) -> None:
        failures = 0
        try:
            while True:
                self._state = State.STARTING
                self._began = asyncio.get_running_loop().time()
                ended = await self._run_once()
                if self._stop.is_set():
                    break
                failures = self._conduct.restart.failures(failures, ended.uptime)
                if await self._stopped_while_waiting(failures):
                    break
                self._restarts += 1
        finally:
            self._state = State.STOPPED
            if not self._first_ready.done():
                self._first_ready.set_exception(ProcessStartError(self.spec.name, "was stopped before it was ready"))
            self._emit(Stopped(self.spec.name))

    async def _stopped_while_waiting(self, failures: int) -> bool:
        """Wait for the next restart; true if told to stop instead."""
        seconds = self._conduct.restart.delay(failures, random.random())
        self._state = State.WAITING
        self._emit(Restarting(self.spec.name, seconds, failures))
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return False
        return True

    async def _run_once(self) -> Exited:
        """Start it and stay with it until it has ended."""
        try:
            launched = self._launched = await launch(self.spec, self._conduct.tether)
        except Exception as error:
            # For example no room for one more process. It may pass, so it is tried again like after any other failure.
            reason = f"could not be started: {_words(error)}"
            return self._report(Exited(self.spec.name, None, None, None, 0.0, reason), None)
        try:
            self._emit(Started(self.spec.name, launched.pid))
            code = await self._attend(launched)
        finally:
            launched.close()
            self._launched = None
        uptime = asyncio.get_running_loop().time() - self._began
        if code < 0:
            name = _signal_name(-code)
            exited = Exited(self.spec.name, launched.pid, None, name, uptime, f"was killed by {name}")
        else:
            exited = Exited(self.spec.name, launched.pid, code, None, uptime, f"exited with code {code}")
        return self._report(exited, launched.log_start)

    async def _attend(self, launched: Launched) -> int:
        """Watch it until it ends by itself, is told to stop, or has to be killed; returns its exit code."""
        ended = asyncio.create_task(launched.wait())
        told = asyncio.create_task(self._stop.wait())
        watched = asyncio.create_task(self._watch(launched))
        try:
            await asyncio.wait({ended, told, watched}, return_when=asyncio.FIRST_COMPLETED)
            if told.done() and not ended.done():
                self._state = State.STOPPING
                watched.cancel()
                await self._ask_to_end(launched, ended)
            launched.kill()
            return await ended
        finally:
            for task in (ended, told, watched):
                task.cancel()

    async def _ask_to_end(self, launched: Launched, ended: asyncio.Task[int]) -> None:
        """Returns when it has ended, or its grace has."""
        hurried = asyncio.create_task(self._hurry.wait())
        launched.terminate()
        await asyncio.wait({ended, hurried}, timeout=self.spec.grace, return_when=asyncio.FIRST_COMPLETED)
        if hurried.done():
            await asyncio.wait({ended}, timeout=_IDLE_ENDS_WITHIN)
            launched.hurry()
            await asyncio.wait({ended}, timeout=_HURRIED_ENDS_WITHIN)
        hurried.cancel()

    async def _watch(self, launched: Launched) -> None:
        """Returns, having said why, when the process has to be killed."""
        reason = await self._until_ready(launched) or await self._while_healthy()
        self._emit(Unhealthy(self.spec.name, launched.pid, reason))
        if not self._first_ready.done():
            self._first_ready.set_exception(self._start_error(reason, launched.log_start))

    async def _until_ready(self, launched: Launched) -> str | None:
        """Probe until it passes; the reason if that takes too long."""
        pause, reason = _FIRST_PAUSE, "its probe did not return"
        loop = asyncio.get_running_loop()
        deadline = self._began + self.spec.startup
        while (left := deadline - loop.time()) > 0:
            failed = await _failure_of(self.spec.probe, min(left, self._conduct.health.timeout))
            if failed is None:
                self._state = State.READY
                self._emit(Ready(self.spec.name, launched.pid, loop.time() - self._began))
                if not self._first_ready.done():
                    self._first_ready.set_result(None)
                return None
            reason = failed
            await asyncio.sleep(min(pause, max(0.0, deadline - loop.time())))
            pause = min(pause * 2, _LONGEST_PAUSE)
        return f"was not ready within {self.spec.startup:g} s: {reason}"

    async def _while_healthy(self) -> str:
        """Probe a ready process until it has failed too often; the reason."""
        health, failed = self._conduct.health, 0
        while True:
            await asyncio.sleep(health.interval)
            if self.spec.log is not None:
                await asyncio.to_thread(output.trim, self.spec.log)
            reason = await _failure_of(self.spec.probe, health.timeout)
            failed = 0 if reason is None else failed + 1
            if failed >= health.failures:
                return f"failed {failed} health checks in a row: {reason}"

    def _report(self, exited: Exited, log_start: int | None) -> Exited:
        self._emit(exited)
        # Told to stop before it was ready, it did not fail: `_live` says so.
        if not self._first_ready.done() and not self._stop.is_set():
            reason = f"{exited.reason} before it was ready" if exited.pid else exited.reason
            self._first_ready.set_exception(self._start_error(reason, log_start))
        return exited

    def _start_error(self, reason: str, log_start: int | None) -> ProcessStartError:
        log = self.spec.log
        lines = output.last_lines(log, log_start) if log and log_start is not None else ()
        return ProcessStartError(self.spec.name, reason, lines=lines, log=log)

    def _emit(self, event: ProcessEvent) -> None:
        try:
            self._conduct.on_event(event)
        except Exception:
            # Someone else's mistake in showing an event must not end the supervision of a process.
            _log.exception("the receiver of process events failed on %r", event)


async def _failure_of(probe: Probe | None, seconds: float) -> str | None:
    """Why the probe does not pass within so many seconds; `None` if it passes."""
    if probe is None:
        return None
    try:
        async with asyncio.timeout(seconds):
            await probe()
    except TimeoutError:
        return f"its probe took longer than {seconds:.3g} s"
    except Exception as error:  # a probe may raise anything to say no
        return str(error) or type(error).__name__
    return None


def _words(error: Exception) -> str:
    """What an error says, without numbers and quotes."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have numbers only
        return f"signal {number}"
