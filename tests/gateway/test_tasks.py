"""MCP's tasks extension on the wire: calls that become tasks, what is asked of them, and what they outlive.

Proves: PT-3
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Generator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from support.running import Running, running_fabric
from support.waiting import eventually

from fabric_sdk import Agent, Context, Fabric, Policy
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import KeyReused
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.streams import TASKS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.contracts.task import Record
from fabric_sdk.patterns.start import Start
from fabric_sdk.pipeline import Request
from fabric_sdk.routing.asking import park
from gateway.client import BOTH, CAPABILITIES_KEY, Client, Json, events, meta, refusal, request, tools
from gateway.probe import serving

HERE = Path(__file__).parent
EXTENSION = "io.modelcontextprotocol/tasks"
DECLARED: Json = {CAPABILITIES_KEY: {"extensions": {EXTENSION: {}}, "elicitation": {}}}
ACK = {"resultType", "_meta"}
UNDECLARED, UNKNOWN = -32021, -32602


class TaskClient(Client):
    """A client that knows tasks."""

    async def send(self, method: str, params: Json) -> httpx.Response:
        """A request of the extension, or a call, with the headers that go with it."""
        named = params.get("taskId", params.get("name"))
        lines = self.headers(method, named if isinstance(named, str) else None)
        return await self.post(json.dumps(request(method, {"_meta": meta(**DECLARED), **params})), lines)

    async def get(self, method: str, params: Json) -> Json:
        """The result of a request that succeeds."""
        response = await self.send(method, params)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    async def start(self, tool: str, **arguments: Any) -> Json:
        """A task, as it was created."""
        created = await self.get("tools/call", {"name": tool, "arguments": arguments})
        assert created["resultType"] == "task", created
        return created

    async def task(self, task_id: str) -> Json:
        """How a task stands."""
        return await self.get("tasks/get", {"taskId": task_id})

    async def until(self, task_id: str, *states: str, seconds: float = 20.0) -> Json:
        """A task as it stands in one of these states."""
        deadline = time.monotonic() + seconds
        while (task := await self.task(task_id))["status"] not in states:
            assert time.monotonic() < deadline, task
            await asyncio.sleep(0.02)
        return task


@pytest.fixture(scope="module")
def jobs_fabric() -> Generator[Running]:
    """A fabric of this module's own: its parts are killed."""
    with running_fabric(str(HERE / "jobs.py"), "--processes", "2") as running:
        yield running


