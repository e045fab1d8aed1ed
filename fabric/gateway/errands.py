"""Requests of handshake sessions that agents answer: begun at one gateway, asked, answered and ended at any.

Above: `legacy`. Below: `forward`; `ledger`, which keeps what must outlive a gateway; `peers`, who tell where an errand
is. The errand's owner goes on with it when all answers are there; where that gateway is gone, whoever was brought the
last one, or whoever the client came back to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from fabric.gateway import rpc
from fabric.gateway.approving import Approving, Wanted, check_allowed, is_ours
from fabric.gateway.asking import check_capabilities
from fabric.gateway.auditing import Barred
from fabric.gateway.errand import Errand, answer_in, as_it_was, code_of, frames
from fabric.gateway.following import follow
from fabric.gateway.forward import NAMED, Asker, Forwarder
from fabric.gateway.gate import AskFirst, Gate, Leave
from fabric.gateway.ledger import KEPT, Asking, Ledger
from fabric.gateway.peers import Peers
from fabric.gateway.replies import Outbox, parts_of, stream_id
from fabric.gateway.rpc import Refusal
from fabric.gateway.sessions import Session
from fabric.gateway.tasks import check_may_be_call
from fabric.gateway.tracing import Tracing, failed, note
from fabric.gateway.views import Views
from fabric.identity.identity import Identity
from fabric.search.tool import NAME as SEARCH
from fabric_sdk import Fabric, FabricError
from fabric_sdk.cancelling import end
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.asking import Asked
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import to_wire
from fabric_sdk.contracts.scope import Trace
from fabric_sdk.jetstream import WrongSequence
from fabric_sdk.patterns.asking import give_up
from fabric_sdk.tracing import answered

log = logging.getLogger(__name__)

_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
_CAPABILITIES: Final = rpc.CAPABILITIES_KEY
_MOST: Final = 10_000
"""Errands of one gateway at once: they go on when their clients leave, so no bound on connections bounds them."""
_SHARE: Final = 2
"""This part of all may be one principal's."""


_Key = tuple[str, Any]
"""A session's id, and that of a request as a value: it may be written in more than one way."""


