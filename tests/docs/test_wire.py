"""docs/wire.md says what the code does: subjects, headers, errors, times.

Proves: TR-6 (NATS itself is a documented door).
"""

from __future__ import annotations

import inspect
import re
from itertools import product

import pytest

from docs.pages import codes, read, table
from fabric.registry import store
from fabric_sdk import announce, answering
from fabric_sdk.contracts import errors, streams, subjects
from fabric_sdk.contracts.errors import FabricError
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.patterns import call, stream
from fabric_sdk.transports.memory import matches

PAGE = read("docs/wire.md")
WORDS = " ".join(PAGE.split())

SAMPLES = {
    "<agent>": "reader",
    "<instance>": "0a1b",
    "<method>": "tools.call",
    "<client>": "c1",
    "<due>": "1000",
    "<number>": "7",
    "<class>": "normal",
    "<task>": "5f",
    "<digit>": "6",
    "<when>": "once",
    "<name>": "nightly",
    "<topic>": "orders.new",
    "<conversation>": "c-1",
    "<stream>": "9a",
    "<claim>": "3c",
    "<end>": "worker",
    "<kind>": "key",
    "<key>": "0a1b",
    "<session>": "7f",
    "<writer>": "gateway-0a1b",
    "<part>": "state",
    "<replica>": "all",
}
"""What the page's placeholders stand for here …"""
REPLY = subjects.reply("c1", 1.0, 7)
BUILT = {
    "call": [subjects.call("reader", "tools/call")],
    "calls": [subjects.calls("reader")],
    "direct": [subjects.direct("0a1b", "tools/call")],
    "directs": [subjects.directs("0a1b")],
    "control": [subjects.control("reader")],
    "beat": [subjects.beat("reader", "0a1b")],
    "BEATS": [subjects.BEATS],
    "METRICS": [subjects.METRICS],
    "reply": [REPLY],
    "replies": [subjects.replies("c1")],
    "alive": [subjects.alive(REPLY, "0a1b")],
    "service": [
        subjects.service(verb, *scope)
        for verb in ("PING", "INFO", "STATS")
        for scope in ((), ("reader",), ("reader", "0a1b"))
    ],
    "CATALOGUE_CHANGED": [subjects.CATALOGUE_CHANGED],
    "inbox": [subjects.inbox("c1", 7)],
    "inboxes": [subjects.inboxes("c1")],
    "task": [subjects.task("reader", "normal", "5f")],
    "tasks": [subjects.tasks("reader", "normal")],
    "TASKS": [subjects.TASKS],
    "record": [subjects.record("reader", "5f")],
    "dead": [subjects.dead("reader", "5f")],
    "RECORDS": [subjects.RECORDS],
    "RECORD_STORED": [subjects.RECORD_STORED],
    "told": [subjects.told("reader", "5f")],
    "later": [subjects.later("reader", "once", "nightly")],
    "LATER": [subjects.LATER],
    "event": [subjects.event("orders.new")],
    "EVENTS": [subjects.EVENTS],
    "schema": [subjects.schema("orders.new")],
    "SCHEMAS": [subjects.SCHEMAS],
    "SCHEMAS_TOLD": [subjects.SCHEMAS_TOLD, subjects.SCHEMAS_TOLD.replace(">", "orders.new")],
    "conversation": [subjects.conversation("c-1")],
    "CONVERSATIONS": [subjects.CONVERSATIONS],
    "piece": [subjects.piece("3c", 7)],
    "pieces": [subjects.pieces("3c")],
    "OBJECTS": [subjects.OBJECTS],
    "spans": [subjects.spans("4bf92f3577b34da6a3ce929d0e0e4736")],
    "SPANS": [subjects.SPANS],
    "stream": [subjects.stream("9a", "worker")],
    "access": [subjects.access("key") + "0a1b"],
    "ACCESS": [subjects.ACCESS],
    "session": [subjects.session("7f", "state")],
    "audit": [subjects.audit("gateway-0a1b")],
    "AUDIT": [subjects.AUDIT],
    "SESSIONS": [subjects.SESSIONS],
    "session_told": [subjects.session_told("7f", "state")],
    "SESSIONS_TOLD": [subjects.SESSIONS_TOLD],
    "gateway": [subjects.gateway("all")],
    "changed": [subjects.changed("reader")],
}
"""… and all that the catalogue of subjects builds from the same, by the name of what builds it."""
NO_SUBJECTS = {
    "CALLS",
    "DIRECTS",
    "REPLIES",
    "head",
    "ANYBODY",
    "POOL",
    "Header",
    "checked_address",
    "checked_agent_name",
    "checked_capability",
    "checked_served_name",
    "checked_token",
    "due_of",
    "having",
    "number",
    "number_of",
    "task_of",
    "topic_of",
    "is_repeated",
    "registered_topic",
    "RECORD_TOLD",
    "who",
}
"""What names no subject, or a part of one, or is a pattern in the server's own words."""

