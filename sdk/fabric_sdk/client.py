"""The way in: `async with Fabric.connect() as fabric: await fabric.agent("reader").call("read", {...})`.

Above: authors and the command line. Below: `patterns.call` over a transport. Results come back as Python values.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from fabric_sdk.contracts import errors
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import scope_for
from fabric_sdk.contracts.subjects import checked_agent_name
from fabric_sdk.patterns.call import Call, Caller
from fabric_sdk.routing.retry import is_safe
from fabric_sdk.transports.base import Transport
from fabric_sdk.transports.nats import NatsTransport

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds a call may take if its caller does not say."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")

OnProgress = Callable[[float, float | None, str | None], None]
"""Hears progress: how far, of how much, in words."""

WRAPPED: Final = "fabric/wrapped"
"""In a result's `_meta`: `structuredContent` is `{"result": value}` because `value` is no JSON object."""


class NativeResult(Body):
    """A tool's result that still holds the Python value it came from, for callers in the same process."""

    __slots__ = ("native",)
    native: Any


class Fabric:
    """A connection to a fabric, over any transport."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.caller = Caller(transport)

    @staticmethod
    @asynccontextmanager
    async def connect(url: str | None = None) -> AsyncGenerator[Fabric]:
        """Connect to the fabric at the NATS `url`, by default that of the environment's `FABRIC_NATS_URL`.

        Raises:
            ConfigurationError: there is no URL.
            TransportUnavailable: no NATS server answers there.
        """
        url = url or os.environ.get("FABRIC_NATS_URL")
        if not url:
            raise errors.ConfigurationError(
                "no fabric to connect to", fix="start one with `fabric up` and set FABRIC_NATS_URL to the URL it prints"
            )
        transport = await NatsTransport.connect(url)
        try:
            async with Fabric.over(transport) as fabric:
                yield fabric
        finally:
            await transport.close()

    @staticmethod
    @asynccontextmanager
    async def over(transport: Transport) -> AsyncGenerator[Fabric]:
        """A client over a transport that is open already, and stays open."""
        fabric = Fabric(transport)
        await fabric.caller.open()
        try:
            yield fabric
        finally:
            await fabric.caller.close()

    def agent(self, name: str) -> AgentClient:
        """The agent called `name`, wherever its instances are.

        Raises:
            ConfigurationError: nothing can have this name.
        """
        return AgentClient(self.caller, checked_agent_name(name))


class AgentClient:
    """One agent, seen from a caller."""

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self.name = name

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        key: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """Call a tool and return its value.

        A call inside a handler ends no later than the call being handled. If a worker is lost on the way, the call
        goes to another one when the tool is marked read-only or idempotent, or when `key` is given.

        Args:
            tool: the tool's name.
            arguments: its arguments, by name.
            timeout: seconds.
            key: idempotency key, the same for every repetition of the same piece of work.
            on_progress: hears how far the work is.

        Raises:
            ToolError: the tool reported an error.
            FabricError: the call did not reach a tool or its answer did not come; see `patterns.call`.
        """

        async def safe() -> bool:
            described = (await self.describe()).tool(tool)
            return is_safe(described.get("annotations") if described else None)

        call = Call(
            self.name,
            "tools/call",
            Body({"name": tool, "arguments": arguments or {}}),
            scope_for(timeout),
            safe=safe if key is None else True,
            key=None if key is None else _checked_key(key),
            on_frame=_progress_to(on_progress) if on_progress else None,
        )
        return _value_of(await self._caller.call(call))

    async def read(self, uri: str, *, timeout: float = DEFAULT_TIMEOUT) -> list[dict[str, Any]]:
        """Read a resource: its MCP contents, each with `uri`, `mimeType` and `text` or `blob` (base64)."""
        return (await self._ask("resources/read", {"uri": uri}, timeout))["contents"]

    async def prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> list[dict[str, Any]]:
        """Fill in a prompt: its MCP messages, each with `role` and `content`."""
        return (await self._ask("prompts/get", {"name": name, "arguments": arguments or {}}, timeout))["messages"]

    async def describe(self, *, timeout: float = DEFAULT_TIMEOUT, instance: str | None = None) -> Description:
        """What the agent says of itself; `instance` asks a certain one."""
        return Description.model_validate(await self._ask("fabric/describe", {}, timeout, instance))

    async def _ask(self, method: str, params: dict[str, Any], timeout: float, instance: str | None = None) -> Any:
        """Call a method that only reads."""
        call = Call(self.name, method, Body(params), scope_for(timeout), safe=True, instance=instance)
        return (await self._caller.call(call)).value()


def _checked_key(key: str) -> str:
    """`key`, if it can travel in a header."""
    if _KEY.fullmatch(key) is None:
        raise errors.InvalidParams("an idempotency key has 1 to 128 printable ASCII characters without spaces")
    return key


def _progress_to(listener: OnProgress) -> Callable[[str, Body], None]:
    def hear(kind: str, frame: Body) -> None:
        if kind == "progress":
            progress: dict[str, Any] = frame.value()
            listener(progress["progress"], progress.get("total"), progress.get("message"))

    return hear


def _value_of(result: Body) -> Any:
    """The Python value in an MCP tool result: what the tool returned, else its text, else its content blocks."""
    if isinstance(result, NativeResult):
        return result.native
    value: dict[str, Any] = result.value()
    content: list[dict[str, Any]] = value.get("content") or []
    if value.get("isError"):
        text = "\n".join(block.get("text", "") for block in content if block.get("type") == "text")
        raise errors.ToolError(text or None, data=content)
    if "structuredContent" in value:
        structured = value["structuredContent"]
        meta: dict[str, Any] = value.get("_meta") or {}
        wrapped = meta.get(WRAPPED) or meta.get("fastmcp", {}).get("wrap_result")
        return structured["result"] if wrapped else structured
    if len(content) == 1 and content[0].get("type") == "text":
        return content[0]["text"]
    return content or None
