"""`gateway.full` and `gateway.many_tools`: the gateway with everything on, and with a very large catalogue.

Above: `suite`. Below: `ground`, `load`. Everything is: a JSON Web Token of an issuer with rotating keys, a policy of a
hundred rules, limits on clients, tools and agents, a hundred tools, each call in the audit log, and one in ten traced.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from fabric.bench.comparison import Benchmark, Sides
from fabric.bench.ground import Gateway, Ground
from fabric.bench.load import load

_RULES: Final = 100
_TOOLS: Final = 100
_MANY: Final = 10_000
_AGENTS: Final = 10
"""So many agents have them: what one agent says of itself has to fit into one message."""
_FEW: Final = 10
_ISSUER: Final = "https://login.example.com"
_AUDIENCE: Final = "https://fabric.example.com/mcp"
_LIMITS: Final = """
limits:
  - {name: clients, per: client, rate: 1000000/s, burst: 1000000}
  - {name: tools, per: tool, rate: 1000000/s, burst: 1000000, concurrency: 100000}
  - {name: agents, per: agent, rate: 1000000/s, burst: 1000000, daily: 900000000}
"""


def _policy() -> str:
    """Rules of which a few speak of the call, and one allows it."""
    rules = [
        f"  - {{name: r{number}, roles: [team-{number}], on: ['agent-{number}/*'], then: allow}}\n"
        for number in range(_RULES - 2)
    ]
    rules.append("  - {name: large, roles: [caller], on: ['shop/*'], when: 'arguments.amount > 100', then: deny}\n")
    rules.append("  - {name: callers, roles: [caller], on: ['echo/*'], then: allow}\n")
    roles = "".join(f"  team-{number}: []\n" for number in range(_RULES - 2))
    return f"roles:\n  caller: []\n{roles}rules:\n{''.join(rules)}"


def _token(keys: Path) -> str:
    """A token of an issuer whose public keys are written to `keys`."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(ECAlgorithm.to_jwk(private.public_key())) | {"kid": "1", "use": "sig", "alg": "ES256"}
    keys.write_text(json.dumps({"keys": [public]}))
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "ann", "roles": ["caller"], "iat": now, "exp": now + 86_400}
    return jwt.encode(claims, private, "ES256", headers={"kid": "1"})


async def _everything(ground: Ground) -> Gateway:
    await ground.start_workers(agents=1, tools=_TOOLS)
    folder = ground.folder
    token = _token(folder / "jwks.json")
    (folder / "policy.yaml").write_text(_policy())
    (folder / "limits.yaml").write_text(_LIMITS)
    settings = {
        "jwt_issuer": _ISSUER,
        "jwt_audience": _AUDIENCE,
        "jwt_jwks_url": (folder / "jwks.json").as_uri(),
        "policy": str(folder / "policy.yaml"),
        "limits": str(folder / "limits.yaml"),
        "audit": "calls",
        "trace_sampling": "0.1",
    }
    gateway = await ground.start_gateway(settings)
    return Gateway(gateway.url, token)


@asynccontextmanager
async def _beside_bare_forwarding() -> AsyncGenerator[Sides]:
    async with Ground.open() as ground:
        gateway = await _everything(ground)
        await ground.start_floor_worker(0)
        floor = await ground.start_floor_server("forward")
        yield Sides(load(gateway.url, tool="echo_echo", token=gateway.token), load(floor, tool="echo"))


@asynccontextmanager
async def _beside_the_sdk(*server: str) -> AsyncGenerator[Sides]:
    async with Ground.open() as ground:
        gateway = await _everything(ground)
        floor = await ground.start_floor_server(*server)
        yield Sides(load(gateway.url, tool="echo_echo", token=gateway.token), load(floor, tool="echo"))


@asynccontextmanager
async def _beside_few(tools: int) -> AsyncGenerator[Sides]:
    async with Ground.open() as large, Ground.open() as small:
        await large.start_workers(agents=_AGENTS, tools=tools // _AGENTS)
        await small.start_workers(agents=1, tools=_FEW)
        many, few = await large.start_gateway(agents=_AGENTS), await small.start_gateway()
        yield Sides(
            load(many.url, tool="echo_echo", token=many.token), load(few.url, tool="echo_echo", token=few.token)
        )


FULL: Final = Benchmark(name="gateway.full", unit="calls/s", sides=_beside_bare_forwarding, needs_wrk=True)
FULL_VS_SDK: Final = Benchmark(
    name="gateway.full_vs_sdk", unit="calls/s", sides=partial(_beside_the_sdk, "sdk"), needs_wrk=True
)
FULL_VS_SDK_TOOLS: Final = Benchmark(
    name="gateway.full_vs_sdk.tools", unit="calls/s", sides=partial(_beside_the_sdk, "sdk", str(_TOOLS)), needs_wrk=True
)
"""The same where the SDK's server offers as many tools; each of its calls looks through them."""
FULL_VS_MCPSERVER: Final = Benchmark(
    name="gateway.full_vs_mcpserver", unit="calls/s", sides=partial(_beside_the_sdk, "mcpserver"), needs_wrk=True
)
"""The same beside the faster of the SDK's two servers, whose calls look through nothing."""


def many_tools(tools: int | None = None) -> Benchmark:
    """A gateway that lists so many tools, beside one that lists few."""
    return Benchmark(
        name="gateway.many_tools", unit="calls/s", sides=partial(_beside_few, tools or _MANY), needs_wrk=True
    )
