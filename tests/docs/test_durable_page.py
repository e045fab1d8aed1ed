"""docs/durable.md shows code that runs, and says the numbers that the code has.

Proves: MB-2, MB-5, MB-8, PT-3, PT-4 (how each is used, and what each guarantees, is written down and held to the code).
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from docs.pages import ROOT, blocks, codes, read, table
from fabric.durable.service import agent as durable
from fabric_sdk.contracts import streams
from fabric_sdk.contracts.streams import Stream
from fabric_sdk.contracts.task import DEFAULT_KEEP, Policy
from fabric_sdk.patterns.stream import IDLE_SECONDS
from fabric_sdk.routing.tasks import WEIGHTS
from fabric_sdk.routing.window import WINDOW, WINDOW_BYTES

PAGE = read("docs/durable.md")
POLICY = ("of the policy", "default", "what it is")
WORDS = " ".join(PAGE.split())
STREAMS = {value.name: value for value in vars(streams).values() if isinstance(value, Stream)}
EXAMPLES = "\n".join(path.read_text() for path in sorted(Path(ROOT, "examples", "durable").glob("*.py")))


@pytest.mark.parametrize("block", blocks(PAGE, "python"))
def test_code_is_from_the_examples(block: str) -> None:
    for line in block.strip().splitlines():
        assert line.strip() in EXAMPLES


def test_every_stream_is_in_the_table() -> None:
    rows = table(PAGE, "stream", "keeps", "at most", "when it is full")
    assert {code for row in rows for code in codes(row["stream"])} == set(STREAMS)


def test_limits_are_those_of_the_code() -> None:
    for row in table(PAGE, "stream", "keeps", "at most", "when it is full"):
        (name,) = codes(row["stream"])
        most = STREAMS[name].options.get("max_bytes")
        mebibytes = None if most is None else most // 1024**2
        said = f"{mebibytes // 1024} GiB" if mebibytes and mebibytes >= 1024 else f"{mebibytes} MiB"
        assert most is None or said in row["at most"], name
    assert streams.TASKS.options["max_msgs"] == 1_000_000
    assert streams.EVENTS.options["max_age"] == 7 * 86_400 * 10**9


def test_the_policy_has_these_fields_and_defaults() -> None:
    shown = {codes(row["of the policy"])[0]: row["default"].strip("`") for row in table(PAGE, *POLICY)}
    plain = Policy()
    stated = {each.name: str(getattr(plain, each.name)).replace("'", '"') for each in fields(Policy)}
    assert shown == stated | {"silence": "none", "asks_first": "no"}
    assert (plain.silence, plain.asks_first) == (None, False)


async def test_the_tools_that_are_named_are_there() -> None:
    tools = {tool["name"] for tool in (await durable.describe()).tools}
    assert {name.removeprefix("durable_") for name in re.findall(r"`(durable_\w+)`", PAGE)} <= tools


def test_numbers_are_those_of_the_code() -> None:
    assert " : ".join(map(str, WEIGHTS.values())) in WORDS
    assert f"without a sign of life for {streams.TASK_ACK_WAIT:g} seconds" in WORDS
    assert f"at most {WINDOW} messages and {WINDOW_BYTES // 1024**2} MiB ahead" in WORDS
    assert f"falls silent for {IDLE_SECONDS:g} s" in WORDS
    assert DEFAULT_KEEP == 86_400
    assert "stays on record (a day" in WORDS
    assert streams.DUPLICATE_WINDOW == 120
    assert "within two minutes" in WORDS
