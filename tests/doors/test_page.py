"""docs/doors.md shows what happens, and says the numbers that the code has.

Proves: TR-3, TR-4
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from docs.pages import blocks, codes, read, table

from fabric.gateway import http, problems, upgraded, view, websocket
from fabric.search import tool

PAGE = read("docs/doors.md")
WORDS = " ".join(PAGE.split())
COMMANDS = blocks(PAGE, "console")
SHOWN_AT = "http://127.0.0.1:8420"


def run(command: list[str], token: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, "TOKEN": token, "no_proxy": "*"}, capture_output=True, timeout=30, check=True
    )
    return done.stdout.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("block", COMMANDS, ids=[re.findall(r"/api/(\S+)", block)[0] for block in COMMANDS])
def test_commands_answer_what_is_shown(block: str, url: str, operator: str) -> None:
    command, _, shown = block.removeprefix("$ ").partition("\n")
    told = run(["bash", "-c", command.replace(SHOWN_AT, url)], operator)
    pattern = ".*".join(re.escape(part) for part in shown.rstrip("\n").split("…"))
    assert re.fullmatch(pattern, told.rstrip("\n")), told


def test_the_client_hears_what_is_said(url: str, operator: str) -> None:
    (block,) = blocks(PAGE, "python")
    program = block.replace(SHOWN_AT.replace("http", "ws"), url.replace("http", "ws"))
    assert run([sys.executable, "-c", program], operator) == "at 1\nat 2\n{'result': 2}\n"


def test_numbers_are_those_of_the_code() -> None:
    assert f"{websocket.MOST_IN_HAND} requests of one connection" in WORDS
    assert f"nothing was asked for {websocket.IDLE_SECONDS:g} seconds" in WORDS
    assert f"pinged every {http.PING_SECONDS:g} seconds" in WORDS
    assert http.MOST_WAITING == 1024 * 1024
    assert "beyond 1 MiB" in WORDS
    found = tool.SEARCH_TOOL["inputSchema"]["properties"]["limit"]
    assert f"`limit` ({found['default']} unless set, {found['maximum']} at most)" in WORDS
    assert f'meta={{"{view.PINNED}": True}}' in WORDS


def test_every_status_of_an_error_is_in_the_table() -> None:
    listed = {int(status) for row in table(PAGE, "status", "when") for status in row["status"].split(", ")}
    assert set(problems.STATUS.values()) <= listed
    assert codes(table(PAGE, "door", "path", "for whom")[1]["path"]) == [upgraded.PATH]
