"""`fabric policy`: check, test, explain, as people and scripts use them; the example; its page. Proves: SE-2, SE-6."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli.command import Done
from docs.pages import ROOT, blocks, read, typed
from typer.testing import CliRunner

from fabric.cli.main import app
from fabric.policy import FileError, load
from fabric.policy.cases import load_cases
from fabric.policy.condition import DEEPEST, LONGEST, MOST_CHARACTERS_IN_LOOPS, MOST_VALUES, MOST_VALUES_IN_LOOPS
from fabric.policy.explain import explain
from fabric.policy.files import DEFAULT, MOST_ROLES
from fabric.policy.pages import MOST_BYTES, MOST_FILES
from fabric_sdk.contracts.errors import ConfigurationError

EXAMPLE = ROOT / "examples" / "policy"
POLICY, CASES = EXAMPLE / "policy.yaml", EXAMPLE / "cases.yaml"
PAGE = read("docs/policy.md")


def fabric(*arguments: str | Path, env: dict[str, str] | None = None) -> Done:
    """`fabric` with these arguments, in this process: a process of its own would take a second."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"FABRIC_POLICY": None, **(env or {})})
    return Done(done.exit_code, done.stdout, done.stderr)


def explained(*asked: str) -> Any:
    done = fabric("policy", "explain", *asked, "--policy", POLICY, "--json")
    assert done.code == 0, done.err
    return done.json


def test_the_example_decides_as_its_cases_say() -> None:
    policy, cases = load(POLICY), load_cases(CASES)
    assert [failure for case in cases if (failure := case.failure(policy))] == []
    decided = {explain(policy, case.who, case.act, case.arguments).decision.rule for case in cases}
    assert decided == {*policy.rules, None}, "each rule decides a case, and one is decided by none"


