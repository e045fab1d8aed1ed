"""The gateway as an ASGI application: admission first, then the door and the era, then the work.

Above: `process`, which serves it. Below: `admission`, `modern`, `legacy`, `rest`, `websocket`. Everything a request can
be refused for before its body is understood is decided here, for all doors in the same way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any, Final, cast

import orjson

from fabric.gateway import problems, rpc, websocket
from fabric.gateway.admission import Admission, Denied, Headers, is_json, read_headers, takes_json
from fabric.gateway.announcing import Announcements
from fabric.gateway.approving import Approving
from fabric.gateway.asking import Questions
from fabric.gateway.catalogue import CatalogueKeeper
from fabric.gateway.errands import Errands
from fabric.gateway.forward import Forwarder
from fabric.gateway.gate import Gate, limited
from fabric.gateway.http import Bodies, BodyTooLarge, ClientLeft, NoRoom, Receive, Scope, Send, respond
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.legacy import VERSIONS as LEGACY_VERSIONS
from fabric.gateway.legacy import Legacy
from fabric.gateway.listening import Listening
from fabric.gateway.modern import Modern
from fabric.gateway.openapi import OpenApi
from fabric.gateway.request import PREFIX, Request
from fabric.gateway.rest import Rest
from fabric.gateway.sessions import Sessions
from fabric.gateway.tasks import McpTasks
from fabric.gateway.tracing import Tracing
from fabric.gateway.upgraded import PATH as SOCKETS
from fabric.gateway.views import Views
from fabric.gateway.websocket import Door
from fabric.identity.authenticator import Authenticator
from fabric.identity.identity import Identity
from fabric.identity.oauth import IssuerUnavailable, Unauthenticated, challenge, metadata, metadata_url
from fabric.logs import speaking
from fabric.observability.metrics import METRICS, Reading
from fabric.observability.metrics_calls import BREAKERS
from fabric.observability.metrics_gateway import REFUSED
from fabric.settings import Settings
from fabric_sdk import Fabric
from fabric_sdk.cancelling import end, keep_on
from fabric_sdk.transports.base import ConnectionEvent

log = logging.getLogger(__name__)

PATH: Final = "/mcp"
_MODERN_MARK: Final = rpc.VERSION_KEY.encode()
_SERVED: Final = f"MCP is at {PATH}, and as WebSocket at {SOCKETS}; JSON for all others is at {PREFIX}"
_RETRY: Final = ((b"retry-after", b"1"),)
_METADATA_PATHS: Final = frozenset(f"/.well-known/oauth-protected-resource{end}" for end in ("", PATH))
_CATALOGUE_SECONDS: Final = 10.0
"""How long a request waits for a gateway's first catalogue: the registry restarts well within it."""

Refuse = Callable[[Send, int, str, tuple[tuple[bytes, bytes], ...]], Awaitable[None]]
"""Says no in the words of a door: the status, why, and headers that go with it."""


