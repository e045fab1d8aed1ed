"""Who asks, once that is verified: what every decision after it is made by.

Above: the gateway, policy, limits. Below: nothing. The principal travels into the fabric; the token never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

Kind = Literal["human", "agent"]
"""Whom a token stands for: a person reaches the management server, an agent its own compositor."""
Listing = Literal["all", "search"]
"""What `tools/list` shows: every tool, or a search tool and those that are pinned."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One verified sender."""

    principal: str
    """The verified name, as `ann` or `agent:shop`; it travels into the fabric."""
    kind: Kind = "human"
    agent: str | None = None
    """Whose compositor an agent's token reaches."""
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    """OAuth scopes that were granted to the token."""
    expires: float = inf
    """Unix time in seconds."""
    token_id: str = ""
    """Names the token for limits, audit and revocation, and gives nothing of it away."""
    signed_by: str = ""
    """Names the issuer's key that signed the token; empty for what is no JSON Web Token."""
    listing: Listing = "all"
    may_step_up: bool = False
    """Whether its sender can get another one with more scopes: an issuer gave it, which can give more."""


ANONYMOUS = Identity("anonymous", roles=frozenset({"anonymous"}), token_id="anonymous")
"""Whoever comes without a token, where that is configured: on loopback alone."""
OPERATOR = Identity("operator", roles=frozenset({"admin"}), token_id="operator")
"""Whoever holds `FABRIC_TOKEN`."""
