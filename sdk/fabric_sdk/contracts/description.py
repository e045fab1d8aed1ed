"""What an agent says of itself: the MCP objects it offers, in MCP's own JSON forms (2026-07-28).

Above: agents, registry, gateway. Below: pydantic. Two instances with the same `digest` offer the same.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]


class Description(BaseModel):
    """An agent's name, version and everything it offers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str = "0.0.0"
    title: str | None = None
    description: str | None = None
    instructions: str | None = None
    kind: Literal["agent", "platform"] = "agent"
    """`platform` agents are parts of the fabric itself; a gateway shows them to operators only."""
    tools: list[Json] = Field(default_factory=list[Json])
    resources: list[Json] = Field(default_factory=list[Json])
    resource_templates: list[Json] = Field(default_factory=list[Json])
    prompts: list[Json] = Field(default_factory=list[Json])
    completions: bool = False

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with anything said here."""
        canonical = orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(canonical).hexdigest()[:16]

    def tool(self, name: str) -> Json | None:
        """The tool of this name, as `tools/list` shows it."""
        return next((tool for tool in self.tools if tool.get("name") == name), None)


class Beat(BaseModel):
    """One heartbeat: who is there, in what state, under what load. Published on `subjects.beat`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent: str
    instance: str
    version: str
    digest: str
    host: str
    pid: int
    started: float
    """Unix time in seconds."""
    capacity: int
    """Calls handled at once."""
    running: int = 0
    waiting: int = 0
    served: int = 0
    failed: int = 0
    state: Literal["ready", "draining", "gone"] = "ready"
