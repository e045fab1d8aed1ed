"""Files of limits: what they mean, and what is told of mistakes in them: all at once, each with its line.

Proves: GW-8, SE-6 (limits for each client, tool and agent).
"""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.limits.rules import MOST_BYTES, Limits, LimitsError, Lockout, Rule, parse, read

WHOLE = """
limits:
  - name: each-client
    per: client
    rate: 100/s
    burst: 200
    concurrency: 8
    daily: 10000
  - {name: reports, per: tool, tools: "shop_report*", clients: [ann, "agent:*"], rate: 30/m}
  - {name: slow, per: agent, agents: [slow], rate: 5/h}
  - {name: few, per: agent, concurrency: 1}
lockout: {after: 3, within: 10, seconds: 20, longest: 80}
"""


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(LimitsError) as raised:
        parse(text, "f")
    return raised.value.lines


def test_a_file_is_read_as_it_is_meant() -> None:
    assert parse(WHOLE, "f") == Limits(
        (
            Rule("each-client", "client", 100.0, 200, 8, 10_000),
            Rule("reports", "tool", 0.5, 1, clients=("ann", "agent:*"), tools=("shop_report*",)),
            Rule("slow", "agent", 5 / 3600, 1, agents=("slow",)),
            Rule("few", "agent", inf, 1, 1),
        ),
        Lockout(3, 10, 20, 80),
    )


def test_a_limit_is_for_calls_that_fit_everything_it_names() -> None:
    rule = Rule("r", "tool", clients=("ann", "agent:*"), tools=("shop_*",))
    assert rule.matches("ann", "shop", "shop_buy")
    assert rule.matches("agent:x", "shop", "shop_buy")
    assert not rule.matches("bob", "shop", "shop_buy")
    assert not rule.matches("ann", "shop", "buy")
    assert not rule.matches("ANN", "shop", "shop_buy"), "case counts"


def test_without_a_file_nothing_is_limited_and_abuse_locks_out(tmp_path: Path) -> None:
    limits = read()
    assert limits.rules == ()
    assert limits.lockout is not None
    own = tmp_path / "limits.yaml"
    own.write_text("limits: []\n")
    assert read(own) == Limits()
    own.write_text("")
    assert read(own) == Limits()


def test_every_mistake_is_told_at_once_with_its_line() -> None:
    text = """
limits:
  - name: two words
    per: token
    rate: 5/d
  - name: a
    per: tool
  - name: b
    per: tool
    burst: 0
    brust: 5
  - name: c
    per: tool
    daily: 5
    burst: 3
    tools: []
  - name: c
    per: tool
    daily: 1_0
    daily: 2
  - name: d
    per: agent
    daily: 1
  - name: d
    per: agent
    daily: 1
  - just a word
lockout: {after: 1, within: 0, seconds: 5}
logout: 1
"""
    lines = mistakes(text)
    assert [line.split(": ")[0] for line in lines] == [
        *("f:3", "f:4", "f:5"),
        "f:6",
        *("f:8", "f:10", "f:10", "f:11"),
        *("f:15", "f:16"),
        *("f:19", "f:20"),
        "f:24",
        "f:27",
        *("f:28", "f:28"),
        "f:29",
    ]
    said = "\n".join(lines)
    for words in (
        "name: 'two words': it takes 1 to 64 letters",
        "per: 'token': it takes client, tool or agent",
        "rate: '5/d': it takes calls in a second, minute or hour, like 100/s",
        "a limit needs at least one of rate, concurrency, daily",
        "burst: '0': it takes a whole number, 1 or more",
        "'brust': there is no such setting; a limit takes name, per,",
        "burst needs a rate",
        "an empty list fits nothing",
        "daily stands here twice",
        "there are two limits called d",
        "a limit: it takes name, per,",
        "lockout needs longest",
        "'logout': there is no such setting; the file takes limits, lockout",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("limits: [", "f:1: "),
        ("limits:\n\t- a", "f:2: "),
        ("- a", "f:1: the file: it takes limits, lockout"),
        ("limits: 5", "f:1: limits: it takes a list"),
        ("? [a, b]\n: 1", "f:1: 'a list or mapping': there is no such setting"),
        ("a: 1\n---\nb: 1", "f:2: "),
        ("limits:\n - {name: a, per: [client], daily: 1}", "f:2: per: it takes client, tool or agent"),
        ("lockout: {after: 1, within: 1, seconds: 9, longest: 8}", "f:1: longest: it takes as many seconds"),
        ("[" * 1500, "f: "),
        ("a: \x00", "f: "),
        ("a: &x [*x]", "f:1: 'a': "),
    ],
)
def test_what_is_no_such_file_at_all_is_told(text: str, line: str) -> None:
    told = mistakes(text)
    assert told[0].startswith(line)
    assert not any("\n" in each for each in told)


def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "limits.yaml")
    with pytest.raises(LimitsError, match="it is a pipe"):
        read(pipe)


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    (large := tmp_path / "limits.yaml").write_text("#" * (MOST_BYTES + 1))
    for path in (large, Path("/dev/zero")):
        with pytest.raises(LimitsError, match="more than 256 KiB"):
            read(path)
    large.write_text("#" * MOST_BYTES)
    assert read(large) == Limits()


def test_a_file_that_cannot_be_read_is_told_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(LimitsError, match=r"nowhere: No such file or directory; FABRIC_LIMITS has to name a file"):
        read(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(LimitsError, match="FABRIC_LIMITS"):
        read(tmp_path / "binary")


WORDS = st.sampled_from(
    ["name", "per", "client", "tool", "rate", "1/s", "burst", "5", "-1", "daily", "null", "~", "'*'"]
)
VALUES = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.dictionaries(WORDS, inner, max_size=6).map(
            lambda each: "{" + ", ".join(f"{key}: {value}" for key, value in each.items()) + "}"
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES | st.text(max_size=50), VALUES)
def test_whatever_stands_in_it_it_is_read_or_told(limits: str, lockout: str) -> None:
    lines = ("f:",)
    try:
        parse(f"limits: {limits}\nlockout: {lockout}\n", "f")
    except LimitsError as told:
        lines = told.lines
    assert lines
    assert all(line.startswith("f:") for line in lines)