@pytest.fixture(scope="module")
async def client(jobs_fabric: Running) -> AsyncGenerator[TaskClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield TaskClient(jobs_fabric.mcp_url, jobs_fabric.token, http)


@pytest.fixture(scope="module")
async def fabric(jobs_fabric: Running) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(jobs_fabric.nats_url) as fabric:
        yield fabric


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# a call that becomes a task


async def test_the_extension_is_advertised(client: TaskClient) -> None:
    capabilities = (await client.get("server/discover", {}))["capabilities"]
    assert capabilities["extensions"] == {EXTENSION: {}}


async def test_a_call_becomes_a_task_and_its_result_is_the_call_s(client: TaskClient) -> None:
    before = time.time()
    created = await client.start("jobs_add", a=1, b=2)
    assert created["status"] == "working"
    assert created["taskId"].startswith("jobs.")
    assert len(created["taskId"]) > len("jobs.") + 30  # nobody guesses it
    assert before - 1 < moment(created["createdAt"]) < time.time() + 1
    assert created["ttlMs"] == 86_400_000
    assert created["pollIntervalMs"] > 0
    assert not {"task", "result", "requestState", "inputRequests"} & created.keys()
    done = await client.until(created["taskId"], "completed")
    assert done["resultType"] == "complete"
    assert done["taskId"] == created["taskId"]
    assert moment(done["lastUpdatedAt"]) >= moment(done["createdAt"])
    assert done["ttlMs"] >= 86_400_000
    assert "pollIntervalMs" not in done
    called = await client.call("jobs_add", a=1, b=2)  # by a client that did not declare the extension
    assert called["resultType"] == "complete"
    assert done["result"] == called


async def test_a_task_can_be_asked_for_at_once_and_tells_how_far_it_is(client: TaskClient, tmp_path: Path) -> None:
    path = tmp_path / "go"
    task_id = (await client.start("jobs_wait_for", path=str(path)))["taskId"]
    task = await client.task(task_id)
    assert (task["status"], task["taskId"]) == ("working", task_id)
    await eventually(path.with_suffix(".pid").exists, what="the handler at work")
    while (task := await client.task(task_id)).get("statusMessage") != "half-way":
        assert task["status"] == "working"
        await asyncio.sleep(0.05)
    path.touch()
    done = await client.until(task_id, "completed")
    assert done["result"]["structuredContent"] == {"attempt": 1, "principal": "operator"}
    assert "statusMessage" not in done


async def test_a_tool_that_says_nothing_of_it_is_called(client: TaskClient) -> None:
    result = await client.get("tools/call", {"name": "jobs_plain", "arguments": {}, "task": {"ttl": 1}})
    assert (result["resultType"], result["structuredContent"]) == ("complete", {"result": False})


async def test_what_runs_only_as_a_task_is_refused_to_others(client: TaskClient) -> None:
    call: Json = {"name": "jobs_only_task", "arguments": {}}
    error = refusal(await client.ask("tools/call", call), 400, UNDECLARED, number=1)
    assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    task_id = (await client.start("jobs_only_task"))["taskId"]
    done = await client.until(task_id, "completed")
    assert done["result"]["content"][0]["text"] == task_id.partition(".")[2]


@pytest.mark.parametrize("revision", ["2025-06-18", "2025-11-25"])
async def test_a_handshake_client_is_refused_as_well(client: TaskClient, revision: str) -> None:
    hello: Json = {"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    lines = {"accept": BOTH, "content-type": "application/json", "authorization": f"Bearer {client.token}"}

    async def ask(method: str, params: Json) -> httpx.Response:
        return await client.post(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}), lines)

    lines["mcp-session-id"] = (await ask("initialize", hello)).headers["mcp-session-id"]
    lines["mcp-protocol-version"] = revision
    declared: Json = {"extensions": {EXTENSION: {}}}
    for name, meant in (("jobs_only_task", "error"), ("jobs_add", "result")):
        call: Json = {"name": name, "arguments": {"a": 1, "b": 1}, "_meta": {CAPABILITIES_KEY: declared}}
        said = events((await ask("tools/call", call)).text)[-1]
        assert meant in said, said
        assert said.get("error", {}).get("code", UNDECLARED) == UNDECLARED


@pytest.mark.parametrize("declared", [None, True, [], {EXTENSION: True}, {EXTENSION: None}, {"other": {}}])
async def test_only_an_object_declares_the_extension(client: TaskClient, declared: Any) -> None:
    params = {"_meta": meta(**{CAPABILITIES_KEY: {"extensions": declared}}), "name": "jobs_add"}
    assert (await client.get("tools/call", params | {"arguments": {"a": 1, "b": 1}}))["resultType"] == "complete"


# how tasks end


async def test_an_error_in_words_is_a_result(client: TaskClient) -> None:
    task = await client.until((await client.start("jobs_refuse"))["taskId"], "completed", "failed")
    assert task["status"] == "completed"
    assert (task["result"]["isError"], task["result"]["content"][0]["text"]) == (True, "not today")


async def test_what_failed_for_good_has_an_error_and_no_result(client: TaskClient) -> None:
    task = await client.until((await client.start("jobs_reject"))["taskId"], "completed", "failed")
    assert task["status"] == "failed"
    assert task["error"] == {"code": -32603, "message": "never"}
    assert "result" not in task


