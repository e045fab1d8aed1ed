"""Calls that a rule puts before a person, by clients of both eras: they wait, go on, are refused, expire.

Proves: GW-3, SE-2
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from gateway.client import Json
from support.waiting import eventually

from approvals.fabric_of_shops import ELICITS, TASKS, Person, Shops
from fabric.gateway import approving


class Office:
    """A clerk who asks, and a manager who answers."""

    def __init__(self, there: Shops, clerk: Person, manager: Person, name: str) -> None:
        self.there = there
        self.clerk = clerk
        self.manager = manager
        self.name = name
        self.amount = 1000

    def asks(self, **more: object) -> asyncio.Task[Json]:
        """A refund that waits."""
        return asyncio.create_task(self.clerk.does("shop_refund", amount=self.amount, **more))

    async def question(self) -> str:
        """The id of the one that waits for this clerk."""
        (found,) = await self.there.waiting(of=self.name)
        return found


@pytest.fixture
async def office(there: Shops) -> Office:
    name = f"ann-{uuid4().hex[:6]}"
    return Office(
        there, await there.person(name, "clerk"), await there.person(f"mia-{uuid4().hex[:6]}", "manager"), name
    )


async def test_a_call_waits_and_goes_on_once_it_is_granted(office: Office) -> None:
    call = office.asks()
    question = await office.question()
    assert not call.done()
    assert office.there.done == []
    granted = await office.manager.value("approvals_grant", id=question)
    assert (granted["state"], granted["settled"]) == ("granted", True)
    assert (await call)["result"]["structuredContent"] == {"result": "1000 to bob"}
    assert office.there.done == [("refund", 1000, office.name)]


@pytest.mark.parametrize(("answer", "told"), [("grant", "granted"), ("refuse", "refused")])
async def test_a_trace_says_what_was_answered(
    office: Office, monkeypatch: pytest.MonkeyPatch, answer: str, told: str
) -> None:
    noted: list[str] = []

    def note(span: object, what: str, **about: str) -> None:
        noted.append(what)

    monkeypatch.setattr(approving, "note", note)
    call = office.asks()
    await office.manager.value(f"approvals_{answer}", id=await office.question())
    await call
    assert noted == ["approval asked for", f"approval {told}"]


async def test_what_needs_no_leave_is_not_asked_for(office: Office) -> None:
    assert await office.clerk.value("shop_refund", amount=5) == "5 to bob"
    assert office.there.done == [("refund", 5, office.name)]


async def test_a_refused_call_is_told_why_and_the_refusal_stands(office: Office) -> None:
    call = office.asks()
    question = await office.question()
    await office.manager.value("approvals_refuse", id=question, reason="too much")
    error = (await call)["error"]
    assert error["code"] == 4030
    assert error["message"].endswith("refused this: too much")
    assert (await office.asks())["error"] == error
    assert office.there.done == []


async def test_granted_once_is_granted_once(office: Office) -> None:
    call = office.asks()
    first = await office.question()
    await office.manager.value("approvals_grant", id=first)
    await call
    again = office.asks()
    second = await office.question()
    assert second != first
    said = await office.manager.does("approvals_grant", id=first)  # a late repetition fits the next question as little
    assert "no approval" in said["error"]["message"]
    await office.manager.value("approvals_grant", id=second)
    await again
    assert len(office.there.done) == 2


async def test_a_remembered_grant_covers_what_is_like_it_until_it_is_revoked(office: Office) -> None:
    call = office.asks()
    await office.manager.value("approvals_grant", id=await office.question(), remember=True)
    await call
    async with asyncio.timeout(10):  # the gateway hears of it
        while "result" not in (said := await asyncio.wait_for(office.clerk.does("shop_refund", amount=7000), 10)):
            pass
    assert said["result"]["structuredContent"] == {"result": "7000 to bob"}
    (grant,) = [
        each for each in await office.manager.value("approvals_list_grants") if each["principal"] == office.name
    ]
    await office.manager.value("approvals_revoke_grant", id=grant["id"])
    again = asyncio.create_task(office.clerk.does("shop_refund", amount=7001))
    await office.manager.value("approvals_refuse", id=await office.question())
    assert (await again)["error"]["code"] == 4030


async def test_nobody_approves_what_they_asked_for_and_nobody_without_the_role(office: Office) -> None:
    name = f"boss-{uuid4().hex[:6]}"
    boss = await office.there.person(name, "manager")
    call = asyncio.create_task(boss.does("shop_refund", amount=2000))
    (question,) = await office.there.waiting(of=name)
    own = (await boss.does("approvals_grant", id=question))["error"]
    assert "lets nobody answer their own request" in own["message"]
    for tool in ("approvals_grant", "approvals_refuse"):
        assert (
            "one of these roles is needed: manager" in (await office.clerk.does(tool, id=question))["error"]["message"]
        )
    assert not call.done()
    await office.manager.value("approvals_grant", id=question)
    assert "result" in await call


async def test_only_the_platform_s_own_agents_are_told_roles(office: Office) -> None:
    assert await office.manager.value("shop_roles") == []


async def test_the_same_call_again_joins_and_another_one_asks_anew(office: Office) -> None:
    calls = [office.asks() for _ in range(3)]
    question = await office.question()
    calls.append(office.asks(to="bob"))  # said in full, it is another call
    both = await office.there.waiting(2, of=office.name)
    assert question in both
    for each in both:
        await office.manager.value("approvals_grant", id=each)
    assert {str((await call)["result"]["structuredContent"]) for call in calls} == {"{'result': '1000 to bob'}"}
    assert len(office.there.done) == 2


async def test_a_call_that_was_given_up_is_told_what_came_of_it(office: Office) -> None:
    call = office.asks()
    question = await office.question()
    call.cancel()
    await eventually(lambda: not office.there.serving, what="the gateway's notice that nobody waits")
    await office.manager.value("approvals_grant", id=question)
    await eventually(lambda: office.there.done, what="the refund")
    assert (await office.asks())["result"]["structuredContent"] == {"result": "1000 to bob"}
    assert len(office.there.done) == 1


@pytest.mark.parametrize(("tool", "times"), [("send", 1), ("note", 2)])
async def test_one_grant_is_one_attempt_unless_the_tool_has_a_policy_of_its_own(
    office: Office, tool: str, times: int
) -> None:
    call = asyncio.create_task(office.clerk.does(f"shop_{tool}", to="bob"))
    await office.clerk.value("approvals_grant", id=await office.question())
    assert (await call)["error"]["message"] == "RuntimeError: the line is dead"
    assert office.there.done == [(tool, "bob")] * times


async def test_a_question_expires(office: Office) -> None:
    said = await office.clerk.does("shop_brief")
    assert said["error"] == {"code": 4030, "message": "nobody allowed this in time"}
    assert office.there.done == []


async def test_a_client_that_knows_tasks_is_given_one_and_cannot_answer_it_itself(office: Office) -> None:
    clerk = office.clerk.able(TASKS)
    task = (await clerk.does("shop_refund", amount=3000))["result"]
    question = await office.question()
    assert (task["resultType"], task["status"]) == ("task", "working")
    assert question in task["statusMessage"]
    again = (await clerk.does("shop_refund", amount=3000))["result"]
    assert again["taskId"] == task["taskId"]
    for key in ("approval", "1.approval"):
        answers = {key: {"action": "accept", "content": {"allow": True}}}
        await clerk.said("tasks/update", {"taskId": task["taskId"], "inputResponses": answers})
    assert (await clerk.until(task["taskId"], "working"))["statusMessage"]
    await office.manager.value("approvals_grant", id=question)
    done = await clerk.until(task["taskId"], "completed")
    assert done["result"]["structuredContent"] == {"result": "3000 to bob"}


async def test_a_refused_task_fails_with_the_reason(office: Office) -> None:
    clerk = office.clerk.able(TASKS)
    task = (await clerk.does("shop_refund", amount=3000))["result"]
    await office.manager.value("approvals_refuse", id=await office.question(), reason="no money")
    failed = await clerk.until(task["taskId"], "failed")
    assert failed["error"]["code"] == 4030
    assert failed["error"]["message"].endswith("refused this: no money")


async def test_a_task_that_was_cancelled_is_asked_for_anew(office: Office) -> None:
    clerk = office.clerk.able(TASKS)
    task = (await clerk.does("shop_refund", amount=3000))["result"]
    first = await office.question()
    await clerk.said("tasks/cancel", {"taskId": task["taskId"]})
    again = (await clerk.does("shop_refund", amount=3000))["result"]
    assert again["taskId"] != task["taskId"]
    assert await office.question() != first


async def test_a_resource_waits_too(office: Office) -> None:
    reading = asyncio.create_task(office.clerk.said("resources/read", {"uri": "shop://shop/vault"}))
    question = await office.question()
    assert office.there.done == []
    await office.manager.value("approvals_grant", id=question)
    assert (await reading)["result"]["contents"][0]["text"] == "gold"
    again = asyncio.create_task(office.clerk.said("resources/read", {"uri": "shop://shop/vault"}))
    await office.manager.value("approvals_refuse", id=await office.question(), reason="closed")
    assert (await again)["error"]["message"].endswith("refused this: closed")


async def test_who_may_decide_is_asked_in_the_call(office: Office) -> None:
    clerk = office.clerk.able(ELICITS)
    params = {"name": "shop_order", "arguments": {"item": "tea"}}
    for content, action in (({"allow": False}, "accept"), (None, "decline")):
        asked = (await clerk.said("tools/call", params))["result"]
        assert asked["resultType"] == "input_required"
        assert '{"item": "tea"}' in asked["inputRequests"]["approval"]["params"]["message"]
        answer = {"action": action} | ({"content": content} if content else {})
        said = await clerk.said("tools/call", _answered(params, asked, answer))
        assert said["error"]["code"] == 4030
    asked = (await clerk.said("tools/call", params))["result"]
    yes = {"action": "accept", "content": {"allow": True}}
    stolen = _answered({**params, "arguments": {"item": "gold"}}, asked, yes)
    assert (await clerk.said("tools/call", stolen))["error"]["code"] == -32602
    said = await clerk.said("tools/call", _answered(params, asked, yes))
    assert said["result"]["structuredContent"] == {"result": "ordered tea"}
    assert (await clerk.said("tools/call", _answered(params, asked, yes)))["error"]["code"] == -32602
    assert office.there.done == [("order", "tea", office.name)]
    assert [each for each in await office.there.approvals.all() if each.principal == office.name] == []


async def test_who_has_lost_the_role_since_it_was_asked_decides_nothing(office: Office) -> None:
    params = {"name": "shop_order", "arguments": {"item": "gold"}}
    asked = (await office.clerk.able(ELICITS).said("tools/call", params))["result"]
    demoted = (await office.there.person(office.name)).able(ELICITS)
    yes = {"action": "accept", "content": {"allow": True}}
    call = asyncio.create_task(demoted.said("tools/call", _answered(params, asked, yes)))
    question = await office.question()
    assert office.there.done == []
    other = await office.there.person(f"cleo-{uuid4().hex[:6]}", "clerk")
    await other.value("approvals_refuse", id=question)
    assert (await call)["error"]["code"] == 4030
    assert office.there.done == []


async def test_what_was_answered_stands_though_the_rule_that_asked_is_gone(office: Office) -> None:
    """It went to the agent, as the answer to a question that this had never asked."""
    clerk, params = office.clerk.able(ELICITS), {"name": "shop_order", "arguments": {"item": "tea"}}
    for_no, for_yes = [(await clerk.said("tools/call", params))["result"] for _ in range(2)]
    async with office.there.other_policy(lambda policy: policy.replace("own", "fewer").replace("shop/order, ", "")):
        no, yes = ({"action": "accept", "content": {"allow": allow}} for allow in (False, True))
        assert (await clerk.said("tools/call", _answered(params, for_no, no)))["error"]["code"] == 4030
        assert office.there.done == []
        said = await clerk.said("tools/call", _answered(params, for_yes, yes))
        assert said["result"]["structuredContent"] == {"result": "ordered tea"}


async def test_who_may_not_decide_is_not_asked(office: Office) -> None:
    call = asyncio.create_task(office.clerk.able(ELICITS).does("shop_refund", amount=4000))
    await office.manager.value("approvals_grant", id=await office.question())
    assert "result" in await call


def _answered(params: Json, asked: Json, answer: Json) -> Json:
    return {**params, "requestState": asked["requestState"], "inputResponses": {"approval": answer}}