def test_check_tells_every_mistake_or_how_many_rules(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("rules:\n  - {name: a, then: no, on: [x]}\n")
    fabric("policy", "check", bad).refused(2, f"{bad}:2:21:", f"{bad}:2:5:")
    fabric("policy", "check", env={"FABRIC_POLICY": str(tmp_path / "none")}).refused(2, "No such file")
    assert fabric("policy", "check", env={"FABRIC_POLICY": str(POLICY)}).out.endswith("7 rules, no mistake\n")
    assert fabric("policy", "check", "--json").json == {
        "policy": str(DEFAULT),
        "rules": [
            "anonymous-may-manage-nothing",
            "admins",
            "agents-use-what-is-mounted",
            "anonymous-may-use-agents",
        ],
    }


def test_test_tells_each_failure_and_fails(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        "cases:\n"
        "  - {roles: [clerk], does: call shop/order, expect: deny}\n"
        "  - {roles: [clerk], does: call shop/order, expect: allow, rule: admins}\n"
        "  - {roles: [clerk], does: call shop/order, expect: allow}\n"
    )
    done = fabric("policy", "test", cases, "--policy", POLICY)
    assert (done.code, done.out) == (1, "1 of 3 cases are as expected\n")
    first, second = done.err.splitlines()
    by = f"got allow by rule clerks-serve, {POLICY}:"
    assert f"{cases}:2: somebody, call shop/order: expected deny, {by}" in first
    assert f"{cases}:3: somebody, call shop/order: expected allow by rule admins, {by}" in second
    good = fabric("policy", "test", CASES, "--policy", POLICY, "--json")
    assert (good.code, good.json) == (0, {"cases": 19, "failures": []})


def test_a_table_of_cases_has_its_mistakes_told(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    wrong = {
        "{does: call shop/pay, expect: perhaps}": "2:35: there is no 'perhaps' here",
        "{does: call shop, expect: deny}": "2:12: 'shop' names nothing to call",
        "{does: eat shop/pay, expect: deny}": "2:12: 'eat' is no verb",
        "{does: call, expect: deny}": "2:12: 'call' is no act",
        "{does: publish a.*, expect: deny}": "2:12: 'a.*' is no topic",
        "{does: call Shop/pay, expect: deny}": "2:12: 'Shop' cannot name an agent",
        "{expect: deny}": "2:5: 'does' is missing",
        "{does: subscribe >, expect: deny, arguments: {a: 2026-01-01}}": "2:54: this is a date",
        "{does: subscribe >, expect: deny, arguments: !!int x}": "2:50: this is a number",
    }
    for case, told in wrong.items():
        cases.write_text(f"cases:\n  - {case}\n")
        with pytest.raises(FileError) as raised:
            load_cases(cases)
        assert raised.value.message.startswith(f"{cases}:{told}"), case
    cases.write_text("cases: []")
    with pytest.raises(ConfigurationError, match="there is no case"):
        load_cases(cases)


def test_explain_says_which_rule_decided_and_what_became_of_the_others() -> None:
    small = explained("call", "shop/refund", "--role", "clerk", "--arguments", '{"amount": 20}')
    assert (small["effect"], small["rule"]) == ("allow", "clerks-serve")
    outcomes = {each["name"]: (each["outcome"], each["why"]) for each in small["rules"]}
    assert outcomes["large-refunds-are-approved"] == ("is not met", "arguments.amount > 100 is false")
    assert outcomes["admins"] == ("is about others", "its roles do not fit")
    assert outcomes["nobody-empties-the-till"] == ("is about something else", "not about call shop/refund")
    large = explained("call", "shop/refund", "--role", "clerk")
    outcomes = {each["name"]: (each["outcome"], each["why"]) for each in large["rules"]}
    assert outcomes["large-refunds-are-approved"] == (
        "decides",
        "arguments.amount > 100 fails (there is no 'amount'), so it counts as met",
    )
    assert outcomes["clerks-serve"] == ("loses", "it has no condition")
    needs = explained("publish", "orders.new", "--role", "clerk", "--arguments", '{"count": 1, "item": "tea"}')
    assert (needs["effect"], needs["rule"], needs["needs_scopes"]) == ("deny", None, ["orders:write"])
    agents = explained("subscribe", "orders.new", "--principal", "agent:pack-1", "--agent", "pack-1")
    assert agents["rule"] == "packers-hear-of-orders"
    one = fabric("policy", "explain", "--policy", DEFAULT, "call", "shop/refund", "--role", "nobody")
    assert "1 other rule is not about this" in one.err, one
    dots = explained("read", "docs/file:///a/../b", "--role", "admin")
    assert dots["why"] == "as the URI has . or .. in its path"


def test_explain_refuses_what_it_cannot_ask() -> None:
    fabric("policy", "explain", "eat", "shop/pay").refused(2, "'eat' is no verb", "subscribe")
    fabric("policy", "explain", "call", "shop/pay", "--arguments", "{").refused(2, "the arguments are not JSON")


@pytest.mark.parametrize("block", blocks(PAGE, "yaml"))
def test_rules_on_the_page_are_from_the_example(block: str) -> None:
    example = POLICY.read_text() + CASES.read_text()
    for line in block.strip().splitlines():
        assert line.strip() in example


@pytest.mark.parametrize(
    "line", [line for block in blocks(PAGE, "console") for line in typed(block)], ids=lambda line: line.command
)
def test_commands_on_the_page_say_what_it_shows(line: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = fabric(*line.words[1:])
    assert (done.code, (done.out + done.err).split()) == (0, line.output.split())


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    words = " ".join(PAGE.split())
    for said in (
        f"at most {LONGEST} characters",
        f"{MOST_VALUES:,} values",
        f"{DEEPEST} levels",
        f"{MOST_VALUES_IN_LOOPS:,} values",
        f"{MOST_CHARACTERS_IN_LOOPS:,} characters",
        f"{MOST_BYTES // 1024} KiB",
        f"{MOST_FILES} files",
        f"{MOST_ROLES} roles",
    ):
        assert said in words