async def test_what_the_agent_does_not_have_fails_with_the_call_s_error(client: TaskClient, fabric: Fabric) -> None:
    start = Start(agent="jobs", params=Body({"name": "nothing"}), scope=scope_for(60, principal="operator"))
    await fabric.tasks.start(start)
    task = await client.until(f"jobs.{start.id}", "failed")
    assert task["error"]["code"] == -32602


async def test_what_expired_has_failed(client: TaskClient, fabric: Fabric) -> None:
    scope = scope_for(60, principal="operator")
    start = Start(agent="nobody", params=Body({"name": "x"}), scope=scope, expires=time.time() - 1)
    await fabric.tasks.start(start)
    task = await client.task(f"nobody.{start.id}")
    assert (task["status"], task["error"]["code"]) == ("failed", 5040)


async def test_cancelling_is_acknowledged_again_and_again(client: TaskClient, tmp_path: Path) -> None:
    task_id = (await client.start("jobs_wait_for", path=str(tmp_path / "never")))["taskId"]
    await eventually((tmp_path / "never.pid").exists, what="the handler at work")
    for _ in range(2):
        ack = await client.get("tasks/cancel", {"taskId": task_id})
        assert ack["resultType"] == "complete"
        assert ack.keys() == ACK
    task = await client.task(task_id)
    assert task["status"] == "cancelled"
    assert not {"result", "error"} & task.keys()


async def test_what_has_ended_is_not_cancelled(client: TaskClient) -> None:
    task_id = (await client.start("jobs_add", a=1, b=1))["taskId"]
    done = await client.until(task_id, "completed")
    assert (await client.get("tasks/cancel", {"taskId": task_id})).keys() == ACK
    assert await client.task(task_id) == done


async def test_what_nobody_has_begun_is_cancelled(client: TaskClient, fabric: Fabric) -> None:
    start = Start(agent="nobody", params=Body({"name": "x"}), scope=scope_for(60, principal="operator"))
    before = time.time()
    await fabric.tasks.start(start)
    task = await client.task(f"nobody.{start.id}")
    assert task["status"] == "working"
    assert before - 1 < moment(task["createdAt"]) < time.time() + 1
    await client.get("tasks/cancel", {"taskId": f"nobody.{start.id}"})
    assert (await client.task(f"nobody.{start.id}"))["status"] == "cancelled"


# what is no task of this client

METHODS = ("tasks/get", "tasks/update", "tasks/cancel")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "task_id", ["", ".", "jobs", "jobs.", "jobs.nothing", "jobs.*", "*.x", "Jobs.x", "a.b.c", "jobs.>"]
)
async def test_an_unknown_id_is_refused(client: TaskClient, method: str, task_id: str) -> None:
    refusal(await client.send(method, {"taskId": task_id, "inputResponses": {}}), 400, UNKNOWN, number=1)


@pytest.mark.parametrize("method", METHODS)
async def test_another_s_task_is_refused_as_an_unknown_one(client: TaskClient, fabric: Fabric, method: str) -> None:
    for principal in ("stranger", None):
        add = Body({"name": "add", "arguments": {"a": 1, "b": 1}})
        theirs = Start(agent="jobs", params=add, scope=scope_for(60, principal=principal))
        waiting = Start(agent="nobody", params=add, scope=scope_for(60, principal=principal))
        for start in (theirs, waiting):
            await fabric.tasks.start(start)
        await fabric.tasks.wait("jobs", theirs.id, timeout=10)
        unknown = await client.send(method, {"taskId": "jobs.nothing", "inputResponses": {}})
        for task_id in (f"jobs.{theirs.id}", f"nobody.{waiting.id}"):
            answer = await client.send(method, {"taskId": task_id, "inputResponses": {}})
            assert (answer.status_code, answer.content) == (unknown.status_code, unknown.content)
        assert (await fabric.tasks.read("nobody", waiting.id)).state == "queued"


