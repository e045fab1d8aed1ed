"""The official TypeScript clients, both generations, work against the gateway as they are.

Proves: TR-1
"""

import json
import os
import subprocess
from typing import Any, cast

import pytest

from clients import node

MODERN = "2026-07-28"
NEWEST_HANDSHAKE = "2025-11-25"
TIMEOUT_SECONDS = 50  # less than the suite allows a test, so that what the client printed is shown
EXPOSED_NAME = "hello_echo"


def run_client(script: str, *arguments: str) -> dict[str, Any]:
    """Runs one of the scripts beside this file to its end and returns the JSON line it printed."""
    node.need_packages("@modelcontextprotocol/sdk", "@modelcontextprotocol/client")
    done = subprocess.run(
        [node.node(), node.HERE / script, *arguments],
        env=os.environ | {"TOOL": EXPOSED_NAME},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{script} failed with exit code {done.returncode}:\n{done.stderr}"
    return cast(dict[str, Any], json.loads(done.stdout))


@pytest.mark.parametrize(
    ("client", "era", "protocol_version"),
    [
        pytest.param(["ts1.mjs"], "legacy", NEWEST_HANDSHAKE, id="sdk-1.x"),
        pytest.param(["ts2.mjs", "auto"], "modern", MODERN, id="client-2.x-auto"),
        pytest.param(["ts2.mjs", "legacy"], "legacy", NEWEST_HANDSHAKE, id="client-2.x-legacy"),
        pytest.param(["ts2.mjs", "modern"], "modern", MODERN, id="client-2.x-modern"),
    ],
)
def test_client_lists_and_calls_in_its_own_era(
    mcp_url: str, mcp_token: str, client: list[str], era: str, protocol_version: str
) -> None:
    script, *mode = client
    answer = run_client(script, mcp_url, *mode, mcp_token)
    assert (answer["era"], answer["protocolVersion"]) == (era, protocol_version)
    assert EXPOSED_NAME in answer["tools"]
