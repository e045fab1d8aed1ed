"""Requests of handshake sessions that agents answer: begun at one gateway, asked, answered and ended at any.

Above: `legacy`. Below: `forward`, and the sessions' stream, which keeps for each session what must outlive a gateway:
an errand that has asked its client something, the questions, and answers that are told by streams. The errand's owner
goes on with it when all answers are there; where that gateway is gone, whoever was brought the last one, or whoever
the client came back to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast
from uuid import uuid4

import orjson

from fabric.gateway import rpc
from fabric.gateway.approving import Approving, Wanted, is_ours
from fabric.gateway.asking import check_capabilities
from fabric.gateway.forward import NAMED, Asker, Forwarder
from fabric.gateway.gate import AskFirst, Gate
from fabric.gateway.replies import Outbox, parts_of, stream_id
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.sessions import Session
from fabric.gateway.tasks import check_may_be_call
from fabric.gateway.views import Views
from fabric.identity.identity import Identity
from fabric.limits.limiter import Permit
from fabric.search.tool import NAME as SEARCH
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.asking import Asked
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.envelope import Message as BusMessage
from fabric_sdk.contracts.errors import to_wire
from fabric_sdk.contracts.streams import SESSIONS
from fabric_sdk.contracts.subjects import Header
from fabric_sdk.jetstream import WrongSequence
from fabric_sdk.patterns.gather import gather

log = logging.getLogger(__name__)

KEPT: Final = 900.0
"""Seconds for which an errand waits for answers, and what was told is told again."""
_ALIVE_SECONDS: Final = 0.5
_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
_CAPABILITIES: Final = rpc.CAPABILITIES_KEY
_NEW: Final = frozenset(("resultType", "ttlMs", "cacheScope"))
"""Members of a result that these revisions do not know."""
_MOST: Final = 10_000
"""Errands of one gateway at once."""


class Errand:
    """One request on its way."""

    def __init__(self, session: Session, identity: Identity, request: bytes, method: str, params: bytes) -> None:
        self.session = session
        self.identity = identity
        self.request = request
        """Its JSON-RPC id, as it was written."""
        self.method = method
        self.params = params
        self.outbox = Outbox("")
        self.streams = False
        """Whether the client hears of it by a stream, to which it may come back."""
        self.named = False
        """Whether it says what it wants."""
        self.quiet = False
        """Whether the client takes no streams: it hears the answer, and nothing before."""
        self.answer: bytes | None = None
        self.refusal: Refusal | None = None
        """Why it was not even begun."""
        self.permit: Permit | None = None
        self.task: asyncio.Task[None] | None = None

    async def settled(self, seconds: float | None) -> None:
        """Wait until there is something to tell, or nothing more to come; no longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.outbox.empty and not self.outbox.complete:
                    self.outbox.stir.clear()
                    await self.outbox.stir.wait()


