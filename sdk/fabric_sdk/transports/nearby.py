"""The instances on this host that can be called over a link: found in the background, chosen for each call.

Above: `nearest`, `callers`. Below: `sockets`. An agent's instances are asked for over the broker, so they are of this
very fabric; those of them that have a socket here are connected to. Until then, and where no link is any good, there is
none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.subjects import CALLS, DIRECTS, Header, due_of
from fabric_sdk.transports.sockets import Link, age, close_all, connect, instances

Find = Callable[[str], Awaitable[set[str]]]
"""Asks the broker for the instances of an agent that are there now, on any host."""
HandOver = Callable[[Message], bool]
"""Gives a message to whoever hears it in this process; tells whether anybody does."""

LATE_SECONDS: Final = 5.0
"""After its deadline, an answer is not waited for longer than that: its worker will not send any."""
_LOOK_SECONDS: Final = 1.0
"""Between two looks at whether sockets came or went."""
_ASK_SECONDS: Final = 15.0
"""Between two questions who there is, on other hosts too, of an agent that is called."""
_MOST_ALONE: Final = 1024
"""Unanswered calls on one link, if all instances of the agent are on this host; beyond it, the broker decides."""
_MOST_SHARED: Final = 32
"""The same, if other hosts have instances as well: they would idle."""
_SILENT_SECONDS: Final = 4.0
"""A link that owes answers and says nothing for so long is not used: workers say each second that they live."""


class _Pool:
    """The links to the instances of one agent."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.links: list[Link] = []
        self.elsewhere = False
        """Whether some of its instances cannot be reached by a link."""
        self.used = True
        """Whether it was called since it was last asked for."""
        self.due = 0.0
        """When it is asked for again."""
        self._turn = 0

    def pick(self, now: float) -> Link | None:
        """The link for a call: of two, taken in turns, the one that owes less; none, if that is no good."""
        self.used = True
        links = self.links
        if not links:
            return None
        self._turn = turn = (self._turn + 1) % len(links)
        link, other = links[turn], links[turn - 1]
        if len(other.open) < len(link.open):
            link = other
        if len(link.open) >= (_MOST_SHARED if self.elsewhere else _MOST_ALONE) or not link.writable.is_set():
            return None
        return None if link.open and now - link.heard > _SILENT_SECONDS else link


class Nearby:
    """Links to instances, by what the subjects of calls begin with."""

    def __init__(self, folder: Path, find: Find, hand_over: HandOver) -> None:
        """
        Args:
            folder: where the sockets of this host are.
            find: finds instances.
            hand_over: takes the answers.
        """
        self._folder, self._find, self._hand_over = folder, find, hand_over
        self._loop = asyncio.get_running_loop()
        self._pools: dict[str, _Pool] = {}
        self._links: dict[str, Link] = {}
        """Those over which calls may go, by instance."""
        self._open: set[Link] = set()
        """All, with those over which the last answers come."""
        self._age = 0
        self._wake = asyncio.Event()
        self._meeting = asyncio.Lock()
        self._looking = keep_on(self._look_on, "looking for instances on this host")

    def __len__(self) -> int:
        return len(self._links)

    def pick(self, head: str) -> Link | None:
        """The link for a call whose subject begins so."""
        pool = self._pools.get(head)
        if pool is not None:
            return pool.pick(self._loop.time())
        if head.startswith(CALLS):
            self._pools[head] = _Pool(head.removeprefix(CALLS))
            self._wake.set()
            return None
        link = self._links.get(head.removeprefix(DIRECTS))
        return link if link is not None and link.writable.is_set() else None

    async def meet(self, agent: str) -> int:
        """Look for the instances of `agent` now, and not in the background; how many links there are."""
        pool = self._pools.setdefault(CALLS + agent, _Pool(agent))
        self._wake.set()
        await self._meet(pool)
        return len(pool.links)

    async def close(self) -> None:
        """Let go of all links."""
        await end([self._looking])
        await close_all(self._open)

    # what links tell

    def take(self, link: Link, message: Message) -> None:
        headers = message.headers
        if headers is None or Header.FRAME not in headers:
            link.open.pop(message.subject, None)
            if link.leaving:
                link.close_if_idle()
            elif headers is not None and Header.STATUS in headers:
                self._retire(link)  # it serves the agent no more
        self._hand_over(message)

    def leave(self, link: Link) -> None:
        for pool in self._pools.values():
            if link in pool.links:
                pool.links.remove(link)
                pool.due = 0.0
        if self._links.get(link.instance) is link:
            del self._links[link.instance]

    def _retire(self, link: Link) -> None:
        """Send no more calls over it; it goes once nothing is owed."""
        self.leave(link)
        link.leaving = True
        link.close_if_idle()

    def lose(self, link: Link) -> None:
        """Whoever waits for an answer over it is told at once that its worker is lost."""
        self.leave(link)
        self._open.discard(link)
        wire = errors.to_wire(errors.WorkerLost("the worker ended before it answered; whether it finished is unknown"))
        headers = {Header.ERROR_CODE: str(wire["code"])}
        unanswered, link.open = link.open, {}
        for reply in unanswered:
            self._hand_over(Message(reply, Body(wire), headers=headers))

    # finding instances

    async def _look_on(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if self._pools else None):
                    await self._wake.wait()
            self._wake.clear()
            now, age_now = self._loop.time(), age(self._folder)
            for link in list(self._open):
                if _forget_overdue(link, time.time() - LATE_SECONDS) and now - link.heard > _SILENT_SECONDS:
                    self._retire(link)  # stopped, or dead, and a child of it holds its end of the link
            changed, self._age = age_now != self._age, age_now
            for pool in list(self._pools.values()):
                if changed:
                    pool.due = 0.0
                if pool.used and now >= pool.due:
                    pool.used, pool.due = False, now + _ASK_SECONDS
                    await self._meet(pool)

    async def _meet(self, pool: _Pool) -> None:
        """Connect to the instances of `pool` on this host."""
        here = instances(self._folder)
        if not here and not pool.links:
            return
        try:
            there = await self._find(pool.agent)
        except errors.TransportUnavailable:
            pool.due = 0.0
            return
        async with self._meeting:
            for instance in there & here:
                if (link := await self._link(instance)) is not None and link not in pool.links and not link.leaving:
                    pool.links.append(link)
        # Who does not answer now is busy, or the broker is away: a link that is open tells by itself when it ends.
        pool.elsewhere = not there <= {link.instance for link in pool.links}

    async def _link(self, instance: str) -> Link | None:
        if (known := self._links.get(instance)) is not None:
            return known
        link = Link(self)
        if not await connect(self._folder, instance, link):
            return None
        self._open.add(link)
        self._links[instance] = link
        return link


def _forget_overdue(link: Link, before: float) -> bool:
    """Owe no more what was to come before this time, in Unix seconds; whether there was any."""
    overdue = [reply for reply in link.open if (due_of(reply) or before) < before]
    for reply in overdue:
        del link.open[reply]
    link.close_if_idle()
    return bool(overdue)
