"""A registry that says what a test wants it to say."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from fabric_sdk import Agent
from fabric_sdk.contracts.description import Description


class FakeRegistry:
    """Serves a made-up catalogue."""

    def __init__(self) -> None:
        self.revision = 1
        self.agents: dict[str, Any] = {}
        """By name: a description, or whatever else shall be answered; `None` for no answer at all."""
        self.answers: dict[str, Any] = {}
        """By name: what is answered in place of what is announced."""
        self.broken = False
        self.asked: list[str] = []

    def agent(self) -> Agent:
        agent = Agent("registry", kind="platform")

        @agent.tool
        async def catalogue() -> dict[str, Any]:
            if self.broken:
                return {"nonsense": 1}
            agents = [{"name": name, "digest": digest_of(given)} for name, given in self.agents.items()]
            return {"revision": self.revision, "agents": agents}

        @agent.tool
        async def description(agent: str, digest: str) -> dict[str, Any]:
            self.asked.append(agent)
            given = self.answers.get(agent, self.agents[agent])
            if given is None:
                await asyncio.Event().wait()
            return cast("dict[str, Any]", given.model_dump() if isinstance(given, Description) else given)

        return agent


def digest_of(given: Any) -> str:
    return given.digest if isinstance(given, Description) else f"of {given!r}"


def offering(name: str, *tools: str) -> Description:
    return Description(name=name, tools=[{"name": tool} for tool in tools])
