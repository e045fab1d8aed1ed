"""What clients keep open, streams and sockets: nobody has more than a share, and they end with the token they came by.

Above: `listening`, `legacy`, `rest`, `websocket`. Below: identities. Whatever is asked is answered sooner or later, and
bounded by that; these wait for as long as their clients like, and hold a connection and memory meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from fabric.gateway.rpc import Refusal
from fabric.identity.identity import Identity
from fabric.identity.oauth import Unauthenticated
from fabric_sdk.contracts.errors import Overloaded

_SHARE: Final = 2
"""This part of all may be one principal's: whoever opens as many as it can leaves others as many."""
_ROOM: Final = 64 * 1024 * 1024
"""Bytes that all together may name in what they want to hear of."""
_OF_ONE_NAME: Final = 128
"""Bytes that a name costs beside its characters."""
_LOOK_SECONDS: Final = 5.0
_REMEMBERED_SECONDS: Final = 3600.0
"""No request is on its way for longer."""


class KeptOpen:
    """All that is kept open at one gateway."""

    def __init__(self, most: int) -> None:
        """No more than `most` are kept open, and no more than half of them by one principal."""
        self._most = most
        self._open: dict[object, tuple[Identity, Callable[[], object]]] = {}
        self._count: Counter[str] = Counter()
        self._size: Counter[str] = Counter()
        self._revoked: dict[Identity, float] = {}
        """When: whoever was admitted before, and has sent the rest of its request after, is to find no way in."""
        self._signing_keys: frozenset[str] = frozenset()
        """Of the issuer, as they are now."""

    def __len__(self) -> int:
        return len(self._open)

    async def run(self) -> None:
        """End what was opened by a token that expires, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._end(lambda identity: identity.expires <= time.time())
            long_ago = time.time() - _REMEMBERED_SECONDS
            self._revoked = {gone: at for gone, at in self._revoked.items() if at > long_ago}

    def revoked(self, gone: Identity) -> None:
        """End all that was opened by this very token."""
        self._revoked[gone] = time.time()
        self._end(lambda identity: identity == gone)

    def signing_keys(self, marks: frozenset[str]) -> None:
        """These keys of the issuer are all that there are now: end what was opened by a token that another signed."""
        self._signing_keys = marks
        self._end(self._has_lost_its_key)

    def _has_lost_its_key(self, identity: Identity) -> bool:
        return bool(identity.signed_by) and identity.signed_by not in self._signing_keys

    def _end(self, ends: Callable[[Identity], bool]) -> None:
        for identity, end in list(self._open.values()):
            if ends(identity):
                end()

    @contextmanager
    def one(self, identity: Identity, end: Callable[[], object], names: list[str] | None = None) -> Generator[None]:
        """Keep one open for as long as this is held; `end` ends it.

        Raises:
            Refusal: there are too many, or they name too much; or the token is accepted no more, since a moment ago.
        """
        if identity in self._revoked:
            raise Refusal(Unauthenticated.code, "the token was revoked", status=401)
        if self._has_lost_its_key(identity):
            words = "the issuer has withdrawn the key that the token is signed with"
            raise Refusal(Unauthenticated.code, words, status=401)
        whose, key = identity.principal, object()
        size = sum(len(name) + _OF_ONE_NAME for name in names or ())
        self._see_to_room(whose, size)
        self._open[key] = identity, end
        self._count[whose] += 1
        self._size[whose] += size
        try:
            yield
        finally:
            del self._open[key]
            self._count[whose] -= 1
            self._size[whose] -= size
            if not self._count[whose]:
                del self._count[whose], self._size[whose]

    def _see_to_room(self, whose: str, size: int) -> None:
        share = max(1, self._most // _SHARE)
        if self._count[whose] >= share:
            words = f"you keep {share} streams and sockets open already, as many as one principal may"
        elif self._size[whose] + size > _ROOM // _SHARE:
            words = "your streams name as many resources as one principal's may"
        elif len(self._open) >= self._most or self._size.total() + size > _ROOM:
            raise Refusal(Overloaded.code, "this gateway keeps as many streams open as it may", status=503)
        else:
            return
        raise Refusal(Overloaded.code, words, status=429)
