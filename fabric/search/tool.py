"""The tool `search_tools`: how a model finds a tool that it was not shown, and gets all it needs to call it.

Above: the gateway, which lists it and answers it itself. Below: the index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from fabric.search.index import ToolIndex
from fabric.search.words import MOST_CHARACTERS
from fabric_sdk.contracts.description import Json
from fabric_sdk.contracts.errors import InvalidParams

NAME: Final = "search_tools"
MOST_FOUND: Final = 50
_FOUND: Final = 10

SEARCH_TOOL: Final[Json] = {
    "name": NAME,
    "title": "Search for tools",
    "description": "Finds tools by what they do. There are more tools here than are listed: describe what you want to "
    "do in a few words, then call a tool that was found by its name, with arguments that fit its inputSchema.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "query": {
                "type": "string",
                "maxLength": MOST_CHARACTERS,
                "description": "What the tool should do, in a few words.",
            },
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": MOST_FOUND,
                "default": _FOUND,
                "description": "At most so many.",
            },
        },
        "required": ["query"],
        "additionalProperties": False,
    },
    "outputSchema": {
        "type": "object",
        "properties": {
            "tools": {
                "type": "array",
                "description": "The best first, each as tools/list shows it.",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "description": {"type": "string"},
                        "inputSchema": {"type": "object"},
                    },
                    "required": ["name", "inputSchema"],
                },
            }
        },
        "required": ["tools"],
    },
    "annotations": {"readOnlyHint": True, "idempotentHint": True, "openWorldHint": False},
}
"""As `tools/list` shows it."""


def answer(index: ToolIndex, arguments: Json, allowed: Callable[[str], bool]) -> Json:
    """The MCP result of a call with these arguments: the tools with their schemas, as text and as structure.

    Raises:
        InvalidParams: the arguments do not fit.
    """
    query, limit = _checked(arguments)
    structured = {"tools": index.search(query, limit, allowed)}
    return {
        "content": [{"type": "text", "text": orjson.dumps(structured).decode()}],
        "structuredContent": structured,
        "isError": False,
    }


def _checked(arguments: Json) -> tuple[str, int]:
    if others := arguments.keys() - SEARCH_TOOL["inputSchema"]["properties"].keys():
        raise InvalidParams(f"{NAME} takes query and limit, not {', '.join(sorted(others))}")
    query: Any = arguments.get("query")
    if not isinstance(query, str) or len(query) > MOST_CHARACTERS:
        raise InvalidParams(f"query must be a string of at most {MOST_CHARACTERS} characters")
    limit: Any = arguments.get("limit", _FOUND)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_FOUND:
        raise InvalidParams(f"limit must be a whole number from 1 to {MOST_FOUND}")
    return query, limit