NOT_ON_THE_WIRE = {
    errors.FabricError: "the root of the others",
    errors.ToolError: "on the wire, a result with isError",
    errors.ConfigurationError: "raised before anything is sent",
    errors.TransportClosed: "raised by who closed the connection itself",
}


def documented_subjects() -> set[str]:
    """The first column of the table of subjects, with the placeholders filled in."""
    found: set[str] = set()
    for row in table(PAGE, "subject", "who listens", "what comes"):
        shown = codes(row["subject"])
        whole = [each for each in shown if not each.startswith(".")]
        found |= {each + tail for each, tail in product(whole, ("", *(each for each in shown if each[0] == ".")))}
    return {_filled(subject) for subject in found}


def _filled(subject: str) -> str:
    for placeholder, sample in SAMPLES.items():
        subject = subject.replace(placeholder, sample)
    return subject


def test_everything_that_builds_a_subject_is_tried_here() -> None:
    public = {name for name in vars(subjects) if not name.startswith("_") and _is_own(name)}
    assert public == set(BUILT) | NO_SUBJECTS, "add what is new to BUILT, and its subject to docs/wire.md"


def _is_own(name: str) -> bool:
    value = getattr(subjects, name)
    return isinstance(value, str) or getattr(value, "__module__", None) == subjects.__name__


def test_every_subject_of_the_code_is_on_the_page() -> None:
    documented = documented_subjects()
    for name, built in BUILT.items():
        for subject in built:
            there = any(matches(subject, each) for each in documented)
            assert there, f"docs/wire.md has no row for what subjects.{name} builds, like {subject}"


def test_every_subject_on_the_page_is_of_the_code() -> None:
    assert documented_subjects() - {subject for built in BUILT.values() for subject in built} == set()


def test_the_page_says_which_queue_group_calls_share() -> None:
    (calls,) = [row for row in table(PAGE, "subject", "who listens", "what comes") if "fab.call." in row["subject"]]
    assert codes(calls["who listens"]) == [subjects.POOL]


def test_headers_are_those_of_the_code() -> None:
    rows = table(PAGE, "header", "on", "meaning")
    shown = [code.partition(":")[0] for row in rows for code in codes(row["header"])]
    used = [value for name, value in vars(Header).items() if name.isupper()]
    assert sorted(shown) == sorted(used)


def _kinds() -> list[type[FabricError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FabricError)]
    return [kind for kind in found if kind not in NOT_ON_THE_WIRE]


def _may_be_repeated(kind: type[FabricError]) -> str:
    if not kind.retryable:
        return "no"
    return "yes, if safe" if kind.started else "yes"


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_an_error_is_on_the_page_as_it_is(kind: type[FabricError]) -> None:
    rows = [
        row for row in table(PAGE, "code", "name", "may be repeated", "the work may have begun") if _names(row, kind)
    ]
    assert len(rows) == 1, f"docs/wire.md, Errors: {kind.__name__} stands in {len(rows)} rows, not in one"
    row = rows[0]
    assert row["code"] == str(kind.code)
    assert row["may be repeated"] == _may_be_repeated(kind)
    assert row["the work may have begun"] == ("yes" if kind.started else "no")


def _names(row: dict[str, str], kind: type[FabricError]) -> bool:
    return kind.__name__ in row["name"].split(", ")


def test_no_error_on_the_page_is_unknown_to_the_code() -> None:
    rows = table(PAGE, "code", "name", "may be repeated", "the work may have begun")
    assert {name for row in rows for name in row["name"].split(", ")} == {kind.__name__ for kind in _kinds()}


@pytest.mark.parametrize(
    ("sentence", "seconds"),
    [
        (r"a heartbeat, every ([\d.]+) s", announce.BEAT_INTERVAL),
        (r"sign of life for ([\d.]+) s is given to another worker", streams.TASK_ACK_WAIT),
        (r"heard nothing for ([\d.]+) s gives up", stream.IDLE_SECONDS),
        (r"A lease lasts ([\d.]+) s", store.LEASE),
        (r"in the catalogue for ([\d.]+) s after its last instance went", store.GRACE),
        (r"hears nothing for ([\d.]+) s sends the call to another instance", call.SILENCE),
        (r"else ends it after ([\d.]+) s with `WorkerLost`", call.LONG_SILENCE),
        (r"foreign reply address \(`_INBOX\.…`\) has ([\d.]+) seconds", answering._DEFAULT_DEADLINE),  # pyright: ignore[reportPrivateUsage]
    ],
)
def test_times_are_those_of_the_code(sentence: str, seconds: float) -> None:
    said = re.search(sentence, WORDS)
    assert said is not None, f"docs/wire.md does not say: {sentence}"
    assert float(said[1]) == seconds


def test_agent_names_are_held_to_what_the_page_says() -> None:
    assert "`<agent>` has 1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last" in WORDS
    for good in ("a", "a-1", "a" * 63):
        assert subjects.checked_agent_name(good) == good
    for bad in ("", "A", "1a", "-a", "a_b", "a.b", "a-", "a" * 64):
        with pytest.raises(errors.ConfigurationError):
            subjects.checked_agent_name(bad)
