"""Every `fabric …` that a page tells people to type exists, with the options that it is given.

Proves: OP-6 (runbooks name commands that are there)
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer

from docs.pages import ROOT, read
from fabric.cli.main import app

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
_SPAN = re.compile(r"`((?:\.venv/bin/)?fabric [a-z][^`]*)`")
_TYPED = re.compile(r"^\s*(?:\$ )?((?:\.venv/bin/)?fabric [a-z].*)$", re.MULTILINE)
_BEFORE_COMMENT = re.compile(r"\s+#.*$|\s+[|;&>].*$")
_FENCE = re.compile(r"^\s*```\w*\n(.*?)^\s*```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[str]:
    """What a page shows of the command line, without comments and what comes after a pipe."""
    yield from (_BEFORE_COMMENT.sub("", said) for said in _SPAN.findall(_FENCE.sub("", text)))
    for block in _FENCE.findall(text):
        yield from (_BEFORE_COMMENT.sub("", line) for line in _TYPED.findall(block))


@cache
def root() -> Any:
    """`fabric` itself: of typer's own copy of click, which has no public types."""
    return typer.main.get_command(app)


def mistake(said: str) -> str | None:
    """What of a command line is not there."""
    here = root()
    words = [word for word in shlex.split(said)[1:] if word not in ("…", "...")]
    while words and hasattr(here, "list_commands"):
        there = here.list_commands(None)
        name = words.pop(0)
        if name.startswith("-") or name.isupper():  # a placeholder
            return None
        choices = name.split("|")  # `fabric backup|restore`
        if missing := [each for each in choices if each not in there]:
            return f"`{said}`: there is no {missing[0]!r}"
        here = here.get_command(None, choices[0])
    known = {option for parameter in here.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    wrong = [word for word in words if re.match(r"--[a-z]", word) and word.partition("=")[0] not in known]
    return f"`{said}`: there is no option {wrong[0]}" if wrong else None


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    wrong = [found for said in commands(read(page)) if (found := mistake(said)) is not None]
    assert wrong == [], page


def test_commands_that_do_not_exist_are_found() -> None:
    page = "Type `fabric task lst`.\n```console\n$ fabric up --procesess 4   # all of it\n$ fabric ps | less\n```\n"
    assert [mistake(said) for said in commands(page)] == [
        "`fabric task lst`: there is no 'lst'",
        "`fabric up --procesess 4`: there is no option --procesess",
        None,
    ]
