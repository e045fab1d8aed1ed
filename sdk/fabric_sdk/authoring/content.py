"""Content that is not text or JSON: return these from a tool, alone or in a list with strings.

Above: authors; `tool` and `prompt`, which put it into their results. Below: nothing but JSON.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


class Block(ABC):
    """One MCP content block."""

    @abstractmethod
    def block(self) -> dict[str, Any]:
        """The block's JSON object."""


@dataclass(frozen=True, slots=True)
class Image(Block):
    """An image."""

    data: bytes
    mime_type: str = "image/png"

    def block(self) -> dict[str, Any]:
        return {"type": "image", "data": base64.b64encode(self.data).decode(), "mimeType": self.mime_type}


@dataclass(frozen=True, slots=True)
class Audio(Block):
    """A sound."""

    data: bytes
    mime_type: str = "audio/wav"

    def block(self) -> dict[str, Any]:
        return {"type": "audio", "data": base64.b64encode(self.data).decode(), "mimeType": self.mime_type}


@dataclass(frozen=True, slots=True)
class ResourceLink(Block):
    """A pointer to a resource that the caller may read."""

    uri: str
    name: str

    def block(self) -> dict[str, Any]:
        return {"type": "resource_link", "uri": self.uri, "name": self.name}
