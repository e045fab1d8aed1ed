"""The chain of the audit log: whatever is removed, changed, put elsewhere or forged shows.

Proves: SE-5
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fabric.audit.acts import about
from fabric.audit.chain import Chain, Verifier, digest, encode, read
from fabric.audit.entry import LONGEST, Entry, named
from fabric_sdk.contracts import subjects

DAY = 86_400.0
NOW = 100 * DAY


@dataclass(frozen=True)
class Kept:
    """A message of the stream."""

    sequence: int
    subject: str
    body: bytes


def written(turns: list[tuple[int, int]], ended: set[int]) -> list[Kept]:
    """What some writers wrote, each turn one batch of so many entries; some have ended in order."""
    chains = [Chain(f"gateway-{number}") for number in range(3)]
    kept: list[Kept] = []

    def write(writer: int, count: int, *, last: bool = False) -> None:
        entries = [encode(Entry(at=NOW, outcome="denied", principal=f"p{each}")) for each in range(count)]
        at = NOW + len(kept)
        body = chains[writer].link(entries, at, last=last)
        kept.append(Kept(len(kept) + 1, subjects.audit(chains[writer].writer), body))

    for writer, count in turns:
        write(writer, count)
    for writer in sorted(ended):
        write(writer, 0, last=True)
    return kept


def verified(kept: list[Kept], *, last: int | None = None, forgets: float = 0.0, created: float = NOW) -> Verifier:
    verifier = Verifier(forgets)
    if kept:
        verifier.begin(kept[0].sequence, created)
    for each in kept:
        verifier.take(each.sequence, each.subject, each.body)
    verifier.end(kept[-1].sequence if last is None else last)
    return verifier


HISTORIES = st.builds(
    written,
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=2, max_size=12),
    st.sets(st.integers(0, 2)),
)


@given(HISTORIES)
def test_what_was_written_is_whole(kept: list[Kept]) -> None:
    verifier = verified(kept)
    assert verifier.findings == []
    assert verifier.batches == len(kept)
    heads = {head.writer: head for head in verifier.heads.values()}
    for each in kept:  # the newest of each writer
        batch = read(each.body)
        assert batch is not None
        if batch.number == heads[batch.writer].number:
            assert (heads[batch.writer].digest, heads[batch.writer].ended) == (digest(each.body), batch.last)


@given(HISTORIES, st.data())
def test_what_was_removed_shows(kept: list[Kept], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(kept) - 1))
    left = kept[:gone] + kept[gone + 1 :]
    verifier = verified(left, last=len(kept))
    assert verifier.findings
    assert verified(kept[gone + 1 :], last=len(kept)).findings if gone < len(kept) - 1 else True


@given(HISTORIES, st.data())
def test_a_stream_made_anew_without_some_shows_but_for_a_writers_newest(kept: list[Kept], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(kept) - 1))
    assume(any(each.subject == kept[gone].subject for each in kept[gone + 1 :]))
    left = kept[:gone] + kept[gone + 1 :]
    assert verified([Kept(at, each.subject, each.body) for at, each in enumerate(left, 1)]).findings


@given(HISTORIES, st.data())
def test_what_was_changed_shows(kept: list[Kept], data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, len(kept) - 1))
    body = bytearray(kept[changed].body)
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    forged = Kept(kept[changed].sequence, kept[changed].subject, bytes(body))
    followed = any(each.subject == forged.subject for each in kept[changed + 1 :])
    verifier = verified([*kept[:changed], forged, *kept[changed + 1 :]])
    before = read(kept[changed].body)
    assert before is not None
    head = verifier.heads.get(before.writer)
    # Of a writer's newest batch nothing speaks yet: who kept its head elsewhere sees that it is another one.
    assert verifier.findings or (not followed and head is not None and head.digest != digest(kept[changed].body))


@given(HISTORIES, st.data())
def test_another_order_shows(kept: list[Kept], data: st.DataObject) -> None:
    one = data.draw(st.integers(0, len(kept) - 2))
    other = data.draw(st.integers(one + 1, len(kept) - 1))
    passed = [each.subject for each in kept[one : other + 1]]  # only what passes one of its own writer is out of order
    assume(passed.count(passed[0]) > 1 or passed.count(passed[-1]) > 1)
    order = list(kept)
    order[one], order[other] = order[other], order[one]
    assert verified([Kept(at, each.subject, each.body) for at, each in enumerate(order, 1)]).findings


@given(HISTORIES, st.integers(0, 2), st.integers(1, 3))
def test_what_was_forged_in_a_writers_name_shows(kept: list[Kept], writer: int, number: int) -> None:
    name = f"gateway-{writer}"
    before = verified(kept).heads.get(name)
    entry = Entry(at=NOW, outcome="done")
    body = encode(
        {"writer": name, "number": number, "at": NOW, "previous": "0" * 64, "previous_at": NOW}
        | {"last": False, "entries": [entry]}
    )
    assume(before is None or before.number + 1 != number or not before.ended)
    assert verified([*kept, Kept(len(kept) + 1, subjects.audit(name), body)]).findings


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"writer":1}'])
def test_what_is_no_batch_shows(body: bytes) -> None:
    (finding,) = verified([Kept(1, subjects.audit("gateway-0"), body)]).findings
    assert "not written by the fabric" in finding.what


@pytest.mark.parametrize(("number", "previous"), [(0, "x"), (-5, "x"), (-5, "")])
def test_what_no_writer_counts_to_shows(number: int, previous: str) -> None:
    body = encode(
        {"writer": "gateway-0", "number": number, "at": NOW, "previous": previous, "previous_at": NOW}
        | {"last": False, "entries": [Entry(at=NOW, outcome="lost", count=-7)]}
    )
    verifier = verified([Kept(1, subjects.audit("gateway-0"), body)])
    assert (len(verifier.findings), verifier.lost) == (1, 0)


def test_what_is_written_under_another_name_shows() -> None:
    (kept,) = written([(0, 1)], set())
    assert verified([Kept(1, subjects.audit("gateway-9"), kept.body)]).findings


def test_what_is_old_enough_may_be_gone() -> None:
    kept = written([(0, 1), (1, 1), (0, 1)], set())
    left = kept[1:]
    assert not verified(left, forgets=NOW + 0.5, created=NOW - DAY).findings  # the first had its time
    assert {finding.sequence for finding in verified(left, forgets=NOW - DAY, created=NOW - 2 * DAY).findings} == {3}
    assert {finding.sequence for finding in verified(left, forgets=NOW - DAY, created=NOW).findings} == {2, 3}


def test_nobody_writes_after_their_end() -> None:
    chain = Chain("gateway-0")
    bodies = [chain.link((), NOW, last=True), chain.link((), NOW)]
    kept = [Kept(at, subjects.audit("gateway-0"), body) for at, body in enumerate(bodies, 1)]
    assert [finding.what for finding in verified(kept).findings] == ["its writer had ended"]


def test_what_was_never_kept_is_counted_and_no_finding() -> None:
    chain = Chain("gateway-0")
    body = chain.link([encode(Entry(at=NOW, outcome="lost", count=7))], NOW)
    verifier = verified([Kept(1, subjects.audit("gateway-0"), body)])
    assert (verifier.lost, verifier.findings) == (7, [])


@given(st.text(max_size=400))
def test_names_from_outside_are_bounded_and_have_no_query(text: str) -> None:
    assert len(named(text)) <= LONGEST + 1
    assert "SECRET" not in named(f"notes://{text.replace('?', '')}?key=SECRET")


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("grant", {"id": "7-a", "remember": True}, "7-a"),
        ("create_token", {"name": "ann", "roles": ["admin"]}, "ann"),
        ("mount", {"agent": "a", "prefix": "b", "target": "c"}, "a b"),
        ("redrive_dead", {"ids": ["1", "2"]}, "1 2"),
        ("publish_event", {"topic": "a.b", "data": {"secret": 1}}, "a.b"),
        ("refuse", {"id": 7, "reason": "secret"}, ""),
        ("nothing", {"id": "secret"}, ""),
        ("grant", ["secret"], ""),
    ],
)
def test_an_act_is_about_what_names_it_and_nothing_else(tool: str, arguments: object, said: str) -> None:
    assert about(tool, arguments) == said
