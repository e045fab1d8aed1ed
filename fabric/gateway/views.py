"""What each identity sees: the same agents for all who are alike, and nothing else.

Above: `modern`, `legacy`. Below: the catalogue. Views are made when they are first asked for, once for all identities
that see the same, and thrown away with every change.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from fabric.gateway.catalogue import CatalogueKeeper
from fabric.gateway.view import View, mounted
from fabric.identity.identity import Identity

_MOST: Final = 256
_Key = tuple[str | None, bool]


class Views:
    """Makes views, and keeps those that are in use."""

    def __init__(self, catalogue: CatalogueKeeper, *, root: str | None = None) -> None:
        self._catalogue = catalogue
        self._root = root
        self._views: OrderedDict[_Key, View] = OrderedDict()
        catalogue.listen(self._views.clear)

    def of(self, identity: Identity) -> View:
        """What `identity` sees now."""
        key = (identity.agent, "admin" in identity.roles)
        if (view := self._views.get(key)) is None:
            view = self._views[key] = self._made(*key)
            while len(self._views) > _MOST:
                self._views.popitem(last=False)
        return view

    def _made(self, agent: str | None, admin: bool) -> View:
        described = self._catalogue.descriptions
        if agent is None:
            return View(mounted(described.values(), root=self._root, platform=admin))
        own = [described[agent]] if agent in described else []
        return View(mounted(own, root=agent))
