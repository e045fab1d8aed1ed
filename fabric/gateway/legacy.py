"""The handshake revisions (2024-11-05 to 2025-11-25): sessions that live in the fabric, and in no gateway.

Above: `app`, which chooses the era. Below: `forward`, as for the current revision; `sessions`, `errands`, `replies`.
A request that is answered at once is answered in JSON. One that has something to say before, or takes its time, is
answered by a stream, which the client may leave and come back to, at any gateway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, cast

import orjson
from mcp_types import InitializeRequestParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError

from fabric.gateway import rpc
from fabric.gateway.admission import Headers, takes_events
from fabric.gateway.announcing import Announcements, Subscriber
from fabric.gateway.errand import Errand
from fabric.gateway.errands import Errands
from fabric.gateway.forward import NAMED
from fabric.gateway.http import WATCH_AFTER, Receive, Send, respond
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.replies import OWN, Outbox, place_in, primer, stream
from fabric.gateway.rpc import Message, Refusal
from fabric.gateway.sessions import Session, Sessions
from fabric.gateway.view import CAPABILITIES
from fabric.gateway.views import Views
from fabric.identity.identity import Identity
from fabric_sdk import FabricError
from fabric_sdk.contracts.errors import to_wire
from fabric_sdk.contracts.scope import Trace

log = logging.getLogger(__name__)

VERSIONS: Final = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)
NEWEST: Final = "2025-11-25"
_PRIMED: Final = frozenset((NEWEST,))
"""The revisions whose clients come back to a stream that ended before its answer."""
_LISTS: Final = frozenset(("tools/list", "resources/list", "resources/templates/list", "prompts/list"))
_OFFER: Final[dict[str, Any]] = {**CAPABILITIES, "logging": {}}


class Legacy:
    """The handshake revisions' endpoint."""

    def __init__(
        self,
        sessions: Sessions,
        errands: Errands,
        views: Views,
        announcements: Announcements,
        kept_open: KeptOpen,
        *,
        server: dict[str, Any],
    ) -> None:
        self._kept_open = kept_open
        self._sessions = sessions
        self._errands = errands
        self._views = views
        self._announcements = announcements
        self._server = server
        self._streams: dict[str, Outbox] = {}
        """Sessions' own streams that are open here."""

    def close(self) -> None:
        """End the streams that wait for something: their clients come back, to other gateways."""
        for outbox in self._streams.values():
            outbox.finish()
        self._errands.close()

    def forget(self, session_id: str) -> None:
        """A session has ended: nothing of it is open here any more."""
        if (outbox := self._streams.pop(session_id, None)) is not None:
            outbox.finish()
        self._errands.forget(session_id)

    async def get(self, headers: Headers, identity: Identity, receive: Receive, send: Send) -> None:
        """Open the stream of a session, or go on with that of one request."""
        if not takes_events(headers.get(b"accept", b"")):
            await _refuse(send, 406, "the client must accept text/event-stream")
            return
        if (session := await self._session(headers, identity, send)) is None:
            return
        name, place, last = OWN, 0, headers.get(b"last-event-id")
        if last is not None:
            try:
                name, place = place_in(last.decode("latin-1"))
            except ValueError:
                await _refuse(send, 400, "the Last-Event-ID header names no event of this session")
                return
        outbox = Outbox(name)
        try:
            with self._kept_open.one(identity, outbox.finish):
                if name == OWN:
                    await self._own_stream(session, outbox, identity, receive, send, again=last is not None)
                else:
                    await self._errands.reopen(session, identity, outbox, place)
                    await stream(outbox, receive, send)
        except Refusal as refusal:
            await _refuse(send, refusal.status, refusal.message)

    async def _own_stream(
        self, session: Session, outbox: Outbox, identity: Identity, receive: Receive, send: Send, *, again: bool
    ) -> None:
        if (before := self._streams.get(session.id)) is not None:
            before.finish()
        self._streams[session.id] = outbox

        def tell(method: str, params: dict[str, Any]) -> None:
            outbox.push(rpc.notice(method, params))

        subscriber = Subscriber(lambda: self._views.of(identity), tell, lambda: session.uris)
        self._announcements.add(subscriber)
        try:
            if again:  # what was said meanwhile, nobody knows
                subscriber.tell_all()
            await stream(outbox, receive, send, first=primer(OWN))
        finally:
            self._announcements.remove(subscriber)
            if self._streams.get(session.id) is outbox:
                del self._streams[session.id]

    async def delete(self, headers: Headers, identity: Identity, send: Send) -> None:
        """End a session."""
        if (session := await self._session(headers, identity, send)) is None:
            return
        try:
            await self._sessions.end(session)
            await self._errands.abandon(session)
        except FabricError as failure:
            await _refuse(send, 503, f"the session cannot be ended now: {failure}", ((b"retry-after", b"1"),))
        else:
            await respond(send, 200)

    async def post(self, body: bytes, headers: Headers, identity: Identity, receive: Receive, send: Send) -> None:
        """Take one message: a request, a notification, or the answer to what the client was asked."""
        request = rpc.NULL
        try:
            message = rpc.read_message(body)
            if message.id is not rpc.UNSET and message.method is not rpc.UNSET:
                request = rpc.identifier(message.id)
                if message.method == "initialize":
                    await self._initialize(request, message, identity, send)
                    return
            if (session := await self._session(headers, identity, send)) is None:
                return
            if message.method is rpc.UNSET:
                await self._errands.take_answer(session, identity, message)
                await respond(send, 202)
            elif message.id is rpc.UNSET:
                await self._take_notification(session, message)
                await respond(send, 202)
            else:
                await self._serve(session, identity, request, message, headers, receive, send)
        except Refusal as refusal:
            wrong = refusal.code in (rpc.PARSE_ERROR, rpc.INVALID_REQUEST)
            text = rpc.error(request, refusal.code, refusal.message, refusal.data)
            await respond(send, 400 if wrong else 200, text)
        except FabricError as failure:
            if request == rpc.NULL:  # an answer that could not be noted: nothing but HTTP can say so
                await _refuse(send, 503, str(failure), ((b"retry-after", b"1"),))
            else:
                await respond(send, 200, _failed(request, failure))

    # sessions

    async def _initialize(self, request: bytes, message: Message, identity: Identity, send: Send) -> None:
        try:
            asked = InitializeRequestParams.model_validate(rpc.value_of(message.params) or {}, by_name=False)
        except ValidationError as wrong:
            raise Refusal(
                rpc.INVALID_PARAMS, f"params: {wrong.errors()[0]['loc']}: {wrong.errors()[0]['msg']}"
            ) from None
        version = asked.protocol_version if asked.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS else NEWEST
        capabilities = asked.capabilities.model_dump(mode="json", by_alias=True, exclude_none=True)
        if len(orjson.dumps(capabilities)) > _LARGEST_CAPABILITIES:
            words = f"params.capabilities: a session keeps {_LARGEST_CAPABILITIES} bytes of them at most"
            raise Refusal(rpc.INVALID_PARAMS, words)
        session = await self._sessions.open(identity.principal, version, capabilities)
        result: dict[str, Any] = {"protocolVersion": version, "capabilities": _OFFER, "serverInfo": self._server}
        if (instructions := self._views.of(identity).instructions) is not None:
            result["instructions"] = instructions
        answer = rpc.answer(request, orjson.dumps(result))
        await respond(send, 200, answer, ((b"mcp-session-id", session.id.encode()),))

    async def _session(self, headers: Headers, identity: Identity, send: Send) -> Session | None:
        """The session that a request names; else it is refused."""
        if (named := headers.get(b"mcp-session-id")) is None:
            await _refuse(send, 400, "the Mcp-Session-Id header is missing: initialize first")
            return None
        try:
            session = await self._sessions.find(named.decode("latin-1"), identity.principal)
        except FabricError as failure:
            await _refuse(send, 503, f"the session cannot be looked up now: {failure}", ((b"retry-after", b"1"),))
            return None
        if session is None:
            await _refuse(send, 404, "there is no such session: initialize again")
        return session

    async def _take_notification(self, session: Session, message: Message) -> None:
        request = rpc.member_of(message.params, "requestId")
        if message.method == "notifications/cancelled" and request is not None:
            await self._errands.cancel(session, request)

    # requests

    async def _serve(
        self,
        session: Session,
        identity: Identity,
        request: bytes,
        message: Message,
        headers: Headers,
        receive: Receive,
        send: Send,
    ) -> None:
        method = str(message.method)
        if method not in NAMED and method != "completion/complete":
            await respond(send, 200, rpc.answer(request, await self._answer_here(session, identity, method, message)))
            return
        streams = takes_events(headers.get(b"accept", b""))
        told = (headers.get(name, b"").decode("latin-1") for name in (b"traceparent", b"tracestate"))
        trace = Trace.of(*told)
        errand = Errand(session, identity, request, method, _params(message), trace)
        errand.quiet = not streams
        self._errands.begin(errand)
        await _deliver(errand, session, receive, send, streams=streams)

    async def _answer_here(self, session: Session, identity: Identity, method: str, message: Message) -> bytes:
        params: Any = rpc.value_of(message.params) or {}
        if not isinstance(params, dict):
            raise Refusal(rpc.INVALID_PARAMS, "params must be an object")
        given = cast("dict[str, Any]", params)
        if method == "ping":
            return b"{}"
        if method in _LISTS:
            cursor = given.get("cursor")
            if not (cursor is None or isinstance(cursor, str)):
                raise Refusal(rpc.INVALID_PARAMS, "params.cursor must be a string")
            return orjson.dumps(self._views.of(identity).page(method, cursor))
        if method == "logging/setLevel":
            if (level := given.get("level")) not in rpc.LOG_LEVELS:
                raise Refusal(rpc.INVALID_PARAMS, f"params.level must be one of {', '.join(rpc.LOG_LEVELS)}")
            await self._sessions.change(session, lambda each: setattr(each, "level", level))
            return b"{}"
        if method in ("resources/subscribe", "resources/unsubscribe"):
            await self._sessions.change(session, self._interest(identity, method, given.get("uri")))
            return b"{}"
        raise Refusal(rpc.METHOD_NOT_FOUND, f"this server does not serve {method!r}")

    def _interest(self, identity: Identity, method: str, uri: Any) -> Callable[[Session], None]:
        if not isinstance(uri, str):
            raise Refusal(rpc.INVALID_PARAMS, "params.uri must be a string")
        if method == "resources/unsubscribe":
            return lambda each: setattr(each, "uris", [other for other in each.uris if other != uri])
        self._views.of(identity).route_uri(uri)

        def add(session: Session) -> None:
            others = [other for other in session.uris if other != uri]
            if len(others) >= _MOST_URIS:
                raise Refusal(rpc.INVALID_PARAMS, f"a session subscribes to {_MOST_URIS} resources at most")
            if sum(map(len, others)) + len(uri) > _LONGEST_URIS:
                words = f"the resources that a session subscribes to have {_LONGEST_URIS} characters at most"
                raise Refusal(rpc.INVALID_PARAMS, words)
            session.uris = [*others, uri]

        return add


