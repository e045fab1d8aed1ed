"""The REST door as an OpenAPI 3.1 document: what one kind of client sees, made from the catalogue.

Above: `rest`. Below: views. Pure but for its memory of the documents that it made, one for each view that is in use.
A tool's schemas are taken as they are; only references into themselves are moved with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final, cast
from urllib.parse import quote
from weakref import WeakKeyDictionary

import orjson

from fabric.gateway.view import View
from fabric_sdk.contracts.description import Json

_NO_KEY: Final = re.compile(r"[^A-Za-z0-9._-]")
_VALUES: Final = frozenset(("const", "default", "enum", "example", "examples"))
"""Keywords of JSON Schema that hold plain values, where `$ref` means nothing."""
_BY_NAME: Final = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
)
"""Keywords that hold schemas by names, which are no keywords, whatever they are."""


def moved(schema: Any, to: str) -> Any:
    """A JSON Schema whose root comes to stand at `to`, a URI fragment: references into itself follow it.

    One with an `$id` of its own, and references to anything else, stay as they are.
    """
    if isinstance(schema, list):
        return [moved(each, to) for each in cast("list[Any]", schema)]
    if not isinstance(schema, dict) or "$id" in schema:
        return cast("Any", schema)
    given = cast("Json", schema)
    return {keyword: _moved(keyword, value, to) for keyword, value in given.items()}


def _moved(keyword: str, value: Any, to: str) -> Any:
    if keyword in ("$ref", "$dynamicRef") and isinstance(value, str):
        return to + value.removeprefix("#") if value == "#" or value.startswith("#/") else value
    if keyword in _VALUES:
        return value
    if keyword in _BY_NAME and isinstance(value, dict):
        return {name: moved(each, to) for name, each in cast("Json", value).items()}
    return moved(value, to)


class OpenApi:
    """Documents, each made once for all who see the same."""

    def __init__(self, url: str) -> None:
        """`url` is where clients reach the gateway."""
        self._url = url
        self._made: WeakKeyDictionary[View, bytes] = WeakKeyDictionary()

    def of(self, view: View) -> bytes:
        """The document of what `view` shows, as JSON."""
        if (made := self._made.get(view)) is None:
            made = self._made[view] = orjson.dumps(document(view, self._url))
        return made


def document(view: View, url: str) -> Json:
    """The document of what `view` shows."""
    schemas: Json = {**_SCHEMAS}
    paths: Json = {**_PATHS}
    for tool in _tools(view):
        name: str = tool["name"]
        component = _free(schemas, name)
        arguments = _placed(schemas, f"{component}.arguments", tool.get("inputSchema") or {"type": "object"})
        result = _ref("Result")
        if (output := tool.get("outputSchema")) is not None:
            structured = _placed(schemas, f"{component}.structured", output)
            result = {"allOf": [result, {"type": "object", "properties": {"structuredContent": structured}}]}
        about = {member: tool[member] for member in ("description",) if tool.get(member)}
        if title := tool.get("title"):
            about["summary"] = title
        body = {"content": _json(arguments)}
        call: Json = {**about, "operationId": name, "tags": ["tools"], "requestBody": body}
        paths[f"/api/tools/{quote(name, safe='')}"] = {
            "post": {
                **call,
                "parameters": [_KEY],
                "responses": {"200": _streamed("What it answers.", result), "202": _WAITS, **_FAILURES},
            }
        }
        route = view.tools.get(name)
        if route is not None and route.policy is not None and route.policy.mcp != "never":
            started = {"description": "How the task stands.", "content": _json(_ref("Task"))}
            paths[f"/api/tasks/{quote(name, safe='')}"] = {
                "post": {
                    **call,
                    "operationId": f"{name}.task",
                    "tags": ["tasks"],
                    "parameters": [_KEY, *_WHEN],
                    "responses": {"202": started, **_FAILURES},
                }
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Agent Fabric", "version": version("agent-fabric")},
        "servers": [{"url": url}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _tools(view: View) -> Iterator[Json]:
    """The tools that a list shows, page by page."""
    cursor: str | None = None
    while True:
        page = view.page("tools/list", cursor)
        yield from page["tools"]
        if (cursor := page.get("nextCursor")) is None:
            return


def _free(schemas: Mapping[str, Any], name: str) -> str:
    """A name among the components for a tool: of the characters that may be there, and no other's."""
    key = _NO_KEY.sub("_", name)
    while f"{key}.arguments" in schemas:
        key += "_"
    return key


