"""A trace drawn in the terminal: who did what below whom, when it began, and how long it took.

Above: `trace`. Below: rich. Pure: rows from spans, and a table from rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Sequence
from itertools import chain
from textwrap import wrap
from typing import Any, Final, NamedTuple

from rich.markup import escape
from rich.table import Table

from fabric.cli.console import seen
from fabric.observability.spans_reading import Trace
from fabric.observability.spans_wire import Told
from fabric_sdk.contracts.conventions import Attribute

_BAR: Final = 32
"""Characters for the whole time of a trace, at most."""
_LEAST_BAR: Final = 8
_TIME: Final = len("999.9 ms")
_GAP: Final = 2
_NARROW: Final = 80
"""Characters of a line; with fewer, or none to spare, the bar alone says when a span began."""
_SHORT_ID: Final = 6


class Row(NamedTuple):
    """One span in its place."""

    depth: int
    span: Told


def rows(trace: Trace) -> list[Row]:
    """The spans below one another; those whose parent is not kept stand at the left."""
    ids = {span.id for span in trace.spans}
    below: defaultdict[str, list[Told]] = defaultdict(list)
    for span in trace.spans:
        below[span.parent if span.parent in ids and span.parent != span.id else ""].append(span)
    drawn: dict[str, Row] = {}
    left = [Row(0, span) for span in reversed(below[""])]
    while left:  # not by recursion: somebody may tell of thousands below one another
        row = left.pop()
        if row.span.id not in drawn:
            drawn[row.span.id] = row
            left += (Row(row.depth + 1, span) for span in reversed(below[row.span.id]))
    return [*drawn.values(), *(Row(0, span) for span in trace.spans if span.id not in drawn)]


def waterfall(trace: Trace, width: int) -> Table:
    """The whole trace as a table for lines of this width."""
    drawn = rows(trace)
    notes = [[f"{'  ' * (depth + 1)}{seen(note)}" for note in _notes(trace, span)] for depth, span in drawn]
    names = max(len(said) for said in (*(_named_at(*row) for row in drawn), *chain.from_iterable(notes)))
    places = max(len(_where(row.span)) for row in drawn)
    word = max((len(word) for note in chain.from_iterable(notes) for word in note.split()), default=0)
    room = width - places - (_TIME + _GAP) - 2 * _GAP
    narrow = width < _NARROW or word > room - (_TIME + _GAP) - _LEAST_BAR
    times = ("TOOK",) if narrow else ("AFTER", "TOOK")
    room -= 0 if narrow else _TIME + _GAP
    whole = max(1, min(word, room - _LEAST_BAR))  # an id that is broken can neither be looked up nor copied
    size = max(_LEAST_BAR, min(_BAR, room - max(names, whole)))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("SPAN", overflow="fold", min_width=whole)
    grid.add_column("WHERE", no_wrap=True)
    for heading in times:
        grid.add_column(heading, no_wrap=True, justify="right")
    grid.add_column("", no_wrap=True)
    for (depth, span), below in zip(drawn, notes, strict=True):
        colour = "red" if span.failed else "cyan"
        said, after = escape(_named_at(depth, span)), duration((span.start - trace.start) / 1e9)
        grid.add_row(
            f"[red]{said}[/]" if span.failed else said,
            escape(_where(span)),
            *(() if narrow else (after,)),
            duration(span.seconds),
            f"[{colour}]{bar(trace, span, size)}[/]",
        )
        for note in below:
            for line in _lines(note, room - size, depth + 2):
                grid.add_row(f"[dim]{escape(line)}[/]")
    return grid


def _lines(note: str, width: int, depth: int) -> list[str]:
    """A note in lines of this width: what goes on stands further in, as far as no word of it is broken for that."""
    longest = max(map(len, note.split()), default=0)
    indent = " " * max(0, min(2 * depth, width - longest))
    wide = max(width, longest)
    return wrap(note, wide, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def bar(trace: Trace, span: Told, size: int = _BAR) -> str:
    """How long it took, and when, as part of the whole, which has `size` characters."""
    whole = trace.seconds or 1e-9
    begin = min(size - 1, int(size * (span.start - trace.start) / 1e9 / whole))
    length = max(1, round(size * span.seconds / whole))
    return " " * begin + "━" * min(length, size - begin)


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _named_at(depth: int, span: Told) -> str:
    return seen(f"{'  ' * depth}{span.name}")


def _where(span: Told) -> str:
    service = span.resource.get(Attribute.SERVICE, "?")
    agent = span.attributes.get(Attribute.AGENT, service) if span.kind in ("server", "consumer") else service
    instance = span.attributes.get(Attribute.INSTANCE) or span.resource.get(Attribute.INSTANCE, "")
    return seen(f"{agent} {str(instance)[:_SHORT_ID]}")


def _notes(trace: Trace, span: Told) -> Generator[str]:
    """What else is to be known of a span: its error, its attempt, what happened, what it is linked to."""
    said = span.attributes
    if span.failed:
        kind, code = str(said.get(Attribute.ERROR, "unknown")), str(said.get(Attribute.STATUS, ""))
        yield f"error: {kind}" + (f" ({code})" if code not in ("", kind) else "")
    if (attempt := said.get(Attribute.ATTEMPT, 1)) != 1:
        yield f"attempt {attempt}"
    for event in span.events:
        attributes: dict[str, Any] = event.get("attributes") or {}
        about = "".join(f" {key.rpartition('.')[2]}={value}" for key, value in attributes.items())
        yield f"{event['name']}{about} after {duration((int(event['at']) - span.start) / 1e9)}"
    for link in span.links:
        if link["trace"] != trace.id:
            yield f"caused by {link['id']} of trace {link['trace']}"
        elif link["id"] != span.parent:
            yield f"caused by {_named(trace.spans, link['id'])}"


def _named(spans: Sequence[Told], span_id: str) -> str:
    return next((span.name for span in spans if span.id == span_id), span_id)
