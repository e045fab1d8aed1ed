"""Mounts: another agent's tools, shown by an agent as `<prefix>_<tool>` to whoever holds its token.

Above: the agent `access`, the gateway's compositor. Below: the fabric's tables. A mount shows what its target itself
offers, never what is mounted there, so mounts cannot run in circles.
"""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.description import AgentName
from fabric_sdk.contracts.errors import ConfigurationError, InvalidParams, UnknownName
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.contracts.subjects import checked_agent_name
from fabric_sdk.jetstream import JetStream, StoredMessage, Table, WrongSequence

log = logging.getLogger(__name__)

ROWS: Final = subjects.access("mount")
"""What the subjects of mounts begin with; `<agent>.<prefix>` follows."""


def _prefix(prefix: str) -> str:
    # As an agent's name, so that `<prefix>_<tool>` splits at its first underscore.
    try:
        return checked_agent_name(prefix)
    except ConfigurationError as wrong:
        raise ValueError(f"{prefix!r} cannot be a prefix; {wrong.fix}") from None


Prefix = Annotated[str, AfterValidator(_prefix)]
Glob = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*?\[\]!-]{1,128}$")]
"""Names of tools: `*` stands for anything, `?` for one character, `[ab]` for one of these."""
Globs = Annotated[tuple[Glob, ...], Field(min_length=1)]


class Mount(BaseModel):
    """One agent's tools, shown by another."""

    model_config = ConfigDict(frozen=True)

    agent: AgentName
    """Who shows them."""
    prefix: Prefix
    """What stands before their names."""
    target: AgentName
    """Whose they are."""
    tools: Globs | None = None
    """Which of them; all, by default."""

    def shows(self, tool: str) -> bool:
        """Whether the target's tool of this name is among them."""
        return self.tools is None or any(fnmatchcase(tool, glob) for glob in self.tools)


def mount_of(value: Any) -> Mount | None:
    """The mount that a row says, if it says one."""
    try:
        return Mount.model_validate(value)
    except ValueError:
        return None


def refusal(wanted: Mount, there: Mount | None) -> InvalidParams | None:
    """Why `wanted` cannot be mounted where `there` is what the agent has under this prefix."""
    if wanted.agent == wanted.target:
        return InvalidParams(f"agent {wanted.agent!r} cannot be mounted in itself", fix="mount another agent")
    if there is not None and there != wanted:
        return InvalidParams(
            f"agent {wanted.agent!r} has something else under the prefix {wanted.prefix!r}: {there.target}",
            fix=f"take another prefix, or `fabric unmount {wanted.agent} {wanted.prefix}` first",
        )
    return None


class MountStore:
    """Keeps mounts, and forgets them. It holds nothing itself: what it reads is what the broker has."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._table = Table(jetstream, ACCESS, ROWS)

    async def add(self, mount: Mount) -> None:
        """Mount; the same again changes nothing.

        Raises:
            InvalidParams: an agent in itself, or the prefix is taken.
            FabricError: the broker refuses, or does not answer.
        """
        while True:
            row, there = await self._row(mount.agent, mount.prefix)
            if (refused := refusal(mount, there)) is not None:
                raise refused
            if there is not None:
                return
            key, value = f"{mount.agent}.{mount.prefix}", mount.model_dump(mode="json")
            try:
                await self._table.put(key, value, expected=row.sequence if row else 0)
                return
            except WrongSequence:
                continue  # somebody wrote here in between, perhaps we, unheard: look again

    async def all(self, agent: str = "*") -> list[Mount]:
        """Every mount of one agent or all, the oldest first."""
        await self._jetstream.ensure(ACCESS)
        rows = self._jetstream.every(ACCESS, f"{ROWS}{agent}.*")
        return [mount async for row in rows if (mount := _mount(row)) is not None]

    async def remove(self, agent: str, prefix: str) -> Mount:
        """Unmount; tells what was mounted.

        Raises:
            UnknownName: the agent has nothing under this prefix.
            FabricError: the broker refuses, or does not answer.
        """
        was: Mount | None = None
        while True:
            row, there = await self._row(agent, prefix)
            if row is None or there is None:
                if was is not None:  # removed by us, unheard, or by somebody else in this moment
                    return was
                raise UnknownName(
                    f"agent {agent!r} has nothing under the prefix {prefix!r}",
                    fix="`fabric mounts` lists what there is",
                )
            was = there
            try:
                await self._table.remove(f"{agent}.{prefix}", expected=row.sequence)
                return there
            except WrongSequence:
                continue

    async def _row(self, agent: str, prefix: str) -> tuple[StoredMessage | None, Mount | None]:
        await self._jetstream.ensure(ACCESS)
        row = await self._jetstream.last(ACCESS, f"{ROWS}{agent}.{prefix}")
        return row, _mount(row) if row is not None else None


def _mount(row: StoredMessage) -> Mount | None:
    if not row.body.encoded():  # it was removed
        return None
    try:
        value = row.body.value()
    except ValueError:
        value = None
    if (mount := mount_of(value)) is None:
        log.warning("%s is not as the fabric writes mounts: it shows nothing", row.subject)
    return mount
