"""The agent `metrics`: how large and how complex a source file is, measured on its syntax tree.

    fabric worker examples/review/metrics.py

Above: clients. Below: the agent `reader`, which has the source, and the standard library's `ast`.
"""

from __future__ import annotations

import ast
import asyncio
import threading
from dataclasses import dataclass
from typing import Final

from reviewing import Reviewer, source_of

from fabric_sdk import Agent, Context

agent = Agent("metrics", version="1.0.0", description="Measures size and complexity of Python sources.")


@dataclass
class Function:
    """One function or method."""

    name: str
    line: int
    lines: int
    complexity: int = 1
    """Cyclomatic: ways through it; one, and one more for each decision. Functions inside it are counted apart."""
    nesting: int = 0
    """How deep its blocks stand in each other."""


@dataclass
class Measures:
    """The numbers of a file."""

    lines: int
    functions: int = 0
    nesting: int = 0
    """Of the function with the deepest."""
    most_complex: Function | None = None
    largest: Function | None = None
    broken: str | None = None
    """Why there is no syntax tree, if there is none; then only the lines are counted."""


@dataclass
class Measured:
    """The numbers of a file, and whose they are."""

    path: str
    measures: Measures
    reviewer: Reviewer


@agent.tool(annotations={"readOnlyHint": True})
async def measure(path: str, ctx: Context) -> Measured:
    """Measure one source file; `path` as `reader` lists it."""
    source = await source_of(path, ctx)
    # In a thread: a large file takes a while, and the worker has to say meanwhile that it is alive.
    return Measured(path, await asyncio.to_thread(measures, source), Reviewer.of(ctx))


def measures(source: str) -> Measures:
    """The numbers of a text."""
    found = Measures(lines=source.count("\n") + (not source.endswith("\n") and source != ""))
    try:
        with _PARSING:
            tree = ast.parse(source)
        functions = _functions(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as broken:  # what `ast.parse` says of odd texts
        found.broken = f"{type(broken).__name__}: {broken}"
        return found
    if functions:
        found.functions = len(functions)
        found.nesting = max(function.nesting for function in functions)
        found.most_complex = max(functions, key=lambda function: function.complexity)
        found.largest = max(functions, key=lambda function: function.lines)
    return found


_PARSING: Final = threading.Lock()
"""Python before 3.11.8 counts the depth of all trees that are being made together, and stumbles over it."""
_BLOCKS: Final = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_DECISIONS: Final = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


@dataclass(slots=True)
class _Place:
    """Where a node stands."""

    node: ast.AST
    names: tuple[str, ...] = ()
    """Of the classes and functions around it."""
    function: Function | None = None
    depth: int = 0
    """Blocks around it in its function."""


def _functions(module: ast.Module) -> list[Function]:
    """All functions of a module. A list of places still to go to, not recursion: some trees are very deep."""
    found: list[Function] = []
    places = [_Place(module)]
    while places:
        place = places.pop()
        node = place.node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            place.names = (*place.names, node.name)
            place.depth = 0
            place.function = None
            if not isinstance(node, ast.ClassDef):
                place.function = _function(node, place.names)
                found.append(place.function)
        elif place.function is not None:
            place.function.complexity += _decisions(node)
            place.function.nesting = max(place.function.nesting, place.depth)
        places += [
            _Place(child, place.names, place.function, place.depth + _opens_block(node, child))
            for child in ast.iter_child_nodes(node)
        ]
    return found


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, names: tuple[str, ...]) -> Function:
    return Function(".".join(names), node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)


def _decisions(node: ast.AST) -> int:
    """How many ways through a function `node` adds."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return isinstance(node, _DECISIONS)


def _opens_block(parent: ast.AST, child: ast.AST) -> bool:
    """Whether `child` stands one block deeper than `parent`. An `elif` does not: it begins where its `if` does."""
    if not isinstance(child, _BLOCKS):
        return False
    is_elif = isinstance(parent, ast.If) and child in parent.orelse and child.col_offset == parent.col_offset
    return not is_elif