class Errands:
    """All errands of one gateway."""

    def __init__(self, fabric: Fabric, forwarder: Forwarder, views: Views, gate: Gate, approving: Approving) -> None:
        self.replica = uuid4().hex[:12]
        self._fabric = fabric
        self._forwarder = forwarder
        self._views = views
        self._gate = gate
        self._approving = approving
        self._running: dict[tuple[str, bytes], Errand] = {}
        self._begun = 0

    async def run(self) -> None:
        """Begin to hear what other gateways say."""
        await self._fabric.transport.subscribe(subjects.gateway(self.replica), self._answer_ping)
        await self._fabric.transport.subscribe(subjects.gateway("all"), self._hear)

    def __len__(self) -> int:
        return len(self._running)

    def begin(
        self, session: Session, identity: Identity, request: bytes, method: str, params: bytes, *, streams: bool
    ) -> Errand:
        """Send an errand on its way.

        Raises:
            Refusal: there are too many, or this session has one under the same id.
        """
        if (session.id, request) in self._running:
            raise Refusal(rpc.INVALID_REQUEST, "a request of this id is on its way already")
        errand = Errand(session, identity, request, method, params)
        self._begun += 1
        errand.outbox.stream = stream_id(self.replica, request, self._begun)
        errand.quiet = not streams
        self._start(errand, None, {})
        return errand

    def _start(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> None:
        if len(self._running) >= _MOST:
            raise Refusal(rpc.INVALID_REQUEST, "this gateway has too many requests on their way")
        self._running[errand.session.id, errand.request] = errand
        errand.task = asyncio.create_task(self._run(errand, asked, answers))

    def forget(self, session_id: str) -> None:
        """End all errands of a session."""
        for key, errand in list(self._running.items()):
            if key[0] == session_id and errand.task is not None:
                errand.task.cancel()

    async def cancel(self, session: Session, request: bytes) -> None:
        """End an errand, at whichever gateway it is."""
        if not self._cancel_here(session.id, request):
            said = Body({"session": session.id, "request": request.decode()})
            with suppress(errors.TransportUnavailable):
                await self._fabric.transport.publish(BusMessage(subjects.gateway("all"), said))

    def _cancel_here(self, session_id: str, request: bytes) -> bool:
        errand = self._running.get((session_id, request))
        if errand is None or errand.task is None:
            return False
        errand.task.cancel()
        return True

    # its way

    async def _run(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> None:
        try:
            answer = rpc.answer(errand.request, _as_it_was(await self._work(errand, asked, answers)))
        except asyncio.CancelledError:
            errand.outbox.finish()
            raise
        except Refusal as refusal:
            code = _code(errand, refusal.code)
            answer = rpc.error(errand.request, code, refusal.message, refusal.data)
            errand.refusal = refusal
        except FabricError as failure:
            wire = to_wire(failure)
            code = _code(errand, wire["code"])
            answer = rpc.error(errand.request, code, wire["message"], wire.get("data"))
        except Exception as failure:
            log.exception("%s failed", errand.method)
            answer = rpc.error(
                errand.request, errors.HandlerFailed.code, f"the gateway failed: {type(failure).__name__}"
            )
        finally:
            self._running.pop((errand.session.id, errand.request), None)
            if errand.permit is not None:
                errand.permit.release()
        await self._finish(errand, answer)

    async def _finish(self, errand: Errand, answer: bytes) -> None:
        errand.answer = answer
        place = await self._log(errand, answer) if errand.streams else None
        errand.outbox.push(answer, place)
        errand.outbox.finish()

    async def _work(self, errand: Errand, asked: Asked | None, answers: dict[str, Any]) -> Body:
        session, method = errand.session, errand.method
        params = rpc.read_params(rpc.Rpc("2.0", method, params=rpc.Raw(errand.params)))
        view = self._views.of(errand.identity)
        if method == "completion/complete":
            route, encoded = self._forwarder.completion(view, params, errand.params)
            named = route.name
        else:
            stated = params.uri if NAMED[method] == "uri" else params.name
            named = "" if stated is rpc.UNSET else str(stated)
            errand.named = stated is not rpc.UNSET
            if named == SEARCH and method == "tools/call" and SEARCH not in view.tools:
                return await view.search(rpc.value_of(params.arguments))
            route, encoded = self._forwarder.route(view, method, None if stated is rpc.UNSET else named), errand.params
        check_may_be_call(route)
        known = {_CAPABILITIES: session.capabilities, _LOG_LEVEL: session.level}
        encoded = rpc.with_meta(encoded, known)
        on_frame = None if errand.quiet else _frames(errand, params)
        asker = Asker(errand.identity.principal, on_frame=on_frame, roles=errand.identity.roles)
        if errand.permit is None and (asked is None or is_ours(asked)):
            try:
                errand.permit = (
                    self._gate.take(errand.identity, method, route)
                    if method == "completion/complete"
                    else self._gate.pass_through(errand.identity, method, named, route, params)
                )
            except AskFirst as first:
                errand.permit = self._gate.take(errand.identity, named, route)
                arguments = rpc.value_of(params.arguments)
                wanted = Wanted(errand.identity, method, named, route, encoded, arguments, first.rule)
                able = {} if errand.quiet else session.capabilities
                said = answers if asked is not None and asked.state == wanted.state else None
                ask = partial(self._ask, errand)
                result = await self._approving.in_session(wanted, asker, able, ask, said)
                if result is not None:
                    return result
            asked = None
        if asked is None:
            result = await self._forwarder.forward(method, named, route, encoded, asker)
        else:
            result = await self._forwarder.answer(method, named, route, encoded, asker, asked=asked, answers=answers)
        while (asked := Asked.of(result)) is not None:
            check_capabilities(asked, {} if errand.quiet else session.capabilities)
            answers = await self._ask(errand, asked)
            result = await self._forwarder.answer(method, named, route, encoded, asker, asked=asked, answers=answers)
        return result

    # questions

    async def _ask(self, errand: Errand, asked: Asked) -> dict[str, Any]:
        """Ask the client, and wait for all answers, to whichever gateway they are brought."""
        name, session_id = errand.outbox.stream, errand.session.id
        record = {
            "owner": self.replica,
            "request": errand.request.decode(),
            "method": errand.method,
            "params": errand.params.decode(),
            "requests": asked.requests,
            "state": asked.state,
            "answers": {},
        }
        complete: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def hear(message: BusMessage) -> None:
            with suppress(ValueError, KeyError, TypeError):
                said = message.body.members()
                all_there = said["requests"] == asked.requests and said["answers"].keys() >= asked.requests.keys()
                if all_there and not complete.done():
                    complete.set_result(said["answers"])

        told = await self._fabric.transport.subscribe(subjects.session_told(session_id, "call", name), hear)
        try:
            await self._store(subjects.session(session_id, "call", name), Body(record), rollup=True)
            errand.streams = True
            for key, request in asked.requests.items():
                question = rpc.request(f"{name}.{key}", str(request.get("method")), request.get("params"))
                errand.outbox.push(question, await self._log(errand, question))
            async with asyncio.timeout(KEPT):
                return await complete
        except TimeoutError:
            raise errors.QuestionLost("the client did not answer in time") from None
        finally:
            await told.close()

    async def take_answer(self, session: Session, identity: Identity, message: rpc.Message) -> None:
        """Note what the client answers, and go on with the errand if nobody else does."""
        said: Any = rpc.value_of(message.id)
        name, _, key = said.rpartition(".") if isinstance(said, str) else ("", "", "")
        if not name or not _is_token(name):
            return  # to nothing that was asked
        while True:
            found = await self._fabric.jetstream.last(SESSIONS, subjects.session(session.id, "call", name))
            record = found.body.members() if found is not None else None
            if found is None or record is None or key not in record["requests"] or key in record["answers"]:
                return
            record["answers"][key] = _answer_in(message)
            subject = subjects.session(session.id, "call", name)
            try:
                await self._store(subject, Body(record), rollup=True, expected=found.sequence)
            except WrongSequence:
                continue  # another answer came to another gateway
            break
        if record["answers"].keys() >= record["requests"].keys() and not await self._lives(record["owner"]):
            await self._take_over(session, identity, name)

    async def _take_over(self, session: Session, identity: Identity, name: str) -> None:
        """Go on with an errand whose gateway is gone."""
        subject = subjects.session(session.id, "call", name)
        found = await self._fabric.jetstream.last(SESSIONS, subject)
        if found is None:
            return
        record = found.body.members()
        if record["owner"] == self.replica or record["answers"].keys() < record["requests"].keys():
            return
        try:
            await self._store(subject, Body({**record, "owner": self.replica}), rollup=True, expected=found.sequence)
        except WrongSequence:
            return  # somebody else does
        errand = Errand(session, identity, record["request"].encode(), record["method"], record["params"].encode())
        errand.outbox.stream, errand.streams = name, True
        self._start(errand, Asked(record["requests"], record["state"]), record["answers"])

    # streams that are come back to

    async def reopened(self, session: Session, identity: Identity, name: str, place: int) -> Outbox:
        """What there is to tell of a stream after `place`, and what comes."""
        outbox = Outbox(name)
        subject = subjects.session(session.id, "event", name)

        def hear(message: BusMessage) -> None:
            sequence = int(message.header(Header.SEQUENCE) or 0)
            _tell(outbox, message.body.encoded(), sequence)

        told = await self._fabric.transport.subscribe(subjects.session_told(session.id, "event", name), hear)
        outbox.on_close = told.close
        async for message in self._fabric.jetstream.every(SESSIONS, subject):
            if message.sequence > place:
                _tell(outbox, message.body.encoded(), message.sequence)
        if not outbox.complete:
            await self._see_to(session, identity, name, outbox)
        return outbox

    async def _see_to(self, session: Session, identity: Identity, name: str, outbox: Outbox) -> None:
        """See to it that a stream which is waited for has somebody who ends it."""
        try:
            replica, request = parts_of(name)
        except ValueError:
            outbox.finish()
            return
        found = await self._fabric.jetstream.last(SESSIONS, subjects.session(session.id, "call", name))
        record = found.body.members() if found is not None else None
        if record is not None and record["answers"].keys() < record["requests"].keys():
            return  # whoever is brought the answers goes on
        if await self._lives(record["owner"] if record is not None else replica):
            return
        if record is not None:
            await self._take_over(session, identity, name)
            return
        lost = errors.WorkerLost("the gateway that had this request was lost; whether the work was done is unknown")
        outbox.push(rpc.error(request, lost.code, str(lost)))
        outbox.finish()

    async def _lives(self, replica: str) -> bool:
        if replica == self.replica:
            return True
        return bool(await gather(self._fabric.transport, subjects.gateway(replica), seconds=_ALIVE_SECONDS, most=1))

    def _answer_ping(self, message: BusMessage) -> None:
        if message.reply:
            answer = BusMessage(message.reply, Body({"replica": self.replica}))
            self._spawn(self._fabric.transport.publish(answer))

    def _hear(self, message: BusMessage) -> None:
        with suppress(ValueError, KeyError, AttributeError):
            said = message.body.members()
            self._cancel_here(said["session"], said["request"].encode())

    def _spawn(self, doing: Any) -> None:
        task = asyncio.create_task(doing)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    # the log

    async def _log(self, errand: Errand, message: bytes) -> int | None:
        """Keep a message for whoever comes back; returns its place, or `None` where it cannot be kept."""
        subject = subjects.session(errand.session.id, "event", errand.outbox.stream)
        try:
            return await self._store(subject, Body(encoded=message))
        except FabricError as failure:
            log.warning("an answer cannot be kept for a client that comes back: %s", failure)
            return None

    async def _store(self, subject: str, body: Body, *, rollup: bool = False, expected: int | None = None) -> int:
        headers = {Header.TTL: f"{int(KEPT)}s"}
        if rollup:
            headers[Header.ROLLUP] = "sub"
        if expected is not None:
            headers[Header.EXPECTED] = str(expected)
        return (await self._fabric.jetstream.store(subject, body, headers)).sequence


def _tell(outbox: Outbox, message: bytes, place: int) -> None:
    outbox.push(message, place)
    if b'"method"' not in message[:200] or rpc.read_message(message).method is rpc.UNSET:
        outbox.finish()  # it is the answer


def _frames(errand: Errand, params: Params) -> Callable[[str, Body], None]:
    """Turns what comes ahead of the answer into notifications."""
    token = None if params.meta is rpc.UNSET or params.meta.progress_token is rpc.UNSET else params.meta.progress_token
    levels = rpc.levels_from(errand.session.level)

    def hear(kind: str, frame: Body) -> None:
        said = frame.members()
        if kind == "progress" and token is not None:
            known = {"progressToken": orjson.Fragment(bytes(token)), **said}
            errand.outbox.push(rpc.notice("notifications/progress", known))
        elif kind == "log" and said.get("level") in levels and "data" in said:
            errand.outbox.push(rpc.notice("notifications/message", said))

    return hear


def _as_it_was(result: Body) -> bytes:
    """A result in the words of these revisions."""
    try:
        return rpc.without_members(result.encoded(), _NEW)
    except ValueError:
        raise errors.HandlerFailed("the agent answered what is no result") from None


def _code(errand: Errand, code: int) -> int:
    """An error's code in these revisions."""
    reads = errand.method == "resources/read" and errand.named
    return rpc.RESOURCE_NOT_FOUND if reads and code == rpc.INVALID_PARAMS else code


def _answer_in(message: rpc.Message) -> Any:
    """The MCP result that a client's answer holds; where it holds an error, that."""
    if message.error is not rpc.UNSET:
        return {"error": rpc.value_of(message.error)}
    return cast("Mapping[str, Any] | None", rpc.value_of(message.result)) or {}


def _is_token(text: str) -> bool:
    return len(text) < 1000 and all(each.isalnum() or each in "-_" for each in text) and text.isascii()
