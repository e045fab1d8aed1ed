"""What an agent remembers of a conversation, asked for by way of gateways that die and workers that come anew.

Proves: RT-8 (whichever gateway and worker were there before)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from support.replicas import Replica, until_ready
from support.running import Running

from fabric_sdk import Agent, Context
from gateway.client import Client
from gateway.conftest import knows
from gateway.probe import serving


@asynccontextmanager
async def elephant(nats_url: str) -> AsyncGenerator[None]:
    """A worker anew."""
    agent = Agent("elephant")

    @agent.tool
    async def remember(text: str, ctx: Context) -> list[Any]:  # pyright: ignore[reportUnusedFunction]
        memory = ctx.fabric.conversation("talk")
        await memory.append(text)
        return (await memory.read()).entries

    async with serving(nats_url, agent):
        yield


async def test_it_outlives_gateway_and_worker(
    http: httpx.AsyncClient, three: list[Replica], bare_fabric: Running
) -> None:
    replica, said = three[0], list[str]()
    client = Client(replica.url, bare_fabric.token, http)

    async def remembered(text: str) -> list[str]:
        said.append(text)
        return (await client.call("elephant_remember", text=text))["structuredContent"]["result"]

    async with elephant(bare_fabric.nats_url):
        await knows(client, "elephant_remember")
        assert await remembered("one") == said
        replica.kill()
        replica.start()
        until_ready([replica])
        assert await remembered("two") == said
    async with elephant(bare_fabric.nats_url):
        await knows(client, "elephant_remember")
        assert await remembered("three") == said
