"""The agent `access`: operators and their programs make and revoke keys, and mount agents in agents.

Proves: SE-1 (hashed, scoped, expiring, revocable), GW-2
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabric.identity.keys import fingerprint
from fabric.policy.files import DEFAULT
from fabric_sdk import Fabric, FabricError, ToolError
from fabric_sdk.contracts.errors import TaskDead
from fabric_sdk.contracts.streams import ACCESS, RECORDS
from fabric_sdk.remote import AgentClient
from fabric_sdk.worker import Worker

READS = {"list_tokens", "list_mounts", "show_policy", "explain_policy"}
DESTROYS = {"revoke_token", "unmount"}
ADDS = {"create_token", "mount"}


@pytest.fixture
def access(served: Worker, fabric: Fabric) -> AgentClient:
    """The agent, seen from another."""
    return fabric.agent(served.description.name)


async def test_each_tool_says_whether_it_reads_adds_or_destroys(access: AgentClient) -> None:
    described = await access.describe()
    assert described.kind == "platform"
    hints: dict[str, dict[str, Any]] = {tool["name"]: tool["annotations"] for tool in described.tools}
    assert {name for name, each in hints.items() if each.get("readOnlyHint")} == READS
    assert {name for name, each in hints.items() if each.get("destructiveHint")} == DESTROYS
    assert {name for name, each in hints.items() if each.get("destructiveHint") is False} == ADDS
    assert not hints["create_token"].get("idempotentHint"), "a call whose answer was lost is not made again by itself"
    assert set(hints) == READS | DESTROYS | ADDS


async def test_it_tells_what_the_policy_says_and_why(access: AgentClient) -> None:
    (shown,) = await access.call("show_policy")
    assert shown == {"file": str(DEFAULT), "text": DEFAULT.read_text()}
    (read,) = await access.read("policy://files")
    assert json.loads(read["text"]) == [shown]
    asked = {"verb": "call", "target": "shop/pay"}
    denied = await access.call("explain_policy", asked)
    assert (denied["effect"], denied["rule"], denied["why"]) == ("deny", None, "as no rule allows it")
    allowed = await access.call("explain_policy", asked | {"roles": ["admin"]})
    assert (allowed["effect"], allowed["rule"]) == ("allow", "admins")
    assert [each["name"] for each in allowed["rules"] if each["outcome"] == "decides"] == ["admins"]
    with pytest.raises(ToolError, match="names nothing to call"):
        await access.call("explain_policy", {"verb": "call", "target": "shop"})


async def test_a_policy_that_cannot_be_read_says_where(
    access: AgentClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("rules:\n  - {name: a, then: no, on: [x]}\n")
    monkeypatch.setattr("fabric.access.service.DEFAULT", bad)
    with pytest.raises(ToolError, match=rf"{bad}:2:21: "):
        await access.call("explain_policy", {"verb": "call", "target": "shop/pay"})
    assert (await access.call("show_policy"))[0]["text"] == bad.read_text()
    bad.unlink()
    with pytest.raises(ToolError, match="No such file"):
        await access.call("show_policy")


async def test_a_token_is_told_once_listed_without_and_revoked(access: AgentClient, fabric: Fabric) -> None:
    wanted = {"name": "ci", "agent": "shop", "roles": ["dev"], "scopes": ["mcp:read"], "seconds": 60}
    made = await access.call("create_token", wanted | {"listing": "search"})
    assert made["token"].startswith(f"fab_{made['id']}_")
    (kept,) = [row.body.value() async for row in fabric.jetstream.every(ACCESS, "fab.access.key.*")]
    assert kept["hash"] == fingerprint(made["token"].encode()).hex()
    (listed,) = await access.call("list_tokens")
    token = made.pop("token")
    assert listed == made
    assert token not in json.dumps([kept, listed])
    said = {"name": "ci", "principal": "agent:shop", "kind": "agent", "agent": "shop", "listing": "search"}
    assert said.items() <= listed.items()
    assert listed["expires"] == pytest.approx(listed["created"] + 60)
    assert await access.call("revoke_token", {"id": made["id"]}) == made
    assert await access.call("list_tokens") == []
    with pytest.raises(FabricError, match="no key"):
        await access.call("revoke_token", {"id": made["id"]})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "operator"}, "principal of the fabric itself"),
        ({"name": "A B"}, "cannot name a key"),
        ({"name": "ci", "agent": "*"}, "cannot name an agent"),
        ({"name": "ci", "roles": ["two words"]}, "no role or scope"),
        ({"name": "ci", "scopes": ["é"]}, "no role or scope"),
        ({"name": "ci", "seconds": 0}, "greater than 0"),
        ({"name": "ci", "seconds": 1e12}, "less than or equal"),
        ({"name": "ci", "listing": "none"}, "'all' or 'search'"),
        ({"name": "ci", "principal": "operator"}, "principal"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_in_words(access: AgentClient, wrong: Any, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await access.call("create_token", wrong)
    assert await access.call("list_tokens") == []


async def test_no_task_makes_a_token_because_its_result_is_kept(access: AgentClient, fabric: Fabric) -> None:
    task = await access.start("create_token", {"name": "ci"})
    with pytest.raises(TaskDead, match="not made by a task"):
        await task.result(timeout=10)
    assert await access.call("list_tokens") == []
    assert not [row async for row in fabric.jetstream.every(RECORDS, ">") if b"fab_" in row.body.encoded()]


async def test_agents_are_mounted_listed_and_unmounted(access: AgentClient) -> None:
    pay = {"agent": "shop", "prefix": "pay", "target": "payments"}
    mounted = await access.call("mount", pay | {"tools": ["read_*", "list"]})
    assert mounted == pay | {"tools": ["read_*", "list"]}
    assert await access.call("mount", mounted) == mounted, "the same again changes nothing"
    back = {"agent": "payments", "prefix": "shop", "target": "shop"}
    await access.call("mount", back)
    assert await access.call("list_mounts") == [mounted, back | {"tools": None}]
    assert await access.call("list_mounts", {"agent": "shop"}) == [mounted]
    for other in (pay, pay | {"target": "other"}):
        with pytest.raises(
            FabricError, match=r"something else under the prefix 'pay': payments.*fabric unmount shop pay"
        ):
            await access.call("mount", other)
    assert await access.call("unmount", {"agent": "shop", "prefix": "pay"}) == mounted
    with pytest.raises(FabricError, match="nothing under the prefix 'pay'"):
        await access.call("unmount", {"agent": "shop", "prefix": "pay"})
    await access.call("mount", pay)
    assert [each["tools"] for each in await access.call("list_mounts", {"agent": "shop"})] == [None]