@pytest.mark.parametrize("method", METHODS)
async def test_a_client_that_knows_no_tasks_is_told_what_it_lacks(client: TaskClient, method: str) -> None:
    answer = await client.ask(method, {"taskId": "jobs.nothing"}, change={"mcp-name": "jobs.nothing"})
    assert refusal(answer, 400, UNDECLARED, number=1)["data"]["requiredCapabilities"]["extensions"] == {EXTENSION: {}}


@pytest.mark.parametrize("method", METHODS)
async def test_the_name_header_is_the_task_s_id(client: TaskClient, method: str) -> None:
    content = json.dumps(request(method, {"_meta": meta(**DECLARED), "taskId": "jobs.one"}))
    for named in (None, "jobs.two"):
        refusal(await client.post(content, client.headers(method, named)), 400, -32020, number=1)


@pytest.mark.parametrize("task_id", [None, 1, ["jobs.x"]])
async def test_an_id_is_a_string(client: TaskClient, task_id: Any) -> None:
    refusal(await client.send("tasks/get", {"taskId": task_id}), 400, UNKNOWN, number=1)
    refusal(await client.send("tasks/get", {}), 400, UNKNOWN, number=1)


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_what_the_extension_dropped_is_no_method(client: TaskClient, method: str) -> None:
    refusal(await client.send(method, {"taskId": "jobs.x"}), 404, -32601, number=1)


# questions inside a task


class Curious(Agent):
    """Asks for a name, and until it is one, again; in every round for two things at once."""

    def __init__(self) -> None:
        super().__init__("curious")
        self.rounds: list[Json] = []
        for name, policy in {
            "ask": Policy(mcp="optional", attempts=1),
            "ask_first": Policy(mcp="required", attempts=1, asks_first=True),
        }.items():
            self.tool(name=name, task=policy)(self.nothing)

    async def nothing(self) -> None:
        """Ask."""

    async def handle(self, context: Context, request: Request) -> Body:
        """As a hosted MCP server would."""
        if request.method != "tools/call":
            return await super().handle(context, request)
        params = cast("Json", request.params.value())
        answers: Json = params.get("inputResponses", {})
        self.rounds.append({"answers": answers, "state": params.get("requestState"), "task": context.task is not None})
        name = answers.get("name", {}).get("content", {}).get("name")
        if name:
            return Body({"content": [{"type": "text", "text": f"Hello, {name}!"}], "resultType": "complete"})
        asked = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {"type": "object"}}}
        requests = {"name": asked, "other": asked}
        return Body({"resultType": "input_required", "inputRequests": requests, "requestState": f"{len(self.rounds)}"})


@pytest.fixture
async def curious(jobs_fabric: Running) -> AsyncGenerator[Curious]:
    agent = Curious()
    async with serving(jobs_fabric.nats_url, agent):
        await eventually(lambda: "curious_ask" in tools(jobs_fabric), what="the agent in the list of tools")
        yield agent


def answer(**content: Any) -> Json:
    return {"action": "accept", "content": content}


