"""One entry of the audit log: who did what, where, and what came of it. Pure.

Above: whoever notes or reads. Below: msgspec. It has no place for arguments, results or tokens; what clients make up,
names and URIs, is kept only so far as it says what was meant.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

Outcome = Literal[
    "done",  # a call was answered
    "failed",  # a call, or an administrative act, ended with an error
    "cancelled",  # whoever called left, or said so
    "denied",  # the policy does not allow it
    "asked",  # the policy puts it before a person
    "granted",  # whoever called was asked in the call itself, and allowed it
    "refused",  # … or did not
    "limited",  # a limit is used up
    "locked",  # whoever asks is locked out
    "unknown",  # there is nothing of this name that whoever asks may see
    "unauthenticated",  # the token is not accepted
    "managed",  # an administrative act was done
    "lost",  # so many entries were not kept, as the broker was away for too long
]
Level = Literal["off", "security", "calls"]
"""What is noted: nothing; all but calls that were simply made; these, too."""

LONGEST: Final = 200
"""Characters of a name that somebody else has chosen."""


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One entry; what is empty is not known, or does not apply."""

    at: float
    """When it ended: Unix time in seconds."""
    outcome: Outcome
    principal: str = ""
    """Who: the verified name; empty for who was not verified, and for whoever is on the bus itself."""
    token: str = ""
    """Names the token, and gives nothing of it away."""
    address: str = ""
    """Where an unverified request came from; on the bus, who typed it: `user@host`, as the command line says."""
    door: str = ""
    """`mcp`, `session`, `websocket`, `rest`; `bus` for what reached a platform's agent without a gateway."""
    method: str = ""
    agent: str = ""
    tool: str = ""
    """The tool or prompt, as its agent calls it, or the resource's URI without a query."""
    about: str = ""
    """What an administrative act was about: the id of a key or an approval, the name of a mount."""
    rule: str = ""
    """The rule, or the limit, that decided."""
    code: int = 0
    """JSON-RPC's error code; 0: none."""
    ms: float = 0.0
    """How long it took, in milliseconds."""
    trace: str = ""
    """The W3C trace id."""
    size: int = 0
    """Bytes of the request."""
    count: int = 1
    """Of how many that are alike but for their times, sizes and traces this is the first."""


def named(text: str) -> str:
    """A name or URI from outside, as it is noted: without a query, which may hold a secret, and not without end."""
    if "://" in text:
        text = text.partition("?")[0].partition("#")[0]
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
