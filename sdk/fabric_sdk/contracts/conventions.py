"""What spans are called and what they say: OpenTelemetry's semantic conventions for messaging and for MCP.

Above: whoever begins a span, and whoever draws one. Below: nothing. A name of our own, where there is no convention,
begins with `fabric.`. No attribute ever holds arguments, results or the words of an error, which may quote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final


class Attribute:
    """Names of attributes."""

    METHOD: Final = "mcp.method.name"
    PROTOCOL: Final = "mcp.protocol.version"
    RESOURCE: Final = "mcp.resource.uri"
    REQUEST: Final = "jsonrpc.request.id"
    STATUS: Final = "rpc.response.status_code"  # JSON-RPC's error code
    OPERATION: Final = "gen_ai.operation.name"
    TOOL: Final = "gen_ai.tool.name"
    PROMPT: Final = "gen_ai.prompt.name"
    AGENT: Final = "gen_ai.agent.name"
    ERROR: Final = "error.type"
    USER: Final = "user.id"  # the principal's id, and nothing else of a person
    SYSTEM: Final = "messaging.system"
    DESTINATION: Final = "messaging.destination.name"
    DOING: Final = "messaging.operation.name"
    KIND: Final = "messaging.operation.type"
    MESSAGE: Final = "messaging.message.id"
    BATCH: Final = "messaging.batch.message_count"
    INSTANCE: Final = "service.instance.id"
    SERVICE: Final = "service.name"
    NAMESPACE: Final = "service.namespace"
    ATTEMPT: Final = "fabric.task.attempt"
    WAITED: Final = "fabric.waited"  # seconds between arrival and the handler's first step
    WAIT: Final = "fabric.wait"  # seconds until the next attempt


NATS: Final = "nats"
"""The value of `messaging.system`."""
TOOL_ERROR: Final = "tool_error"
"""The value of `error.type` where a tool's own result says that it is an error."""
EXECUTE_TOOL: Final = "execute_tool"
"""The value of `gen_ai.operation.name` for a call of a tool."""


@lru_cache(1024)
def named(method: str, target: str) -> Mapping[str, str]:
    """What an MCP request is, and what it is for."""
    said = {Attribute.METHOD: method}
    if not target:
        return said
    if method == "tools/call":
        return said | {Attribute.OPERATION: EXECUTE_TOOL, Attribute.TOOL: target}
    if method == "prompts/get":
        return said | {Attribute.PROMPT: target}
    if method == "resources/read":
        return said | {Attribute.RESOURCE: target.partition("?")[0]}
    return said


def title(method: str, target: str) -> str:
    """The name of an MCP request's span; a URI, of which there are many, is not in it."""
    return f"{method} {target}" if target and method in ("tools/call", "prompts/get") else method
