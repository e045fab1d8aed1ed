"""`fabric approvals`, beside a worker that serves the agent. Proves: GW-3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator

import pytest
from cli.command import Done, worker
from cli.inside import fabric_inside
from support.durable import KEEPING
from support.nats_server import private_nats

from approvals.test_model import asks
from fabric.approvals.model import question
from fabric.approvals.store import Approvals
from fabric_sdk import Fabric

Run = Callable[..., Done]


class Desk:
    """Where commands are typed, and calls wait."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str) -> Done:
        return fabric_inside("approvals", *arguments, env={"FABRIC_NATS_URL": self.url})

    def asked(self, who: str, *, approvers: tuple[str, ...] = ("admin",)) -> str:
        """The id of a question: somebody wants to read something."""

        async def ask() -> str:
            async with Fabric.connect(self.url) as fabric:
                rule = asks("arguments.amount > 10", approvers=approvers)
                act = ("shop", "prompts/get", "advice")
                return (await Approvals(fabric).put(question(rule, who, act, {"about": "[red]x"}, time.time()))).id

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Generator[Desk]:
    with private_nats(KEEPING) as nats:
        env = {"FABRIC_NATS_URL": nats.url}
        with worker("fabric.approvals.service:build", folder=tmp_path_factory.mktemp("desk"), env=env):
            yield Desk(nats.url)


def test_questions_are_listed_shown_granted_and_refused(desk: Desk) -> None:
    assert "--all" in desk("list").err
    first, second = desk.asked("ann"), desk.asked("bob")
    heading, *rows = (line.split() for line in desk("list").out.splitlines())
    assert heading == ["ID", "STATE", "WANTS", "WHO", "EXPIRES"]
    assert [row[:4] for row in rows] == [
        [first, "waiting", "shop/advice", "ann"],
        [second, "waiting", "shop/advice", "bob"],
    ]
    shown = desk("show", first)
    assert '{"about": "[red]x"}' in shown.out
    assert "prompts/get shop/advice" in shown.out
    assert desk("grant", first).out == "granted shop/advice for ann\n"
    assert desk("grant", first, "--json").json["state"] == "granted"
    assert desk("refuse", second, "not now").out == "refused shop/advice for bob\n"
    assert desk("show", second, "--json").json["reason"] == "not now"
    assert [each["id"] for each in desk("list", "--all", "--json").json] == [first, second]
    assert [each["id"] for each in desk("list", "--state", "refused", "--json").json] == [second]
    assert desk("list", "--json").json == []


def test_grants_are_remembered_listed_and_revoked(desk: Desk) -> None:
    asked = desk.asked("cleo")
    assert desk("grant", asked, "--remember").out == "granted shop/advice for cleo, and all such calls for 30 days\n"
    heading, row = (line.split() for line in desk("grants").out.splitlines())
    assert heading == ["ID", "ALLOWS", "RULE", "BY", "EXPIRES"]
    assert row[1:6] == ["shop/advice", "for", "cleo", "large", "operator"]
    assert desk("revoke", row[0]).out == "revoked shop/advice for cleo\n"
    assert "--remember" in desk("grants").err
    desk("revoke", row[0]).refused(2, "no grant", "fabric approvals grants")


def test_a_mistake_is_told_in_words(desk: Desk) -> None:
    asked, own = desk.asked("dora"), desk.asked("operator")
    desk("grant", "nothing").refused(2, "is no approval's id", "fabric approvals list")
    desk("show", "ffff-1").refused(2, "there is no approval", "fabric approvals list")
    desk("grant", own).refused(2, "lets nobody answer their own request", "somebody else")
    desk("grant", desk.asked("emil", approvers=("manager",))).refused(2, "one of these roles is needed: manager")
    desk("refuse", asked)
    desk("grant", asked).refused(2, "was refused by operator already", "made again")
    desk("refuse", asked, "x" * 2000).refused(4, "at most 1000")


def test_without_the_agent_it_is_told_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabric_sdk.patterns.call.PATIENCE", 0.1)
    with private_nats(KEEPING) as nats:
        Desk(nats.url)("list").refused(3, "fabric up", "fabric.approvals.service:build")
