"""The registry: an agent like any other, which knows all the others.

Above: gateway, command line and operators, through its tools. Below: the bus and `Store`. It holds nothing but the
heartbeats of the last moment: any number of instances share the work, and when Redis is lost, what it held comes
back with the next heartbeats; meanwhile questions are answered by asking the bus itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from fabric.registry.store import Store, StoreUnavailable
from fabric_sdk import Agent, Fabric, FabricError
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import ConfigurationError, TransportUnavailable, UnknownAgent
from fabric_sdk.patterns.gather import gather

log = logging.getLogger(__name__)

_FLUSH_SECONDS: Final = 0.2
_SWEEP_SECONDS: Final = 1.0
_ASK_BUS_SECONDS: Final = 0.5
_REBUILD_SECONDS: Final = 1.0
"""The same before all that Redis holds is written anew: whoever is missed then is missed until its next heartbeat."""


class AgentEntry(BaseModel):
    """One agent of the catalogue."""

    name: str
    digest: str
    instances: list[Beat]


class Catalogue(BaseModel):
    """Who is there."""

    revision: int
    """Grows with each change; 0 when it was gathered from the bus because Redis is away or empty."""
    agents: list[AgentEntry]


class Registry:
    """Turns heartbeats into leases, in batches, and answers who is there."""

    def __init__(self, store: Store, fabric: Fabric) -> None:
        self._store = store
        self._fabric = fabric
        self._heard: dict[str, Beat] = {}  # the newest of each instance, until written
        self._wake = asyncio.Event()
        self._away = False  # Redis, at the last look; a question does not wait to find out anew
        self._described: dict[str, Description] = {}  # by digest; immutable, so never stale
        self._asking: dict[str, asyncio.Task[None]] = {}  # by the digest of the description that is asked for

    def hear(self, message: Message) -> None:
        """Take one heartbeat."""
        try:
            beat = Beat.model_validate(message.body.value())
        except ValueError:
            log.warning("a heartbeat on %s is malformed", message.subject)
            return
        self._heard[beat.instance] = beat
        self._wake.set()

    async def keep(self) -> None:
        """Write what was heard, again and again; an absent Redis delays it and loses nothing."""
        await self._ask_who_was_here_first()
        while True:
            with suppress(TimeoutError):  # leases run out even when nobody beats
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._wake.wait()
                await asyncio.sleep(_FLUSH_SECONDS)  # gather a batch
            self._wake.clear()
            batch, self._heard = self._heard, {}
            try:
                await self._write(list(batch.values()))
                if self._away:
                    log.warning("Redis is back; leases are rebuilt from heartbeats")
                self._away = False
            except StoreUnavailable as lost:
                self._heard = batch | self._heard
                if not self._away:
                    log.warning("%s; the fabric goes on without it", lost)
                self._away = True
            except TransportUnavailable:  # nobody could be asked or told; the next round makes up for it
                self._heard = batch | self._heard
            except asyncio.CancelledError:
                self._heard = batch | self._heard
                raise
            except Exception:  # whatever is in it: one batch must not end the keeping of all others
                log.exception("%d heartbeats could not be written", len(batch))

    async def close(self) -> None:
        """Write what was heard last: a goodbye that is lost here would count as a sign of life until its lease ends."""
        with suppress(StoreUnavailable, TransportUnavailable):
            await self._write(list(self._heard.values()))
        asking = list(self._asking.values())
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _write(self, beats: list[Beat]) -> None:
        written = await self._store.beat(beats)
        if written is None:
            beats = await self._everybody(beats)
            written = await self._store.beat(beats, everybody=True)
        changed, missing = written or (False, set())
        for beat in beats:
            if beat.digest in missing and beat.digest not in self._asking:
                self._asking[beat.digest] = asyncio.create_task(self._fetch(beat))
        if changed:
            await self._tell()

    async def _fetch(self, beat: Beat) -> None:
        """Ask an instance what it offers. It may take its time: nobody's lease waits for it."""
        try:
            description = await self._fabric.agent(beat.agent).describe(instance=beat.instance, timeout=5.0)
            await self._store.describe(description)
            await self._tell()
        except (FabricError, ValidationError) as failure:  # the next beat with this digest asks again
            log.warning("%s does not describe itself: %s", beat.instance, failure)
        finally:
            del self._asking[beat.digest]

    async def _tell(self) -> None:
        await self._fabric.transport.publish(Message(subjects.CATALOGUE_CHANGED, Body({"at": time.time()})))

    async def catalogue(self) -> Catalogue:
        """Who is there, from Redis, or from the bus while Redis is away or empty."""
        revision, agents = 0, []
        if not self._away:
            with suppress(StoreUnavailable):
                revision, agents = await self._store.agents()
        if revision == 0:
            return await self._catalogue_from_bus()
        return Catalogue(
            revision=revision,
            agents=[AgentEntry(name=name, digest=digest, instances=beats) for name, digest, beats in agents],
        )

    async def description(self, agent: str, digest: str) -> Description:
        """What `agent` offers, under this digest."""
        if (known := self._described.get(digest)) is None:
            try:
                known = await self._store.description(digest)
            except StoreUnavailable:
                known = None
            if known is None:
                known = await self._fabric.agent(agent).describe(timeout=5.0)
            if len(self._described) > 1024:
                self._described.clear()
            self._described[known.digest] = known
        return known

    async def _ask_who_was_here_first(self) -> None:
        """Instances that began before this one are not waited for until their next heartbeat."""
        with suppress(TransportUnavailable):
            for beat in await self._ask_bus():
                self._heard.setdefault(beat.instance, beat)
        self._wake.set()

    async def _everybody(self, heard: list[Beat]) -> list[Beat]:
        """The beats of all there are, to fill an empty Redis."""
        beats = {beat.instance: beat for beat in await self._ask_bus(_REBUILD_SECONDS)}
        return list((beats | {beat.instance: beat for beat in heard}).values())

    async def _catalogue_from_bus(self) -> Catalogue:
        entries: dict[str, AgentEntry] = {}
        for beat in sorted(await self._ask_bus(), key=lambda each: each.started):
            entry = entries.setdefault(beat.agent, AgentEntry(name=beat.agent, digest="", instances=[]))
            entry.digest = beat.digest  # the newest instance speaks for the agent
            entry.instances.append(beat)
        return Catalogue(revision=0, agents=sorted(entries.values(), key=lambda entry: entry.name))

    async def _ask_bus(self, seconds: float = _ASK_BUS_SECONDS) -> list[Beat]:
        """Everybody who answers `$SRV.STATS` within a moment."""
        answers = await gather(self._fabric.transport, subjects.service("STATS"), seconds=seconds)
        return [beat for beat in map(_beat_of, answers) if beat is not None]


