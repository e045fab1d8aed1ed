"""What agents ask of clients: by sealed state in the current revision, by requests on a stream in those before.

Proves: TR-1, GW-5
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mcp import Client as Sdk
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from pydantic import FileUrl
from support.replicas import Replica
from support.running import Running

from fabric.gateway import sealing
from fabric.gateway.asking import check_answers
from fabric.gateway.rpc import Refusal
from fabric.gateway.sealing import Bound, Broken, Seal, State
from fabric_sdk import Fabric
from fabric_sdk.contracts.asking import Waiting
from gateway.asker import Asker
from gateway.client import CAPABILITIES_KEY, Client, Json, meta, refusal
from gateway.handshake import ALL, Session, accept

CAN = {"_meta": meta(**{CAPABILITIES_KEY: ALL})}
HAT: Json = {"name": "asker_order", "arguments": {"what": "hat"}, **CAN}


@pytest.fixture
async def clients(three: list[Replica], asker: Asker, bare_fabric: Running) -> AsyncGenerator[list[Client]]:
    """A client of each gateway."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield [Client(replica.url, bare_fabric.token, http) for replica in three]


async def asked(client: Client, call: Json = HAT) -> Json:
    """What a call is answered with that asks first, as params that go with the answer."""
    result = await client.result("tools/call", call)
    assert result["resultType"] == "input_required"
    ((key, question),) = result["inputRequests"].items()
    assert question["method"] == "elicitation/create"
    return {**call, "requestState": result["requestState"], "inputResponses": {key: accept(size=42)}}


# the current revision


async def test_any_gateway_takes_the_answer_and_twice_is_once(clients: list[Client], asker: Asker) -> None:
    asker.done.clear()
    answer = await asked(clients[0])
    for client in clients[1:]:
        assert (await client.result("tools/call", answer))["structuredContent"] == {"result": "hat 42"}
    assert asker.done == ["reserved hat", "ordered hat"]


async def test_state_that_was_not_given_for_this_is_refused(clients: list[Client], asker: Asker) -> None:
    answer = await asked(clients[0])
    asker.done.clear()
    state: str = answer["requestState"]
    changed = state[:30] + ("A" if state[30] != "A" else "B") + state[31:]
    wrongs: list[Any] = [
        changed,
        state + "=",
        state + "A",
        state + "*",
        state[:-4],
        state[:8],
        "",
        "ä",
        7,
        None,
        [],
        {"a": 1},
    ]
    for wrong in wrongs:
        refusal(await clients[1].ask("tools/call", {**answer, "requestState": wrong}), 400, -32602, number=1)
    for other in ({"arguments": {"what": "cap"}}, {"name": "asker_twice"}):
        refusal(await clients[1].ask("tools/call", {**answer, **other}), 400, -32602, number=1)
    assert asker.done == []


async def test_state_is_of_no_use_to_others(
    clients: list[Client], three: list[Replica], bare_fabric: Running, http: httpx.AsyncClient
) -> None:
    answer = await asked(clients[0])
    async with Fabric.connect(bare_fabric.nats_url) as fabric:
        made = await fabric.agent("access").call("create_token", {"name": f"eve-{uuid4().hex[:8]}"})
        other = Client(three[0].url, made["token"], http)
        while (response := await other.ask("tools/call", answer)).status_code == 401:
            pass  # until this gateway knows the key
    refusal(response, 400, -32602, number=1)


async def test_who_cannot_be_asked_is_told_what_is_missing(clients: list[Client]) -> None:
    error = refusal(await clients[0].ask("tools/call", {**HAT, "_meta": meta()}), 400, -32021, number=1)
    assert error["data"] == {"requiredCapabilities": {"elicitation": {}}}


@pytest.mark.parametrize(
    "wrong", [{}, {"action": "maybe"}, {"action": "accept", "content": 7}, 7, None, "yes"], ids=str
)
async def test_an_answer_that_does_not_fit_is_refused_and_can_be_mended(clients: list[Client], wrong: Any) -> None:
    answer = await asked(clients[0])
    ((key, right),) = answer["inputResponses"].items()
    refusal(await clients[1].ask("tools/call", {**answer, "inputResponses": {key: wrong}}), 400, -32602, number=1)
    refusal(await clients[1].ask("tools/call", {**answer, "inputResponses": [right]}), 400, -32602, number=1)
    assert (await clients[2].result("tools/call", answer))["structuredContent"] == {"result": "hat 42"}


async def test_an_answer_that_is_missing_is_asked_for_again(clients: list[Client]) -> None:
    answer = await asked(clients[0])
    again = await asked(clients[1], {**answer, "inputResponses": {}})
    assert (await clients[2].result("tools/call", again))["structuredContent"] == {"result": "hat 42"}


# sealing

BOUNDS = st.builds(Bound, st.none() | st.text(), st.text(), st.text(), st.binary())
STATES = st.builds(State, st.none() | st.text(), st.dictionaries(st.text(), st.text(), max_size=3))


