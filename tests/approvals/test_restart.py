"""A question outlives every process: the whole fabric is killed, its own servers included, and started again.

Proves: GW-3 (an approval granted after a restart of every process completes the original call's task)
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from cli.command import Done, Up, alive, up
from cli.inside import fabric_inside
from gateway.client import Json
from support.running import wait_until

from approvals.fabric_of_shops import TASKS, Person

RULES = """
roles: {admin: [boss], boss: [], clerk: []}
rules:
  - {name: admins, roles: [admin], on: ["*/*"], then: allow}
  - {name: payments, roles: [clerk], on: [till/pay], then: ask, approvers: [boss]}
"""


async def run(fabric: Up, *arguments: str) -> Done:
    """A command, which has a loop of its own."""
    return await asyncio.to_thread(fabric_inside, *arguments, env=fabric.env)


def kill(fabric: Up) -> None:
    """Every process at once, as when the power goes."""
    family = fabric.command.family()
    for process in family:
        with suppress(psutil.NoSuchProcess):  # it ended with the one before
            process.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(family), what="the end of all")


@pytest.mark.timeout(120)
async def test_what_was_asked_before_everything_was_killed_is_granted_after(tmp_path: Path) -> None:
    rules = tmp_path / "policy.yaml"
    rules.write_text(RULES)
    start: tuple[str | Path, ...] = ("--data", tmp_path / "data", Path(__file__).with_name("till.py"))
    env = {"FABRIC_POLICY": str(rules)}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        with up(*start, folder=tmp_path, env=env) as fabric:
            token = (await run(fabric, "token", "create", "ann", "--role", "clerk", "--json")).json["token"]
            ann = Person(fabric.mcp_url, token, http, TASKS)
            task: Json = (await ann.does("till_pay", amount=500))["result"]
            assert (task["resultType"], task["status"]) == ("task", "working")
            kill(fabric)
        with up(*start, folder=tmp_path, env=env) as fabric:
            ann = Person(fabric.mcp_url, token, http, TASKS)
            assert (await ann.until(task["taskId"], "working"))["taskId"] == task["taskId"]
            (waiting,) = (await run(fabric, "approvals", "list", "--json")).json
            assert (waiting["principal"], waiting["arguments"]) == ("ann", '{"amount": 500}')
            granted = await run(fabric, "approvals", "grant", waiting["id"])
            assert granted.out == "granted till/pay for ann\n", granted.err
            done = await ann.until(task["taskId"], "completed")
            assert done["result"]["structuredContent"] == {"result": "paid 500 for ann"}
