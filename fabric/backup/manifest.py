"""What an archive says of itself: what is in it, whence, and the hash of each part.

Above: archives. Below: pydantic. It refuses to know how an archive is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fabric_sdk.contracts.errors import ConfigurationError

FORMAT: Final = 1
"""Grows when an older `restore` would no longer understand what is written."""


NUMBERS: Final = ("messages", "bytes", "last_seq")
"""Of a stream's state: what has to come back as it was."""


class Damaged(ConfigurationError):
    """This is no archive of a fabric, or not whole any more."""


_LONGEST_NAME: Final = 255
"""Bytes of a file's or folder's name: what an operating system takes, and so the server, which calls a folder so."""
_LONGEST_PATH: Final = 1024
_MOST_REPLICAS: Final = 5


def _checked_path(path: str) -> str:
    """A file's name that restoring can lay out, before what was there is gone."""
    longest = max(len(part.encode()) for part in path.split("/"))
    if not path or "\0" in path or longest > _LONGEST_NAME or len(path.encode()) > _LONGEST_PATH:
        raise ValueError("no file can be called so")
    return path


_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Words = Annotated[str, Field(max_length=_LONGEST_NAME)]


class Part(BaseModel):
    """Something in the archive."""

    model_config = ConfigDict(frozen=True)

    size: _Count = 0
    """Bytes in the archive."""
    sha256: str = ""


class StreamPart(Part):
    """One stream, as the server packed it."""

    name: Annotated[str, Field(pattern=r"^FAB_[A-Z0-9_]{1,60}$")]
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
        fit = all(type(each) is int and 0 <= each < 2**64 for each in numbers)
        if self.config.get("name") != self.name or not fit or not 1 <= self.config["num_replicas"] <= _MOST_REPLICAS:
            raise ValueError("a stream's name or numbers are missing, or cannot be")
        return self


class StartedTask(BaseModel):
    """A task's message that came while the backup was made, as a line of the archive."""

    model_config = ConfigDict(frozen=True)

    subject: Annotated[str, Field(pattern=r"^fab\.task\.[^.\s]+\.[^.\s]+\.[^.\s]+$")]
    headers: dict[str, str]
    body: Base64Bytes


class Manifest(BaseModel):
    """The table of contents."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    made: _Words
    """ISO 8601, in UTC: when the last stream was saved, which is the moment that tasks are restored to."""
    fabric: _Words
    """The version that made it …"""
    nats: _Words
    """… and the server's, which packed the streams."""
    records_before: _Count = 0
    """The last change of a task before the backup began: what came after it moved while it was made."""
    streams: tuple[StreamPart, ...] = ()
    started: Part = Field(default_factory=Part)
    """The tasks that were started while it was made."""
    configuration: dict[Annotated[str, AfterValidator(_checked_path)], Part] = Field(default_factory=dict[str, Part])
    """Files, by name."""
    left_out: tuple[str, ...] = ()
    """Streams that are kept in memory alone: they do not outlive their server either."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len({part.name for part in self.streams}) < len(self.streams):
            raise ValueError("a stream is in it twice")
        if any(folder.as_posix() in self.configuration for name in self.configuration for folder in Path(name).parents):
            raise ValueError("a file is a folder, too")
        return self


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
