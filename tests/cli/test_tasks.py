"""`fabric task`, `fabric dead` and `fabric schedule`, as people and scripts use them; and who has a capability.

Proves: MB-1, MB-5 (list, look, send again, purge), MB-8, CM-1 (by capability and label), PT-3 (poll, wait, cancel)
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.running import wait_until

from cli.command import Done, Up, fabric, started, up
from cli.inside import fabric_inside

pytestmark = pytest.mark.timeout(120)

CREW = Path(__file__).with_name("crew.py")
ID = re.compile(r"[0-9a-f]{32}")
EVIL = "\x1b[31m\x9b2Jred\u202e"
_ODD = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")

REFUSED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "an unknown tool": ("task start crew ad a=1", 2, ("crew", "'ad'", "did you mean add?")),
    "no tool": ("task start crew", 2, ("no tool is named", "fabric tools crew")),
    "no such argument": ("task start crew add a=1 c=2", 2, ("invalid arguments for add", "'c'", "fabric tools crew")),
    "a wrong type": ("task start crew add a=many", 2, ("a: ", "integer")),
    "an unknown tool of a capability": ("task start @sums ad a=1", 2, ("agents that can 'sums'", "did you mean add?")),
    "no capability": ("ps --capability a.b", 2, ("'a.b' cannot name a capability", "lint-python")),
    "no label": ("ps --label team", 2, ("'team' is no label", "team=search")),
    "a call to nobody who can": ("call @flying add a=1", 2, ("there are no agents that can 'flying'",)),
    "a capability of an agent": (f"worker {CREW} --capability x", 2, ("is an Agent", "in its own code")),
    "no label of a worker": (f"worker {CREW} --label x", 2, ("'x' is no label",)),
    "no argument of a schedule": ("schedule set crew s @daily add b=1", 2, ("invalid arguments for add", '"a"')),
    "no agent's name": ("task start Crew! add", 2, ("cannot name an agent",)),
    "no duration": ("task start crew add --delay soon", 2, ("'soon' is no duration", "90s")),
    "no time to wait for": ("task start crew add --delay 999999d", 2, ("longer than a century",)),
    "no time": ("task start crew add --at soon", 2, ("'soon' is no time", "2026-12-24T18:00")),
    "both times": ("task start crew add a=1 --delay 1s --at 2099-01-01", 2, ("a delay or a time, not both",)),
    "no priority": ("task start crew add --priority urgent", 2, ("'--priority': 'urgent' is not one of",)),
    "no key": ("task start crew add a=1 --key ä", 2, ("an idempotency key has",)),
    "a tool's error": ("task start crew refuse reason=no --wait", 4, ("error: no",)),
    "no such task": ("task show 0123", 2, ("no task '0123'", "fabric task list")),
    "no task to wait for": ("task wait 0123", 2, ("no task '0123'",)),
    "no task to cancel": ("task cancel 0123", 2, ("no task '0123'",)),
    "no id": ("task show a.b", 2, ("'a.b' cannot stand in a subject",)),
    "no dead letter": ("dead show 0123", 2, ("no dead letter", "fabric dead list")),
    "no choice of letters": ("dead redrive", 2, ("no dead letters are chosen", "--all")),
    "too much choice": ("dead purge 0123 --all", 2, ("not by both", "--all")),
    "a wildcard": ("dead list --agent *", 2, ("'*' cannot name an agent",)),
    "no age": ("dead list --before then", 2, ("'then' is no time",)),
    "an age of no use": ("dead list --before 9999999d", 2, ("longer than a century",)),
    "no schedule": ("schedule remove crew nightly", 2, ("no schedule 'nightly'", "there are: ")),
    "no time to repeat": ("schedule set crew bad never add a=1", 2, ("'never' is no schedule", "every 90s")),
    "no name of a schedule": ("schedule set crew a.b @daily add a=1", 2, ("a schedule cannot be called so",)),
}


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks") / "mended"


@pytest.fixture(scope="module")
def crew(mended: Path) -> Generator[Up]:
    with up("--ephemeral", CREW, folder=mended.parent, env={"MENDED": str(mended)}) as crew:
        yield crew
        assert crew.command.stop() == 0


def run(crew: Up, *arguments: str) -> Done:
    return fabric_inside(*arguments, env=crew.env)


def good(crew: Up, *arguments: str) -> Done:
    done = run(crew, *arguments)
    assert done.code == 0, done.err
    return done


def start(crew: Up, *arguments: str) -> str:
    """The id of a new task, which is all that is printed."""
    said = good(crew, "task", "start", *arguments).out.strip()
    assert ID.fullmatch(said), said
    return said


def dead(crew: Up, *filters: str) -> list[dict[str, Any]]:
    return good(crew, "dead", "list", "--json", *filters).json


def states(crew: Up, *filters: str) -> dict[str, str]:
    return {each["id"]: each["state"] for each in good(crew, "task", "list", "--json", *filters).json}


def test_a_mistake_gets_one_clear_error_and_its_exit_code(crew: Up) -> None:
    for name, (command, code, words) in REFUSED.items():
        done = run(crew, *command.split())
        assert not done.out, name
        done.refused(code, *words)


def test_a_task_is_started_shown_and_waited_for(crew: Up) -> None:
    task = fabric("task", "start", "crew.add", "a=1", "b=2", env=crew.env).out.strip()
    assert fabric("task", "wait", task, env=crew.env).out == "3\n"
    shown = good(crew, "task", "show", task, "--json").json
    assert (shown["agent"], shown["tool"], shown["state"], shown["attempt"]) == ("crew", "add", "completed", 1)
    assert f"task      {task}\n" in good(crew, "task", "show", task).out
    waited = good(crew, "task", "start", "crew", "slow", "seconds=1", "--wait")
    assert waited.out == "slept\n"
    assert "2 of " in waited.err


def test_a_key_names_one_task(crew: Up) -> None:
    one, two = (good(crew, "task", "start", "crew", "add", "a=7", "--key", "k", "--json").json for _ in range(2))
    assert (one["id"], one["joined"], two["joined"]) == (two["id"], False, True)
    other = run(crew, "task", "start", "crew", "add", "a=8", "--key", "k")
    other.refused(2, f"the key 'k' names task {one['id']} of agent 'crew'", "fix: give other work another key")
    assert good(crew, "task", "wait", one["id"]).out == "7\n"
    without = start(crew, "crew", "add", "a=1")
    assert good(crew, "task", "wait", without).out == "1\n"
    keys = {each["id"]: each["key"] for each in good(crew, "task", "list", "--json").json}
    assert (keys[one["id"]], keys[without]) == ("k", None)
    (row,) = [line for line in good(crew, "task", "list").out.splitlines() if line.startswith(one["id"])]
    assert row.rstrip().endswith(" k")
    assert "key       k\n" in good(crew, "task", "show", one["id"]).out


def test_whoever_has_a_capability_is_found_called_and_given_tasks(crew: Up) -> None:
    for only in (("--capability", "sums"), ("--label", "team=tests", "--capability", "sums")):
        (found,) = good(crew, "ps", "--json", *only).json["agents"]
        assert found["name"] == "crew"
    assert good(crew, "ps", "--json", "--capability", "sums", "--label", "team=other").json["agents"] == []
    assert re.search(r"^crew +sums +team=tests *$", good(crew, "ps").out, re.MULTILINE)
    assert good(crew, "call", "@sums", "add", "a=1", "b=2").out == "3\n"
    assert good(crew, "call", "@sums.add", "a=3").out == "3\n"
    task = start(crew, "@sums", "add", "a=2", "b=2", "--key", "k")
    assert good(crew, "task", "wait", task).out == "4\n"
    (listed,) = good(crew, "task", "list", "--agent", "@sums", "--json").json
    assert (listed["id"], listed["agent"], listed["key"]) == (task, "@sums", "k")


def test_what_waits_is_listed_and_can_be_cancelled(crew: Up) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    tasks = [start(crew, "crew", "add", "a=1", *when) for when in (("--delay", "1h"), ("--at", later))]
    queued = states(crew, "--state", "queued", "--agent", "crew")
    assert queued == dict.fromkeys(tasks, "queued")
    assert {each["name"] for each in good(crew, "schedule", "list", "--json").json} >= set(tasks)
    assert good(crew, "task", "cancel", tasks[0]).out == "cancelled\n"
    assert good(crew, "task", "cancel", tasks[0]).out == "cancelled\n", "it is what was asked for"
    run(crew, "schedule", "remove", "crew", tasks[1]).refused(2, "no schedule", f"fabric task cancel {tasks[1]}")
    good(crew, "task", "cancel", tasks[1])
    assert states(crew, "--state", "queued") == {}
    assert states(crew, "--state", "cancelled") == dict.fromkeys(tasks, "cancelled")
    assert run(crew, "task", "wait", tasks[0]).code == 1
    ended = start(crew, "crew", "add", "a=1")
    good(crew, "task", "wait", ended)
    late = run(crew, "task", "cancel", ended)
    assert (late.code, "completed" in late.err) == (1, True)


def test_tasks_are_listed_in_the_order_of_their_start(crew: Up) -> None:
    long = start(crew, "crew", "slow", "seconds=1")
    short = start(crew, "crew", "add", "a=1")
    for task in (short, long):
        good(crew, "task", "wait", task)
    listed = ID.findall(good(crew, "task", "list", "--state", "completed").out)
    assert [task for task in listed if task in (long, short)] == [long, short]


def test_work_waits_for_an_agent_that_is_not_there_and_expires(crew: Up) -> None:
    early = good(crew, "task", "start", "cre", "add", "a=1", "--expires", "2s", "--json")
    assert "warning: there is no agent 'cre' now (did you mean crew?)" in early.err
    task = early.json["id"]
    listed = good(crew, "task", "list").out
    assert re.search(rf"{task} +cre +add +queued +0 ", listed), "an id stays whole"
    expired = run(crew, "task", "wait", task, "--timeout", "10")
    assert (expired.code, "expired" in expired.err) == (5, True)
    assert states(crew, "--agent", "cre") == {task: "expired"}
    slow = run(crew, "task", "start", "crew", "slow", "seconds=60", "--wait", "--timeout", "0.5")
    assert (slow.code, "it goes on" in slow.err, "  fix: `fabric task show" in slow.err) == (5, True, True)
    good(crew, "task", "cancel", ID.findall(slow.err)[0])


def test_dead_letters_are_looked_at_sent_again_and_purged(crew: Up, mended: Path) -> None:
    one = start(crew, "crew", "pay", "to=Ann", "--key", "pay-Ann")
    two, three = (start(crew, "crew", "pay", f"to={to}") for to in ("Bob", EVIL))
    failed = run(crew, "task", "wait", one)
    failed.refused(1, "failed for good", "no money for Ann", f"fabric dead show {one}")
    wait_until(lambda: len(dead(crew)) == 3, what="three dead letters")
    assert {each["id"]: each["attempts"] for each in dead(crew)} == {one: 2, two: 2, three: 2}
    for filters, found in (
        (("--error", "FOR BOB"), {two}),
        (("--tool", "add"), set[str]()),
        (("--agent", "crew", "--before", "1h"), set[str]()),
        (("--agent", "crew", "--before", "0s"), {one, two, three}),
    ):
        assert {each["id"] for each in dead(crew, *filters)} == found
    first = good(crew, "dead", "list", "--json", "--limit", "2")
    assert [each["id"] for each in first.json] == [each["id"] for each in dead(crew)][:2]
    assert "more than these 2" in first.err
    assert "more than" not in good(crew, "dead", "list", "--limit", "3").err
    shown = good(crew, "dead", "show", one, "--json").json
    assert shown["params"] == {"name": "pay", "arguments": {"to": "Ann"}}
    assert [(each["attempt"], each["error"]) for each in shown["errors"]] == [
        (number, "ValueError: no money for Ann") for number in (1, 2)
    ]
    for command in (("dead", "list"), ("dead", "show", three), ("task", "show", three), ("task", "wait", three)):
        done = run(crew, *command)
        assert _ODD.search(done.out + done.err) is None, "what others said does not steer the terminal"
        assert "red" in done.out + done.err

    mended.touch()
    assert good(crew, "dead", "redrive", one).out == "1 tried again\n"
    assert good(crew, "task", "wait", one).out == "paid Ann\n"
    assert start(crew, "crew", "pay", "to=Ann", "--key", "pay-Ann") == one, "it kept its key"
    run(crew, "dead", "purge", "--all", "--error", "bob").refused(2, "1 dead letters would be forgotten", "--yes")
    assert good(crew, "dead", "purge", "--all", "--error", "bob", "--yes").out == "1 forgotten\n"
    assert good(crew, "dead", "redrive", "--all", "--json").json == {"done": 1, "passed_over": 0, "ids": [three]}
    assert dead(crew) == []
    assert states(crew, "--state", "dead") == {two: "dead"}, "a task without a letter stays dead"


def test_a_schedule_is_set_listed_fires_and_is_removed(crew: Up) -> None:
    good(crew, "schedule", "set", "crew", "often", "every 1s", "add", "a=40", "b=2")
    good(crew, "schedule", "set", "crew", "nightly", "30 2 * * *", "add", "a=1", "--zone", "Europe/Rome")
    listed = {each["name"]: each for each in good(crew, "schedule", "list", "--json", "--agent", "crew").json}
    assert (listed["often"]["when"], listed["often"]["arguments"]) == ("every 1s", {"a": 40, "b": 2})
    assert (listed["nightly"]["when"], listed["nightly"]["zone"]) == ("30 2 * * *", "Europe/Rome")
    assert 0 < listed["nightly"]["next"] - time.time() < 86_400 + 3600
    assert re.search(r"nightly .*Rome +in \d+[hm] +add", good(crew, "schedule", "list").out)
    before = len(states(crew, "--state", "completed"))
    wait_until(lambda: len(states(crew, "--state", "completed")) > before, what="a firing")
    wrong = run(crew, "schedule", "set", "crew", "bad", "61 * * * *", "add", "a=1")
    wrong.refused(2, "'61 * * * *' is no schedule")
    zone = run(crew, "schedule", "set", "crew", "bad", "@daily", "add", "a=1", "--zone", "Nowhere/At")
    zone.refused(2, "in zone 'Nowhere/At' is no schedule")
    assert not re.search(r"JetStream|\d{5}", wrong.err + zone.err)
    for name in ("often", "nightly"):
        assert good(crew, "schedule", "remove", "crew", name).out == "removed\n"
    run(crew, "schedule", "remove", "crew", "often").refused(2, "no schedule 'often'")


def test_a_wait_can_be_left(crew: Up, tmp_path: Path) -> None:
    with started("task", "start", "crew", "slow", "seconds=30", "--wait", folder=tmp_path, env=crew.env) as waiting:
        waiting.until_said("2 of ")
        assert waiting.stop(signal.SIGINT) == 130
    assert "Traceback" not in waiting.said
    task = ID.findall(waiting.said)[0]
    wait_until(lambda: task in states(crew, "--state", "running"), what="its going on without whoever waited")
    assert good(crew, "task", "cancel", task).out == "cancelled\n"
