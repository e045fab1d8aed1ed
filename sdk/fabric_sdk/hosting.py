"""Streams, on the worker's side: open → run the handler → finish.

Above: the worker. Below: `patterns.stream` and the handler that calls have too. A stream lives as long as its handler;
when the other end fails, cancels or falls silent, the handler is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final, cast

from fabric_sdk.authoring.streaming import RUN
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.scope import Scope, current_scope
from fabric_sdk.contracts.subjects import checked_token
from fabric_sdk.patterns.stream import Channel, Stream
from fabric_sdk.pipeline import Handler, Request

log = logging.getLogger(__name__)

_YEAR: Final = 365 * 86_400.0
"""Seconds: as good as no deadline."""
_LEAVING_SECONDS: Final = 1.0
"""How long a worker that is being stopped waits until the other end knows."""


class StreamHost:
    """The streams that one worker has open."""

    def __init__(self, fabric: Fabric, description: Description, handler: Handler, most: int) -> None:
        self._fabric = fabric
        self._names = {str(stream["name"]) for stream in description.streams}
        self._handler = handler
        self._most = most
        self._opening = 0
        self._open: dict[asyncio.Task[None], Channel] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def open(self, context: Context, params: Body) -> Body:
        """Begin a stream.

        Raises:
            UnknownName: the agent has none of this name.
            InvalidParams: the request is malformed.
            Overloaded: as many are open as this worker takes.
        """
        try:
            said = params.members()
            stream_id = checked_token(str(said["stream"]))
            arguments: object = said.get("arguments") or {}
            if not isinstance(arguments, dict):
                raise TypeError(f"the arguments are no JSON object but {type(arguments).__name__}")
        except (ValueError, KeyError, TypeError, errors.ConfigurationError) as malformed:
            raise errors.InvalidParams(f"this opens no stream: {malformed}") from None
        if (name := str(said.get("name"))) not in self._names:
            raise errors.UnknownName(f"agent {context.agent!r} has no stream {name!r}")
        if len(self._open) + self._opening >= self._most:
            raise errors.Overloaded(f"this instance has {self._most} streams open already")
        channel = Channel(self._fabric.transport, stream_id, "worker", "client")
        self._opening += 1
        try:
            await channel.open()
        finally:
            self._opening -= 1
        scope = Scope(time.time() + _YEAR, context.principal, context.trace)
        inner = Context(scope, agent=context.agent, instance=context.instance, key=context.key, fabric=self._fabric)
        request = Request(RUN, Body({"name": name, "stream": Stream(channel, cast("dict[str, Any]", arguments))}))
        running = asyncio.create_task(self._run(channel, inner, request))
        self._open[running] = channel
        running.add_done_callback(lambda task: self._open.pop(task, None))
        return Body({"stream": stream_id})

    async def finished(self) -> None:
        """Wait until every stream has ended."""
        while self._open:
            await asyncio.wait(list(self._open))

    def hurry(self) -> None:
        """End what is open, each with `WorkerLost`."""
        for channel in list(self._open.values()):
            channel.fail(errors.WorkerLost("the worker was stopped before the stream ended"))

    async def _run(self, channel: Channel, context: Context, request: Request) -> None:
        try:
            failure = await self._handle(channel, context, request)
            if isinstance(channel.failure, errors.WorkerLost):
                failure, channel.failure = channel.failure, None
                await channel.conclude(failure, _LEAVING_SECONDS)
            elif channel.failure is None:  # else the other end is gone, or wants no more
                await channel.conclude(failure)
        finally:
            await channel.close()

    async def _handle(self, channel: Channel, context: Context, request: Request) -> errors.FabricError | None:
        """Run the handler, until the stream fails; returns what it failed with."""
        current_scope.set(context.scope)
        running = cast("asyncio.Task[None]", asyncio.current_task())

        def end() -> None:
            context.cancelled = True
            running.cancel()

        channel.on_failure(end)
        try:
            await self._handler(context, request)
        except asyncio.CancelledError:
            if channel.failure is None and running.cancelling():
                raise  # the loop ends
            return errors.HandlerFailed("the handler cancelled itself")
        except errors.FabricError as failed:
            return failed
        except GeneratorExit:
            raise  # the loop is gone
        except BaseException as failed:  # whatever it is, it ends this stream and nothing else
            log.exception("a stream of %s failed", context.agent)
            return errors.HandlerFailed(f"{type(failed).__name__}: {failed}")
        finally:
            channel.on_failure(None)
        return None
