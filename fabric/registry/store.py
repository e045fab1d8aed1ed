"""All of Redis: leases in, catalogue out. The only file that imports redis.

Above: the registry service. Below: Redis 6.2 or later, or Valkey. Each write is one script, so a half-written
catalogue is never seen; each read is one pipeline.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, NamedTuple, cast

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from fabric.limits.spending import LONGEST, Spent, Standing
from fabric.registry import keys
from fabric_sdk.contracts.address import shown
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.errors import FabricError

LEASE: Final = 15.0
"""Seconds an instance counts as there after a heartbeat: three heartbeats, and longer than NATS needs to fail over."""
GRACE: Final = 60.0
"""Seconds an agent stays in the catalogue after its last instance went: a restart must not empty a tool list."""

_CONVERSATION_SECONDS: Final = 3600

MOST_AGENTS: Final = 1000
MOST_OF_ONE: Final = 1000
MOST_OF_ALL: Final = 5000
"""Agents, instances of one agent, and instances of all: as many as one message can tell of."""


class Written(NamedTuple):
    """What came of a batch of heartbeats."""

    changed: bool
    """Whether the catalogue did."""
    missing: set[tuple[str, str]]
    """Agent and digest of the descriptions that are wanted."""
    full: list[str]
    """Why newcomers were refused, in words."""


class StoreUnavailable(FabricError):
    """Redis cannot be used now: it is away, or refuses."""

    retryable = True


class StoreDamaged(StoreUnavailable):
    """Redis holds what none of ours wrote, where something of ours belongs."""


_DAMAGE: Final = re.compile(r"WRONGTYPE|not an integer|Expected |attempt to|bad argument")
"""What Redis, or a script in it, says of such values. All else that it refuses (no memory, no right) may pass."""


class Store:
    """Leases and descriptions in Redis."""

    def __init__(self, url: str) -> None:
        self._where = shown(url)
        # One attempt, soon given up: the service above has a better fallback than waiting.
        self._redis: Any = cast("Any", Redis).from_url(
            url, socket_timeout=2.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0), decode_responses=False
        )
        scripts = files("fabric.registry").joinpath("lua")
        self._beat_script = self._redis.register_script(scripts.joinpath("beat.lua").read_text())
        self._spend_script = self._redis.register_script(scripts.joinpath("spend.lua").read_text())

    async def beat(self, beats: Iterable[Beat], *, everybody: bool = False) -> Written | None:
        """Renew the leases of `beats` and end those that ran out.

        Returns:
            `None` if Redis is empty, which only the beats of `everybody` can change: a part of the catalogue would
            pass for the whole.

        Raises:
            StoreDamaged: the catalogue in it cannot be written on, until somebody makes it `forget`.
            StoreUnavailable: Redis cannot be asked.
        """
        arguments: list[Any] = [int(time.time() * 1000), int(LEASE * 1000), int(GRACE * 1000), int(everybody)]
        arguments += [MOST_AGENTS, MOST_OF_ONE, MOST_OF_ALL]
        for each in beats:
            arguments += [each.agent, each.instance, each.digest, each.state, orjson.dumps(each.model_dump())]
        with self._spoken_to():
            answer = cast("list[Any]", await self._beat_script(args=arguments))
        if not answer:
            return None
        changed, missing, full = answer
        named = [part.decode() for part in missing]
        return Written(bool(changed), set(zip(named[0::2], named[1::2], strict=True)), [why.decode() for why in full])

    async def spend(self, spender: str, number: int, spent: Iterable[Spent]) -> list[Standing]:
        """Count what one gateway used, once for each `number`, and tell how its buckets stand, in the same order."""
        arguments: list[Any] = [keys.told(spender), number, round(LONGEST * 1e6)]
        counted = [keys.told(spender)]
        for each in spent:
            ahead, day = keys.ahead(each.bucket), "" if each.day is None else keys.used(each.bucket, each.day)
            arguments += [ahead, round(each.age * 1e6), round(each.seconds * 1e6)]
            arguments += [day, each.uses, each.known]
            counted += [ahead, day]
        try:
            answer = await self._spend(arguments)
        except StoreDamaged:
            await self._remove(*counted)  # what is no number counts for nothing
            answer = await self._spend(arguments)
        return [Standing(ahead=ahead / 1e6, used=used) for ahead, used in zip(answer[0::2], answer[1::2], strict=True)]

    async def _spend(self, arguments: list[Any]) -> list[int]:
        with self._spoken_to():
            return cast("list[int]", await self._spend_script(args=arguments))

    async def conversation(self, conversation_id: str) -> bytes | None:
        """A conversation as it was read last, if that is not long ago."""
        with self._spoken_to():
            return await self._redis.get(keys.conversation(conversation_id))

    async def keep_conversation(self, conversation_id: str, read: bytes) -> None:
        """Keep a conversation as it was read."""
        with self._spoken_to():
            await self._redis.set(keys.conversation(conversation_id), read, ex=_CONVERSATION_SECONDS)

    async def describe(self, description: Description) -> None:
        """Keep a description for as long as heartbeats mention it."""
        with self._spoken_to():
            await self._redis.set(
                keys.description(description.name, description.digest),
                orjson.dumps(description.model_dump(mode="json")),
                px=int((GRACE + LEASE) * 1000),
            )

    async def agents(self) -> tuple[int, list[tuple[str, str, list[Beat]]]]:
        """The catalogue's revision, 0 if there is none; then each agent's name, digest, and instances with a lease.

        Agents by name, instances by age: two looks at the same catalogue are the same.

        Raises:
            StoreDamaged: it cannot be read, until somebody makes it `forget`.
            StoreUnavailable: Redis cannot be asked.
        """
        with self._spoken_to():
            revision = int(await self._redis.get(keys.REVISION) or 0)
            speaking = await self._redis.hgetall(keys.DIGESTS)
            digests = {name.decode(): digest.decode() for name, digest in sorted(speaking.items())}
            pipeline = self._redis.pipeline(transaction=False)
            for name in digests:
                pipeline.zrangebyscore(keys.instances(name), time.time() * 1000, "+inf")
            found: list[Any] = await pipeline.execute() if digests else []
            leased = [
                keys.lease(name, instance.decode())
                for name, living in zip(digests, found, strict=True)
                for instance in living
            ]
            beats: list[bytes | None] = await self._redis.mget(leased) if leased else []
            living = [Beat.model_validate_json(raw) for raw in beats if raw not in (None, keys.GONE)]
        by_agent: dict[str, list[Beat]] = {}
        for beat in sorted(living, key=lambda each: (each.started, each.instance)):
            by_agent.setdefault(beat.agent, []).append(beat)
        return revision, [(name, digest, by_agent.get(name, [])) for name, digest in digests.items()]

    async def description(self, agent: str, digest: str) -> Description | None:
        """What `agent` offers under this digest, if it is stored."""
        key = keys.description(agent, digest)
        try:
            with self._spoken_to():
                raw = await self._redis.get(key)
                return None if raw is None else Description.model_validate_json(raw)
        except StoreDamaged:
            await self._remove(key)  # the next heartbeat that mentions it has it asked for again
            return None

    async def forget(self) -> None:
        """Remove the whole catalogue, whatever it has become; what was used of limits stays."""
        with self._spoken_to():
            for pattern in keys.OF_AGENTS:
                if found := [key async for key in self._redis.scan_iter(match=pattern, count=1000)]:
                    await self._redis.unlink(*found)
            # These last, in one step: from here on it is empty, so whoever writes next writes all of it.
            await self._redis.unlink(keys.AGENTS, keys.DIGESTS, keys.REVISION)

    async def _remove(self, *names: str) -> None:
        with self._spoken_to():
            await self._redis.unlink(*names)

    async def close(self) -> None:
        await self._redis.aclose()

    @contextmanager
    def _spoken_to(self) -> Generator[None]:
        """What goes wrong with Redis, or is wrong in it, in our own words."""
        try:
            yield
        except (RedisError, OSError) as failure:
            damaged = isinstance(failure, ResponseError) and _DAMAGE.search(str(failure))
            kind = StoreDamaged if damaged else StoreUnavailable
            raise kind(f"Redis at {self._where} cannot be used: {failure}") from failure
        except ValueError as odd:  # no number, no UTF-8, no heartbeat
            raise StoreDamaged(f"Redis at {self._where} holds what cannot be read: {odd}") from odd
