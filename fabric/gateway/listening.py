"""`subscriptions/listen` of the current revision: a request whose answer is a stream of what changes.

Above: `modern`. Below: `announcing`, and the fabric's tasks. Nothing of it is kept: a client that loses the stream asks
again, at any gateway, and is told of what changes from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import orjson

from fabric.gateway import rpc
from fabric.gateway.announcing import Announcements, Subscriber
from fabric.gateway.http import Receive, Send
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.replies import Outbox, stream
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.tasks import McpTasks
from fabric.gateway.views import Views
from fabric.identity.identity import Identity
from fabric_sdk.cancelling import end

METHOD: Final = "subscriptions/listen"
_ID: Final = "io.modelcontextprotocol/subscriptionId"
_MOST_URIS: Final = 1000
_MOST_TASKS: Final = 100
_LONGEST: Final = 256 * 1024
"""Characters of all that one stream names: they are said back, and kept for as long as it is open."""


class Listening:
    """The streams of subscribers that are open at one gateway."""

    def __init__(
        self,
        views: Views,
        announcements: Announcements,
        tasks: McpTasks,
        kept_open: KeptOpen,
        aside: Callable[[], AbstractContextManager[None]],
        *,
        server: dict[str, Any],
    ) -> None:
        """`aside` is held where a request only waits, and takes no place from those that are served."""
        self._kept_open = kept_open
        self._aside = aside
        self._views = views
        self._announcements = announcements
        self._tasks = tasks
        self._server = server
        self._open: set[Outbox] = set()

    def close(self) -> None:
        """End all streams, as if their clients had all they wanted."""
        for outbox in list(self._open):
            outbox.on_end()

    async def __call__(
        self, request: bytes, params: Params, identity: Identity, streams: bool, receive: Receive, send: Send
    ) -> None:
        """Tell a client what it wants to hear of, until it leaves.

        Raises:
            Refusal: it says not what, takes no streams, or wants too much.
        """
        wanted = params.notifications
        if wanted is rpc.UNSET:
            raise Refusal(rpc.INVALID_PARAMS, "params.notifications must say what to listen to")
        if not streams:
            raise Refusal(rpc.INVALID_REQUEST, "the client must accept text/event-stream", status=406)
        if len(wanted.uris) > _MOST_URIS or len(wanted.tasks) > _MOST_TASKS:
            words = f"one stream has {_MOST_URIS} resources and {_MOST_TASKS} tasks at most"
            raise Refusal(rpc.INVALID_PARAMS, words)
        names = [*wanted.uris, *wanted.tasks]
        if sum(map(len, names)) > _LONGEST:
            raise Refusal(rpc.INVALID_PARAMS, f"what one stream names has {_LONGEST} characters at most")
        outbox = Outbox("listen")
        stamp = {_ID: orjson.Fragment(request)}

        def tell(method: str, said: dict[str, Any]) -> None:
            outbox.push(rpc.notice(method, {**said, "_meta": stamp}))

        def finish() -> None:
            meta = {**stamp, "io.modelcontextprotocol/serverInfo": self._server}
            outbox.push(rpc.answer(request, orjson.dumps({"resultType": "complete", "_meta": meta})))
            outbox.finish()

        outbox.on_end = finish
        kinds = {"tools": wanted.tools, "prompts": wanted.prompts, "resources": wanted.resources}
        lists = frozenset(kind for kind, wants in kinds.items() if wants)
        uris = frozenset(wanted.uris)
        subscriber = Subscriber(lambda: self._views.of(identity), tell, lambda: uris, lists)
        honoured: dict[str, Any] = {f"{kind}ListChanged": True for kind in sorted(lists)}
        if wanted.uris:
            honoured["resourceSubscriptions"] = wanted.uris
        if wanted.tasks:
            honoured["taskIds"] = wanted.tasks
        with self._kept_open.one(identity, finish, names), self._aside():
            tell("notifications/subscriptions/acknowledged", {"notifications": honoured})
            self._announcements.add(subscriber)
            self._open.add(outbox)
            watching = [
                asyncio.create_task(self._tasks.watch(task_id, identity.principal, tell)) for task_id in wanted.tasks
            ]
            try:
                await stream(outbox, receive, send)
            finally:
                self._open.discard(outbox)
                self._announcements.remove(subscriber)
                await end(watching)