def _placed(schemas: Json, key: str, schema: Json) -> Json:
    schemas[key] = moved(schema, f"#/components/schemas/{key}")
    return _ref(key)


def _ref(component: str) -> Json:
    return {"$ref": f"#/components/schemas/{component}"}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _streamed(description: str, schema: Json) -> Json:
    """A response that may come as events, too."""
    return {
        "description": description,
        "content": {**_json(schema), "text/event-stream": {"schema": {"type": "string"}}},
    }


def _query(name: str, schema: Json, *, description: str, required: bool = False) -> Json:
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


def _get(operation: str, tag: str, result: Json, parameters: list[Json]) -> Json:
    responses = {"200": {"description": "What there is.", "content": _json(result)}, **_FAILURES}
    return {"get": {"operationId": operation, "tags": [tag], "parameters": parameters, "responses": responses}}


_PROBLEM: Final[Json] = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_FAILURES: Final[Json] = {"default": {"description": "Why there is no result.", **_PROBLEM}}
_WAITS: Final[Json] = {
    "description": "A person has to allow it first: the task that waits for that, at `Location`.",
    "headers": {"Location": {"schema": {"type": "string"}}},
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Task"}}},
}
_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same for every repetition of the same request; a task's is refused with other arguments.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_WHEN: Final[list[Json]] = [
    _query(
        "priority",
        {"enum": ["critical", "high", "normal", "low"], "default": "normal"},
        description="Which of several that wait is begun first.",
    ),
    _query("delay", {"type": "number", "minimum": 0}, description="Seconds before it may be begun."),
]
_CURSOR: Final = _query("cursor", {"type": "string"}, description="`nextCursor` of the page before.")
_OBJECT: Final[Json] = {"type": "object"}
_SCHEMAS: Final[Json] = {
    "Result": {
        "type": "object",
        "description": "MCP's CallToolResult.",
        "properties": {
            "content": {"type": "array", "items": _OBJECT},
            "structuredContent": _OBJECT,
            "isError": {"const": False},
        },
        "required": ["content"],
    },
    "Task": {
        "type": "object",
        "description": "A task as MCP's tasks extension shows it; with `result` or `error`, once it has ended.",
        "properties": {
            "taskId": {"type": "string"},
            "status": {"enum": ["working", "input_required", "completed", "failed", "cancelled"]},
            "createdAt": {"type": "string", "format": "date-time"},
            "lastUpdatedAt": {"type": "string", "format": "date-time"},
            "ttlMs": {"type": "integer"},
        },
        "required": ["taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs"],
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `code` and `data` are those of the JSON-RPC error, `content` what a tool reports.",
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "integer"},
        },
        "required": ["title", "status", "detail"],
    },
}
_TASK: Final[Json] = {"name": "task", "in": "path", "required": True, "schema": {"type": "string"}}
_PATHS: Final[Json] = {
    "/api/tools": _get("tools.list", "tools", _OBJECT, [_CURSOR]),
    "/api/prompts": _get("prompts.list", "prompts", _OBJECT, [_CURSOR]),
    "/api/prompts/{prompt}": {
        "post": {
            "operationId": "prompts.get",
            "tags": ["prompts"],
            "parameters": [{"name": "prompt", "in": "path", "required": True, "schema": {"type": "string"}}],
            "requestBody": {"content": _json({"type": "object", "additionalProperties": {"type": "string"}})},
            "responses": {"200": _streamed("MCP's GetPromptResult.", _OBJECT), **_FAILURES},
        }
    },
    "/api/resources": _get("resources.list", "resources", _OBJECT, [_CURSOR]),
    "/api/resources/templates": _get("resources.templates", "resources", _OBJECT, [_CURSOR]),
    "/api/resources/read": _get(
        "resources.read",
        "resources",
        _OBJECT,
        [_query("uri", {"type": "string"}, description="Which resource.", required=True)],
    ),
    "/api/tasks/{task}": {
        "parameters": [_TASK],
        "get": {
            "operationId": "tasks.get",
            "tags": ["tasks"],
            "responses": {"200": _streamed("How it stands; as events, each change.", _ref("Task")), **_FAILURES},
        },
        "delete": {
            "operationId": "tasks.cancel",
            "tags": ["tasks"],
            "responses": {"200": {"description": "How it ended.", "content": _json(_ref("Task"))}, **_FAILURES},
        },
    },
}
