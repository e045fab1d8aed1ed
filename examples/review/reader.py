"""The agent `reader`: the one agent that touches the tree. It lists the sources and serves each as a resource.

    REVIEW_ROOT=. fabric worker examples/review/reader.py

Above: clients, which list, and the agents `linter` and `metrics`, which read. Below: `tree.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from tree import Tree

from fabric_sdk import Agent, UnknownName

agent = Agent("reader", version="1.0.0", description="Lists and reads the Python sources of one tree.")
tree = Tree.from_environment()


@dataclass
class Sources:
    """The Python sources of the tree."""

    paths: list[str]
    """Relative to the tree's root; `source://{path}` is the text."""


@agent.tool(name="list", annotations={"readOnlyHint": True})
def list_sources() -> Sources:
    """List the Python source files of the tree."""
    return Sources(tree.sources())


@agent.resource("source://{+path}", mime_type="text/x-python")
def source(path: str) -> str:
    """The text of a Python source file."""
    try:
        return tree.read(path)
    except FileNotFoundError:
        raise UnknownName(f"there is no Python source {path!r} in this tree") from None
    except (SyntaxError, UnicodeDecodeError) as broken:
        raise UnknownName(f"{path} is not text in the encoding it declares: {broken}") from None
    except OSError as closed:
        raise UnknownName(f"{path} cannot be read: {closed.strerror}") from None
