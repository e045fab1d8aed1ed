"""The registry: an agent like any other, which knows all the others.

Above: gateway, command line and operators, through its tools. Below: the bus and `Store`. It holds nothing but the
heartbeats of the last moment: any number of instances share the work, and when Redis is lost, what it held comes
back with the next heartbeats; meanwhile questions are answered by asking the bus itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from pydantic import BaseModel

from fabric.hints import CHANGES, READS
from fabric.limits.spending import Count, Spender, Spent, Standing
from fabric.logs import Once
from fabric.observability.metrics import METRICS, MOST, Family, Point
from fabric.registry import conversations
from fabric.registry.store import MOST_OF_ALL, Store, StoreDamaged, StoreUnavailable, Written
from fabric.settings import load_settings
from fabric_sdk import Agent, Fabric, FabricError
from fabric_sdk.announce import beat_in
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import AgentUnavailable, ConfigurationError, TransportUnavailable, UnknownAgent
from fabric_sdk.patterns.gather import gather

log = logging.getLogger(__name__)

_FLUSH_SECONDS: Final = 0.2
_SWEEP_SECONDS: Final = 1.0
_ASK_BUS_SECONDS: Final = 0.5
_REBUILD_SECONDS: Final = 1.0
"""The same before all that Redis holds is written anew: whoever is missed then is missed until its next heartbeat."""
_DESCRIBE_SECONDS: Final = 5.0
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
"""Before an agent that did not describe itself is asked again; doubled each time."""
_MOST_KEPT: Final = 1024
"""Descriptions in memory, and those that are asked for at once."""

_Key = tuple[str, str]
"""Agent and digest: what a description is filed under."""


class AgentEntry(BaseModel):
    """One agent of the catalogue."""

    name: str
    digest: str
    """Of what speaks for the agent; see `speaking`."""
    instances: list[Beat]


class Catalogue(BaseModel):
    """Who is there."""

    revision: int
    """Grows with each change; 0 when it was gathered from the bus because Redis is away or empty."""
    agents: list[AgentEntry]

    def only(self, capability: str | None, labels: Mapping[str, str]) -> Catalogue:
        """Those instances that have this capability and all of these labels, and their agents."""

        def fits(beat: Beat) -> bool:
            return (capability is None or capability in beat.capabilities) and labels.items() <= beat.labels.items()

        if capability is None and not labels:
            return self
        found = [each.model_copy(update={"instances": list(filter(fits, each.instances))}) for each in self.agents]
        return Catalogue(revision=self.revision, agents=[each for each in found if each.instances])


class Registry:
    """Turns heartbeats into leases, in batches, and answers who is there."""

    def __init__(self, store: Store, fabric: Fabric) -> None:
        self._store = store
        self._fabric = fabric
        self._heard: dict[tuple[str, str], Beat] = {}  # the newest of each agent's instance, until written
        self._wake = asyncio.Event()
        self._away = False  # Redis, at the last look; a question does not wait to find out anew
        self._described: dict[_Key, Description] = {}  # immutable, so never stale
        self._asking: dict[_Key, asyncio.Task[None]] = {}
        self._waits: dict[_Key, float] = {}  # of those that did not describe themselves
        self._once = Once(log)

    def hear(self, message: Message) -> None:
        """Take one heartbeat. It has to come on its own subject, for whose use a broker may ask permission."""
        try:
            beat = Beat.model_validate(message.body.value())
        except ValueError:
            self._once.warning(message.subject, "heartbeats on %r are malformed: they are ignored", message.subject)
            return
        key = beat.agent, beat.instance
        if message.subject != subjects.beat(*key):
            self._once.warning(message.subject, "heartbeats on %r are of another: they are ignored", message.subject)
        elif len(self._heard) < MOST_OF_ALL or key in self._heard:
            self._heard[key] = beat
        else:
            self._once.warning("heard", "more than %d instances beat at once: some are ignored", MOST_OF_ALL)
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
            except StoreDamaged as damaged:
                self._heard = batch | self._heard
                await self._mend(damaged)
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
            written = await self._store.beat(beats, everybody=True) or Written(changed=False, missing=set(), full=[])
        for why in written.full:
            self._once.warning(why, "%s: no more are taken until some go", why)
        for beat in beats:
            key = beat.agent, beat.digest
            if key in written.missing and key not in self._asking and len(self._asking) < _MOST_KEPT:
                self._asking[key] = asyncio.create_task(self._fetch(beat))
        if written.changed:
            await self._tell()

    async def _fetch(self, beat: Beat) -> None:
        """Ask an instance what it offers. It may take its time: nobody's lease waits for it."""
        key = beat.agent, beat.digest
        try:
            described = await self._fabric.agent(beat.agent).describe(instance=beat.instance, timeout=_DESCRIBE_SECONDS)
            await self._store.describe(described.as_asked(*key))
            self._waits.pop(key, None)
            await self._tell()
        except (FabricError, ValueError) as failure:  # a later beat with this digest asks again
            self._once.warning(key, "%s of %s does not describe itself: %s", beat.instance, beat.agent, failure)
            if len(self._waits) > _MOST_KEPT:
                self._waits.clear()
            wait = self._waits.get(key, _FIRST_WAIT)
            self._waits[key] = min(2 * wait, _LONGEST_WAIT)
            await asyncio.sleep(wait)
        finally:
            del self._asking[key]

    async def _mend(self, damaged: StoreDamaged) -> None:
        """Forget a catalogue that is none: the next round finds Redis empty, and fills it from the bus."""
        self._once.warning("damaged", "%s; the catalogue is made anew from the bus", damaged)
        with suppress(StoreUnavailable):  # who cannot forget now comes here again
            await self._store.forget()

    async def _tell(self) -> None:
        await self._fabric.transport.publish(Message(subjects.CATALOGUE_CHANGED, Body({"at": time.time()})))

    async def catalogue(self) -> Catalogue:
        """Who is there, from Redis, or from the bus while Redis is away or empty."""
        revision, agents = 0, []
        if not self._away:
            try:
                revision, agents = await self._store.agents()
            except StoreDamaged as damaged:
                await self._mend(damaged)
            except StoreUnavailable:
                log.debug("the catalogue is gathered from the bus", exc_info=True)
        if revision == 0:
            return await self._catalogue_from_bus()
        return Catalogue(
            revision=revision,
            agents=[AgentEntry(name=name, digest=digest, instances=beats) for name, digest, beats in agents],
        )

    async def leases(self) -> list[Family]:
        """How many instances of each agent there are, and whether Redis is."""
        states: Counter[tuple[str, str]] = Counter()
        for entry in (await self.catalogue()).agents:
            states.update((entry.name, beat.state) for beat in entry.instances)
            states[entry.name, "ready"] += 0  # so that the last one's end is a zero, and no gap
        leases = tuple(Point(labels, count) for labels, count in states.most_common(MOST))
        up = (Point((), float(not self._away)),)
        return [
            Family("fabric_leases", "gauge", "Instances with a lease.", ("agent", "state"), leases),
            Family("fabric_redis_up", "gauge", "Whether the registry reaches Redis.", (), up),
        ]

    async def conversation(self, conversation_id: str) -> conversations.Read:
        """What is remembered of a conversation, read through the cache."""
        return await conversations.read(self._fabric, self._store, conversation_id)

    async def spend(self, spender: str, number: int, spent: list[Spent]) -> list[Standing]:
        """Count what a gateway used of its limits.

        Raises:
            StoreUnavailable: nobody counts while Redis is away.
        """
        return await self._store.spend(spender, number, spent)

    async def description(self, agent: str, digest: str) -> Description:
        """What `agent` offers, under this digest."""
        if (known := self._described.get((agent, digest))) is None:
            with suppress(StoreUnavailable):
                known = await self._store.description(agent, digest)
            known = known or await self._ask(agent, digest)
            if len(self._described) >= _MOST_KEPT:
                self._described.clear()
            self._described[agent, digest] = known
        return known

    async def _ask(self, agent: str, digest: str) -> Description:
        """From the agent itself: from any of its instances, as most are alike, else from one that announces this."""
        client = self._fabric.agent(agent)
        described = await client.describe(timeout=_DESCRIBE_SECONDS)
        if described.digest != digest:
            entries = [entry for entry in (await self.catalogue()).agents if entry.name == agent]
            announcing = [beat.instance for entry in entries for beat in entry.instances if beat.digest == digest]
            if not announcing:
                raise AgentUnavailable(f"no instance of agent {agent!r} offers {digest!r} any more")
            described = await client.describe(timeout=_DESCRIBE_SECONDS, instance=announcing[-1])
        return described.as_asked(agent, digest)

    async def _ask_who_was_here_first(self) -> None:
        """Instances that began before this one are not waited for until their next heartbeat."""
        with suppress(TransportUnavailable):
            for beat in await self._ask_bus():
                self._heard.setdefault((beat.agent, beat.instance), beat)
        self._wake.set()

    async def _everybody(self, heard: list[Beat]) -> list[Beat]:
        """The beats of all there are, to fill an empty Redis."""
        beats = [*await self._ask_bus(_REBUILD_SECONDS), *heard]
        return list({(beat.agent, beat.instance): beat for beat in beats}.values())

    async def _catalogue_from_bus(self) -> Catalogue:
        by_agent: dict[str, list[Beat]] = {}
        for beat in sorted(await self._ask_bus(), key=lambda each: (each.agent, each.started)):
            by_agent.setdefault(beat.agent, []).append(beat)
        entries = [AgentEntry(name=name, digest=speaking(beats), instances=beats) for name, beats in by_agent.items()]
        return Catalogue(revision=0, agents=entries)

    async def _ask_bus(self, seconds: float = _ASK_BUS_SECONDS) -> list[Beat]:
        """Everybody who answers `$SRV.STATS` within a moment."""
        answers = await gather(self._fabric.transport, subjects.service("STATS"), seconds=seconds)
        return [beat for beat in map(beat_in, answers[:MOST_OF_ALL]) if beat is not None]


