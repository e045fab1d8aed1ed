"""JSON over HTTP, by a client that knows no MCP: results, problems, events, tasks, and a description of it all.

Proves: TR-4, GW-3
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import openapi_pydantic
import pytest
from gateway.client import Wire
from gateway.probe import Probe
from jsonschema import Draft202012Validator
from support.waiting import until

from doors.conftest import MAX_BODY
from doors.ways import Json

EVENTS = {"accept": "text/event-stream"}


def events(response: httpx.Response) -> list[tuple[str, Json]]:
    """What a stream of server-sent events tells."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    found: list[tuple[str, Json]] = []
    for block in response.text.replace("\r\n", "\n").strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def problem(response: httpx.Response, status: int) -> Json:
    """What a response says that must be this problem."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: Json = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


async def test_a_tool_answers(rest: httpx.AsyncClient) -> None:
    told = await rest.post("/api/tools/hello_echo", json={"text": "hi"})
    assert (told.status_code, told.headers["content-type"]) == (200, "application/json")
    assert told.json()["structuredContent"] == {"result": "hi"}
    assert (await rest.post("/api/tools/asker_key")).json()["structuredContent"] == {"result": None}


async def test_what_a_tool_reports_is_a_problem_in_its_words(rest: httpx.AsyncClient) -> None:
    told = problem(await rest.post("/api/tools/hello_refuse", json={"reason": "not today"}), 422)
    assert told["detail"] == "not today"
    assert told["content"] == [{"type": "text", "text": "not today"}]
    told = problem(await rest.post("/api/tools/hello_count", json={"too": 1}), 422)
    assert "to: Field required" in told["detail"]
    # It only speaks of errors.
    echoed = await rest.post("/api/tools/hello_echo", json={"text": '{"isError":true,"resultType":"input_required"}'})
    assert echoed.status_code == 200


async def test_progress_and_log_come_as_events(rest: httpx.AsyncClient, probe: Probe) -> None:
    heard = events(await rest.post("/api/tools/probe_talk", headers=EVENTS))
    assert [kind for kind, _ in heard] == ["log", "progress", "log", "progress", "log", "result"]
    assert heard[1][1] == {"progress": 0.5, "total": 1.5}
    assert heard[2][1]["data"] == {"a": ["b"]}
    assert heard[-1][1]["structuredContent"] == {"result": "said"}


async def test_who_wants_events_gets_events_however_quick_the_answer(rest: httpx.AsyncClient) -> None:
    assert [
        kind for kind, _ in events(await rest.post("/api/tools/hello_echo", json={"text": "hi"}, headers=EVENTS))
    ] == ["result"]
    failed = events(await rest.post("/api/tools/hello_refuse", json={"reason": "no"}, headers=EVENTS))
    assert [(kind, said["status"]) for kind, said in failed] == [("error", 422)]
    problem(await rest.post("/api/tools/nothing", headers=EVENTS), 404)


async def test_a_client_that_leaves_cancels_its_call(url: str, operator: str, probe: Probe) -> None:
    content = b'{"kind":"quiet"}'
    async with Wire.to(url) as wire:
        head = f"POST /api/tools/probe_wait HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {operator}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        await wire.send(head.encode() + content)
        await asyncio.wait_for(probe.waits["quiet"].begun.wait(), 10)
    await asyncio.wait_for(probe.waits["quiet"].cancelled.wait(), 10)


async def test_a_key_reaches_the_tool(rest: httpx.AsyncClient) -> None:
    told = await rest.post("/api/tools/asker_key", headers={"idempotency-key": "order 66"})
    assert told.json()["structuredContent"] == {"result": "order 66"}


async def test_an_agent_that_asks_is_told_that_nobody_answers(rest: httpx.AsyncClient) -> None:
    told = await rest.post("/api/tools/asker_size")
    problem(told, 422)


async def test_resources_and_prompts(rest: httpx.AsyncClient) -> None:
    read = await rest.get("/api/resources/read", params={"uri": "notes://hello/monday"})
    assert read.json()["contents"][0]["text"] == "note of monday"
    templates = (await rest.get("/api/resources/templates")).json()["resourceTemplates"]
    assert "notes://hello/{day}" in [each["uriTemplate"] for each in templates]
    assert isinstance((await rest.get("/api/resources")).json()["resources"], list)
    greeting = await rest.post("/api/prompts/hello_greet", json={"name": "Bo"})
    assert greeting.json()["messages"][0]["content"]["text"] == "Say hello to Bo."


@pytest.mark.parametrize(
    ("method", "path", "content", "lines", "status"),
    [
        ("GET", "/api/", None, {}, 404),
        ("GET", "/api/nothing", None, {}, 404),
        ("GET", "/api/tools/hello_echo", None, {}, 405),
        ("PUT", "/api/tools", b"{}", {}, 405),
        ("POST", "/api/tools/hello_echo", b"[1]", {}, 400),
        ("POST", "/api/tools/hello_echo", b'{"text":', {}, 400),
        ("POST", "/api/tools/hello_echo", b'{"text":"\xff"}', {}, 400),
        ("POST", "/api/tools/hello_echo", b"{}", {"content-type": "text/plain"}, 415),
        ("POST", "/api/tools/hello_echo", b'{"text":"%b"}' % (b"x" * MAX_BODY), {}, 413),
        ("POST", "/api/tools/hello_echo", b"{}", {"idempotency-key": "x" * 256}, 400),
        ("POST", "/api/tools/hello_echo", b"{}", {"host": "evil.example"}, 421),
        ("POST", "/api/tools/hello_echo", b"{}", {"origin": "https://evil.example"}, 403),
        ("POST", "/api/tools/hello_echo", b"{}", {"authorization": "Basic x"}, 401),
        ("POST", "/api/tools/hello_%ED%A0%80", b"{}", {}, 404),
        ("POST", "/api/tools/jobs_only_task", b"{}", {}, 409),
        ("POST", "/api/tasks/jobs_plain", b"{}", {}, 409),
        ("POST", "/api/tasks/jobs_add", b'{"a": 1%b, "b": 1}' % (b"0" * 400), {}, 400),
        ("POST", "/api/tasks/jobs_add", b'{"a": 1%b, "b": 1}' % (b"0" * 400), {"idempotency-key": "large"}, 400),
        ("POST", "/api/tasks/jobs_add?priority=urgent", b"{}", {}, 400),
        ("POST", "/api/tasks/jobs_add?delay=-1", b"{}", {}, 400),
        ("POST", "/api/tasks/jobs_add?delay=nan", b"{}", {}, 400),
        ("GET", "/api/tasks/jobs.nothing", None, {}, 404),
        ("DELETE", "/api/tasks/No.thing", None, {}, 404),
        ("GET", "/api/tools?cursor=x", None, {}, 400),
        ("GET", "/api/resources/read", None, {}, 400),
        ("GET", "/api/resources/read?uri=other://x/y", None, {}, 404),
    ],
)
async def test_what_is_wrong_is_a_problem(
    rest: httpx.AsyncClient, method: str, path: str, content: bytes | None, lines: dict[str, str], status: int
) -> None:
    lines = {"content-type": "application/json", **lines}
    problem(await rest.request(method, path, content=content, headers=lines), status)


# what a person has to allow


async def answer(rest: httpx.AsyncClient, how: str, who: str, **more: Any) -> None:
    """Let an operator say something to the one question of a principal, once it is there."""

    async def waiting() -> list[str]:
        told = (await rest.post("/api/tools/approvals_list_approvals", json={})).json()["structuredContent"]["result"]
        return [each["id"] for each in told if each["principal"] == who]

    (question,) = await until(waiting, bool, what="a question")
    told = await rest.post(f"/api/tools/approvals_{how}", json={"id": question, **more})
    assert told.status_code == 200, told.text


@pytest.mark.parametrize("path", ["/api/tools/hello_echo", "/api/tasks/jobs_add"])
async def test_what_a_person_has_to_allow_is_a_task_that_waits(rest: httpx.AsyncClient, key: Any, path: str) -> None:
    who = f"loud-{path[-3:]}"
    lines = {"authorization": f"Bearer {key(who, roles=['clerk'])}"}
    asks = {"text": "LOUD"} if path.endswith("echo") else {"a": 1, "b": 1000}
    held = await rest.post(path, json=asks, headers=lines)
    assert held.status_code == 202
    task = (await rest.get(held.headers["location"], headers=lines)).json()
    assert task["status"] == "working"
    assert "waits for approval" in task["statusMessage"]
    again = await rest.post(path, json=asks, headers=lines)
    assert again.headers["location"] == held.headers["location"]
    await answer(rest, "grant", who)
    heard = events(await rest.get(held.headers["location"], headers={**lines, **EVENTS}))
    assert heard[-1][1]["status"] == "completed"
    assert heard[-1][1]["result"]["structuredContent"] == {"result": "LOUD" if "text" in asks else 1001}


@pytest.mark.parametrize("how", ["grant", "refuse"])
async def test_a_key_names_one_piece_of_work_that_a_person_has_to_allow(
    rest: httpx.AsyncClient, key: Any, how: str
) -> None:
    lines = {"authorization": f"Bearer {key(f'keyed-{how}', roles=['clerk'])}", "idempotency-key": "sum-17"}
    path, asks = "/api/tasks/jobs_add", {"a": 1, "b": 1000}
    held, again = [await rest.post(path, json=asks, headers=lines) for _ in range(2)]
    assert again.headers["location"] == held.headers["location"]
    told = problem(await rest.post(path, json={"a": 2, "b": 1000}, headers=lines), 422)
    assert "was started with other arguments" in told["detail"]
    await answer(rest, how, f"keyed-{how}")
    ended = events(await rest.get(held.headers["location"], headers={**lines, **EVENTS}))[-1][1]
    assert ended["status"] == ("completed" if how == "grant" else "failed")
    kept = (await rest.post("/api/tools/durable_show_task", json={"id": ended["taskId"].partition(".")[2]})).json()
    assert kept["structuredContent"]["key"] == "sum-17"
    later = await rest.post(path, json=asks, headers=lines)  # it is not asked anew
    assert (later.headers["location"], later.json()["status"]) == (held.headers["location"], ended["status"])
    other = await rest.post(path, json=asks, headers={**lines, "idempotency-key": "sum-18"})
    assert other.headers["location"] != held.headers["location"]


async def test_of_two_works_of_one_key_at_once_a_person_is_asked_about_one(rest: httpx.AsyncClient, key: Any) -> None:
    lines = {"authorization": f"Bearer {key('hasty', roles=['clerk'])}", "idempotency-key": "hasty"}
    asks = [{"a": a, "b": 1000} for a in range(8)]
    told = await asyncio.gather(*(rest.post("/api/tasks/jobs_add", json=each, headers=lines) for each in asks))
    assert sorted(each.status_code for each in told) == [202] + [422] * 7
    await answer(rest, "grant", "hasty")  # there is one
    won = next(number for number, each in enumerate(told) if each.status_code == 202)
    heard = events(await rest.get(told[won].headers["location"], headers={**lines, **EVENTS}))
    assert heard[-1][1]["result"]["structuredContent"] == {"result": 1000 + won}


async def test_who_waits_for_the_person_by_a_key_is_told_what_came_of_it_again(
    rest: httpx.AsyncClient, key: Any
) -> None:
    lines = {"authorization": f"Bearer {key('loud-twice', roles=['clerk'])}", "idempotency-key": "one", **EVENTS}
    call = asyncio.create_task(rest.post("/api/tools/hello_echo", json={"text": "LOUD"}, headers=lines))
    await answer(rest, "grant", "loud-twice")
    assert events(await call)[-1][1]["structuredContent"] == {"result": "LOUD"}
    again = await rest.post("/api/tools/hello_echo", json={"text": "LOUD"}, headers=lines)
    assert events(again)[-1][1]["structuredContent"] == {"result": "LOUD"}


async def test_what_a_person_refuses_has_failed(rest: httpx.AsyncClient, key: Any) -> None:
    lines = {"authorization": f"Bearer {key('loud-no', roles=['clerk'])}"}
    held = await rest.post("/api/tools/hello_echo", json={"text": "LOUD"}, headers=lines)
    await answer(rest, "refuse", "loud-no", reason="hush")
    task = (await rest.get(held.headers["location"], headers=lines)).json()
    assert task["status"] == "failed"
    assert task["error"]["code"] == 4030
    assert task["error"]["message"].endswith("refused this: hush")


async def test_who_wants_events_waits_for_the_person(rest: httpx.AsyncClient, key: Any) -> None:
    lines = {"authorization": f"Bearer {key('loud-live', roles=['clerk'])}", **EVENTS}
    call = asyncio.create_task(rest.post("/api/tools/hello_echo", json={"text": "LOUD"}, headers=lines))
    await answer(rest, "grant", "loud-live")
    assert events(await call)[-1][1]["structuredContent"] == {"result": "LOUD"}


async def test_a_prompt_waits_for_the_person(rest: httpx.AsyncClient, key: Any) -> None:
    lines = {"authorization": f"Bearer {key('polite', roles=['clerk'])}"}
    call = asyncio.create_task(rest.post("/api/prompts/hello_greet", json={"name": "Boss"}, headers=lines))
    await answer(rest, "grant", "polite")
    assert (await call).json()["messages"][0]["content"]["text"] == "Say hello to Boss."


# tasks


async def test_a_task_is_started_watched_and_asked_for(rest: httpx.AsyncClient) -> None:
    started = await rest.post("/api/tasks/jobs_add", json={"a": 1, "b": 2}, headers={"idempotency-key": "sum"})
    assert started.status_code == 202
    again = await rest.post("/api/tasks/jobs_add", json={"a": 1, "b": 2}, headers={"idempotency-key": "sum"})
    assert again.json()["taskId"] == started.json()["taskId"]
    other = await rest.post("/api/tasks/jobs_add", json={"a": 1, "b": 3}, headers={"idempotency-key": "sum"})
    told = problem(other, 422)
    assert started.json()["taskId"].partition(".")[2] in told["detail"]
    assert "give other work another key" in told["detail"]
    heard = events(await rest.get(started.headers["location"], headers=EVENTS))
    assert {kind for kind, _ in heard} == {"task"}
    assert heard[-1][1]["status"] == "completed"
    assert heard[-1][1]["result"]["structuredContent"] == {"result": 3}
    assert (await rest.get(started.headers["location"])).json()["result"]["structuredContent"] == {"result": 3}


async def test_a_task_that_waits_is_cancelled(rest: httpx.AsyncClient) -> None:
    path = "/api/tasks/jobs_add?delay=60&priority=high"
    started = await rest.post(path, json={"a": 1, "b": 2})
    assert started.json()["status"] == "working"
    watching = asyncio.create_task(rest.get(started.headers["location"], headers=EVENTS))
    assert (await rest.delete(started.headers["location"])).json()["status"] == "cancelled"
    assert events(await watching)[-1][1]["status"] == "cancelled"


async def test_a_task_is_its_owner_s(rest: httpx.AsyncClient, key: Any) -> None:
    started = await rest.post("/api/tasks/jobs_add", json={"a": 1, "b": 2})
    lines = {"authorization": f"Bearer {key('curious', roles=['admin'])}"}
    for method in ("GET", "DELETE"):
        problem(await rest.request(method, started.headers["location"], headers=lines), 404)


# the document


def resolved(document: Json, ref: str) -> Any:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def refs(document: Json) -> list[str]:
    return re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))


async def test_the_document_is_openapi_and_its_references_lead_somewhere(rest: httpx.AsyncClient) -> None:
    document = (await rest.get("/api/openapi.json")).json()
    openapi_pydantic.OpenAPI.model_validate(document)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    assert refs(document)
    for ref in refs(document):
        assert resolved(document, ref), ref
    operations = [
        each["operationId"] for path in document["paths"].values() for each in path.values() if "operationId" in each
    ]
    assert len(operations) == len(set(operations))


async def test_the_document_is_of_what_one_sees(rest: httpx.AsyncClient, key: Any) -> None:
    lines = {"authorization": f"Bearer {key('viewer', roles=['clerk'])}"}
    mine = (await rest.get("/api/openapi.json", headers=lines)).json()
    posts = {path for path, item in mine["paths"].items() if "post" in item}
    tools = {f"/api/tools/{name}" for name in ("hello_count", "hello_echo", "jobs_add")}
    assert posts == tools | {"/api/tasks/jobs_add", "/api/prompts/{prompt}"}
    echo = mine["paths"]["/api/tools/hello_echo"]["post"]
    assert echo["operationId"] == "hello_echo"
    arguments = resolved(mine, echo["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    assert arguments["required"] == ["text"]
