"""Who may enter: pure decisions on a request's headers, made before its body is read.

Above: `app`. Below: settings. One pass over the headers gathers what every later step needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fabric.settings import Settings

ROUTING: Final = frozenset((b"mcp-protocol-version", b"mcp-method", b"mcp-name"))
_DECIDING: Final = frozenset((b"host", b"origin", b"authorization"))
"""What `Admission` decides by. A proxy may have looked at another line than this gateway, so each comes once or not."""
_WANTED: Final = ROUTING.union(
    _DECIDING,
    (b"accept", b"content-type", b"content-length", b"mcp-session-id", b"last-event-id", b"traceparent", b"tracestate"),
    (b"idempotency-key",),
)
_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))
_MOST_DECIDED: Final = 256
_SPACE: Final = b" \t"
"""Optional white space around a header's value (RFC 9110), which httptools leaves in place."""


class Headers(dict[bytes, bytes]):
    """The headers the gateway looks at, by lower-case name."""

    twice: bytes | None = None
    """A routing header that came twice."""
    undecided: bytes | None = None
    """A header that decides who enters, and came twice."""


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that matter, without the white space around their values."""
    headers = Headers()
    for name, value in raw:
        if name in _WANTED:
            stripped = value.strip(_SPACE)
            if name in headers:
                if name in ROUTING:
                    headers.twice = name
                elif name in _DECIDING:
                    headers.undecided = name
                elif name == b"accept":  # the one list among them, which may come in several lines
                    stripped = headers[name] + b", " + stripped
            headers[name] = stripped
    return headers


@dataclass(frozen=True, slots=True)
class Denied:
    """Why a request does not enter."""

    status: int
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Admission:
    """Decides who enters, by Host and Origin, and reads the token of whoever does."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = _LOOPBACK | {_as_in_url(host) for host in (settings.host, *settings.allowed_hosts)}
        self._origins = set(settings.allowed_origins)
        self._decided: dict[tuple[bytes, bytes | None, bytes | None], bytes | Denied] = {}
        """What was decided of the same three headers before: of one client they are always the same."""

    def decide(self, headers: Headers) -> bytes | Denied:
        """The bearer token of the sender of these headers, empty for none, or why it may not enter at all."""
        if headers.undecided is not None:
            return Denied(400, f"the {headers.undecided.decode().title()} header came more than once; send it once")
        said = (headers.get(b"host", b""), headers.get(b"origin"), headers.get(b"authorization"))
        if (decided := self._decided.get(said)) is None:
            if len(self._decided) >= _MOST_DECIDED:
                self._decided.clear()
            decided = self._decided[said] = self._decide(*said)
        return decided

    def _decide(self, stated_host: bytes, origin: bytes | None, authorization: bytes | None) -> bytes | Denied:
        host = _without_port(stated_host.decode("latin-1"))
        if host not in self._hosts:
            return Denied(421, f"this gateway does not answer for host {host!r}")
        if origin is not None and not self._knows_origin(origin.decode("latin-1")):
            return Denied(403, "this origin may not use the gateway")
        if authorization is None:
            return b""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not (token := token.strip()):
            return Denied(401, "the Authorization header must be a bearer token", ((b"www-authenticate", b"Bearer"),))
        return token

    def _knows_origin(self, origin: str) -> bool:
        return origin in self._origins or _without_port(origin.partition("://")[2]) in self._hosts


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _as_in_url(host: str) -> str:
    """A host as a client names it: an IPv6 address in brackets."""
    return (f"[{host}]" if ":" in host and not host.startswith("[") else host).lower()


@lru_cache(256)
def is_json(content_type: bytes) -> bool:
    """Whether a `Content-Type` says that a body is JSON."""
    return content_type.partition(b";")[0].rstrip().lower() == b"application/json"


@lru_cache(256)
def takes_json(accept: bytes) -> bool:
    """Whether an `Accept` header, empty for none, allows JSON."""
    accept = accept.lower()
    return not accept or b"json" in accept or b"*/*" in accept or b"application/*" in accept


@lru_cache(256)
def takes_events(accept: bytes) -> bool:
    """Whether an `Accept` header asks for server-sent events."""
    return b"text/event-stream" in accept.lower()
