"""CONTRIBUTING.md, the packages' own docstrings and the SDK's list of the platform's agents leave out nothing there is.

Proves: no row.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.pages import ROOT, codes, read, table
from fabric.access.service import agent as access
from fabric.approvals.service import build as build_approvals
from fabric.audit.service import agent as audit
from fabric.durable.service import agent as durable
from fabric.registry.service import build as build_registry
from fabric_sdk.contracts import subjects

ROOTS = {"fabric": ROOT / "fabric", "sdk/fabric_sdk": ROOT / "sdk" / "fabric_sdk"}


def parts(package: Path) -> set[str]:
    """The modules and packages in a package."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return modules | {path.parent.name for path in package.glob("*/__init__.py")}


def named(root: str) -> set[str]:
    """What of a root the map of CONTRIBUTING.md names. A name without a folder is of that of the one before it."""
    found: set[str] = set()
    for row in table(read("CONTRIBUTING.md"), "room", "what it does"):
        folder = ""
        for code in codes(row["room"]):
            folder = next((each for each in ROOTS if code.startswith(f"{each}/")), "" if "/" in code[:-1] else folder)
            if folder == root:
                found.add(code.removeprefix(f"{root}/").removesuffix(".py").rstrip("/"))
    return found


@pytest.mark.parametrize("root", ROOTS)
def test_contributing_names_each_room_and_none_that_is_not_there(root: str) -> None:
    assert named(root) == parts(ROOTS[root])


PACKAGES = sorted(
    path.parent.relative_to(ROOT).as_posix() for root in ROOTS.values() for path in root.rglob("__init__.py")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_docstring_that_lists_modules_lists_them_all(package: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))) or ""
    listed = [line for line in text.splitlines() if line.startswith("    ")]
    missing = {part for part in parts(ROOT / package) if not re.search(rf"  {part} ", "\n".join(listed))}
    assert not listed or missing == set()


def test_each_module_says_what_is_above_and_below_it() -> None:
    modules = {path: path.read_text(encoding="utf-8") for root in ROOTS.values() for path in root.rglob("[!_]*.py")}
    said = {path: ast.get_docstring(ast.parse(text)) or "" for path, text in modules.items()}
    assert [path for path, text in said.items() if not ("Above:" in text and "Below:" in text)] == []


async def test_the_names_that_no_author_may_take_are_those_of_the_platforms_agents() -> None:
    """The SDK has to know them, and must not import the platform."""
    approvals, registry = (
        build_approvals(ROOT / "fabric" / "policy" / "default.yaml"),
        build_registry("redis://nowhere"),
    )
    described = [await agent.describe() for agent in (access, approvals, audit, durable, registry)]
    kept = subjects._OF_PLATFORM  # pyright: ignore[reportPrivateUsage]
    assert {(each.name, each.kind) for each in described} == {(name, "platform") for name in kept}