def _beat_of(stats: Any) -> Beat | None:
    """The heartbeat in a `$SRV.STATS` answer of a fabric agent; `None` for other micro services."""
    try:
        return Beat.model_validate(stats["endpoints"][0]["data"]["beat"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def build(redis_url: str | None = None) -> Agent:
    """The registry as an agent.

    Raises:
        ConfigurationError: no Redis is named, neither here nor in `FABRIC_REDIS_URL`.
    """
    url = redis_url or os.environ.get("FABRIC_REDIS_URL")
    if not url:
        raise ConfigurationError("the registry needs Redis", fix="set FABRIC_REDIS_URL, or start it with `fabric up`")
    held: list[Registry] = []

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        store = Store(url)
        registry = Registry(store, fabric)
        held.append(registry)
        beats = await fabric.transport.subscribe(subjects.BEATS, registry.hear, queue="registry")
        keeping = asyncio.create_task(registry.keep())
        try:
            yield
        finally:
            await beats.close()
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await registry.close()
            held.clear()
            await store.close()

    agent = Agent(
        "registry",
        version="1.0.0",
        description="Who is there: agents, their instances, and what they offer.",
        lifespan=lifespan,
        kind="platform",
    )

    @agent.tool(annotations={"readOnlyHint": True})
    async def catalogue() -> Catalogue:
        """All agents with their live instances, load, and the digest of what they offer."""
        return await held[0].catalogue()

    @agent.tool(annotations={"readOnlyHint": True})
    async def description(agent: str, digest: str = "") -> Description:
        """What one agent offers: tools with schemas, resources, prompts."""
        if not digest:
            entry = next((entry for entry in (await held[0].catalogue()).agents if entry.name == agent), None)
            if entry is None:
                raise UnknownAgent(f"there is no agent {agent!r}", fix="`fabric ps` lists those there are")
            digest = entry.digest
        return await held[0].description(agent, digest)

    return agent