def speaking(beats: Sequence[Beat]) -> str:
    """The digest that speaks for an agent, as `beat.lua` has it: that of most instances that take calls; where two
    have as many, that of the newest instance."""
    votes = Counter(beat.digest for beat in beats if beat.state == "ready")
    return max(beats, key=lambda beat: (votes[beat.digest], beat.started)).digest


def build(redis_url: str | None = None) -> Agent:
    """The registry as an agent.

    Raises:
        ConfigurationError: no Redis is named, neither here nor in the settings.
    """
    url = redis_url or load_settings().redis_url
    if not url:
        raise ConfigurationError("the registry needs Redis", fix="set FABRIC_REDIS_URL, or start it with `fabric up`")
    held: list[Registry] = []

    @asynccontextmanager
    async def lifespan(fabric: Fabric) -> AsyncGenerator[None]:
        store = Store(url)
        registry = Registry(store, fabric)
        held.append(registry)
        beats = await fabric.transport.subscribe(subjects.BEATS, registry.hear, queue="registry")
        keeping = keep_on(registry.keep, "keeping the registry")
        stop_telling = METRICS.ask(registry.leases)
        try:
            yield
        finally:
            stop_telling()
            await beats.close()
            await end([keeping])
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

    @agent.tool(annotations=READS)
    async def catalogue(capability: str | None = None, labels: dict[str, str] | None = None) -> Catalogue:
        """All agents, or those with a capability and labels: their live instances, load, digest of what they offer."""
        return (await held[0].catalogue()).only(capability, labels or {})

    @agent.resource("agents://all", description="All agents, and their live instances.")
    async def everybody() -> Catalogue:  # pyright: ignore[reportUnusedFunction]
        return await held[0].catalogue()

    @agent.tool(annotations=READS)
    async def description(agent: str, digest: str = "") -> Description:
        """What one agent offers: tools with schemas, resources, prompts."""
        if not digest:
            entry = next((entry for entry in (await held[0].catalogue()).agents if entry.name == agent), None)
            if entry is None:
                raise UnknownAgent(f"there is no agent {agent!r}", fix="`fabric ps` lists those there are")
            digest = entry.digest
        return await held[0].description(agent, digest)

    @agent.tool(annotations=READS)
    async def conversation(id: str) -> conversations.Read:
        """What is remembered of a conversation: its snapshot, the entries since, and its version."""
        return await held[0].conversation(id)

    @agent.tool(annotations=CHANGES)
    async def spend(spender: Spender, number: Count, spent: list[Spent]) -> list[Standing]:
        """Count what one gateway used of its limits, and tell how these stand with the use of all gateways."""
        return await held[0].spend(spender, number, spent)

    return agent
