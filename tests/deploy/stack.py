"""Runs the services of a compose file as processes of this machine, in the order in which their health allows.

Above: `test_compose`. Below: `compose`, which says what each is here; the servers of the wheels, and Debian's programs
where `make debian` has unpacked them. What an image adds by itself is written here: its entry point, and its programs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from support.debian import DEBIAN, LIBRARIES
from support.nats_server import tied
from support.running import wait_until

from deploy.compose import Place, Service, services
from fabric.embedded.binaries import nats_binary, valkey_binary

ROOT: Final = Path(__file__).parents[2]

ENTRY_POINTS: Final = {"agent-fabric": ("fabric",), "prom": ("prometheus",)}
"""By the first part of an image's name: what stands before the command."""
NOT_HERE: Final = {"grafana", "otel-collector"}
"""Services whose programs neither a wheel nor Debian brings."""
_BETWEEN_CHECKS: Final = 0.3
_START_SECONDS: Final = 60.0


class Stack:
    """All services of a file. Made by `running`."""

    def __init__(self, file: Path, folder: Path, env: dict[str, str]) -> None:
        secrets = _secrets(folder)
        found = services(file, folder / "volumes", secrets, env)
        self.services = {name: each for name, each in found.items() if name not in NOT_HERE}
        addresses = {name: each.address for name, each in found.items()}
        self._places = {
            name: Place(each, folder / "roots" / name, addresses, ROOT) for name, each in self.services.items()
        }
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._path = os.pathsep.join((str(_programs(folder)), str(Path(__file__).parent / "programs"), _inherited()))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._healthy: set[str] = set()
        self._checked: dict[str, float] = {}
        self.secrets = secrets
        for place in self._places.values():
            place.lay()

    def start(self, *names: str) -> None:
        """Start these, or all, each when what it depends on is healthy; returns when all are healthy."""
        wanted = {name: self.services[name] for name in names or self.services}
        self._healthy -= wanted.keys()
        wait_until(lambda: self._advance(wanted), seconds=_START_SECONDS, what="the health of all services")

    def kill(self, name: str) -> None:
        """SIGKILL to all of a container."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> None:
        """SIGTERM; returns when it has ended."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(60)

    def pid(self, name: str) -> int:
        """The first process of a service."""
        return self._processes[name].pid

    def close(self) -> None:
        """End all, at once."""
        for name in list(self._processes):
            self.kill(name)

    def log(self, name: str) -> str:
        """What a service has said."""
        return (self._logs / name).read_text(errors="replace")[-4000:]

    def here(self, name: str, text: str) -> str:
        """What a text of that container's says on this machine."""
        return self._places[name].here(text)

    def _advance(self, wanted: dict[str, Service]) -> bool:
        for name, service in wanted.items():
            if name not in self._processes and service.after <= self._healthy:
                self._launch(name)
            elif name in self._processes and name not in self._healthy and self._passes(name):
                self._healthy.add(name)
        return wanted.keys() <= self._healthy

    def _launch(self, name: str) -> None:
        service, place = self.services[name], self._places[name]
        before = next((words for start, words in ENTRY_POINTS.items() if service.image.startswith(f"{start}/")), ())
        env = place.environment(self._path)
        if service.image.startswith("haproxy"):
            env.update(LIBRARIES)
        with (self._logs / name).open("ab") as log:
            command = [*tied(), *self._found(before + place.shell(service.command))]
            self._processes[name] = subprocess.Popen(
                command,
                cwd=place.root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _found(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """A command whose program is named by its path: what is put before it looks for none."""
        folders = map(Path, self._path.split(os.pathsep))
        return (str(next(each for each in (folder / command[0] for folder in folders) if each.exists())), *command[1:])

    def _passes(self, name: str) -> bool:
        """Whether a service's health check succeeds now; it is not asked all the time."""
        if self._processes[name].poll() is not None:
            raise AssertionError(f"{name} ended with {self._processes[name].returncode}:\n{self.log(name)}")
        if time.monotonic() - self._checked.get(name, 0.0) < _BETWEEN_CHECKS:
            return False
        place = self._places[name]
        checked = subprocess.run(
            place.shell(self.services[name].health), env=place.environment(self._path), capture_output=True, timeout=20
        )
        self._checked[name] = time.monotonic()
        return checked.returncode == 0


@contextmanager
def running(file: Path, folder: Path, **env: str) -> Generator[Stack]:
    """All services of a compose file, healthy; gone at the end."""
    stack = Stack(file, folder, env)
    try:
        stack.start()
        yield stack
    finally:
        stack.close()


def _secrets(folder: Path) -> Path:
    """Secrets, made as an operator makes them."""
    script = folder / "deploy" / "secrets.sh"
    script.parent.mkdir()
    script.write_bytes((ROOT / "deploy" / "secrets.sh").read_bytes())
    subprocess.run(["sh", str(script)], check=True, stdout=subprocess.DEVNULL)
    return script.parent / "secrets"


def _programs(folder: Path) -> Path:
    """The programs that images bring, under the names that they have there."""
    programs = folder / "programs"
    programs.mkdir()
    found = {"nats-server": nats_binary(), "valkey-server": valkey_binary()}
    found |= {"haproxy": DEBIAN / "usr/sbin/haproxy", "prometheus": DEBIAN / "usr/bin/prometheus"}
    for name, program in found.items():
        (programs / name).symlink_to(program)
    return programs


def _inherited() -> str:
    return os.pathsep.join((str(Path(sys.executable).parent), "/usr/bin", "/bin"))
