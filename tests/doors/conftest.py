"""A fabric with a policy and limits of its own, and clients of each of its doors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path

import httpx
import pytest
from gateway.probe import Probe, serving
from support.running import Running, running_fabric, wait_until
from support.waiting import eventually

from doors.ways import DOORS, Way

TESTS = Path(__file__).parents[1]
CALL_TIMEOUT = 3.0
"""Seconds."""
MAX_BODY = 64 * 1024

POLICY = """\
roles: {admin: [], clerk: [], reporter: [], asked: []}
rules:
  - {name: admins, roles: [admin], on: ["*/*", ">"], then: allow}
  - name: clerks
    roles: [clerk]
    verbs: [call, read, prompt]
    on: [hello/echo, hello/count, hello/notes*, hello/greet, jobs/add]
    then: allow
  - {name: no-secrets, principals: ["*"], verbs: [call], on: [hello/echo], when: arguments.text == "secret", then: deny}
  - name: shouting-is-approved
    roles: [clerk]
    verbs: [call]
    on: [hello/echo]
    when: arguments.text == "LOUD"
    then: ask
    approvers: [admin]
  - {name: counting-is-approved, roles: [asked], verbs: [call], on: [hello/count], then: ask, approvers: [admin]}
  - name: sums-are-approved
    roles: [clerk]
    verbs: [call]
    on: [jobs/add]
    when: arguments.b == 1000
    then: ask
    approvers: [admin]
  - name: big-words-are-approved
    roles: [clerk]
    verbs: [prompt]
    on: [hello/greet]
    when: arguments.name == "Boss"
    then: ask
    approvers: [admin]
  - {name: reporters, roles: [reporter], verbs: [call], on: [durable/publish_event, durable/replay_events], then: allow}
  - {name: reporters-news, roles: [reporter], verbs: [publish, subscribe], on: ["news.>"], then: allow}
  - {name: no-bad-news, roles: [reporter], verbs: [publish], on: ["news.*"], when: arguments.bad, then: deny}
  - {name: scoped, scopes: [books], verbs: [call], on: [hello/refuse], then: allow}
"""
LIMITS = """\
limits:
  - {name: once-a-day, per: client, clients: "few-*", daily: 1}
  - {name: one-at-a-time, per: client, clients: "alone-*", concurrency: 1}
"""


@pytest.fixture(scope="package")
def doors_fabric(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """A fabric of the agents `hello`, `jobs` and `asker`, with a policy and a limit."""
    folder = tmp_path_factory.mktemp("doors")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "limits.yaml").write_text(LIMITS)
    env = {
        "FABRIC_POLICY": str(folder / "policy.yaml"),
        "FABRIC_LIMITS": str(folder / "limits.yaml"),
        "FABRIC_CALL_TIMEOUT": str(CALL_TIMEOUT),
        "FABRIC_MAX_BODY": str(MAX_BODY),
        "FABRIC_AUDIT": "calls",
        "FABRIC_ALLOWED_ORIGINS": "https://app.example",
    }
    agents = [TESTS / "agents" / "hello.py", TESTS / "gateway" / "jobs.py", TESTS / "doors" / "asker.py"]
    with running_fabric(*map(str, agents), env=env) as running:
        wanted = {"hello_echo", "jobs_add", "asker_size", "access_create_token"}
        wait_until(lambda: wanted <= _tools(running), what="the agents")
        yield running


def url_of(running: Running) -> str:
    return running.mcp_url.removesuffix("/mcp")


def _tools(running: Running) -> set[str]:
    lines = {"authorization": f"Bearer {running.token}"}
    with httpx.Client(headers=lines, trust_env=False) as http:
        return {tool["name"] for tool in http.get(f"{url_of(running)}/api/tools").json()["tools"]}


@pytest.fixture
def url(doors_fabric: Running) -> str:
    return url_of(doors_fabric)


@pytest.fixture
def operator(doors_fabric: Running) -> str:
    assert doors_fabric.token is not None
    return doors_fabric.token


@pytest.fixture
async def rest(url: str, operator: str) -> AsyncGenerator[httpx.AsyncClient]:
    """The operator, at the REST door."""
    lines = {"authorization": f"Bearer {operator}"}
    async with httpx.AsyncClient(base_url=url, headers=lines, trust_env=False, timeout=20) as http:
        yield http


@pytest.fixture(scope="package")
def key(doors_fabric: Running) -> Callable[..., str]:
    """Makes API keys: `key("ann", roles=["clerk"])`."""
    lines = {"authorization": f"Bearer {doors_fabric.token}"}

    def make(name: str, **more: object) -> str:
        with httpx.Client(headers=lines, trust_env=False) as http:
            told = http.post(f"{url_of(doors_fabric)}/api/tools/access_create_token", json={"name": name, **more})
            assert told.status_code == 200, told.text
            token: str = told.json()["structuredContent"]["token"]
            own = {"authorization": f"Bearer {token}"}
            tools = f"{url_of(doors_fabric)}/api/tools"
            wait_until(lambda: http.get(tools, headers=own).status_code == 200, what="the word of a new key")
        return token

    return make


@pytest.fixture(params=list(DOORS))
async def way(request: pytest.FixtureRequest, url: str) -> AsyncGenerator[Way]:
    """Each door, asked in the same words."""
    async with DOORS[request.param](url) as way:
        yield way


@pytest.fixture
async def probe(doors_fabric: Running) -> AsyncGenerator[Probe]:
    """An agent of this fabric that lives in this process."""
    probe = Probe()
    async with serving(doors_fabric.nats_url, probe):
        await eventually(lambda: "probe_raw" in _tools(doors_fabric), what="the probe")
        yield probe
