"""docs/requirements.md and the tests agree on what is proved, both ways.

The last `Proves:` of a module's docstring gives the ids, up to the next empty line: RT-6 (the dead are replaced), CM-2.
A module that proves no promise to users says "no row". A failure's message says which row or module to change, and how.

Proves: no row.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from docs.pages import ROOT, codes, read, tables

PAGE = "docs/requirements.md"
COLUMNS = ["id", "what is promised", "state", "proved by"]
GROUPS = {"RT": 9, "MB": 8, "EV": 6, "CM": 7, "TR": 6, "PT": 5, "SE": 7, "GW": 8, "CN": 6, "DR": 4, "OP": 7, "MG": 2}
"""How many promises each group has: none is ever dropped."""

_STATE = re.compile(r"done|in part: \S.*|open")
_ID = re.compile(r"\b[A-Z]{2}-\d+\b")
_NO_ROW = re.compile(r"\s*no row\b")
_ELSEWHERE = ("node_modules", "support", "agents")


def rows() -> list[dict[str, str]]:
    """The rows of all tables of the page."""
    return [row for table in tables(read(PAGE)) for row in table]


def modules() -> list[Path]:
    """Every file that pytest collects tests from."""
    found = (path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
    return sorted(path for path in found if not set(_ELSEWHERE) & set(path.parts))


def claim(module: Path) -> str | None:
    """What a module's docstring says it proves."""
    try:
        docstring = ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8")))
    except SyntaxError:
        return None
    _, proves, said = (docstring or "").rpartition("Proves:")
    return said.partition("\n\n")[0] if proves else None


@cache
def proofs() -> dict[str, set[str]]:
    """Which modules prove an id, as their docstrings say."""
    found: dict[str, set[str]] = {}
    for module in modules():
        for promise in _ID.findall(claim(module) or ""):
            found.setdefault(promise, set()).add(module.as_posix())
    return found


def fail_with(mistakes: list[str]) -> None:
    if mistakes:
        pytest.fail("\n".join(mistakes), pytrace=False)


def test_every_promise_has_one_row_in_order() -> None:
    promised = [f"{group}-{number}" for group, count in GROUPS.items() for number in range(1, count + 1)]
    shown = [row["id"] for row in rows()]
    assert all(list(row) == COLUMNS for row in rows())
    fail_with(
        [f"{PAGE}: {each} has {shown.count(each)} rows, not one" for each in promised if shown.count(each) != 1]
        + [f"{PAGE}: there is no promise {each}; remove its row" for each in sorted(set(shown) - set(promised))]
    )
    assert shown == promised


def test_every_row_says_how_far_it_is() -> None:
    fail_with(
        [
            f"{PAGE}: {row['id']}: the state is {row['state']!r}; write done, open, or in part: <which part>"
            for row in rows()
            if _STATE.fullmatch(row["state"]) is None
        ]
        + [f"{PAGE}: {row['id']}: say what is promised" for row in rows() if not row["what is promised"]]
    )


def test_a_row_is_open_exactly_while_no_test_proves_any_of_it() -> None:
    mistakes: list[str] = []
    for row in rows():
        proved = proofs().get(row["id"])
        if row["state"] == "open" and proved:
            mistakes.append(f"{PAGE}: {row['id']} is not open: {', '.join(sorted(proved))} proves some of it")
        if row["state"] != "open" and not proved:
            mistakes.append(f"{PAGE}: {row['id']} is open: no test module says `Proves: {row['id']}`")
    fail_with(mistakes)


def test_every_row_lists_the_modules_that_prove_it() -> None:
    mistakes: list[str] = []
    for row in rows():
        promise, listed, proved = row["id"], codes(row["proved by"]), proofs().get(row["id"], set[str]())
        wrong = [f"add {module}, which says it proves {promise}" for module in sorted(proved - set(listed))]
        for module in sorted(set(listed) - proved):
            there = (ROOT / module).is_file()
            wrong.append(f"remove {module}, which {f'does not name {promise}' if there else 'does not exist'}")
        wrong += [f"list {module} once" for module in sorted({each for each in listed if listed.count(each) > 1})]
        if wrong:
            right = ", ".join(f"`{module}`" for module in sorted(proved))
            mistakes.append(f"{PAGE}: {promise}: {'; '.join(wrong)}\n    proved by: {right}")
    fail_with(mistakes)


def test_every_test_module_says_what_it_proves() -> None:
    known = {row["id"] for row in rows()}
    mistakes: list[str] = []
    for module in modules():
        said = claim(module)
        promises = set(_ID.findall(said or ""))
        if said is None:
            mistakes.append(f"{module}: its docstring lacks a line `Proves: <ids of {PAGE}>`, or `Proves: no row.`")
        elif not promises and _NO_ROW.match(said) is None:
            mistakes.append(f"{module}: `Proves:` names no id of {PAGE}; if it proves none, write `Proves: no row.`")
        mistakes += [f"{module}: {PAGE} has no row {promise}" for promise in sorted(promises - known)]
    fail_with(mistakes)
