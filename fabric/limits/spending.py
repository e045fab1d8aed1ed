"""What gateways tell the registry of their use, and what they are told of everybody's.

Above: the limiter, and the registry's tool `spend`. Below: pydantic. Times are spans, never moments: no two machines
have to agree on what time it is.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, Field

LONGEST: Final = 1.0
"""Seconds back to which a use is counted at the moment when it was. An exchange that takes longer counts as none."""
MOST_TOLD: Final = 1000
"""Buckets in one report: well within a message, and some milliseconds of everybody's time."""

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Span = Annotated[float, Field(ge=0, lt=1e13, allow_inf_nan=False)]
Spender = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""One gateway, from its start to its end."""


class Spent(BaseModel):
    """What one gateway used of one bucket since it last told."""

    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:*-]{1,128}$")]
    age: Annotated[float, Field(ge=0, le=LONGEST)]
    """Seconds since the first of these uses."""
    seconds: Span
    """In which the rate gives back what was used."""
    day: Count | None = None
    """Days since 1970, where the day's uses are limited."""
    uses: Count = 0
    known: Count = 0
    """The day's uses of which it knew before: a Redis that was lost learns them anew."""


class Standing(BaseModel):
    """How one bucket stands, with the use of all gateways in it."""

    ahead: float
    """Seconds until the rate has given everything back; less than 0: since when it has."""
    used: int
    """In the day of the report."""
