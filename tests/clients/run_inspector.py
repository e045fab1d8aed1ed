"""Lists and calls with the official MCP Inspector, in both eras. For use by hand: `make inspector`.

    python -m clients.run_inspector URL [TOKEN]          (from tests/, or with tests/ on PYTHONPATH)

The tool is the one named in TOOL, else `echo` or the first whose name ends with `_echo`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from clients import node

FOLDER = node.HERE / "inspector"
ERAS = ("legacy", "modern")
TIMEOUT_SECONDS = 60


def inspect(url: str, token: str | None, era: str, *arguments: str, home: Path) -> dict[str, Any]:
    """One run of the Inspector's command line. `home` takes the files it would leave in the user's own."""
    command = [node.node(), node.program("@modelcontextprotocol/inspector", "mcp-inspector", folder=FOLDER), "--cli"]
    command += [url, "--transport", "http", "--protocol-era", era, "--format", "json", "-q", *arguments]
    if token:
        command += ["--header", f"Authorization: Bearer {token}"]
    done = subprocess.run(
        command,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{era}: the Inspector ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return cast(dict[str, Any], json.loads(done.stdout)["result"])


def pick_tool(names: list[str]) -> str:
    wanted = os.environ.get("TOOL")
    for name in names:
        if name == wanted if wanted else name == "echo" or name.endswith("_echo"):
            return name
    raise SystemExit(f"no tool {wanted or 'echo'} among {', '.join(names) or 'none'}")


def main(url: str, token: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as home:
        for era in ERAS:
            listed = inspect(url, token, era, "--method", "tools/list", home=Path(home))
            names = [str(tool["name"]) for tool in listed["tools"]]
            print(f"{era}: tools {', '.join(names)}")
            call = ["--method", "tools/call", "--tool-name", pick_tool(names), "--tool-args-json", '{"text":"hello"}']
            print(f"{era}: answer {json.dumps(inspect(url, token, era, *call, home=Path(home)))}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python -m clients.run_inspector URL [TOKEN]")
    main(*sys.argv[1:])
