"""JSON over HTTP for those without MCP: tools, prompts and resources are asked for by their paths.

Above: `app`, which has admitted the sender and read the body. Below: `request`, and as for MCP, `forward`, `tasks`,
`gate` and `views`, so that every door says the same to the same identity. Results are MCP's, as they are; whatever
fails is `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import orjson
from msgspec import Raw, Struct

from fabric.gateway import rpc
from fabric.gateway.approving import Approving, Wanted
from fabric.gateway.asking import check_capabilities
from fabric.gateway.auditing import CANCELLED, Barred, Deed
from fabric.gateway.forward import NAMED, Asker, Forwarder
from fabric.gateway.gate import AskFirst, Gate, Leave
from fabric.gateway.http import Exchange, Patrol, respond
from fabric.gateway.kept_open import KeptOpen
from fabric.gateway.openapi import OpenApi
from fabric.gateway.problems import MEDIA_TYPE, Problem, fail, problem_of
from fabric.gateway.request import PREFIX, Request
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.tasks import McpTasks, shown
from fabric.gateway.tracing import Tracing, failed
from fabric.gateway.view import Route, View
from fabric.gateway.views import Views
from fabric.search.tool import NAME as SEARCH
from fabric_sdk import FabricError
from fabric_sdk.cancelling import until
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.asking import ASKS, Asked
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.results import is_error
from fabric_sdk.tracing import answered

_LISTS: Final = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resources/templates": "resources/templates/list",
}


Handler = Callable[[Request, str], Awaitable[None]]
"""Serves one kind of request; the second is what the path names."""


_DOOR: Final = "rest"


@dataclass(slots=True)
class _Call:
    """A request that an agent is to answer."""

    asked: Request
    method: str
    named: str
    route: Route
    arguments: bytes | None

    @property
    def params(self) -> bytes:
        """MCP's params."""
        params: dict[str, Any] = {NAMED[self.method]: self.named}
        if self.arguments is not None:
            params["arguments"] = orjson.Fragment(self.arguments)
        return orjson.dumps(params)

    @property
    def deed(self) -> Deed:
        """It, as it is noted."""
        trace = self.asked.asker().trace
        return Deed(self.asked.identity, _DOOR, self.method, self.named, len(self.asked.body), trace)


class _Passed(NamedTuple):
    """A call that was let through."""

    leave: Leave
    began: float
    """When that was, by `time.perf_counter`."""
    wanted: Wanted | None = None
    """What a person has to allow first, if one has to."""


