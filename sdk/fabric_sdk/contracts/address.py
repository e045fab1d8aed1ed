"""Addresses of servers, as people may see them.

Above: whoever names a server in a message. Below: nothing.
"""

from __future__ import annotations

import re
from typing import Final

_NEXT: Final = re.compile(r",\s*(?=[a-z]+://)", re.IGNORECASE)
_SERVER: Final = re.compile(r"([a-z]+://)?(?:.*@)?([^?]*)", re.IGNORECASE | re.DOTALL)


def shown(address: str) -> str:
    """One or more URLs, separated by commas, or what was meant to be such: without users, passwords and options."""
    return ", ".join("".join(_SERVER.findall(each)[0]) for each in _NEXT.split(address.strip()))
