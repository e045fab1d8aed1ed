"""An index over the tools of one view: the best for a question first, by BM25.

Above: the gateway, with one index for each of its views. Below: SQLite's FTS5, in memory. An index never changes: a new
catalogue makes a new one, from a copy of the old, in a thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Final
from weakref import finalize

from fabric.search.words import asked_for, words_of
from fabric_sdk.contracts.description import Json

_CREATE: Final = (
    "CREATE VIRTUAL TABLE tools USING "
    "fts5(name, title, description, parameters, content='', tokenize='porter unicode61 remove_diacritics 2')"
)
_ADD: Final = "INSERT INTO tools(rowid, name, title, description, parameters) VALUES (?, ?, ?, ?, ?)"
_REMOVE: Final = (
    "INSERT INTO tools(tools, rowid, name, title, description, parameters) VALUES ('delete', ?, ?, ?, ?, ?)"
)
_FIND: Final = "SELECT rowid FROM tools WHERE tools MATCH ? ORDER BY bm25(tools, 8, 4, 2, 1), rowid"
"""A word counts the more, the shorter the text it stands in; a name says most."""


class ToolIndex:
    """Tools, as `tools/list` shows them, by their words."""

    def __init__(self, tools: Iterable[Json], *, before: ToolIndex | None = None) -> None:
        """Index `tools`. Thousands take a moment: build it with `asyncio.to_thread`.

        Args:
            tools: each with a name of its own.
            before: the index of the catalogue before, to take over what did not change.
        """
        # Made in one thread and read in another: SQLite itself takes one at a time.
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        finalize(self, self._database.close)  # from Python 3.13 on, one that is only dropped is warned of
        self._tools: dict[int, Json] = {}
        self._rows: dict[str, int] = {}
        wanted = {str(tool["name"]): tool for tool in tools}
        if before is None:
            self._database.execute(_CREATE)
        else:
            before._database.backup(self._database)
            self._take_over(before, wanted)
        self._add(wanted)
        self._database.commit()

    def __len__(self) -> int:
        return len(self._tools)

    def search(self, question: str, limit: int, allowed: Callable[[str], bool] = lambda _: True) -> list[Json]:
        """At most `limit` of the tools whose names are `allowed` and that have a word of `question`, the best first."""
        if not (words := asked_for(question)):
            return []
        found: list[Json] = []
        for (row,) in self._database.execute(_FIND, (" OR ".join(f'"{word}"' for word in words),)):
            tool = self._tools[row]
            if allowed(tool["name"]):
                found.append(tool)
                if len(found) == limit:
                    break
        return found

    def _take_over(self, before: ToolIndex, wanted: dict[str, Json]) -> None:
        """Keep the rows of tools that are as they were, and remove the others."""
        gone: list[tuple[object, ...]] = []
        for row, tool in before._tools.items():
            if wanted.get(name := tool["name"]) == tool:
                self._tools[row], self._rows[name] = tool, row
            else:
                gone.append((row, *words_of(tool)))
        self._database.executemany(_REMOVE, gone)

    def _add(self, wanted: dict[str, Json]) -> None:
        new = [tool for name, tool in wanted.items() if name not in self._rows]
        first = max(self._tools, default=0) + 1
        for row, tool in enumerate(new, first):
            self._tools[row], self._rows[tool["name"]] = tool, row
        self._database.executemany(_ADD, ((row, *words_of(tool)) for row, tool in enumerate(new, first)))
