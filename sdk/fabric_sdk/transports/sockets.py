"""Connections between processes of one host: a unix socket for each instance, in a folder that is this user's alone.

Above: `callers`, `nearby`; `connecting`, which names the folder. Below: `frames`, the event loop. It knows no agents
and no calls: links carry messages, and tell when they are gone. Who may open the folder is the operating system's to
say; there is no password.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol, cast

from fabric_sdk.contracts.envelope import EMPTY, Message
from fabric_sdk.transports.frames import FrameReader, encode_frame

Word = Literal["hello-1", "bye"]
"""Said by a listener: `hello-1`, it takes messages, as this version of the wire has them; `bye`, it will take no more.
The other end says `bye` too, behind all that it has sent."""

_CONNECT_SECONDS: Final = 2.0
_BYE_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 1.0
_BEGINNING_SECONDS: Final = 60.0
"""For so long, a socket without its name may belong to one that does not listen yet."""
_STUCK_SECONDS: Final = 5.0
"""For so long, one end may leave unread what the other wants to send: a broker would not wait for it either."""
_MOST: Final = 64 * 1024 * 1024
"""Bytes of a message: NATS's own most. What the broker takes now is for senders to keep to."""
_HIGH_WATER: Final = 1024 * 1024
"""Bytes that wait to be written, above which a link counts as full."""
_LONGEST_PATH: Final = 100
"""Of a socket: the shortest limit that an operating system has, and some room."""


class Owner(Protocol):
    """Whose links they are."""

    def take(self, link: Link, message: Message) -> None:
        """Take a message that came."""
        ...

    def leave(self, link: Link) -> None:
        """The other end will take no new calls."""
        ...

    def lose(self, link: Link) -> None:
        """Nothing comes any more."""
        ...


class Link(asyncio.Protocol):
    """One connection: messages in both directions, in order, until one end goes."""

    def __init__(self, owner: Owner, here: str = "") -> None:
        """`here` is the instance that listens at this end, if one does."""
        self.here = here
        self.clients: set[str] = set()
        """Those that call over it, as the subjects of their answers begin."""
        self.instance = ""
        """The instance that listens at the other end; empty at the listener's own."""
        self.leaving = False
        """Whether the other end takes no new calls."""
        self.open: dict[str, None] = {}
        """Reply subjects of what was sent and is not answered; in the order of their sending."""
        self.heard = 0.0
        """When something came last, by the loop's clock."""
        self.writable = asyncio.Event()
        """Set while not too much waits to be written; and once the link is lost."""
        self.writable.set()
        self.greeted = asyncio.Event()
        self.done = asyncio.Event()
        """Set once the other end sends nothing more that asks for an answer."""
        self.gone = asyncio.Event()
        """Set once there is no connection any more."""
        self._held: list[bytes] = []
        self._held_size = 0
        self._paused = False
        self._written = 0
        self._reader = FrameReader(_MOST)
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def __repr__(self) -> str:
        state = "lost" if self._transport is None else "leaving" if self.leaving else "open"
        return f"<Link to {self.instance or 'a caller'} {state}, {len(self.open)} unanswered>"

    def send(self, frame: bytes) -> None:
        """Write one frame, together with all others of this turn of the event loop: a system call is dear.

        What is written to a lost link is lost with it.
        """
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(frame)
        self._held_size += len(frame)
        if self._held_size > _HIGH_WATER:
            self.writable.clear()

    def owe(self, reply: str) -> None:
        """Note that an answer to `reply` is to come."""
        if not self.open:
            self.heard = self._loop.time()  # nothing was to be heard until now
        self.open[reply] = None

    def _flush(self) -> None:
        held, self._held = self._held, []
        self._written, self._held_size = self._written + self._held_size, 0
        if held and self._transport is not None:
            self._transport.write(b"".join(held))
        if not self._paused:
            self.writable.set()

    def say(self, word: Word) -> None:
        """Tell the other end itself something."""
        self.send(encode_frame(Message("", EMPTY, reply=word))[0])

    def close(self) -> None:
        """Write what waits, and go."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.heard = self._loop.time()
        if not self.instance:  # it is the listener's end
            self.say("hello-1")

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        try:
            messages = self._reader.feed(data)
        except (ValueError, IndexError):  # it is nobody of ours
            if self._transport is not None:
                self._transport.abort()
            return
        for message in messages:
            if message.subject:
                self._owner.take(self, message)
            else:
                self._hear(message.reply)

    def _hear(self, word: str) -> None:
        if word == "hello-1":
            self.greeted.set()
        elif word == "bye":
            self.leaving = True
            self.done.set()
            if self.instance:  # it is the listener that goes
                self._owner.leave(self)
                self.say("bye")
                self.close_if_idle()

    def close_if_idle(self) -> None:
        """Go, if the other end takes nothing more and owes nothing."""
        if self.leaving and not self.open:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.leaving = True
        for event in (self.writable, self.greeted, self.done, self.gone):
            event.set()
        self._owner.lose(self)

    def pause_writing(self) -> None:
        self._paused = True
        self.writable.clear()
        self._loop.call_later(_STUCK_SECONDS, self._look, self._read())

    def resume_writing(self) -> None:
        self._paused = False
        self.writable.set()

    def _read(self) -> int:
        """How many bytes the other end has taken."""
        return self._written - (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def _look(self, before: int) -> None:
        """Give up an end that has read nothing for long."""
        if self._paused and self._transport is not None:
            if (now := self._read()) == before:
                self._transport.abort()
            else:
                self._loop.call_later(_STUCK_SECONDS, self._look, now)

    def abort(self) -> None:
        """Go, and leave what waits."""
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """Takes connections for one instance."""

    def __init__(self, folder: Path, instance: str, link: Callable[[], Link]) -> None:
        """`link` makes one for each connection."""
        self._path = _socket_of(folder, instance)
        self._link = link
        self._links: list[Link] = []
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Take connections from now on.

        Raises:
            OSError: it cannot.
        """
        _sweep(self._path.parent)
        loop = asyncio.get_running_loop()
        # Under its name only once it listens: one that does not is taken for dead, and swept.
        aside = self._path.with_suffix(".new")
        self._server = await loop.create_unix_server(self._connected, str(aside))
        try:
            aside.rename(self._path)
        except OSError:
            self._server.close()
            aside.unlink(missing_ok=True)
            raise

    async def close(self) -> None:
        """Take no more, once all that was sent until now has come. The links stay, for what is still to be answered."""
        if self._server is not None:
            self._server.close()
        with suppress(FileNotFoundError):
            self._path.unlink()
        for link in self._links:
            link.say("bye")
        with suppress(TimeoutError):  # who does not answer is stopped or gone
            async with asyncio.timeout(_BYE_SECONDS):
                for link in list(self._links):
                    await link.done.wait()

    def forget(self, link: Link) -> None:
        """`link` is lost."""
        if link in self._links:
            self._links.remove(link)

    def _connected(self) -> Link:
        link = self._link()
        self._links.append(link)
        return link


