"""Streams: two ordered directions between a client and one handler, for as long as both want.

Guarantee: **each message once and in order, while both ends live**: what a lost connection lost is sent again when it
is back. A reader that stops, stops its sender; a silent end is given up after `IDLE_SECONDS`.

Above: `remote`; `hosting`, on the worker's side. Below: a `Transport`. Kind and number of a frame ride in its reply
subject, as a call's deadline does: a header would cost more than the message (ADR 2). Both ends are this one `Channel`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from fabric_sdk.cancelling import end
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.envelope import EMPTY, Body, Message
from fabric_sdk.routing.window import Incoming, Outgoing
from fabric_sdk.transports.base import ConnectionEvent, Subscription, Transport

OPEN: Final = "streams/open"
"""The method that begins one: an ordinary call, so that one instance takes it."""
TICK: Final = 1.0
"""Seconds between two looks: at what was not confirmed, and at who has fallen silent."""
BEAT_SECONDS: Final = 5.0
"""Seconds after which an end that has nothing to send says that it is there."""
IDLE_SECONDS: Final = 30.0
"""Seconds of silence after which the other end counts as gone."""

_TICKS_UNCONFIRMED: Final = 2
"""Looks without any confirmation after which all that is not confirmed is sent again."""
_BREATH: Final = 128
"""Messages after which an end that never has to wait lets others go on: what it sent leaves, what came is read."""

_DATA, _END, _CLOSED, _FAIL = "d", "e", "c", "f"
"""Numbered frames: a message; no more will be sent; nor read; for this reason."""
_NUMBERED: Final = _DATA + _END + _CLOSED + _FAIL
_STATE, _AGAIN, _CANCEL = "s", "r", "x"
"""How far this end is; the same, and something is missing; it is over."""

_REPLY: Final = re.compile(r"([a-z])\.([0-9]{1,15})(?:\.([0-9]{1,15}))?")
"""Kind and numbers of a frame."""

_Frame = tuple[str, Body]


class Channel:
    """One end of a stream."""

    def __init__(self, transport: Transport, stream_id: str, mine: str, other: str) -> None:
        self.id = stream_id
        self.failure: errors.FabricError | None = None
        """Why it ended before its time, if it did."""
        self._transport = transport
        self._here = subjects.stream(stream_id, mine)
        self._there = subjects.stream(stream_id, other)
        self._out: Outgoing[_Frame] = Outgoing()
        self._in: Incoming[_Frame] = Incoming()
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._ended_here = False
        self._ended_there = False
        self._deaf = False
        """Whether the other end reads no more."""
        self._closed = False
        self._breath = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None
        self._stop_listening: Callable[[], None] | None = None
        self._on_failure: Callable[[], object] | None = None

    async def open(self) -> None:
        """Hear the other end."""
        self._loop = asyncio.get_running_loop()
        self._heard = self._said = self._loop.time()
        self._subscription = await self._transport.subscribe(self._here, self._receive)
        self._stop_listening = self._transport.listen(self._connection_changed)
        self._spawn(self._tick())

    async def close(self) -> None:
        """Let go. What the other end has not confirmed by now, it may never get."""
        self._closed = True
        if self._stop_listening is not None:
            self._stop_listening()
        await end(self._tasks)
        if self._subscription is not None:
            await self._subscription.close()

    def on_failure(self, act: Callable[[], object] | None) -> None:
        """Call `act` when the stream fails or is cancelled by the other end; at once, if it has."""
        self._on_failure = act
        if self.failure is not None and act is not None:
            act()

    def fail(self, failure: errors.FabricError) -> None:
        """End both directions for this reason, unless they ended before their time already."""
        if self.failure is None:
            self.failure = failure
            self._came.set()
            self._room.set()
            if self._on_failure is not None:
                self._on_failure()

    # sending

    async def send(self, value: Any) -> None:
        """Send a JSON value; waits while the other end reads more slowly than this one sends.

        Raises:
            StreamClosed: this direction was ended, or the other end reads no more.
            InvalidParams: the value has no JSON form.
            MessageTooLarge: the value is larger than the broker takes.
            FabricError: the other end failed, cancelled, or is gone.
        """
        body = Body(value)
        try:
            size = len(body.encoded())
        except TypeError as unencodable:
            raise errors.InvalidParams(f"the value has no JSON form: {unencodable}") from unencodable
        if size > self._transport.max_message:
            raise errors.MessageTooLarge(f"the value has {size} bytes, NATS takes {self._transport.max_message}")
        self._breath = (self._breath + 1) % _BREATH
        if not self._breath:
            await asyncio.sleep(0)
        self._check_sending()
        while not self._out.has_room:
            self._room.clear()
            await self._room.wait()
            self._check_sending()
        await self._put(_DATA, body, size)

    async def end(self) -> None:
        """Send nothing more: the other end reads what was sent, and then the end."""
        if not self._ended_here and self.failure is None and not self._deaf:
            self._ended_here = True
            await self._put(_END, EMPTY, 0)

    async def conclude(self, failure: errors.FabricError | None, patience: float | None = None) -> None:
        """Neither send nor read any more: the other end reads what was sent, and then the end, or this failure.

        Returns when the other end has it all, or seems to be gone.
        """
        self._ended_here = True
        if failure is None:
            await self._put(_CLOSED, EMPTY, 0)
        else:
            await self._put(_FAIL, _wire(failure, self._transport.max_message), 0)
        await self._finish(patience)

    async def cancel(self) -> None:
        """Give the stream up, both directions at once."""
        await self._say(_CANCEL, 0)
        self.fail(errors.CallCancelled("the stream was cancelled"))

    async def leave(self) -> None:
        """End this direction, see that the other end has all that was sent, and want no more of it."""
        await self.end()
        await self._finish()
        await self.cancel()

    async def _finish(self, patience: float | None = None) -> None:
        """Wait until the other end has all that was sent, or reads no more, or seems to be gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS if patience is None else patience):
                while self._out.received < self._out.sent and self.failure is None and not self._deaf:
                    self._room.clear()
                    await self._room.wait()

    def _put(self, kind: str, body: Body, size: int) -> Awaitable[None]:
        return self._publish(kind, self._out.add((kind, body), size), body)

    # receiving

    async def receive(self) -> Body | None:
        """The next message, or `None` at the end.

        Raises:
            FabricError: the other end failed, cancelled, or is gone.
        """
        if self._in.is_due():
            await self._tell()
            await asyncio.sleep(0)
        while not self._in.waiting:
            if self._ended_there:
                return None
            self._check()
            self._came.clear()
            await self._came.wait()
        kind, body = self._in.take()  # from here on nothing is waited for: who is cancelled has lost nothing
        if kind == _DATA:
            return body
        self._ended_there = True
        if kind == _FAIL:
            self.fail(errors.from_wire(body.members()))
            self._check()
        return None

    def _receive(self, message: Message) -> None:
        known = _REPLY.fullmatch(message.reply)
        if known is None or self._closed:
            return
        self._heard = self._loop.time()
        kind, first, second = known.groups()
        if kind in _NUMBERED:
            self._take(kind, int(first), message.body)
        elif kind in (_STATE, _AGAIN) and second is not None:
            self._out.confirm(int(first), int(second))
            self._room.set()
            if kind == _AGAIN:
                self._spawn(self._send_again())
        elif kind == _CANCEL:
            self.fail(errors.CallCancelled("the other end cancelled the stream"))

    def _take(self, kind: str, number: int, body: Body) -> None:
        if not self._in.add(number, (kind, body), len(body.encoded())):
            if self._in.asks(number):
                self._spawn(self._say_state(_AGAIN))
            return
        self._came.set()
        if kind != _DATA:
            self._spawn(self._tell())  # the other end waits for nothing else
        if kind in (_CLOSED, _FAIL):
            self._deaf = True
            self._room.set()

    # keeping it going

    async def _tick(self) -> None:
        """Ask for what may have been lost, and notice that the other end is gone."""
        unconfirmed, since = 0, 0
        while True:
            await asyncio.sleep(TICK)
            now = self._loop.time()
            if now - self._heard > IDLE_SECONDS:
                self.fail(errors.StreamLost())
                return
            waiting = self._out.sent > self._out.received
            since = since + 1 if waiting and unconfirmed == self._out.received else 0
            unconfirmed = self._out.received
            if since >= _TICKS_UNCONFIRMED and self._transport.connected:
                since = 0
                await self._send_again()
            if self._in.is_untold() or now - self._said > BEAT_SECONDS:
                await self._tell()

    async def _send_again(self) -> None:
        for number, (kind, body) in self._out.missing():
            await self._publish(kind, number, body)

    async def _tell(self) -> None:
        await self._say_state(_STATE)

    async def _say_state(self, kind: str) -> None:
        await self._say(kind, *self._in.state())

    async def _say(self, kind: str, *numbers: int) -> None:
        await self._publish(kind, ".".join(map(str, numbers)), EMPTY)

    async def _publish(self, kind: str, numbers: int | str, body: Body) -> None:
        self._said = self._loop.time()
        try:
            await self._transport.publish(Message(self._there, body, reply=f"{kind}.{numbers}"))
        except errors.FabricError as failure:
            if not failure.retryable:  # else it is sent again when the connection is back
                self.fail(failure)

    def _connection_changed(self, event: ConnectionEvent) -> None:
        if event == "connected":
            self._heard = self._loop.time()
            self._spawn(self._say_state(_AGAIN))
            self._spawn(self._send_again())

    def _check_sending(self) -> None:
        self._check()
        if self._ended_here or self._deaf:
            who = "this end" if self._ended_here else "the other end, which reads no more"
            raise errors.StreamClosed(f"the stream was ended by {who}")

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _spawn(self, doing: Any) -> None:
        task = self._loop.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Stream:
    """A stream, as its author and its client see it: `send`, `async for`, `end`."""

    def __init__(self, channel: Channel, arguments: dict[str, Any] | None = None) -> None:
        self.arguments = arguments or {}
        """What the client opened it with."""
        self._channel = channel

    @property
    def id(self) -> str:
        """The same at both ends."""
        return self._channel.id

    def send(self, value: Any) -> Coroutine[Any, Any, None]:
        """Send a JSON value; waits while the other end reads more slowly than this one sends.

        Raises:
            StreamClosed: this direction was ended, or the other end reads no more.
            InvalidParams: the value has no JSON form.
            MessageTooLarge: the value is larger than the broker takes.
            FabricError: the other end failed, cancelled, or is gone.
        """
        return self._channel.send(value)

    async def end(self) -> None:
        """Send nothing more; the other direction goes on."""
        await self._channel.end()

    async def cancel(self) -> None:
        """Give both directions up at once."""
        await self._channel.cancel()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        body = await self._channel.receive()
        if body is None:
            raise StopAsyncIteration
        return body.value()


def _wire(failure: errors.FabricError, most: int) -> Body:
    """A failure as it travels; without its data, and cut short, where they are no JSON or too much."""
    wire = errors.to_wire(failure)
    body = Body(wire)
    try:
        if len(body.encoded()) <= most:
            return body
    except TypeError:
        pass
    return Body({"code": wire["code"], "message": wire["message"][:1024]})
