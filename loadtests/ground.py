"""A fabric with everything on for the load: JSON Web Tokens, a policy, limits, two gateways, a pool; and what is done
to it meanwhile.

Above: `run`. Below: `fabric up`, started as anybody starts it, and the processes below it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import jwt
import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

HERE: Final = Path(__file__).parent
_ISSUER: Final = "https://login.example.com"
_AUDIENCE: Final = "https://fabric.example.com/mcp"
_READY_SECONDS: Final = 60.0
_POLICY: Final = """
roles:
  caller: []
  intern: []
rules:
  - {name: interns, roles: [intern], on: ["work/*"], when: "arguments.a > 100", then: deny}
  - {name: work, roles: [caller], on: ["work/*"], then: allow}
  - {name: tell, roles: [caller], on: ["durable/publish_event"], then: allow}
  - {name: topics, roles: [caller], on: ["load.>"], then: allow}
"""
_LIMITS: Final = """
limits:
  - {name: clients, per: client, rate: 1000000/s, burst: 1000000}
  - {name: tools, per: tool, rate: 1000000/s, burst: 1000000, concurrency: 100000}
  - {name: agents, per: agent, rate: 1000000/s, burst: 1000000, daily: 900000000}
"""
_MARKS: Final = {
    "gateway": "fabric.gateway.process",
    "nats-server": "/nats-server",
    "valkey-server": "/valkey-server",
    "worker": "/work-",
    "registry": "/registry-",
    "platform": "/durable-",
}
"""What the command line of each kind of process holds."""
HARMS: Final = ("worker", "gateway", "valkey-server", "nats-server")


@dataclass(frozen=True, slots=True)
class Ground:
    """A running fabric."""

    pid: int
    host: str
    port: int
    nats_url: str
    token: str

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Its processes, by kind."""
        found: dict[str, list[psutil.Process]] = {kind: [] for kind in _MARKS}
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                line = process.cmdline()
                kind = next((kind for kind, mark in _MARKS.items() if any(mark in part for part in line)), None)
                if kind is not None and "prctl" not in line:
                    found[kind].append(process)
        return found

    def harm(self, kind: str, chance: random.Random) -> bool:
        """SIGKILL to one process of this kind; tell whether there was one."""
        there = self.processes()[kind]
        if not there:
            return False
        chance.choice(there).send_signal(signal.SIGKILL)
        return True

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that each kind has used, those that live now."""
        return {kind: sum(map(_cpu, processes)) for kind, processes in self.processes().items()}


@contextmanager
def ground(folder: Path, *, processes: int = 2, gateways: int = 2) -> Generator[Ground]:
    """A fabric with everything on, until the end of the block."""
    token = _token(folder / "jwks.json")
    (folder / "policy.yaml").write_text(_POLICY)
    (folder / "limits.yaml").write_text(_LIMITS)
    env = {name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")} | {
        "FABRIC_JWT_ISSUER": _ISSUER,
        "FABRIC_JWT_AUDIENCE": _AUDIENCE,
        "FABRIC_JWT_JWKS_URL": (folder / "jwks.json").as_uri(),
        "FABRIC_POLICY": str(folder / "policy.yaml"),
        "FABRIC_LIMITS": str(folder / "limits.yaml"),
        "FABRIC_AUDIT": "calls",
        "FABRIC_TRACE_SAMPLING": "0.1",
    }
    ready = folder / "ready.json"
    command = [str(Path(sys.executable).with_name("fabric")), "up", "--data", str(folder / "data"), "--port", "0"]
    command += ["--gateways", str(gateways), "--processes", str(processes), "--ready-file", str(ready)]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen([*command, str(HERE / "work.py")], env=env, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _READY_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the fabric did not start:\n{(folder / 'up.log').read_text()}")
            time.sleep(0.05)
        said: dict[str, str] = json.loads(ready.read_text())
        at = urlsplit(said["mcp_url"])
        yield Ground(process.pid, at.hostname or "127.0.0.1", at.port or 0, said["nats_url"], token)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _token(keys: Path) -> str:
    """A token of an issuer whose public keys are written to `keys`."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(ECAlgorithm.to_jwk(private.public_key())) | {"kid": "1", "use": "sig", "alg": "ES256"}
    keys.write_text(json.dumps({"keys": [public]}))
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "ann", "roles": ["caller"], "iat": now, "exp": now + 7 * 86_400}
    return jwt.encode(claims, private, "ES256", headers={"kid": "1"})


def _cpu(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        used = process.cpu_times()
        return used.user + used.system
    return 0.0
