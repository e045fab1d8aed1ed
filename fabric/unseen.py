"""Text from elsewhere, made harmless to whoever reads it at a terminal, or line by line.

Above: `cli`, `logs`. Below: nothing.
"""

from __future__ import annotations

import re
from typing import Final

_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of text, and halves of characters."""


def seen(text: str, *, but: str = "") -> str:
    """`text`, in which what is no visible character, `but` for these, is spelled out."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in but else ascii(found[0])[1:-1], text)


def seen_in_json(document: str) -> str:
    """A document of JSON with the same spelled out in its strings, as JSON does; its own line breaks stay."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", document)
