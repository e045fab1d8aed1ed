"""Headers as they travel, in NATS's own form (ADR-4 of NATS), whichever way they go.

Above: `nats`, `frames`. Below: text. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PLAIN: Final = b"NATS/1.0\r\n"
"""How headers begin that a client wrote; the server's own begin with a status."""
_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")


def encode_headers(headers: Mapping[str, str] | None) -> bytes:
    """Headers as bytes, empty for none; a line break in a value would begin another header."""
    if not headers:
        return b""
    lines = [f"{name}: {_on_one_line(value)}\r\n" for name, value in headers.items()]
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def _on_one_line(value: str) -> str:
    return value.translate(_LINE_BREAKS) if "\n" in value or "\r" in value else value


def read_headers(encoded: bytes) -> dict[str, str]:
    """Headers as they came; of a name that came twice, the first.

    Raises:
        ValueError: they are no text.
    """
    headers: dict[str, str] = {}
    for line in encoded[len(PLAIN) : -4].decode().split("\r\n"):
        name, _, value = line.partition(":")
        headers.setdefault(name, value.strip())
    return headers