class Rest:
    """Everything under `/api/`."""

    def __init__(
        self,
        forwarder: Forwarder,
        tasks: McpTasks,
        views: Views,
        gate: Gate,
        approving: Approving,
        openapi: OpenApi,
        tracing: Tracing,
        kept_open: KeptOpen,
        aside: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`aside` is held where a request only waits, and takes no place from those that are served."""
        self._kept_open = kept_open
        self._aside = aside
        self._tracing = tracing
        self._forwarder = forwarder
        self._tasks = tasks
        self._views = views
        self._gate = gate
        self._approving = approving
        self._openapi = openapi
        self._patrol = Patrol()
        self._watches: set[asyncio.Event] = set()
        """Of the streams that tell of a task: each ends once its own is set."""
        lists: dict[str, dict[str, Handler]] = {path: {"GET": self._list} for path in _LISTS}
        self._served: dict[str, dict[str, Handler]] = {
            **lists,
            "openapi.json": {"GET": self._describe},
            "resources/read": {"GET": self._read},
            "tools/": {"POST": self._call},
            "prompts/": {"POST": self._prompt},
            "tasks/": {"POST": self._start, "GET": self._look, "DELETE": self._cancel},
        }

    def close(self) -> None:
        """End all streams that tell of tasks: their clients ask again."""
        for over in self._watches:
            over.set()

    async def __call__(self, asked: Request) -> None:
        """Answer one request."""
        try:
            handler, named = self._handler(asked)
            await handler(asked, named)
        except Exception as failure:
            await fail(asked.send, problem_of(failure))

    def _handler(self, asked: Request) -> tuple[Handler, str]:
        path = asked.path.removeprefix(PREFIX)
        kind, _, named = path.partition("/")
        served = self._served.get(path) or (self._served.get(f"{kind}/") if named else None)
        if served is None:
            raise Problem(404, f"nothing is served at {asked.path}; see {PREFIX}openapi.json")
        if (handler := served.get(asked.method)) is None:
            allow = ", ".join(sorted(served))
            raise Problem(405, f"{asked.path} takes {allow}", headers=((b"allow", allow.encode()),))
        return handler, named

    # what is there

    async def _list(self, asked: Request, _: str) -> None:
        page = self._views.of(asked.identity).page(_LISTS[asked.path.removeprefix(PREFIX)], asked.option("cursor"))
        await respond(asked.send, 200, orjson.dumps(page))

    async def _describe(self, asked: Request, _: str) -> None:
        await respond(asked.send, 200, self._openapi.of(self._views.of(asked.identity)))

    # what agents answer

    async def _call(self, asked: Request, named: str) -> None:
        await self._ask(asked, "tools/call", named, asked.arguments())

    async def _prompt(self, asked: Request, named: str) -> None:
        await self._ask(asked, "prompts/get", named, asked.arguments())

    async def _read(self, asked: Request, _: str) -> None:
        if not (uri := asked.option("uri")):
            raise Problem(400, "the query must say which resource: ?uri=…")
        await self._ask(asked, "resources/read", uri, None)

    async def _ask(self, asked: Request, method: str, named: str, arguments: bytes | None) -> None:
        """Have an agent answer, and tell what it says."""
        view = self._views.of(asked.identity)
        if method == "tools/call" and named == SEARCH and SEARCH not in view.tools:
            await respond(asked.send, 200, (await view.search(orjson.loads(arguments or b"{}"))).encoded())
            return
        call = _Call(asked, method, named, self._route(asked, view, method, named), arguments)
        if call.route.policy is not None and call.route.policy.mcp == "required":
            raise Problem(409, f"this tool runs only as a task: POST it to {PREFIX}tasks/{named}")
        asker = asked.asker()
        with self._traced(call, asker):
            await self._serve(call, asker)

    @contextmanager
    def _traced(self, call: _Call, asker: Asker) -> Generator[None]:
        """A span for a call, if it is traced."""
        trace = asker.trace
        if not self._tracing.takes(trace):
            asker.trace = self._tracing.passed_on(trace, None)
            yield
            return
        asker.span = span = self._tracing.begin(trace, call.method, call.named, call.asked.identity)
        asker.trace = self._tracing.passed_on(trace, span)
        try:
            yield
        except BaseException as failure:
            failed(span, failure)
            raise
        finally:
            span.end()

    async def _serve(self, call: _Call, asker: Asker) -> None:
        asked, passed = call.asked, self._pass(call)
        if passed.wanted is not None and call.method == "tools/call" and not asked.streams:
            await self._as_task(call, passed, self._held(passed.wanted, asker))
            return
        exchange = Exchange(asked.receive, asked.send, self._patrol, may_stream=asked.streams)
        code = CANCELLED
        try:
            if asked.streams:
                exchange.push(b": working\r\n\r\n")  # who asks for events gets them, however quick the answer is
                asker.on_frame = lambda kind, frame: exchange.push(_event(kind, frame.encoded()))
            code = await _answer(exchange, self._told(call, asker, passed.wanted))
        finally:
            self._ended(call, passed, code)

    def _pass(self, call: _Call) -> _Passed:
        """Leave for a call, as far as it needs no person's.

        Raises:
            Refusal: it gets none.
        """
        identity, route, arguments = call.asked.identity, call.route, call.arguments
        given = Params() if arguments is None else Params(arguments=Raw(arguments))
        began = time.perf_counter()
        try:
            try:
                return _Passed(self._gate.pass_through(identity, call.method, call.named, route, given), began)
            except AskFirst as first:
                value = rpc.value_of(given.arguments)
                wanted = Wanted(identity, _DOOR, call.method, call.named, route, call.params, value, first.rule)
                leave = Leave(self._gate.take(identity, call.named, route), first.rule.name)
                return _Passed(leave, began, wanted)
        except Barred as barred:
            self._gate.audit.barred(call.deed, barred)
            raise

    def _ended(self, call: _Call, passed: _Passed, code: int) -> None:
        """A call that was let through has ended; `code`: its error's, or 0."""
        if passed.leave.permit is not None:
            passed.leave.permit.release()
        if self._gate.audit.calls:
            self._gate.audit.called(call.deed, call.route, passed.leave.rule, code, passed.began)

    async def _told(self, call: _Call, asker: Asker, wanted: Wanted | None) -> bytes:
        try:
            result = None if wanted is None else await self._approving.result(wanted, asker)
            if result is None:
                result = await self._forwarder.forward(call.method, call.named, call.route, call.params, asker)
            if asker.span is not None:
                answered(asker.span, result)
        except FabricError as failure:
            failed(asker.span, failure)
            if call.method == "resources/read" and failure.code == rpc.INVALID_PARAMS:
                raise Problem(404, str(failure), more={"code": failure.code}) from None
            raise
        return _checked(result)

    def _route(self, asked: Request, view: View, method: str, named: str) -> Route:
        try:
            return self._forwarder.route(view, method, named)
        except Refusal as unknown:
            self._gate.audit.barred(Deed(asked.identity, _DOOR, method, named, len(asked.body)), unknown)
            raise Problem(404, unknown.message, more={"code": unknown.code}) from None

    # tasks

    async def _start(self, asked: Request, named: str) -> None:
        arguments = asked.arguments()
        route = self._route(asked, self._views.of(asked.identity), "tools/call", named)
        if route.policy is None or route.policy.mcp == "never":
            raise Problem(409, f"this tool does not run as a task: POST it to {PREFIX}tools/{named}")
        asker, priority, delay = asked.asker(), asked.priority(), asked.delay()
        call = _Call(asked, "tools/call", named, route, arguments)
        with self._traced(call, asker):
            passed = self._pass(call)
            if passed.wanted is not None:
                task = self._held(passed.wanted, asker)
            else:
                task = self._tasks.begin(named, route, call.params, asker, priority=priority, delay=delay)
            await self._as_task(call, passed, task)

    async def _held(self, wanted: Wanted, asker: Asker) -> dict[str, Any]:
        """A task that waits for a person."""
        record = await self._approving.task(wanted, asker)
        return shown(record, record.changed)

    async def _as_task(self, call: _Call, passed: _Passed, starting: Awaitable[dict[str, Any]]) -> None:
        """Answer with a task, and where it can be asked for."""
        code = CANCELLED
        try:
            task = await starting
            code = 0
        except (FabricError, Refusal) as failure:
            code = failure.code
            raise
        finally:
            self._ended(call, passed, code)
        location = (b"location", f"{PREFIX}tasks/{task['taskId']}".encode())
        await respond(call.asked.send, 202, orjson.dumps(task), (location,))

    async def _look(self, asked: Request, task_id: str) -> None:
        task = await self._mine(self._tasks.look(task_id, asked.identity.principal))
        if not asked.streams:
            await respond(asked.send, 200, orjson.dumps(task))
            return
        over = asyncio.Event()
        with self._kept_open.one(asked.identity, over.set), self._aside():
            self._watches.add(over)
            exchange = Exchange(asked.receive, asked.send, self._patrol, may_stream=True)
            exchange.push(b": watching\r\n\r\n")
            watched = self._watched(task_id, asked.identity.principal, task, exchange, over)
            try:
                await _answer(exchange, watched, name="task")
            finally:
                self._watches.discard(over)

    async def _watched(
        self, task_id: str, principal: str, task: dict[str, Any], exchange: Exchange, over: asyncio.Event
    ) -> bytes:
        """Tell how a task stands and each change of it, until it ends or all is `over`; the last one is returned."""
        last = orjson.dumps(task)

        def tell(_: str, changed: dict[str, Any]) -> None:
            nonlocal last
            if (now := orjson.dumps(changed)) != last:
                exchange.push(_event("task", last))
                last = now

        await until(over, self._tasks.watch(task_id, principal, tell), None)
        return last

    async def _cancel(self, asked: Request, task_id: str) -> None:
        await respond(
            asked.send, 200, orjson.dumps(await self._mine(self._tasks.cancel(task_id, asked.identity.principal)))
        )

    async def _mine(self, looking: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await looking
        except Refusal as unknown:
            raise Problem(404, unknown.message, more={"code": unknown.code}) from None


class _Said(Struct):
    """What a tool says of its failure."""

    content: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])


