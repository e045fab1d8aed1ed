"""What each identity sees: the same agents for all who are alike, and nothing else.

Above: `modern`, `legacy` with its `errands`, `rest`, `announcing`. Below: the catalogue and the mounts. Views are made
when they are first asked for, once for all identities that see the same, and thrown away with every change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from fabric.access.mounts import ROWS, mount_of
from fabric.gateway.catalogue import CatalogueKeeper
from fabric.gateway.gate import Gate
from fabric.gateway.view import Mount, View, mounted
from fabric.identity.identity import Identity, Listing
from fabric.policy.decisions import Standing
from fabric_sdk import Fabric
from fabric_sdk.contracts.streams import ACCESS
from fabric_sdk.jetstream import Table

_MOST: Final = 256
_Key = tuple[str | None, Standing, Listing, bool]


class Views:
    """Makes views, and keeps those that are in use."""

    def __init__(self, fabric: Fabric, catalogue: CatalogueKeeper, gate: Gate, *, root: str | None = None) -> None:
        self._catalogue = catalogue
        self._gate = gate
        self._mounts = Table(fabric.jetstream, ACCESS, ROWS, lambda _: self._changed())
        self._listeners: list[Callable[[], None]] = []
        self._root = root
        self._last: tuple[Identity, View] | tuple[None, None] = (None, None)
        """Whoever came last comes next, as a rule."""
        self._views: OrderedDict[_Key, View] = OrderedDict()
        catalogue.listen(self._changed)
        gate.policy.listen(lambda _: self._changed())

    async def run(self) -> None:
        """Follow what is mounted where, until cancelled."""
        await self._mounts.run()

    def listen(self, tell: Callable[[], None]) -> None:
        """Tell of every change of what anybody sees."""
        self._listeners.append(tell)

    def _changed(self) -> None:
        self._views.clear()
        self._last = (None, None)
        for tell in self._listeners:
            tell()

    def of(self, identity: Identity) -> View:
        """What `identity` sees now."""
        last, view = self._last
        if identity is last and view is not None:
            return view
        key = (identity.agent, self._gate.standing(identity), identity.listing, identity.may_step_up)
        if (view := self._views.get(key)) is None:
            view = self._views[key] = self._made(*key)
            while len(self._views) > _MOST:
                self._views.popitem(last=False)
        self._last = (identity, view)
        return view

    def _made(self, agent: str | None, standing: Standing, listing: Listing, may_step_up: bool) -> View:
        described = self._catalogue.descriptions
        if agent is None:
            mounts = mounted(described.values(), root=self._root, platform=True)
        else:
            mounts = mounted([described[agent]], root=agent) if agent in described else []
            mounts += self._mounted_in(agent)
        shown = standing.could if may_step_up else standing.may
        return View(mounts, may=standing.may, shown=shown, allowing=standing.allowing, listing=listing)

    def _mounted_in(self, agent: str) -> list[Mount]:
        """What an agent has mounted, of what is there."""
        rows = (mount_of(row.value) for key, row in self._mounts if key.startswith(f"{agent}."))
        return [
            Mount(described, mount.prefix, mount.tools or ("*",))
            for mount in rows
            if mount is not None and (described := self._catalogue.descriptions.get(mount.target)) is not None
        ]
