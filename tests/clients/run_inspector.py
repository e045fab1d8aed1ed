"""Lists and calls with the official MCP Inspector, in both eras. For use by hand: `make inspector`.

    python -m clients.run_inspector [URL [TOKEN]]        (from tests/, or with tests/ on PYTHONPATH)

URL and TOKEN are by default what `fabric env` prints. The tool is the one named in TOOL, with the JSON object ARGS;
else one called echo, else the first that needs no arguments. Both eras are tried, whatever becomes of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, cast

from clients import node

FOLDER = node.HERE / "inspector"
ERAS = ("legacy", "modern")
TIMEOUT_SECONDS = 60
REFUSED = """the server refuses this token: take the one that `fabric up` prints, as in
    make inspector URL=http://127.0.0.1:8420/mcp TOKEN=…        or        eval "$(fabric env)"; make inspector"""


class Failed(Exception):
    """The Inspector did not get what it was to get, in words."""


class Wanted(NamedTuple):
    """A call."""

    tool: str
    arguments: dict[str, Any]


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
        raise Failed(explained(done.returncode, done.stdout + done.stderr))
    return cast(dict[str, Any], json.loads(done.stdout)["result"])


def explained(code: int, said: str) -> str:
    """Why the Inspector ended with an error."""
    if "401" in said or "nauthorized" in said:
        return REFUSED
    return f"the Inspector ended with exit code {code}\n{said}"


def wanted(tools: list[dict[str, Any]], name: str | None, arguments: str | None) -> Wanted | None:
    """The call to make: that which was asked for, else one that does no harm and needs no thought, if there is any."""
    by_name = {str(tool["name"]): tool for tool in tools}
    if name is not None and name not in by_name:
        raise Failed(f"there is no tool {name}; there are: {', '.join(by_name) or 'none'}")
    given: dict[str, Any] | None = None if arguments is None else json.loads(arguments)
    echo = next((each for each in by_name if each == "echo" or each.endswith("_echo")), None)
    if name is None and echo is not None:
        return Wanted(echo, {"text": "hello"} if given is None else given)
    plain = (each for each, tool in by_name.items() if _reads(tool) and not tool["inputSchema"].get("required"))
    chosen = name or next(plain, None)
    return None if chosen is None else Wanted(chosen, given or {})


def _reads(tool: dict[str, Any]) -> bool:
    annotations = cast("dict[str, Any]", tool.get("annotations") or {})
    return annotations.get("readOnlyHint") is True


def tried(url: str, token: str | None, era: str, home: Path) -> None:
    """List and call in one era."""
    tools = inspect(url, token, era, "--method", "tools/list", home=home)["tools"]
    print(f"{era}: tools {', '.join(str(tool['name']) for tool in tools)}")
    call = wanted(tools, os.environ.get("TOOL") or None, os.environ.get("ARGS") or None)
    if call is None:
        print(f'{era}: no tool can be called without arguments: name one, as in TOOL=name ARGS=\'{{"text": "hi"}}\'')
        return
    how = ("--method", "tools/call", "--tool-name", call.tool, "--tool-args-json", json.dumps(call.arguments))
    print(f"{era}: {call.tool} answers {json.dumps(inspect(url, token, era, *how, home=home))}")


def main(url: str | None = None, token: str | None = None) -> int:
    url, token = url or os.environ.get("FABRIC_MCP_URL"), token or os.environ.get("FABRIC_TOKEN")
    if url is None:
        print('no URL: make inspector URL=http://127.0.0.1:8420/mcp TOKEN=…, or eval "$(fabric env)" before it')
        return 2
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        for era in ERAS:
            try:
                tried(url, token, era, Path(home))
            except Failed as why:
                print(f"{era}: {why}", file=sys.stderr)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