_read_said: Final = msgspec.json.Decoder(_Said).decode


def _checked(result: Body) -> bytes:
    """The result, if it is no error that the tool reports, nor a question, which nobody here can answer."""
    encoded = result.encoded()
    if ASKS in encoded and (asks := Asked.of(result)) is not None:
        check_capabilities(asks, {})
        raise Problem(422, "the agent asks something before it goes on, and can be answered over MCP alone")
    if is_error(result):
        try:
            content = _read_said(encoded).content
        except msgspec.DecodeError:
            raise errors.HandlerFailed("the agent answered what is no result") from None
        said = " ".join(str(each["text"]) for each in content if "text" in each)
        raise Problem(422, said or "the tool reported an error", more={"content": content})
    return encoded


async def _answer(exchange: Exchange, work: Awaitable[bytes], *, name: str = "result") -> int:
    """Send the outcome of `work`, by itself or as the last event, which is called so; returns an error's code, or 0."""
    try:
        answer = await work
    except Exception as failure:
        problem = problem_of(failure)
        await exchange.finish(
            problem.status, problem.body(), lambda body: _event("error", body), problem.headers, MEDIA_TYPE
        )
        return int(problem.more.get("code", 0))  # what a tool reports has none, and is its result
    except BaseException:  # a cancellation among them: whatever ends the work, the exchange ends too
        await exchange.close()
        if exchange.left:
            return CANCELLED  # the client hung up, which cancels a call
        raise
    else:
        await exchange.finish(200, answer, lambda body: _event(name, body))
        return 0


def _event(name: str, data: bytes) -> bytes:
    """One server-sent event; line breaks, which an agent's result may have, would end it."""
    return b"event: %b\r\ndata: %b\r\n\r\n" % (name.encode(), b" ".join(data.splitlines()))