_MOST_URIS: Final = 1000
_LONGEST_URIS: Final = 32 * 1024
"""Characters of all of them: every gateway that serves a session holds it, and the broker keeps it for a day."""
_LARGEST_CAPABILITIES: Final = 8 * 1024
"""Bytes of what a client says that it can be asked."""


async def _deliver(errand: Errand, session: Session, receive: Receive, send: Send, *, streams: bool) -> None:
    """Answer in JSON what is answered at once, or to who takes nothing else; the rest by a stream."""
    outbox = errand.outbox
    if streams:
        await errand.settled(WATCH_AFTER)
    else:
        await errand.settled(None)
    if errand.answer is not None and outbox.pushed == 1:
        refusal = errand.refusal
        if refusal is not None and refusal.headers:  # what HTTP itself has words for
            await respond(send, refusal.status, errand.answer, refusal.headers)
        else:
            await respond(send, 200, errand.answer)
        return
    if outbox.complete and not outbox.pushed:  # it was cancelled: nothing is to be said
        await respond(send, 202)
        return
    errand.streams = True
    await stream(outbox, receive, send, first=primer(outbox.stream) if session.version in _PRIMED else b"")


def _params(message: Message) -> bytes:
    if message.params is rpc.UNSET:
        return b"{}"
    raw = bytes(message.params)
    if raw[:1] != b"{":
        raise Refusal(rpc.INVALID_PARAMS, "params must be an object")
    # In these revisions an answer is a message of its own: nothing that a request says is one, or an agent's state.
    return rpc.without_members(raw, rpc.ANSWERS) if any(name.encode() in raw for name in rpc.ANSWERS) else raw


def _failed(request: bytes, failure: FabricError) -> bytes:
    wire = to_wire(failure)
    return rpc.error(request, wire["code"], wire["message"], wire.get("data"))


async def _refuse(send: Send, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    await respond(send, status, rpc.error(rpc.NULL, rpc.INVALID_REQUEST, message), headers)