async def test_a_task_asks_until_it_knows_and_no_key_comes_twice(client: TaskClient, curious: Curious) -> None:
    task_id = (await client.start("curious_ask"))["taskId"]
    seen: set[str] = set()
    for number, name in ((1, ""), (2, "Ada")):
        task = await client.until(task_id, "input_required")
        keys = sorted(task["inputRequests"])
        assert len(keys) == 2
        assert not seen & set(keys)
        seen.update(keys)
        assert task["inputRequests"][keys[0]]["method"] == "elicitation/create"
        assert "requestState" not in task
        first = await client.get("tasks/update", {"taskId": task_id, "inputResponses": {keys[1]: answer(other=1)}})
        assert first.keys() == ACK
        task = await client.task(task_id)  # half of the answers change what is asked, and nothing else
        assert (task["status"], [*task["inputRequests"]]) == ("input_required", [keys[0]])
        assert len(curious.rounds) == number
        given = {keys[0]: answer(name=name), keys[1]: answer(other=2), "made-up": {"no": "answer"}}
        await client.get("tasks/update", {"taskId": task_id, "inputResponses": given})
        await eventually(lambda: len(curious.rounds) == number + 1, what="the next round")  # noqa: B023
    done = await client.until(task_id, "completed")
    assert done["result"]["content"][0]["text"] == "Hello, Ada!"
    other = answer(other=1)
    assert curious.rounds == [
        {"answers": {}, "state": None, "task": True},
        {"answers": {"name": answer(name=""), "other": other}, "state": "1", "task": True},
        {"answers": {"name": answer(name="Ada"), "other": other}, "state": "2", "task": True},
    ]
    await client.get("tasks/update", {"taskId": task_id, "inputResponses": {"2.name": answer(name="Eve")}})
    assert await client.task(task_id) == done


async def test_answers_sent_from_many_places_at_once_are_one_round(client: TaskClient, curious: Curious) -> None:
    task_id = (await client.start("curious_ask"))["taskId"]
    keys = (await client.until(task_id, "input_required"))["inputRequests"]
    given = {"taskId": task_id, "inputResponses": dict.fromkeys(keys, answer(name="Ada"))}
    await asyncio.gather(*(client.get("tasks/update", given) for _ in range(8)))
    await client.until(task_id, "completed")
    assert len(curious.rounds) == 2


@pytest.mark.parametrize("given", [None, [], "x", {"1.name": "Ada"}, {"1.name": {"action": "perhaps"}}])
async def test_a_wrong_answer_is_refused_and_the_question_stays(
    client: TaskClient, curious: Curious, given: Any
) -> None:
    task_id = (await client.start("curious_ask"))["taskId"]
    asked = await client.until(task_id, "input_required")
    answer = await client.send("tasks/update", {"taskId": task_id, "inputResponses": given})
    refusal(answer, 400, -32602, number=1)
    assert (await client.task(task_id))["inputRequests"] == asked["inputRequests"]
    await client.get("tasks/cancel", {"taskId": task_id})
    task = await client.task(task_id)
    assert task["status"] == "cancelled"
    assert "inputRequests" not in task


async def test_questions_come_before_the_task_where_the_tool_wants_it(client: TaskClient, curious: Curious) -> None:
    call: Json = {"name": "curious_ask_first", "arguments": {}}
    asked = await client.get("tools/call", call)
    assert asked["resultType"] == "input_required"
    assert "taskId" not in asked
    again = {**call, "requestState": asked["requestState"], "inputResponses": {"name": answer(name="Ada")}}
    created = await client.get("tools/call", again)
    assert created["resultType"] == "task"
    assert not {"requestState", "inputRequests"} & created.keys()
    done = await client.until(created["taskId"], "completed")
    assert done["result"]["content"][0]["text"] == "Hello, Ada!"
    assert [(each["task"], each["state"]) for each in curious.rounds] == [(False, None), (True, "1")]
    refusal(await client.send("tools/call", again), 400, -32602, number=1)  # a second time would be a second task


@pytest.mark.parametrize("tool", ["curious_ask", "curious_ask_first"])
async def test_no_task_begins_with_a_state_that_its_client_was_not_given(
    client: TaskClient, curious: Curious, tool: str
) -> None:
    forged = {"name": tool, "arguments": {}, "requestState": "1", "inputResponses": {"name": answer(name="Eve")}}
    refusal(await client.send("tools/call", forged), 400, -32602, number=1)
    assert curious.rounds == []


