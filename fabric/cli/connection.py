"""Which fabric a command talks to: on the folder that was typed, else at the environment's URL, else on its folder.

Above: commands. Below: `whereabouts`, probes.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from fabric.embedded import ServerUnusable, WrongProtocol, probe_nats
from fabric.settings import Settings, load_settings
from fabric.whereabouts import Whereabouts
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts.errors import AgentUnavailable, TransportUnavailable
from fabric_sdk.contracts.scope import FROM

NO_JETSTREAM: Final = "put `jetstream { store_dir: FOLDER, sync_interval: always }` into its configuration"

_TARGETS: Final = {"access": "fabric.access.service:agent", "approvals": "fabric.approvals.service:build"}
_CATALOGUE_SECONDS: Final = 5.0
"""How long the registry may take to say who is there."""
_STRANGERS_SECONDS: Final = 1.0
"""The same for a warning: what was asked for is done already."""
_MOST_NAMED: Final = 10


def nats_url(data: Path | None, settings: Settings | None = None) -> str:
    """Where the bus is: `data` is the folder that was typed, if one was.

    Raises:
        TransportUnavailable: neither the settings nor a running fabric say.
        ConfigurationError: the settings are wrong.
    """
    if data is not None:  # whoever names it is kept from looking by nothing that settings say
        if (found := Whereabouts.of(data)) is None:
            raise TransportUnavailable(f"no fabric is running on {data}", fix="check --data, or leave it out")
        return found.nats_url
    settings = settings or load_settings()
    if settings.nats_url:
        return settings.nats_url
    if (found := Whereabouts.of(settings.data)) is not None:
        return found.nats_url
    raise TransportUnavailable(
        "no fabric is running here",
        fix="start one with `fabric up`, or say where it is: --data, FABRIC_DATA or FABRIC_NATS_URL",
    )


def here(data: Path | None) -> Whereabouts | None:
    """All that is known of that fabric, if it runs on a folder of this machine that is known."""
    if data is not None:
        return Whereabouts.of(data)
    settings = load_settings()
    found, named = Whereabouts.of(settings.data), settings.nats_url
    return found if found is not None and (not named or named == found.nats_url) else None


async def refuse_others(url: str) -> None:
    """Say so if what answers at `url` is another server than NATS.

    Raises:
        WrongProtocol: it is.
    """
    try:
        await probe_nats(url)
    except WrongProtocol:
        raise
    except ServerUnusable:
        return  # nobody there, or nobody who speaks: whoever needs NATS there says so


@asynccontextmanager
async def connected(data: Path | None) -> AsyncGenerator[Fabric]:
    """A client of that fabric."""
    url = nats_url(data)
    async with AsyncExitStack() as stack:
        try:
            fabric = await stack.enter_async_context(Fabric.connect(url))
        except TransportUnavailable:
            await refuse_others(url)
            raise
        yield fabric


@asynccontextmanager
async def durable(data: Path | None) -> AsyncGenerator[Fabric]:
    """The same, for what the server keeps.

    Raises:
        TransportUnavailable: the server keeps nothing.
    """
    async with connected(data) as fabric:
        with suppress(ServerUnusable):  # it is in use: what cannot be asked beforehand, the first question tells
            if not (await probe_nats(nats_url(data))).jetstream:
                raise TransportUnavailable("this NATS server runs without JetStream", fix=NO_JETSTREAM)
        yield fabric


async def answer(data: Path | None, agent: str, tool: str, /, **arguments: Any) -> Any:
    """What one of the platform's own agents answers.

    Raises:
        AgentUnavailable: it is not there.
    """
    async with durable(data) as fabric:
        try:
            return await fabric.agent(agent).call(tool, arguments, meta={FROM: _typist()})
        except AgentUnavailable as away:
            away.fix = f"start the fabric with `fabric up`, or `fabric worker {_TARGETS[agent]}`"
            raise


def _typist() -> str:
    """Who types this: nobody else can say so of whoever is on the bus itself."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # in a container, say
        name = str(user)
    return f"{name}@{socket.gethostname()}"


async def catalogue(
    fabric: Fabric, only: Mapping[str, Any] | None = None, *, timeout: float = _CATALOGUE_SECONDS
) -> dict[str, Any]:
    """Who is there, as the registry tells it; `only` some, by its tool's arguments.

    Raises:
        AgentUnavailable: there is NATS, but no fabric on it.
    """
    try:
        return await fabric.agent("registry").call("catalogue", only, timeout=timeout)
    except AgentUnavailable:
        raise AgentUnavailable(
            "NATS is there, but no registry answers", fix="start the fabric with `fabric up`"
        ) from None


async def strangers(data: Path | None, *agents: str) -> list[str]:
    """What to warn of where agents are named that may come later: those that are not there now, and names near theirs.

    Nothing, where no registry says who is there.
    """
    try:
        async with connected(data) as fabric:
            there = [entry["name"] for entry in (await catalogue(fabric, timeout=_STRANGERS_SECONDS))["agents"]]
    except FabricError:
        return []
    missing = dict.fromkeys(name for name in agents if name not in there)
    return [f"there is no agent {name!r} now ({there_are(name, there)}); this counts once there is" for name in missing]


def there_are(wanted: str, names: Iterable[str]) -> str:
    """What to say to somebody who asked for what is not there: the names that are near, else those there are."""
    names = sorted(names)
    if near := get_close_matches(wanted, names):
        return f"did you mean {' or '.join(near)}?"
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"there are: {', '.join(names[:_MOST_NAMED]) or 'none'}{more}"
