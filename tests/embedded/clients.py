"""Clients that the tests of the private servers look through; both libraries come without complete types."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import nats
import redis.asyncio


@asynccontextmanager
async def nats_client(url: str, **options: Any) -> AsyncGenerator[Any]:
    client = await cast(Any, nats).connect(url, reconnect_time_wait=0.05, **options)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def redis_client(url: str) -> AsyncGenerator[Any]:
    async with cast(Any, redis.asyncio).from_url(url, decode_responses=True) as client:
        yield client
