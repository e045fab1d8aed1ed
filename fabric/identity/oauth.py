"""What OAuth 2.1 says between a client and a resource server: refusals, challenges, and where tokens come from.

Above: the authenticator, the gateway. Below: nothing; pure functions of what they are given (RFC 6750, RFC 9728).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from fabric_sdk.contracts.errors import FabricError

Refusal = Literal["invalid_request", "invalid_token", "insufficient_scope"]
"""RFC 6750's error codes; they go with the HTTP statuses 400, 401 and 403."""

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_NOT_QUOTABLE: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
"""What may not stand in `error_description`; it may have been quoted from a token, so it could be a line's end."""


class Unauthenticated(FabricError):
    """The token is not accepted."""

    code = 4010
    started = False

    def __init__(
        self, message: str | None = None, *, fix: str | None = None, error: Refusal | None = "invalid_token"
    ) -> None:
        super().__init__(message, fix=fix)
        self.error: Refusal | None = error
        """What a challenge says; nothing where no token was sent."""


class IssuerUnavailable(FabricError):
    """The issuer's keys could not be fetched yet, so none of its tokens can be verified."""

    code = 5030
    retryable = True
    started = False


def challenge(
    *,
    metadata: str | None = None,
    error: Refusal | None = None,
    description: str | None = None,
    scopes: Iterable[str] = (),
) -> bytes:
    """The value of `WWW-Authenticate`.

    Args:
        metadata: the URL of the resource's metadata (`metadata_url`), from which a client learns where tokens are.
        error: why; nothing where no token was sent.
        description: the same in words; what a header cannot carry is replaced.
        scopes: all that a token needs, when it has to be a token for more (step-up).
    """
    said = (
        ("error", error),
        ("error_description", description),
        ("scope", " ".join(sorted(scopes))),
        ("resource_metadata", metadata),
    )
    parameters = ", ".join(f'{name}="{_NOT_QUOTABLE.sub("?", value)}"' for name, value in said if value)
    return f"Bearer {parameters}".rstrip().encode()


def metadata_url(resource: str) -> str:
    """Where the metadata of the resource at this URL is."""
    parts = urlsplit(resource)
    return urlunsplit((parts.scheme, parts.netloc, _WELL_KNOWN + parts.path.rstrip("/"), parts.query, ""))


def metadata(resource: str, issuer: str | None, scopes: Iterable[str] = ()) -> dict[str, Any]:
    """The protected resource's metadata: the JSON document at `metadata_url(resource)`.

    Args:
        resource: its URL, as clients know it.
        issuer: who issues tokens for it; none where it takes only the fabric's own keys.
        scopes: those that a client may ask for.
    """
    document: dict[str, Any] = {"resource": resource, "bearer_methods_supported": ["header"]}
    if issuer is not None:
        document["authorization_servers"] = [issuer]
    if known := sorted(scopes):
        document["scopes_supported"] = known
    return document
