"""Reads Markdown: tables, blocks of code, links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)[^)]*\)")


@dataclass(frozen=True, slots=True)
class Typed:
    """A line typed after a `$`, without its comment, and what the page shows as its output."""

    command: str
    output: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)


def read(page: str) -> str:
    """A page, by its path from the root of the repository."""
    return (ROOT / page).read_text(encoding="utf-8")


def tables(text: str) -> list[list[dict[str, str]]]:
    """Every table: its rows, each cell under the heading of its column."""
    found: list[list[dict[str, str]]] = []
    headings: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            headings = []
        elif not headings:
            headings = _cells(line)
            found.append([])
        elif set(line) - set("|-: "):
            found[-1].append(dict(zip(headings, _cells(line), strict=True)))
    return found


def table(text: str, *headings: str) -> list[dict[str, str]]:
    """The one table with these headings."""
    (found,) = [rows for rows in tables(text) if rows and list(rows[0]) == list(headings)]
    return found


def codes(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(text: str, language: str) -> list[str]:
    """The blocks of code in this language."""
    return [block for marked, block in _FENCE.findall(text) if marked == language]


def typed(block: str) -> list[Typed]:
    """What a console block shows a person typing."""
    found: list[Typed] = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        found.append(Typed(shlex.join(shlex.split(command, comments=True)), output))
    return found


def links(text: str) -> list[str]:
    """The targets of all links that stay in the repository, without their anchors."""
    outside_code = _FENCE.sub("", text)
    targets = [target.partition("#")[0] for target in _LINK.findall(outside_code)]
    return [target for target in targets if target and not re.match(r"[a-z]+:", target)]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