async def test_a_task_that_waits_for_answers_is_joined_by_its_key(
    client: TaskClient, fabric: Fabric, curious: Curious
) -> None:
    start = Start(agent="curious", params=Body({"name": "ask"}), scope=scope_for(60, principal="operator"), key="one")
    await fabric.tasks.start(start)
    asked = await client.until(f"curious.{start.id}", "input_required")
    again = start.message()
    again.headers = {**(again.headers or {}), Header.MESSAGE_ID: "later"}  # as if the server had forgotten the first
    await fabric.jetstream.store(again.subject, again.body, again.headers)
    while await fabric.jetstream.last(TASKS, again.subject) is not None:  # noqa: ASYNC110 - nobody is told of it
        await asyncio.sleep(0.02)
    task = await client.task(f"curious.{start.id}")
    assert (task["inputRequests"], task["lastUpdatedAt"]) == (asked["inputRequests"], asked["lastUpdatedAt"])
    assert len(curious.rounds) == 1


async def test_a_key_is_refused_with_other_arguments(client: TaskClient) -> None:
    async def started(b: int) -> Json:
        wanted = {"agent": "jobs", "tool": "add", "arguments": {"a": 1, "b": b}, "key": "reused"}
        return (await client.send("tools/call", {"name": "durable_start_task", "arguments": wanted})).json()

    first, again, other = [await started(b) for b in (2, 2, 3)]
    task = first["result"]["structuredContent"]
    assert again["result"]["structuredContent"] == {**task, "joined": True}
    assert (other["error"]["code"], task["id"] in other["error"]["message"]) == (KeyReused.code, True)
    assert "give other work another key" in other["error"]["message"]


async def test_answers_arrive_though_the_worker_that_asked_is_not_done_yet(client: TaskClient, fabric: Fabric) -> None:
    start = Start(agent="nobody", params=Body({"name": "x"}), scope=scope_for(60, principal="operator"))
    await fabric.tasks.start(start)
    subject, jetstream = start.message().subject, fabric.jetstream
    waiting = await jetstream.last(TASKS, subject)
    assert waiting is not None
    record = Record(start.id, "nobody", principal="operator", origin=waiting.sequence)
    park(record, {"inputRequests": {"name": {"method": "elicitation/create"}}}, start.params, {})
    await jetstream.store(subjects.record("nobody", start.id), record.body(), {Header.EXPECTED: "0"})
    given = {"taskId": f"nobody.{start.id}", "inputResponses": {"1.name": answer(name="Ada")}}
    await client.get("tasks/update", given)
    led_on = await jetstream.last(TASKS, subject)
    assert led_on is not None
    assert led_on.headers[Header.ROUND] == "1"
    assert led_on.body.value() == {"name": "x", "inputResponses": {"name": answer(name="Ada")}}
    assert (await client.task(f"nobody.{start.id}"))["status"] == "working"


# what a task outlives


async def test_a_task_completes_though_its_worker_is_killed(client: TaskClient, tmp_path: Path) -> None:
    path, pid = tmp_path / "go", tmp_path / "go.pid"
    task_id = (await client.start("jobs_wait_for", path=str(path)))["taskId"]
    await eventually(pid.exists, what="the handler at work")
    killed = int(pid.read_text())
    os.kill(killed, signal.SIGKILL)
    path.touch()
    done = await client.until(task_id, "completed", "failed", seconds=40)
    assert done["result"]["structuredContent"]["attempt"] == 2
    assert int(pid.read_text()) != killed


async def test_any_gateway_answers_for_a_task(client: TaskClient, jobs_fabric: Running, tmp_path: Path) -> None:
    path = tmp_path / "go"
    task_id = (await client.start("jobs_wait_for", path=str(path)))["taskId"]
    os.kill(jobs_fabric.pids["gateway"], signal.SIGKILL)
    while True:
        try:
            assert (await client.task(task_id))["status"] == "working"
            break
        except httpx.TransportError:
            await asyncio.sleep(0.1)
    path.touch()
    assert (await client.until(task_id, "completed"))["result"]["structuredContent"]["attempt"] == 1