class Gateway:
    """MCP for any host, on one URL."""

    def __init__(self, fabric: Fabric, settings: Settings) -> None:
        about = {"name": "agent-fabric", "version": version("agent-fabric")}
        self.catalogue = CatalogueKeeper(fabric, root=settings.root)
        self._gate = Gate(fabric, settings)
        views = self._views = Views(fabric, self.catalogue, self._gate, root=settings.root)
        forwarder = Forwarder(fabric, timeout=settings.call_timeout)
        self._announcements = Announcements(fabric, views)
        scope = "public" if settings.anonymous else "private"
        tasks = McpTasks(fabric.tasks, server=about)
        tracing = self._tracing = Tracing(settings.trace_sampling)
        kept_open = self._kept_open = KeptOpen(settings.max_connections)
        self._listening = Listening(views, self._announcements, tasks, kept_open, self._aside, server=about)
        approving = self._approving = Approving(fabric, self._gate, timeout=settings.call_timeout)
        self._modern = Modern(
            forwarder,
            tasks,
            views,
            self._gate,
            approving,
            Questions(fabric),
            self._listening,
            tracing,
            server=about,
            scope=scope,
        )
        self._errands = Errands(fabric, forwarder, views, self._gate, approving, tracing)
        self._sessions = Sessions(fabric, lambda session: self._legacy.forget(session))
        self._legacy = Legacy(self._sessions, self._errands, views, self._announcements, kept_open, server=about)
        documents = OpenApi((settings.public_url or "").rstrip("/") or "/")
        self._rest = Rest(forwarder, tasks, views, self._gate, approving, documents, tracing, kept_open, self._aside)
        self._sockets = Door(self._message, self._legacy, kept_open)
        self._admission = Admission(settings)
        self._authenticator = Authenticator(fabric.jetstream, settings, kept_open.revoked, kept_open.signing_keys)
        self._issuer = settings.jwt_issuer
        self._resource: str | None = None
        self._metadata_url: str | None = None
        if settings.jwt_issuer is not None:
            self._resource = _public_url(settings) + PATH
            self._metadata_url = self._gate.metadata_url = metadata_url(self._resource)
        self._fabric = fabric
        self._bodies = Bodies(int(settings.max_body))
        self._max_body = int(settings.max_body)
        self._max_concurrent = settings.max_concurrent
        self._serving = 0

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None]:
        """Held open while the gateway serves."""
        keeping = [
            keep_on(self.catalogue.run, "keeping the catalogue"),
            keep_on(self._authenticator.run, "following who may come in"),
            keep_on(self._views.run, "following what is mounted where"),
            keep_on(self._gate.run, "following policy, limits and grants"),
            keep_on(self._approving.run, "following what waits for a person"),
            keep_on(self._kept_open.run, "ending what was opened by tokens that expired"),
        ]
        for part in (self._announcements, self._sessions, self._errands):
            await part.run()
        stop_listening = self._fabric.transport.listen(self._connection_changed)
        stops = [
            METRICS.watch("fabric_gateway_in_flight", "Requests that are being served.", lambda: [((), self._serving)]),
            METRICS.watch(*BREAKERS, self._breakers, labels=("agent",)),
        ]
        try:
            yield
        finally:
            stop_listening()
            for stop in stops:
                stop()
            await self._errands.end()
            await end(keeping)
            await self._gate.close()

    def _breakers(self) -> Reading:
        """1 for each agent that no call waits for, 0 for the others."""
        opened = self._fabric.caller.breakers.open
        return [((agent,), float(agent in opened)) for agent in {*self.catalogue.descriptions, *opened}]

    def _connection_changed(self, event: ConnectionEvent) -> None:
        """What was said while the bus was away, nobody here heard: clients come back, and are told of everything."""
        if event == "connected":
            self._sessions.forget_all()
            self._legacy.close()
            self._listening.close()

    def follow(self, settings: Settings) -> None:
        """Go by what changed live."""
        self._gate.follow(settings)
        self._tracing.sample(settings.trace_sampling)

    def close(self) -> None:
        """End the streams that would go on for ever: their clients come back, to other gateways."""
        self._legacy.close()
        self._listening.close()
        self._rest.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] != "http":
            return
        elif path == PATH:
            await self._mcp(scope, receive, send)
        elif path.startswith(PREFIX):
            await self._api(path, scope, receive, send)
        elif self._resource is not None and path in _METADATA_PATHS:
            about = metadata(self._resource, self._issuer, self._gate.policy.value.scopes)
            await respond(send, 200, orjson.dumps(about))
        elif path == "/healthz":
            await respond(send, 200, b'{"status":"ok"}')
        elif path == "/readyz":
            await self._ready(send)
        else:
            await respond(send, 404, orjson.dumps({"error": f"nothing is served at {path}; {_SERVED}"}))

    async def _ready(self, send: Send) -> None:
        """Whether calls can be served now: the broker is there, and so is a catalogue."""
        parts = {"nats": self._fabric.transport.connected, "catalogue": self.catalogue.ready.is_set()}
        ready = all(parts.values())
        body: dict[str, Any] = {"status": "ok" if ready else "not ready", **parts}
        body |= {"stale": self.catalogue.stale, "agents": self.catalogue.view.agents}
        await respond(send, 200 if ready else 503, orjson.dumps(body), () if ready else _RETRY)

    async def _mcp(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope["headers"])
        if (admitted := await self._admitted(scope, headers, send, _refuse)) is None:
            return
        if scope["method"] == "POST":
            if not await _are_json(headers, send):
                return
            if (body := await self._body(receive, send, headers, _refuse)) is None:
                return
            if _is_legacy(headers, body):
                await self._take_turn(send, _refuse, self._legacy.post, body, headers, admitted, receive, send)
            else:
                raw = scope["headers"]
                await self._take_turn(send, _refuse, self._modern, body, headers, raw, admitted, receive, send)
        elif scope["method"] in ("GET", "DELETE") and b"mcp-session-id" in headers:
            # Only a handshake-era session has anything to GET or DELETE. Its open stream waits and costs next to
            # nothing, its end is quick: neither is counted.
            if scope["method"] == "GET":
                await self._legacy.get(headers, admitted, receive, send)
            else:
                await self._legacy.delete(headers, admitted, send)
        else:
            await respond(send, 405, headers=((b"allow", b"POST"),))

    # the other doors

    async def _api(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = read_headers(scope["headers"])
        if (admitted := await self._admitted(scope, headers, send, problems.refuse)) is None:
            return
        body = b"" if scope["method"] == "GET" else await self._body(receive, send, headers, problems.refuse)
        if body is not None:
            request = Request(scope["method"], path, scope["query_string"], headers, body, admitted, receive, send)
            await self._take_turn(send, problems.refuse, self._rest, request)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # that it wants to connect
        answer = websocket.before_it_opens(send)
        headers = read_headers(scope["headers"])
        if (unfit := websocket.read_offer(scope["subprotocols"], headers)) is not None:
            await _refuse(answer, 400, unfit)
        elif (opener := await self._admitted(scope, headers, answer, _refuse)) is not None:
            token = cast("bytes", self._admission.decide(headers))
            await self._sockets(opener, partial(self._identify, token, scope), receive, send)

    async def _identify(self, token: bytes, scope: Scope) -> Identity:
        """Who sends the messages of a socket: a token may have ended since it was opened."""
        try:
            return self._authenticator.known(token) or await self._authenticator.identify(token)
        except Unauthenticated:
            self._gate.audit.turned_away("unauthenticated", _network(scope), _door(scope))
            raise

    async def _message(
        self, message: bytes, headers: Headers | None, identity: Identity, receive: Receive, send: Send
    ) -> None:
        """Answer one message of a socket; one of a session comes with headers that name it."""
        if headers is None:
            await self._take_turn(send, _refuse, self._modern, message, None, (), identity, receive, send)
        else:
            await self._take_turn(send, _refuse, self._legacy.post, message, headers, identity, receive, send)

    # what all doors share

    async def _admitted(self, scope: Scope, headers: Headers, send: Send, refuse: Refuse) -> Identity | None:
        """Who sent these headers; else the request is refused."""
        token = self._admission.decide(headers)
        if isinstance(token, Denied):
            await refuse(send, token.status, token.message, token.headers)
            return None
        identity = self._authenticator.known(token) or await self._identified(token, scope, send, refuse)
        speaking.set(identity)
        return identity

    async def _identified(self, token: bytes, scope: Scope, send: Send, refuse: Refuse) -> Identity | None:
        """Who sent a token that is not known yet; else the request is refused, and counted against its address."""
        address, now = _network(scope), time.monotonic()
        if (locked := self._gate.limiter.locked(address, now)) is not None:
            self._gate.audit.turned_away("locked", address, _door(scope), locked.rule)
            refusal = limited(locked)
            await refuse(send, refusal.status, refusal.message, refusal.headers)
            return None
        try:
            return await self._authenticator.identify(token)
        except Unauthenticated as refused:
            if token:
                self._gate.limiter.strike(address, now)
                self._gate.audit.turned_away("unauthenticated", address, _door(scope))
            said = challenge(metadata=self._metadata_url, error=refused.error, description=refused.message)
            await refuse(send, 401, str(refused), ((b"www-authenticate", said),))
        except IssuerUnavailable as away:
            await refuse(send, 503, str(away), _RETRY)
        return None

    async def _body(self, receive: Receive, send: Send, headers: Headers, refuse: Refuse) -> bytes | None:
        """The body of a request, or None when it is refused."""
        try:
            return await self._bodies.read(receive, headers.get(b"content-length"))
        except BodyTooLarge:
            await refuse(send, 413, f"the body has more than {self._max_body} bytes", ())
        except NoRoom:
            await refuse(send, 503, "too many large requests are on their way already", _RETRY)
        except ClientLeft:
            pass
        return None

    async def _take_turn(self, send: Send, refuse: Refuse, serve: Callable[..., Awaitable[None]], *what: Any) -> None:
        """Serve a request that is there, unless so many are served that it has to come again."""
        # One that is still coming is not counted, or who sends slowly would take the places of all others: it costs
        # memory and no work, and `Bodies` bounds that.
        if self._serving >= self._max_concurrent:
            await refuse(send, 503, f"the gateway serves {self._max_concurrent} requests already", _RETRY)
            return
        self._serving += 1
        try:
            if not self.catalogue.ready.is_set() and not await self._catalogue_comes():
                await refuse(send, 503, "the gateway does not know the agents yet", _RETRY)
            else:
                await serve(*what)
        finally:
            self._serving -= 1

    @contextmanager
    def _aside(self) -> Generator[None]:
        """Held by a request that has begun to wait for what may come: it makes no work, and takes nobody's place."""
        self._serving -= 1
        try:
            yield
        finally:
            self._serving += 1

    async def _catalogue_comes(self) -> bool:
        """A gateway that has just begun knows no names yet: who comes early waits, and is not told there are none."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.catalogue.ready.wait(), _CATALOGUE_SECONDS)
        return self.catalogue.ready.is_set()


def _is_legacy(headers: Headers, body: bytes) -> bool:
    """The version header says the era; without one, only what carries the new envelope, and no session, is new."""
    stated = headers.get(b"mcp-protocol-version")
    if stated is None:
        return b"mcp-session-id" in headers or _MODERN_MARK not in body
    return stated in LEGACY_VERSIONS


def _public_url(settings: Settings) -> str:
    """Where clients reach this gateway."""
    if settings.public_url is not None:
        return settings.public_url.rstrip("/")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _door(scope: Scope) -> str:
    """Where somebody stands who is not known yet."""
    return "websocket" if scope["type"] == "websocket" else "rest" if scope["path"].startswith(PREFIX) else "mcp"


def _network(scope: Scope) -> str:
    """Whose wrong tokens are counted together: an address, or the network that one host has with IPv6."""
    host = str((scope.get("client") or ("",))[0])
    return ":".join(host.split(":")[:4]) if ":" in host else host


async def _are_json(headers: Headers, send: Send) -> bool:
    """Whether body and answer of a POST are JSON; else it is refused."""
    if not is_json(headers.get(b"content-type", b"")):
        await _refuse(send, 415, "the body must be application/json")
        return False
    if not takes_json(headers.get(b"accept", b"")):
        await _refuse(send, 406, "the client must accept application/json")
        return False
    return True


async def _refuse(send: Send, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """An HTTP refusal, in words that a JSON-RPC client shows too."""
    REFUSED.of(str(status)).add()
    await respond(send, status, rpc.error(rpc.NULL, rpc.INVALID_REQUEST, message), headers)
