"""MCP 2026-07-28 over HTTP: one POST, one JSON-RPC request, one answer, no state between two of them.

Above: `app`, which has admitted the sender and read the body. Below: `forward` and `rpc`. The ladder of checks
follows the revision's transport chapter: JSON, envelope, duplicate headers, `_meta`, header match, version,
`Mcp-Param-*`; the first that fails answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import orjson
from msgspec import UNSET, Struct, UnsetType
from opentelemetry.trace import Span

from fabric.gateway import listening, rpc, tasks
from fabric.gateway.admission import Headers, takes_events
from fabric.gateway.approving import Approving, Wanted, check_allowed, is_ours
from fabric.gateway.asking import Questions, brought
from fabric.gateway.auditing import CANCELLED, Barred, Deed
from fabric.gateway.forward import NAMED, Asker, Forwarder
from fabric.gateway.gate import AskFirst, Gate, Leave
from fabric.gateway.http import Exchange, Patrol, Receive, Send, respond
from fabric.gateway.inbound import decode_header_value, validate_mcp_param_headers
from fabric.gateway.listening import Listening
from fabric.gateway.rpc import Meta, Params, Refusal, Rpc
from fabric.gateway.sealing import Bound, State
from fabric.gateway.tasks import McpTasks
from fabric.gateway.tracing import Tracing, failed, note
from fabric.gateway.view import CAPABILITIES, Route, View, complete
from fabric.gateway.views import Views
from fabric.identity.identity import Identity
from fabric.search.tool import NAME as SEARCH
from fabric_sdk import FabricError
from fabric_sdk.contracts.asking import ASKS, Asked
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import to_wire
from fabric_sdk.contracts.scope import Trace
from fabric_sdk.patterns.call import OnFrame
from fabric_sdk.tracing import answered

log = logging.getLogger(__name__)

Work = Callable[[Asker], Awaitable[Body]]
"""What answers a request, once it is known who asks."""


_FREELY: Final = Leave(None)


class _Plan(Struct, frozen=True):
    """What is to be done for a request."""

    do: Work
    leave: Leave = _FREELY
    named: str | None = None
    """What it is done with, as the client calls it, where that may ask something first."""
    route: Route | None = None
    """Where it goes, if it goes to an agent."""


VERSION: Final = "2026-07-28"
_VERSION_JSON: Final = b'"2026-07-28"'
_VERSION_BYTES: Final = b"2026-07-28"

_NAMING: Final = {**NAMED, **tasks.NAMED}
"""The member of params that the Mcp-Name header repeats, by method."""
_OFFER: Final[dict[str, Any]] = {**CAPABILITIES, "extensions": {tasks.EXTENSION: {}}}
_MCP: Final = "mcp"
_WEBSOCKET: Final = "websocket"
_COMPLETE: Final = "completion/complete"
_LISTS: Final = frozenset(("tools/list", "resources/list", "resources/templates/list", "prompts/list"))


class Modern:
    """The current revision's endpoint."""

    def __init__(
        self,
        forwarder: Forwarder,
        mcp_tasks: McpTasks,
        views: Views,
        gate: Gate,
        approving: Approving,
        questions: Questions,
        listening: Listening,
        tracing: Tracing,
        *,
        server: dict[str, Any],
        scope: str,
    ) -> None:
        self._forwarder = forwarder
        self._tasks = mcp_tasks
        self._views = views
        self._gate = gate
        self._approving = approving
        self._server = server
        self._cache_scope = scope
        self._patrol = Patrol()
        self._questions = questions
        self._tracing = tracing
        self._listening = listening

    async def __call__(
        self,
        body: bytes,
        headers: Headers | None,
        raw_headers: Iterable[tuple[bytes, bytes]],
        identity: Identity,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer one POST; or, without headers that repeat what it says, one message of a socket."""
        request, span = rpc.NULL, None
        audit = self._gate.audit
        began = time.perf_counter() if audit.calls else 0.0
        try:
            call = rpc.read_rpc(body)
            if call.id is UNSET:
                await self._take_notification(headers, send)
                return
            request = rpc.request_id(call)
            params = self._check(call, headers)
            view = self._views.of(identity)
            streams = headers is None or takes_events(headers.get(b"accept", b""))
            if call.method == listening.METHOD:
                await self._listening(request, params, identity, streams, receive, send)
                return
            meta = cast("Meta", params.meta)
            trace = _trace(meta, headers)
            if self._tracing.takes(trace):
                span = self._begin_span(trace, call.method, params, identity, request)
            if call.method not in _NAMING and call.method != _COMPLETE:
                await respond(send, 200, rpc.answer(request, self._answer_here(call.method, params, view)))
                if span is not None:
                    span.end()
                return
            wishes = _wishes(meta)
            try:
                plan = self._work(call, params, None if headers is None else raw_headers, view, identity)
            except Barred as barred:
                audit.barred(_deed(identity, call, params, headers, len(body), trace), barred)
                raise
        except Refusal as refusal:
            if span is not None:
                failed(span, refusal)
                span.end()
            text = rpc.error(request, refusal.code, refusal.message, refusal.data)
            await respond(send, refusal.status, text, refusal.headers)
            return
        exchange = Exchange(receive, send, self._patrol, may_stream=streams)
        trace = self._tracing.passed_on(trace, span)
        asker = Asker(identity.principal, trace, _frames(wishes, exchange), roles=identity.roles, span=span)
        code = CANCELLED
        try:
            code = await self._answer(request, call.method, params, plan, asker, exchange)
        finally:
            if plan.leave.permit is not None:
                plan.leave.permit.release()
            if audit.calls:
                deed = _deed(identity, call, params, headers, len(body), trace)
                audit.called(deed, plan.route, plan.leave.rule, code, began)
            if span is not None:
                span.end()

    def _begin_span(self, trace: Trace | None, method: str, params: Params, identity: Identity, request: bytes) -> Span:
        """A span for a request that is traced."""
        stated = _named(params, _NAMING[method]) if method in _NAMING else UNSET
        target = "" if stated is UNSET else stated
        return self._tracing.begin(trace, method, target, identity, request=request, version=VERSION)

    # the ladder

    def _check(self, call: Rpc, headers: Headers | None) -> Params:
        """All checks before the method is looked at; returns what routes the request."""
        if headers is not None and headers.twice is not None:
            raise Refusal(rpc.HEADER_MISMATCH, f"the {headers.twice.decode()} header came more than once")
        params = rpc.read_params(call)
        meta = params.meta
        if meta is UNSET:
            raise Refusal(
                rpc.INVALID_PARAMS, "params._meta must hold the protocol version and the client's capabilities"
            )
        if meta.version is UNSET or meta.capabilities is UNSET:
            missing = rpc.VERSION_KEY if meta.version is UNSET else rpc.CAPABILITIES_KEY
            raise Refusal(rpc.INVALID_PARAMS, f"params._meta lacks {missing!r}")
        if headers is None:
            if (version := rpc.value_of(meta.version)) != VERSION:
                raise _unsupported(version)
            return params
        usual = bytes(meta.version) == _VERSION_JSON and headers.get(b"mcp-protocol-version") == _VERSION_BYTES
        version = VERSION if usual else _stated_version(meta, headers)
        if headers.get(b"mcp-method", b"").decode("latin-1") != call.method:
            raise Refusal(rpc.HEADER_MISMATCH, "the Mcp-Method header is not the method in the body")
        if (member := _NAMING.get(call.method)) is not None:
            stated = headers.get(b"mcp-name")
            value = _named(params, member)
            if value is not UNSET and (stated is None or decode_header_value(stated.decode("latin-1")) != value):
                raise Refusal(rpc.HEADER_MISMATCH, f"the Mcp-Name header is not params.{member} in the body")
        if version != VERSION:
            raise _unsupported(version)
        return params

    def _check_param_headers(
        self, schema: dict[str, Any], params: Params, raw_headers: Iterable[tuple[bytes, bytes]]
    ) -> None:
        """Hold the `Mcp-Param-*` headers that the tool asks for against its arguments."""
        arguments = rpc.value_of(params.arguments)
        stated = _Folded((name.decode("latin-1"), value.strip(b" \t").decode("latin-1")) for name, value in raw_headers)
        given = cast("dict[str, Any]", arguments) if isinstance(arguments, dict) else {}
        wrong = validate_mcp_param_headers(schema, given, stated)
        if wrong is not None:
            raise Refusal(wrong.code, wrong.message, data=wrong.data)

    async def _take_notification(self, headers: Headers | None, send: Send) -> None:
        """This revision defines none from the client; each is accepted and has no effect."""
        version = VERSION if headers is None else headers.get(b"mcp-protocol-version", b"").decode("latin-1")
        if version != VERSION:
            raise _unsupported(version)
        await respond(send, 202)

    # answers

    def _answer_here(self, method: str, params: Params, view: View) -> bytes:
        """What the gateway answers itself."""
        if method == "server/discover":
            result: dict[str, Any] = {"supportedVersions": [VERSION], "capabilities": _OFFER}
            if view.instructions:
                result["instructions"] = view.instructions
        elif method in _LISTS:
            result = view.page(method, None if params.cursor is UNSET else params.cursor)
        else:
            raise Refusal(rpc.METHOD_NOT_FOUND, f"this server does not serve {method!r}")
        return complete(result, self._server, self._cache_scope)

    def _work(
        self,
        call: Rpc,
        params: Params,
        raw_headers: Iterable[tuple[bytes, bytes]] | None,
        view: View,
        identity: Identity,
    ) -> _Plan:
        """What is to be done for a request that names something, and the leave to do it.

        Raises:
            Refusal: nothing is.
        """
        method = call.method
        if method in tasks.NAMED:
            return _Plan(partial(self._tasks.answer, method, params))
        encoded = bytes(cast("Any", call.params))
        if method == _COMPLETE:
            route, encoded = self._forwarder.completion(view, params, encoded)
            leave = Leave(self._gate.take(identity, method, route))
            return _Plan(partial(self._forwarder.forward, method, route.name, route, encoded), leave, route=route)
        stated = _named(params, NAMED[method])
        named = None if stated is UNSET else stated
        if named == SEARCH and method == "tools/call" and SEARCH not in view.tools:
            return _Plan(partial(_search, view, params))
        route = self._forwarder.route(view, method, named)
        if route.schema is not None and raw_headers is not None:
            self._check_param_headers(route.schema, params, raw_headers)
        as_task = self._tasks.wanted(route, params)  # it may be refused: before it has a place, which nobody would free
        try:
            leave = self._gate.pass_through(identity, method, str(named), route, params)
        except AskFirst as first:
            arguments = rpc.value_of(params.arguments)
            door = _WEBSOCKET if raw_headers is None else _MCP
            wanted = Wanted(identity, door, method, str(named), route, encoded, arguments, first.rule)
            leave = Leave(self._gate.take(identity, str(named), route), first.rule.name)
            return _Plan(partial(self._ask_first, wanted, params, as_task), leave, route=route)
        if as_task:
            return _Plan(partial(self._start, str(named), route, encoded, params), leave, route=route)
        if params.request_state is UNSET and params.input_responses is UNSET:
            do = partial(self._forwarder.forward, method, str(named), route, encoded)
        else:
            do = partial(self._go_on, method, str(named), route, encoded, params)
        return _Plan(do, leave, str(named), route)

    async def _start(self, named: str, route: Route, encoded: bytes, params: Params, asker: Asker) -> Body:
        """Start a task, with the answers to what its agent asked before."""
        if params.request_state is not UNSET:
            bound = _bound("tools/call", named, params, asker)
            state, answers = await self._questions.answered(params, bound, anew=True)
            encoded = rpc.without_members(encoded, rpc.ANSWERS)
            if is_ours(Asked({}, state.inner)):
                check_allowed(answers)
            else:
                encoded = brought(encoded, state.inner, answers)
        return await self._tasks.start(named, route, encoded, asker)

    async def _go_on(self, method: str, named: str, route: Route, encoded: bytes, params: Params, asker: Asker) -> Body:
        """Bring an agent the answers to what it asked."""
        state, answers = await self._questions.answered(params, _bound(method, named, params, asker))
        asked, encoded = Asked({}, state.inner), rpc.without_members(encoded, rpc.ANSWERS)
        if is_ours(asked):  # a rule had the client asked, and does so no more
            check_allowed(answers)
            return await self._forwarder.forward(method, named, route, encoded, asker)
        return await self._forwarder.answer(method, named, route, encoded, asker, asked=asked, answers=answers)

    async def _ask_first(self, wanted: Wanted, params: Params, as_task: bool, asker: Asker) -> Body:
        """Have a person allow a call, and then an agent answer."""
        note(asker.span, "approval needed", rule=wanted.rule.name)
        method, named, route = wanted.method, wanted.named, wanted.route
        bound = _bound(method, named, params, asker)
        capabilities = rpc.value_of(cast("Meta", params.meta).capabilities)
        state, answers = State(None), {}
        if params.request_state is not UNSET:
            state, answers = await self._questions.answered(params, bound)
        if state.approved == wanted.mark:  # it was allowed before its agent asked something
            asked = Asked({}, state.inner)
            result = await self._forwarder.answer(
                method, named, route, wanted.bare, asker, asked=asked, answers=answers
            )
            return await self._questions.asked(result, bound, capabilities, approved=wanted.mark)
        able = self._approving.may_decide(wanted, capabilities)
        if able and state.inner == wanted.state:
            await self._approving.judge(wanted, answers)
        elif able:
            return await self._questions.asked(wanted.asked().result(), bound, capabilities)
        elif method == "tools/call" and tasks.declared(params):
            return self._tasks.created(await self._approving.task(wanted, asker))
        elif (result := await self._approving.result(wanted, asker)) is not None:
            return result
        if as_task:
            return await self._tasks.start(named, route, wanted.bare, asker)
        result = await self._forwarder.forward(method, named, route, wanted.bare, asker)
        return await self._questions.asked(result, bound, capabilities, approved=wanted.mark)

    async def _answer(
        self, request: bytes, method: str, params: Params, plan: _Plan, asker: Asker, exchange: Exchange
    ) -> int:
        """Do what is planned, and say what came of it; returns the error's code, or 0."""
        code = 0
        try:
            result = await plan.do(asker)
            encoded = result.encoded()
            if asker.span is not None:
                answered(asker.span, result)
            if plan.named is not None and ASKS in encoded:
                bound = _bound(method, plan.named, params, asker)
                capabilities = rpc.value_of(cast("Meta", params.meta).capabilities)
                encoded = (await self._questions.asked(result, bound, capabilities)).encoded()
            status, answer = 200, rpc.answer(request, encoded)
        except Refusal as refusal:
            failed(asker.span, refusal)
            status, code = refusal.status, refusal.code
            answer = rpc.error(request, code, refusal.message, refusal.data)
        except FabricError as failure:
            failed(asker.span, failure)
            wire = to_wire(failure)
            code = wire["code"]
            status = rpc.STATUS.get(code, 200)
            answer = rpc.error(request, code, wire["message"], wire.get("data"))
        except BaseException as ended:
            failed(asker.span, ended)
            await exchange.close()
            if exchange.left:
                return CANCELLED  # the client hung up, which is how this revision cancels; the call was told
            raise
        await exchange.finish(status, answer, rpc.event)
        return code


def _deed(
    identity: Identity, call: Rpc, params: Params, headers: Headers | None, size: int, trace: Trace | None
) -> Deed:
    """A request, as it is noted."""
    named = _named(params, _NAMING.get(call.method, "name"))
    door = _WEBSOCKET if headers is None else _MCP
    return Deed(identity, door, call.method, "" if named is UNSET else named, size, trace)


def _named(params: Params, member: str) -> str | UnsetType:
    return params.uri if member == "uri" else params.task_id if member == "taskId" else params.name


async def _search(view: View, params: Params, asker: Asker) -> Body:
    return await view.search(rpc.value_of(params.arguments))


def _bound(method: str, named: str, params: Params, asker: Asker) -> Bound:
    arguments = b"" if params.arguments is UNSET else bytes(params.arguments)
    return Bound(asker.principal, method, named, arguments)


class _Folded(dict[str, str]):
    """Headers as a mapping that still shows a name that came twice, as the SDK's validator wants to see it."""

    def __init__(self, lines: Iterable[tuple[str, str]]) -> None:
        self._lines = list(lines)
        super().__init__(self._lines)

    def items(self) -> Any:
        return self._lines


def _stated_version(meta: Meta, headers: Headers) -> str:
    """The version that header and body agree on, where they are not byte for byte as usual."""
    stated = headers.get(b"mcp-protocol-version")
    if stated is None or stated.decode("latin-1") != rpc.value_of(meta.version):
        raise Refusal(rpc.HEADER_MISMATCH, "the MCP-Protocol-Version header is not the version in the body")
    return stated.decode("latin-1")


def _unsupported(version: Any) -> Refusal:
    data = {"supported": [VERSION], "requested": version}
    return Refusal(rpc.UNSUPPORTED_VERSION, "unsupported protocol version", data=data)


def _trace(meta: Meta, headers: Headers | None) -> Trace | None:
    """The W3C trace context of `_meta`, else of HTTP."""
    if meta.traceparent is not None:
        return Trace.of(meta.traceparent, meta.tracestate)
    if headers is not None and (traceparent := headers.get(b"traceparent")) is not None:
        return Trace.of(traceparent.decode("latin-1"), headers.get(b"tracestate", b"").decode("latin-1"))
    return None


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What a client wants to hear ahead of the answer."""

    token: bytes | None
    """Of progress, as it was written."""
    levels: tuple[str, ...]
    """Of log entries."""


_NONE: Final = _Wishes(None, ())


def _wishes(meta: Meta) -> _Wishes:
    if meta.progress_token is UNSET and meta.log_level is UNSET:
        return _NONE
    token = None if meta.progress_token is UNSET else bytes(meta.progress_token)
    if token == rpc.NULL:
        token = None
    if token is not None and not rpc.is_identifier(token):
        raise Refusal(rpc.INVALID_PARAMS, "params._meta.progressToken must be a string or an integer")
    level = rpc.value_of(meta.log_level)
    if level is not None and level not in rpc.LOG_LEVELS:
        raise Refusal(rpc.INVALID_PARAMS, f"params._meta: the log level must be one of {', '.join(rpc.LOG_LEVELS)}")
    return _Wishes(token, () if level is None else rpc.levels_from(level))


def _frames(wishes: _Wishes, exchange: Exchange) -> OnFrame | None:
    """Turns what comes ahead of the answer into notifications, if the client asked for any."""
    if wishes.token is None and not wishes.levels:
        return None
    token = None if wishes.token is None else orjson.Fragment(wishes.token)

    def hear(kind: str, frame: Body) -> None:
        said: dict[str, Any] = frame.value()
        if kind == "progress" and token is not None:
            exchange.push(rpc.notification("notifications/progress", {"progressToken": token, **said}))
        elif kind == "log" and said.get("level") in wishes.levels:
            exchange.push(rpc.notification("notifications/message", said))

    return hear