class Errands:
    """All errands of one gateway."""

    def __init__(
        self,
        fabric: Fabric,
        forwarder: Forwarder,
        views: Views,
        gate: Gate,
        approving: Approving,
        tracing: Tracing,
    ) -> None:
        self._tracing = tracing
        self._transport = fabric.transport
        self._ledger = Ledger(fabric)
        self._peers = Peers(fabric, self._is_here, self._cancel_here)
        self._forwarder = forwarder
        self._views = views
        self._gate = gate
        self._approving = approving
        self._running: dict[_Key, Errand] = {}
        self._by_stream: dict[str, Errand] = {}
        self._count: Counter[str] = Counter()
        """By principal."""
        self._begun = 0

    async def run(self) -> None:
        """Begin to hear what other gateways say."""
        await self._peers.run()

    def close(self) -> None:
        """End the streams of those that wait for their clients, who come back and answer elsewhere."""
        for errand in self._running.values():
            if errand.waits:
                errand.outbox.finish()

    async def end(self) -> None:
        """End all that are left; what they have asked stays, for other gateways to go on with."""
        await end([errand.task for errand in self._running.values() if errand.task is not None])

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, errand: Errand) -> None:
        """Send an errand on its way.

        Raises:
            Refusal: there are too many, or this session has one under the same id.
        """
        self._begun += 1
        errand.outbox.stream = stream_id(self._peers.replica, errand.request, self._begun)
        self._start(errand, None, {})

    def _start(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> None:
        if _key(errand.session.id, errand.request) in self._running:
            raise Refusal(rpc.INVALID_REQUEST, "a request of this id is on its way already")
        whose = errand.identity.principal
        if len(self._running) >= _MOST:
            raise Refusal(errors.Overloaded.code, "this gateway has too many requests on their way")
        if self._count[whose] >= _MOST // _SHARE:
            words = f"you have {_MOST // _SHARE} requests on their way already, as many as one principal may"
            raise Refusal(errors.Overloaded.code, words)
        self._count[whose] += 1
        self._running[_key(errand.session.id, errand.request)] = errand
        self._by_stream[errand.outbox.stream] = errand
        errand.task = asyncio.create_task(self._run(errand, asked, answers))
        errand.task.add_done_callback(lambda _: self._ended(errand))  # also if it never took a step

    def forget(self, session_id: str) -> None:
        """End all errands of a session."""
        for key, errand in list(self._running.items()):
            if key[0] == session_id:
                errand.cancel()

    async def abandon(self, session: Session) -> None:
        """Have no handler wait for the answers of a session that has ended: those of gateways that are gone, too."""
        with suppress(FabricError):  # what cannot be told now ends by itself, when it has waited for long enough
            async for asking in self._ledger.open(session.id):
                await give_up(self._transport, asking.agent, asking.state)

    async def cancel(self, session: Session, request: bytes) -> None:
        """End an errand, at whichever gateway it is."""
        await self._peers.cancel(session.id, request)

    def _cancel_here(self, session_id: str, request: bytes) -> bool:
        if (errand := self._running.get(_key(session_id, request))) is None:
            return False
        errand.cancel()
        return True

    def _is_here(self, session_id: str, stream: str) -> bool:
        errand = self._by_stream.get(stream)
        return errand is not None and errand.session.id == session_id

    # its way

    async def _run(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> None:
        try:
            answer = await self._answer(errand, asked, answers)
            place = None
            if errand.streams:
                place = await self._ledger.keep(errand.session.id, errand.outbox.stream, answer)
            errand.answer = answer
            errand.outbox.push(answer, place)
        except asyncio.CancelledError:
            if errand.unwanted and errand.round:
                await self._ledger.forget(errand.session.id, errand.outbox.stream)
            raise

    def _ended(self, errand: Errand) -> None:
        if errand.span is not None:
            errand.span.end()
        # Not before its answer is kept: until then, others must know that it is being worked on.
        errand.outbox.finish()
        del self._running[_key(errand.session.id, errand.request)]
        del self._by_stream[errand.outbox.stream]
        whose = errand.identity.principal
        self._count[whose] -= 1
        if not self._count[whose]:
            del self._count[whose]
        if errand.permit is not None:
            errand.permit.release()
        if isinstance(errand.refusal, Barred):
            self._gate.audit.barred(errand.deed, errand.refusal)
        elif self._gate.audit.calls:
            self._gate.audit.called(errand.deed, errand.route, errand.rule, errand.code, errand.began)

    async def _answer(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> bytes:
        """The JSON-RPC response."""
        try:
            result = await self._work(errand, asked, answers)
            if errand.span is not None:
                answered(errand.span, result)
            encoded = as_it_was(result)
            errand.code = 0
            return rpc.answer(errand.request, encoded)
        except Refusal as refusal:
            errand.refusal, errand.code = refusal, refusal.code
            failed(errand.span, refusal)
            code = code_of(errand, refusal.code)
            return rpc.error(errand.request, code, refusal.message, refusal.data)
        except FabricError as failure:
            failed(errand.span, failure)
            wire = to_wire(failure)
            errand.code = wire["code"]
            return rpc.error(errand.request, code_of(errand, wire["code"]), wire["message"], wire.get("data"))
        except Exception as failure:
            log.exception("%s failed", errand.method)
            errand.code = errors.HandlerFailed.code
            failed(errand.span, failure)
            words = f"the gateway failed: {type(failure).__name__}"
            return rpc.error(errand.request, errors.HandlerFailed.code, words)

    async def _work(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> Body:
        session, method = errand.session, errand.method
        params = rpc.read_params(rpc.Rpc("2.0", method, params=rpc.Raw(errand.params)))
        trace = self._begin_span(errand, params)
        view = self._views.of(errand.identity)
        if method == "completion/complete":
            route, encoded = self._forwarder.completion(view, params, errand.params)
            named = route.name
        else:
            stated = params.uri if NAMED[method] == "uri" else params.name
            named = "" if stated is rpc.UNSET else str(stated)
            errand.named, errand.wants = stated is not rpc.UNSET, named
            if named == SEARCH and method == "tools/call" and SEARCH not in view.tools:
                return await view.search(rpc.value_of(params.arguments))
            route, encoded = self._forwarder.route(view, method, None if stated is rpc.UNSET else named), errand.params
        check_may_be_call(route)
        errand.route = route
        capabilities = {} if errand.quiet else session.capabilities
        known = {_CAPABILITIES: capabilities, _LOG_LEVEL: session.level}
        encoded = rpc.with_meta(encoded, known)
        on_frame = None if errand.quiet else frames(errand, params)
        asker = Asker(
            errand.identity.principal, trace, on_frame=on_frame, roles=errand.identity.roles, span=errand.span
        )
        if errand.permit is None and (asked is None or is_ours(asked)):
            try:
                leave = (
                    Leave(self._gate.take(errand.identity, method, route))
                    if method == "completion/complete"
                    else self._gate.pass_through(errand.identity, method, named, route, params)
                )
                errand.permit, errand.rule = leave.permit, leave.rule
                if asked is not None:
                    check_allowed(answers)
            except AskFirst as first:
                note(errand.span, "approval needed", rule=first.rule.name)
                errand.permit, errand.rule = self._gate.take(errand.identity, named, route), first.rule.name
                arguments = rpc.value_of(params.arguments)
                wanted = Wanted(errand.identity, errand.deed.door, method, named, route, encoded, arguments, first.rule)
                said = answers if asked is not None and asked.state == wanted.state else None
                ask = partial(self._ask, errand)
                result = await self._approving.in_session(wanted, asker, capabilities, ask, said)
                if result is not None:
                    return result
            asked = None
        if asked is None:
            result = await self._forwarder.forward(method, named, route, encoded, asker)
        else:
            result = await self._forwarder.answer(method, named, route, encoded, asker, asked=asked, answers=answers)
        while (asked := Asked.of(result)) is not None:
            check_capabilities(asked, capabilities)
            answers = await self._ask(errand, asked)
            result = await self._forwarder.answer(method, named, route, encoded, asker, asked=asked, answers=answers)
        return result

    def _begin_span(self, errand: Errand, params: rpc.Params) -> Trace | None:
        """Begin its span, if it is traced; the trace that it goes on in."""
        meta, trace = params.meta, errand.trace
        if meta is not rpc.UNSET and meta.traceparent is not None:
            trace = Trace.of(meta.traceparent, meta.tracestate)
        if self._tracing.takes(trace):
            stated = params.uri if errand.method == "resources/read" else params.name
            target, version = "" if stated is rpc.UNSET else stated, errand.session.version
            errand.span = self._tracing.begin(
                trace, errand.method, target, errand.identity, request=errand.request, version=version
            )
        return self._tracing.passed_on(trace, errand.span)

    # questions

    async def _ask(self, errand: Errand, asked: Asked) -> dict[str, Any]:
        """Ask the client, and wait for all answers, to whichever gateway they are brought."""
        session_id, stream = errand.session.id, errand.outbox.stream
        errand.round += 1
        asking = Asking(
            owner=self._peers.replica,
            request=errand.request.decode(),
            method=errand.method,
            params=errand.params.decode(),
            agent=errand.route.agent if errand.route else "",
            round=errand.round,
            requests=asked.requests,
            state=asked.state,
        )
        errand.waits = errand.streams = True
        try:
            async with self._ledger.watch(session_id, "call", stream) as changed, asyncio.timeout(KEPT):
                await self._ledger.note(session_id, stream, asking)
                for key, request in asked.requests.items():
                    identifier = f"{stream}.{errand.round}.{key}"
                    question = rpc.request(identifier, str(request.get("method")), request.get("params"))
                    errand.outbox.push(question, await self._ledger.keep(session_id, stream, question))
                while True:
                    await changed()
                    now = await self._ledger.asking(session_id, stream)
                    if now is not None and now.complete:
                        return now.answers
        except TimeoutError:
            raise errors.QuestionLost("the client did not answer in time") from None
        except asyncio.CancelledError:
            if errand.unwanted:
                with suppress(FabricError):
                    await give_up(self._transport, asking.agent, asked.state)
            raise
        finally:
            errand.waits = False

    async def take_answer(self, session: Session, identity: Identity, message: rpc.Message) -> None:
        """Note what the client answers, and go on with the errand if nobody else does."""
        try:
            stream, turn, key = rpc.value_of(message.id).split(".", 2)
            parts_of(stream)
        except (ValueError, AttributeError):
            return  # to nothing that was asked
        while True:
            asking = await self._ledger.asking(session.id, stream)
            if asking is None or str(asking.round) != turn or key not in asking.requests or key in asking.answers:
                return
            answered = replace(asking, answers={**asking.answers, key: answer_in(message)})
            try:
                await self._ledger.note(session.id, stream, answered)
                break
            except WrongSequence:
                continue  # another answer came to another gateway
        if answered.complete:
            await self._see_to(session, identity, stream)

    # streams that are come back to

    async def reopen(self, session: Session, identity: Identity, outbox: Outbox, place: int) -> None:
        """Have put into `outbox` what there is to tell of its stream after `place`, and what comes."""

        async def see_to_it() -> bool:
            return await self._see_to(session, identity, outbox.stream)

        following = asyncio.create_task(follow(self._ledger, session.id, outbox, place, see_to_it))

        async def close() -> None:
            await end([following])

        outbox.on_close = close

    async def _see_to(self, session: Session, identity: Identity, stream: str) -> bool:
        """See to it that an errand has somebody who ends it; `False`: nobody can."""
        asking = await self._ledger.asking(session.id, stream)
        if asking is not None and not asking.complete:
            return True  # whoever is brought the last answer goes on
        owner = parts_of(stream)[0] if asking is None else asking.owner
        if await self._peers.works_on(owner, session.id, stream):
            return True
        if asking is not None:
            await self._take_over(session, identity, stream, asking)
        return asking is not None

    async def _take_over(self, session: Session, identity: Identity, stream: str, asking: Asking) -> None:
        """Go on with an errand whose gateway is gone."""
        try:
            await self._ledger.note(session.id, stream, replace(asking, owner=self._peers.replica))
        except WrongSequence:
            return  # somebody else does
        errand = Errand(session, identity, asking.request.encode(), asking.method, asking.params.encode())
        errand.outbox.stream, errand.streams, errand.round = stream, True, asking.round
        with suppress(Refusal):  # it is here already
            self._start(errand, Asked(asking.requests, asking.state), asking.answers)


def _key(session_id: str, request: bytes) -> _Key:
    return session_id, rpc.value_of(rpc.Raw(request))