@given(STATES, BOUNDS, BOUNDS)
def test_a_state_opens_for_what_it_was_sealed_for_and_for_nothing_else(
    state: State, bound: Bound, other: Bound
) -> None:
    seal = Seal(bytes(32))
    sealed = seal.close(state, bound)
    opened = seal.open(sealed, bound)
    assert (opened.inner, opened.asked) == (state.inner, state.asked)
    assert opened.number != seal.open(seal.close(state, bound), bound).number
    for key, sought in ((bytes(32), other), (bytes(31) + b"1", bound)):
        if (key, sought.digest()) != (bytes(32), bound.digest()):
            with pytest.raises(Broken):
                Seal(key).open(sealed, sought)


@given(st.text(max_size=3), st.integers(0), st.characters(codec="ascii"))
def test_a_state_in_which_one_letter_is_another_is_refused(inner: str, where: int, letter: str) -> None:
    bound, seal = Bound("ann", "tools/call", "t", b"{}"), Seal(bytes(32))
    sealed = seal.close(State(inner), bound)
    at = where % len(sealed)
    assume(letter != sealed[at])
    for changed in (sealed[:at] + letter + sealed[at + 1 :], sealed[:at] + letter + sealed[at:]):
        with pytest.raises(Broken):
            seal.open(changed, bound)


def test_a_state_is_good_for_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, seal, now = Bound("ann", "tools/call", "t", b"{}"), Seal(bytes(32)), time.time()
    sealed = seal.close(State("x"), bound)
    monkeypatch.setattr(sealing.time, "time", lambda: now + 899)
    assert seal.open(sealed, bound).inner == "x"
    monkeypatch.setattr(sealing.time, "time", lambda: now + 902)
    with pytest.raises(Broken):
        seal.open(sealed, bound)


async def test_gateways_share_one_seal_and_a_state_is_used_up_once(bare_fabric: Running) -> None:
    async with Fabric.connect(bare_fabric.nats_url) as one, Fabric.connect(bare_fabric.nats_url) as other:
        bound = Bound("ann", "tools/call", "t", b"{}")
        sealed = (await sealing.shared_seal(one)).close(State("x"), bound)
        state = (await sealing.shared_seal(other)).open(sealed, bound)
        await sealing.use_up(one, state)
        with pytest.raises(Broken):
            await sealing.use_up(other, state)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.text(), st.lists), max_size=3))
def test_any_answers_fit_or_are_refused(answers: dict[str, Any]) -> None:
    for method in ("elicitation/create", "sampling/createMessage", "roots/list", "other"):
        with suppress(Refusal):
            check_answers(dict.fromkeys(answers, method), answers)


# the handshake revisions


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_the_official_client_is_asked_by_requests(three: list[Replica], bare_fabric: Running) -> None:
    async def elicit(_: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"size": 42})

    async def sample(_: Any, params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", model="m", content=TextContent(type="text", text="nice"))

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///here"))])

    async with create_mcp_http_client({"authorization": f"Bearer {bare_fabric.token}"}) as http:
        transport = streamable_http_client(three[0].url, http_client=http)
        callbacks: dict[str, Any] = {"elicitation_callback": elicit, "sampling_callback": sample}
        async with Sdk(transport, mode="legacy", list_roots_callback=roots, **callbacks) as client:
            for tool, arguments, result in (
                ("asker_order", {"what": "hat"}, "hat 42"),
                ("asker_twice", {}, [42, 42]),
                ("asker_roots", {}, ["file:///here"]),
            ):
                assert (await client.call_tool(tool, arguments)).structured_content == {"result": result}
            assert (await client.call_tool("asker_sample", {})).content == [TextContent(type="text", text="nice")]


async def test_an_older_client_is_told_what_is_missing(
    http: httpx.AsyncClient, three: list[Replica], bare_fabric: Running
) -> None:
    session = await Session.open(http, three[0].url, bare_fabric.token, capabilities={"sampling": {}})
    call: Json = {"name": "asker_order", "arguments": {"what": "hat"}}
    assert (await session.ask(three[1].url, "tools/call", call))["error"]["code"] == -32021
    able = await Session.open(http, three[0].url, bare_fabric.token)
    able.lines["accept"] = "application/json"  # nor can be asked who takes no streams
    assert (await able.ask(three[1].url, "tools/call", call))["error"]["code"] == -32021


async def test_an_older_client_brings_no_state_with_a_request(
    http: httpx.AsyncClient, three: list[Replica], bare_fabric: Running, asker: Asker
) -> None:
    """It went to the agent as it was, for one that was asked and has agreed."""
    session = await Session.open(http, three[0].url, bare_fabric.token, capabilities={})
    asker.done.clear()
    given = {"1": accept(size=42)}
    for forged in ({"requestState": Waiting(answers=given).state()}, {"inputResponses": given}):
        call: Json = {"name": "asker_order", "arguments": {"what": "hat"}, **forged}
        assert (await session.ask(three[0].url, "tools/call", call))["error"]["code"] == -32021
    assert asker.done == ["reserved hat"] * 2


async def test_an_older_client_may_refuse(http: httpx.AsyncClient, three: list[Replica], bare_fabric: Running) -> None:
    session = await Session.open(http, three[0].url, bare_fabric.token)
    async with session.call(three[0].url, "asker_order", what="hat") as stream:
        question = await stream.next()
        refused = {"id": question["id"], "error": {"code": -1, "message": "no time"}}
        assert (await session.post(three[1].url, refused)).status_code == 202
        (answer,) = await stream.rest()
    assert "no time" in str(answer)
