"""What an agent says of itself: the MCP objects it offers, in MCP's own JSON forms (2026-07-28).

Above: agents, registry, gateway. Below: pydantic. Two instances of an agent with the same `digest` offer the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.subjects import checked_agent_name, checked_capability, checked_token

Json = dict[str, Any]

_MOST_SHOWN: Final = 64
_LABEL: Final = "[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"
_MOST_TRAITS: Final = 16
"""Capabilities of one agent, and labels: every heartbeat carries them."""


def _with(member: str) -> AfterValidator:
    """An offer without what it is asked for by is none."""

    def check(offer: Json) -> Json:
        if not isinstance(offer.get(member), str):
            raise ValueError(f"{member} must be a string")
        for inner in ("inputSchema", "outputSchema", "annotations", "_meta"):
            if not isinstance(offer.get(inner, {}), dict):
                raise ValueError(f"{inner} must be an object")
        return offer

    return AfterValidator(check)


def _wrapped(check: Callable[[str], str]) -> AfterValidator:
    def checked(name: str) -> str:
        try:
            return check(name)
        except ConfigurationError as wrong:
            raise ValueError(str(wrong)) from None

    return AfterValidator(checked)


AgentName = Annotated[str, _wrapped(checked_agent_name)]
Instance = Annotated[str, _wrapped(checked_token)]
"""Both stand in subjects, so nothing else is ever taken from the wire."""
Capabilities = Annotated[list[Annotated[str, _wrapped(checked_capability)]], Field(max_length=_MOST_TRAITS)]
Label = Annotated[str, Field(pattern=f"^{_LABEL}$")]
Labels = Annotated[dict[Label, Label], Field(max_length=_MOST_TRAITS)]
Digest = Annotated[str, _wrapped(checked_token)]
"""Names a description, together with the agent's name: each agent has only its own to give away."""
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
"""What every JSON library carries exactly."""
Shown = Annotated[str, AfterValidator(lambda text: text[:_MOST_SHOWN])]
"""For people to read: cut rather than refused, as nothing depends on it."""


def _digest_of(said: Json) -> str:
    """16 hexadecimal digits that change with anything said."""
    canonical = orjson.dumps(to_jsonable_python(said), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:16]


class Description(BaseModel):
    """An agent's name, version and everything it offers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: AgentName
    version: str = "0.0.0"
    title: str | None = None
    description: str | None = None
    instructions: str | None = None
    kind: Literal["agent", "platform"] = "agent"
    """`platform` agents are parts of the fabric itself; a gateway does not show them, unless one is its root."""
    tools: list[Annotated[Json, _with("name")]] = Field(default_factory=list[Json])
    resources: list[Annotated[Json, _with("uri")]] = Field(default_factory=list[Json])
    resource_templates: list[Annotated[Json, _with("uriTemplate")]] = Field(default_factory=list[Json])
    prompts: list[Annotated[Json, _with("name")]] = Field(default_factory=list[Json])
    capabilities: Capabilities = Field(default_factory=list[str])
    """What it can do, in words that other agents share: whoever has one takes what is addressed to it."""
    labels: Labels = Field(default_factory=dict[str, str])
    """By what else it is found."""
    streams: list[Annotated[Json, _with("name")]] = Field(default_factory=list[Json])
    """What `Fabric.agent(…).open` can open: each with a name."""
    completions: bool = False
    digest: Digest = Field(default_factory=_digest_of)
    """Changes with anything said above. Made by the sender alone: a receiver may not know all that was said."""

    def as_asked(self, agent: str, digest: str) -> Description:
        """This, if it is what `agent` announces under `digest`.

        Raises:
            ValueError: it is another agent's, or says something else.
        """
        if (self.name, self.digest) != (agent, digest):
            raise ValueError(f"{agent} {digest} was asked for, and {self.name} {self.digest} came")
        return self

    def tool(self, name: str) -> Json | None:
        """The tool of this name, as `tools/list` shows it."""
        return next((tool for tool in self.tools if tool.get("name") == name), None)


class Beat(BaseModel):
    """One heartbeat: who is there, in what state, under what load. Published on `subjects.beat`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent: AgentName
    instance: Instance
    version: Shown
    digest: Digest
    host: Shown
    pid: Count
    started: float = Field(ge=0, lt=1e11)
    """Unix time in seconds."""
    capacity: Count
    """Calls handled at once."""
    running: Count = 0
    waiting: Count = 0
    served: Count = 0
    failed: Count = 0
    state: Literal["ready", "draining", "gone"] = "ready"
    capabilities: Capabilities = Field(default_factory=list[str])
    labels: Labels = Field(default_factory=dict[str, str])
    """Both as in the description: found without it."""


def checked_traits(capabilities: Collection[str], labels: Mapping[str, str]) -> Json:
    """What an author says of an agent beside its offers, as a description has it.

    Raises:
        ConfigurationError: it cannot be said so.
    """
    if isinstance(capabilities, str):
        raise ConfigurationError(f"capabilities are several, not {capabilities!r}", fix=f'write {{"{capabilities}"}}')
    if max(len(capabilities), len(labels)) > _MOST_TRAITS:
        raise ConfigurationError(f"an agent has at most {_MOST_TRAITS} capabilities, and as many labels")
    for text in (*labels, *labels.values()):
        if re.fullmatch(_LABEL, text) is None:
            raise ConfigurationError(
                f"{text!r} cannot stand in a label", fix="use letters, digits, dots, hyphens, underscores and slashes"
            )
    return {"capabilities": sorted(map(checked_capability, set(capabilities))), "labels": dict(sorted(labels.items()))}
