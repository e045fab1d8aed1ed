"""All of Redis: leases in, catalogue out. The only file that imports redis.

Above: the registry service. Below: Redis 6.2 or later, or Valkey. Each write is one script, so a half-written
catalogue is never seen; each read is one pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fabric.registry import keys
from fabric_sdk.contracts.description import Beat, Description
from fabric_sdk.contracts.errors import FabricError

LEASE: Final = 15.0
"""Seconds an instance counts as there after a heartbeat: three heartbeats, and longer than NATS needs to fail over."""
GRACE: Final = 60.0
"""Seconds an agent stays in the catalogue after its last instance went: a restart must not empty a tool list."""


class StoreUnavailable(FabricError):
    """Redis cannot be reached."""

    retryable = True


class Store:
    """Leases and descriptions in Redis."""

    def __init__(self, url: str) -> None:
        self._where = urlsplit(url).netloc.rpartition("@")[2]
        # One attempt, soon given up: the service above has a better fallback than waiting.
        self._redis: Any = cast("Any", Redis).from_url(
            url, socket_timeout=2.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0), decode_responses=False
        )
        source = files("fabric.registry").joinpath("lua/beat.lua").read_text()
        self._beat_script = self._redis.register_script(source)

    async def beat(self, beats: Iterable[Beat], *, everybody: bool = False) -> tuple[bool, set[str]] | None:
        """Renew the leases of `beats` and end those that ran out.

        Returns:
            Whether the catalogue changed, and the digests whose descriptions are wanted; `None` if Redis is empty,
            which only the beats of `everybody` can change: a part of the catalogue would pass for the whole.
        """
        arguments: list[Any] = [int(time.time() * 1000), int(LEASE * 1000), int(GRACE * 1000), int(everybody)]
        for each in beats:
            arguments += [each.agent, each.instance, each.digest, each.state, int(each.started * 1000)]
            arguments.append(orjson.dumps(each.model_dump()))
        try:
            answer = cast("list[Any]", await self._beat_script(args=arguments))
        except (RedisError, OSError) as failure:
            raise self._unavailable(failure) from failure
        return (bool(answer[0]), {digest.decode() for digest in answer[1:]}) if answer else None

    async def describe(self, description: Description) -> None:
        """Keep a description for as long as heartbeats mention it."""
        try:
            await self._redis.set(
                keys.description(description.digest),
                orjson.dumps(description.model_dump(mode="json")),
                px=int((GRACE + LEASE) * 1000),
            )
        except (RedisError, OSError) as failure:
            raise self._unavailable(failure) from failure

    async def agents(self) -> tuple[int, list[tuple[str, str, list[Beat]]]]:
        """The catalogue's revision, 0 if there is none; then each agent's name, digest, and instances with a lease.

        Agents by name, instances by age: two looks at the same catalogue are the same.
        """
        try:
            revision = int(await self._redis.get(keys.REVISION) or 0)
            names = sorted(name.decode() for name in await self._redis.zrange(keys.AGENTS, 0, -1))
            pipeline = self._redis.pipeline(transaction=False)
            for name in names:
                pipeline.hget(keys.digest(name), "digest")
                pipeline.zrangebyscore(keys.instances(name), time.time() * 1000, "+inf")
            answers: list[Any] = await pipeline.execute() if names else []
            leased = [instance.decode() for found in answers[1::2] for instance in found]
            beats: list[bytes | None] = (
                await self._redis.mget([keys.lease(instance) for instance in leased]) if leased else []
            )
        except (RedisError, OSError) as failure:
            raise self._unavailable(failure) from failure
        by_agent: dict[str, list[Beat]] = {}
        living = [Beat.model_validate_json(raw) for raw in beats if raw not in (None, keys.GONE)]
        for beat in sorted(living, key=lambda each: (each.started, each.instance)):
            by_agent.setdefault(beat.agent, []).append(beat)
        found = zip(names, answers[0::2], strict=True)
        return revision, [
            (name, digest.decode(), by_agent.get(name, [])) for name, digest in found if digest is not None
        ]

    async def description(self, digest: str) -> Description | None:
        """The description with this digest, if it is stored."""
        try:
            raw = await self._redis.get(keys.description(digest))
        except (RedisError, OSError) as failure:
            raise self._unavailable(failure) from failure
        return None if raw is None else Description.model_validate_json(raw)

    async def close(self) -> None:
        await self._redis.aclose()

    def _unavailable(self, failure: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"Redis at {self._where} cannot be reached: {failure}")