async def close_all(links: Iterable[Link]) -> None:
    """Close `links`; returns when they are, or soon after."""
    closing = list(links)
    for link in closing:
        link.close()
    with suppress(TimeoutError):  # who does not read what waits is left behind
        async with asyncio.timeout(_CLOSE_SECONDS):
            for link in closing:
                await link.gone.wait()
    for link in closing:
        link.abort()


async def connect(folder: Path, instance: str, link: Link) -> bool:
    """Connect `link` to an instance of this host; tells whether that is possible."""
    link.instance = instance
    connected = False
    try:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().create_unix_connection(lambda: link, str(_socket_of(folder, instance)))
                await link.greeted.wait()
        connected = link.greeted.is_set() and not link.leaving
    finally:
        if not connected:  # nor if whoever wanted it was cancelled as the greeting came: nobody else would close it
            link.close()
    return connected


def instances(folder: Path) -> set[str]:
    """The instances that have a socket here; some may be dead."""
    return {path.stem for path in folder.glob("*.sock")}


def age(folder: Path) -> int:
    """A number that is another one after sockets came or went; 0 while there is no folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def private_folder(wanted: str | None) -> Path | None:
    """The folder for sockets, made if need be; `None` where there can be none: messages then go over the broker.

    Args:
        wanted: a path, `off` for none, or `None` for the usual place.
    """
    if wanted == "off" or not hasattr(socket, "AF_UNIX"):
        return None
    folder = Path(wanted) if wanted else _usual_place()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # In a folder for all, somebody else may have been here first.
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return folder if private and len(str(folder)) <= _LONGEST_PATH - len("/.sock") - 16 else None


def _usual_place() -> Path:
    # Who became another user without a login (`su`) has that of the first one still, who could replace what is in it.
    if (runtime := os.environ.get("XDG_RUNTIME_DIR")) and _is_ours(Path(runtime)):
        return Path(runtime) / "agent-fabric"
    return Path(tempfile.gettempdir()) / f"agent-fabric-{os.geteuid()}"


def _is_ours(folder: Path) -> bool:
    try:
        return folder.is_dir() and folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def _socket_of(folder: Path, instance: str) -> Path:
    return folder / f"{instance}.sock"


def _sweep(folder: Path) -> None:
    """Remove the sockets of those that died without a word, before they had their name or after."""
    for path in (*folder.glob("*.sock"), *folder.glob("*.new")):
        with socket.socket(socket.AF_UNIX) as attempt, suppress(OSError):
            attempt.setblocking(False)
            try:
                attempt.connect(str(path))
            except ConnectionRefusedError:
                if path.suffix == ".sock" or time.time() - path.stat().st_mtime > _BEGINNING_SECONDS:
                    path.unlink()
