"""What an archive says of itself: what is in it, whence, and the hash of each part.

Above: archives. Below: pydantic. It refuses to know how an archive is written.
"""

from __future__ import annotations

from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fabric_sdk.contracts.errors import ConfigurationError

FORMAT: Final = 1
"""Grows when an older `restore` would no longer understand what is written."""


NUMBERS: Final = ("messages", "bytes", "last_seq")
"""Of a stream's state: what has to come back as it was."""


class Damaged(ConfigurationError):
    """This is no archive of a fabric, or not whole any more."""


class Part(BaseModel):
    """Something in the archive."""

    model_config = ConfigDict(frozen=True)

    size: int = 0
    """Bytes in the archive."""
    sha256: str = ""


class StreamPart(Part):
    """One stream, as the server packed it."""

    name: str
    config: dict[str, Any]
    """JetStream's own, as it was."""
    state: dict[str, Any]
    """`messages`, `bytes`, `last_seq`, … at the moment of its snapshot."""

    @property
    def messages(self) -> int:
        return int(self.state["messages"])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Restoring goes by these, when what was there is gone already."""
        numbers = (self.config.get("num_replicas"), *(self.state.get(name) for name in NUMBERS))
        if self.config.get("name") != self.name or not all(isinstance(each, int) for each in numbers):
            raise ValueError("a stream's name or numbers are missing")
        return self


class Manifest(BaseModel):
    """The table of contents."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    made: str
    """ISO 8601, in UTC: when the last stream was saved, which is the moment that tasks are restored to."""
    fabric: str
    """The version that made it …"""
    nats: str
    """… and the server's, which packed the streams."""
    records_before: int = 0
    """The last change of a task before the backup began: what came after it moved while it was made."""
    streams: tuple[StreamPart, ...] = ()
    started: Part = Field(default_factory=Part)
    """The tasks that were started while it was made."""
    configuration: dict[str, Part] = Field(default_factory=dict[str, Part])
    """Files, by name."""
    left_out: tuple[str, ...] = ()
    """Streams that are kept in memory alone: they do not outlive their server either."""


def read_manifest(text: bytes, path: object) -> Manifest:
    """What an archive says of itself.

    Raises:
        Damaged: it is none of ours.
        ConfigurationError: a later version made it.
    """
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError:
        raise Damaged(f"{path} is no backup of a fabric", fix="name a file that `fabric backup` wrote") from None
    if manifest.format > FORMAT:
        raise ConfigurationError(
            f"{path} was made by agent-fabric {manifest.fabric}, in a format that this version does not know",
            fix="restore it with that version or a later one",
        )
    return manifest


def is_older(server: str, packed: str) -> bool:
    """Whether a server is of an older release than the one that packed: it may not understand what it finds."""
    return _release(server) < _release(packed)


def _release(version: str) -> tuple[int, ...]:
    """Its first two numbers; none of what is no version."""
    numbers = version.split(".")[:2]
    return tuple(int(each) for each in numbers) if all(each.isdecimal() for each in numbers) else ()
