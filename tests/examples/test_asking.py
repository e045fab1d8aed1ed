"""The examples of handlers that ask do what they say, and docs/asking.md shows code of theirs.

Proves: TR-1, PT-3 (a task that waits for an answer).
"""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from docs.pages import ROOT, blocks, read
from support.durable import Serve
from support.nats_server import PrivateNats

from fabric.pool.target import load
from fabric_sdk import Agent
from fabric_sdk.suspending import PATIENCE

pytestmark = pytest.mark.anyio

ASKING = ROOT / "examples" / "asking"
PAGE = read("docs/asking.md")
SAID = """\
a hat of size 42
a hat to be seen in
['file:///home/ann']
refused: the caller has not declared the capability 'elicitation'
asked: Which button?
coat 1 with a horn button
I can do knitting now - knitting done
on the shelf: 1
"""


async def test_the_client_answers_what_the_tailor_asks(serve: Serve, server: PrivateNats) -> None:
    tailor = load(str(ASKING / "agent.py"))
    assert isinstance(tailor, Agent)
    await serve(tailor)
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ASKING / "client.py"),
        env={**os.environ, "FABRIC_NATS_URL": server.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await client.communicate()
    assert (client.returncode, err.decode()) == (0, "")
    assert out.decode() == SAID


@pytest.mark.parametrize("block", blocks(PAGE, "python"))
def test_code_on_the_page_is_from_the_examples(block: str) -> None:
    lines = {line.strip() for path in ASKING.glob("*.py") for line in path.read_text().splitlines()}
    assert [line for line in block.strip().splitlines() if line.strip() not in lines] == []


def test_the_page_says_how_long_a_handler_waits() -> None:
    assert f"waits for {PATIENCE / 60:.0f} minutes" in PAGE
