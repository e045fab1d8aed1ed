"""A gateway over HTTP: a message goes there, messages come back, and what goes wrong becomes one of our errors.

Above: `serving`, `bridge`, `handshake`, `relay`, `tools`. Below: httpx2. It reads no message: what one means is not its
business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx2

from fabric.settings import is_loopback
from fabric.stdio.messages import one_line
from fabric_sdk.contracts.errors import (
    ConfigurationError,
    FabricError,
    MessageTooLarge,
    TransportUnavailable,
    WorkerLost,
)

LONGEST: Final = 16 * 1024 * 1024
"""Bytes of one message, in either direction; a gateway takes less from a client, unless it is told to."""

_CONNECT_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 30.0
_SILENT_SECONDS: Final = 60.0
"""Without a sign of life; a gateway gives one every 15 s, however long a call takes."""
_IDLE: Final = 16
"""Connections that are kept for the next requests."""
_SHOWN: Final = 200
"""Characters of an answer that is no message, to show."""
_HEADERS: Final = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


class GatewayUnavailable(TransportUnavailable):
    """The gateway cannot be reached."""


class GatewayLost(WorkerLost):
    """The gateway hung up, or fell silent, before it answered; whether the request was carried out is unknown."""


class TokenRefused(FabricError):
    """The gateway asks for a token, and this one is not valid there."""

    started = False


class NotUnderstood(FabricError):
    """What answers is no MCP gateway."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one HTTP request."""

    status: int
    session: str | None
    """The session that it opened."""
    messages: AsyncIterator[bytes]
    """Each a JSON document on one line, as they come."""


class Gateway:
    """Speaks to one URL."""

    def __init__(self, url: str, token: str | None) -> None:
        """Raises ConfigurationError if no request can go to this URL, or with this token."""
        self._url = url
        self._client = httpx2.AsyncClient(
            headers=_HEADERS | _bearer(token),
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=_SILENT_SECONDS, write=_WRITE_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=_IDLE),
            trust_env=not is_loopback(host_of(url)),  # a proxy for the internet knows nothing of this machine
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def ask(
        self, body: bytes | None, headers: Mapping[str, str], *, method: str = "POST"
    ) -> AsyncGenerator[Reply]:
        """Send a request; who leaves the block before all messages have come hangs up.

        Raises, on entering and while messages are awaited:
            GatewayUnavailable: it was not sent.
            GatewayLost: no more comes.
            TokenRefused: the token is missing or wrong.
            MessageTooLarge: one of them is.
            NotUnderstood: the answer is something else.
        """
        try:
            async with self._client.stream(method, self._url, content=body, headers=headers) as response:
                if response.status_code == 401:
                    raise TokenRefused(fix="set FABRIC_TOKEN to a token of this gateway, where the host starts us")
                yield Reply(response.status_code, response.headers.get("mcp-session-id"), _messages(response))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as wrong:
            raise GatewayUnavailable(
                f"no gateway answers at {self._url}: {wrong}",
                fix="start it with `fabric up`, or name another with --url",
            ) from None
        except httpx2.SSEError:
            raise MessageTooLarge(f"the gateway sent a message of more than {LONGEST} bytes") from None
        except httpx2.HTTPError:
            raise GatewayLost(fix="ask again if a repeat does no harm") from None

    async def delete(self, headers: Mapping[str, str], *, timeout: float) -> None:
        """End a session, if that can be done in so many seconds."""
        with suppress(httpx2.HTTPError):
            await self._client.delete(self._url, headers=headers, timeout=timeout)


async def _messages(response: httpx2.Response) -> AsyncIterator[bytes]:
    if _type(response) == "text/event-stream":
        async for event in httpx2.EventSource(response, max_event_size=LONGEST):
            if event.data:
                yield one_line(event.data.encode())
        return
    body = await response.aread()
    if _type(response) == "application/json" and body:
        yield one_line(body)
    elif body or response.is_error:
        said = body[:_SHOWN].decode(errors="replace")
        raise NotUnderstood(f"what answers is no MCP gateway: HTTP {response.status_code} {said}".rstrip())


def _type(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _bearer(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError("the token cannot be sent", fix="it has to be printable ASCII without spaces")
    return {"authorization": f"Bearer {token}"}


def host_of(url: str) -> str:
    """The host that requests to this URL go to.

    Raises:
        ConfigurationError: none can.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:
        pass
    raise ConfigurationError(f"{url!r} is no URL of a gateway", fix="give one like http://127.0.0.1:8420/mcp")
