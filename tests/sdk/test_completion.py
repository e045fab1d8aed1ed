"""What an argument may be, as its author's function says: for prompts and for templates. Proves: TR-1, PT-1."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fabric_sdk import Agent, Context
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams, UnknownName
from fabric_sdk.contracts.scope import Scope
from fabric_sdk.pipeline import Request

pytestmark = pytest.mark.anyio


def anything(typed: str) -> list[str]:
    return [typed]


def nothing() -> list[str]:
    return []


TOWNS = ["Bergen", "Berlin", "Bern"]
PROMPT = {"type": "ref/prompt", "name": "plan"}
TEMPLATE = {"type": "ref/resource", "uri": "map://{town}"}


def travel() -> Agent:
    agent = Agent("travel")

    @agent.prompt
    def plan(town: str, days: str = "1", mood: str = "") -> str:
        return f"{days} days in {town}, {mood}"

    @agent.resource("map://{town}")
    def show(town: str) -> str:
        return town

    @agent.completion("plan", "town")
    @agent.completion("map://{town}", "town")
    async def towns(typed: str) -> list[str]:
        return [town for town in TOWNS if town.startswith(typed)]

    @agent.completion("plan", "days")
    def days(typed: str, ctx: Context) -> list[int]:
        far = ctx.params["context"]["arguments"]["town"] == "Bergen"
        return list(range(250)) if far else [1]

    return agent


async def complete(agent: Agent, ref: Any, argument: Any, **more: Any) -> dict[str, Any]:
    params = {"ref": ref, "argument": argument, **more}
    context = Context(Scope(time.time() + 10, None, None))
    return (await agent.handle(context, Request("completion/complete", Body(params)))).value()


@pytest.mark.parametrize("ref", [PROMPT, TEMPLATE])
async def test_an_argument_is_completed_as_the_function_says(ref: dict[str, str]) -> None:
    found = await complete(travel(), ref, {"name": "town", "value": "Berl"})
    assert found["completion"] == {"values": ["Berlin"], "total": 1, "hasMore": False}
    assert found["resultType"] == "complete"


async def test_what_was_filled_in_before_has_a_say_and_a_hundred_are_shown() -> None:
    day = {"name": "days", "value": ""}
    near = await complete(travel(), PROMPT, day, context={"arguments": {"town": "Bern"}})
    assert near["completion"]["values"] == ["1"]
    far = (await complete(travel(), PROMPT, day, context={"arguments": {"town": "Bergen"}}))["completion"]
    assert (len(far["values"]), far["total"], far["hasMore"]) == (100, 250, True)


async def test_an_argument_that_nobody_completes_has_no_values() -> None:
    found = await complete(travel(), PROMPT, {"name": "mood", "value": "x"})
    assert found["completion"] == {"values": [], "total": 0, "hasMore": False}


@pytest.mark.parametrize("name", ["nothing", "", "show"])
async def test_what_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match="no prompt and no resource"):
        await complete(travel(), {"type": "ref/prompt", "name": name}, {"name": "a", "value": ""})


@pytest.mark.parametrize("ref", [None, 1, [], {}, {"name": 1}, PROMPT])
@pytest.mark.parametrize("argument", [None, "x", {}, {"name": "town"}, {"name": [], "value": "x"}])
async def test_params_that_are_none_are_refused(ref: Any, argument: Any) -> None:
    with pytest.raises(InvalidParams, match=r"params\.argument"):
        await complete(travel(), ref, argument)


async def test_only_an_agent_that_completes_says_so() -> None:
    assert (await travel().describe()).completions
    assert not (await Agent("mute").describe()).completions


@pytest.mark.parametrize(("of", "argument"), [("plan", "place"), ("paln", "town"), ("map://{town}", "x"), ("", "")])
def test_a_completion_of_what_there_is_not_is_a_mistake(of: str, argument: str) -> None:
    with pytest.raises(ConfigurationError, match="no argument"):
        travel().completion(of, argument)(anything)


def test_a_function_that_does_not_suit_and_a_second_one_are_mistakes() -> None:
    agent = travel()
    with pytest.raises(ConfigurationError, match="cannot complete"):
        agent.completion("plan", "mood")(nothing)
    with pytest.raises(ConfigurationError, match="there is a completion of"):
        agent.completion("plan", "town")(anything)
