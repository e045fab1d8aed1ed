"""JSON over HTTP for those without MCP: tools, prompts and resources are asked for by their paths.

Above: `app`, which has admitted the sender and read the body. Below: `request`, and as for MCP, `forward`, `tasks`,
`gate` and `views`, so that every door says the same to the same identity. Results are MCP's, as they are; whatever
fails is `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import orjson
from msgspec import Raw, Struct

from fabric.gateway import rpc
from fabric.gateway.asking import check_capabilities
from fabric.gateway.forward import NAMED, Asker, Forwarder
from fabric.gateway.gate import Gate
from fabric.gateway.http import Exchange, Patrol, respond
from fabric.gateway.openapi import OpenApi
from fabric.gateway.problems import MEDIA_TYPE, Problem, fail, problem_of
from fabric.gateway.request import PREFIX, Request
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.tasks import McpTasks
from fabric.gateway.view import Route, View
from fabric.gateway.views import Views
from fabric.search.tool import NAME as SEARCH
from fabric_sdk import FabricError
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.asking import ASKS, Asked
from fabric_sdk.contracts.envelope import Body

_LISTS: Final = {
    "tools": "tools/list",
    "prompts": "prompts/list",
    "resources": "resources/list",
    "resources/templates": "resources/templates/list",
}


Handler = Callable[[Request, str], Awaitable[None]]
"""Serves one kind of request; the second is what the path names."""


class Rest:
    """Everything under `/api/`."""

    def __init__(self, forwarder: Forwarder, tasks: McpTasks, views: Views, gate: Gate, openapi: OpenApi) -> None:
        self._forwarder = forwarder
        self._tasks = tasks
        self._views = views
        self._gate = gate
        self._openapi = openapi
        self._patrol = Patrol()
        lists: dict[str, dict[str, Handler]] = {path: {"GET": self._list} for path in _LISTS}
        self._served: dict[str, dict[str, Handler]] = {
            **lists,
            "openapi.json": {"GET": self._describe},
            "resources/read": {"GET": self._read},
            "tools/": {"POST": self._call},
            "prompts/": {"POST": self._prompt},
            "tasks/": {"POST": self._start, "GET": self._look, "DELETE": self._cancel},
        }

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
        route = self._route(view, method, named)
        if route.policy is not None and route.policy.mcp == "required":
            raise Problem(409, f"this tool runs only as a task: POST it to {PREFIX}tasks/{named}")
        asker = asked.asker()
        permit = self._gate.pass_through(asked.identity, method, named, route, _gated(arguments))
        exchange = Exchange(asked.receive, asked.send, self._patrol, may_stream=asked.streams)
        try:
            if asked.streams:
                exchange.push(b": working\r\n\r\n")  # who asks for events gets them, however quick the answer is
                asker.on_frame = lambda kind, frame: exchange.push(_event(kind, frame.encoded()))
            params = _params(method, named, arguments)
            await _answer(exchange, self._told(method, named, route, params, asker))
        finally:
            if permit is not None:
                permit.release()

    async def _told(self, method: str, named: str, route: Route, params: bytes, asker: Asker) -> bytes:
        try:
            result = await self._forwarder.forward(method, named, route, params, asker)
        except FabricError as failure:
            if method == "resources/read" and failure.code == rpc.INVALID_PARAMS:
                raise Problem(404, str(failure), more={"code": failure.code}) from None
            raise
        return _checked(result)

    def _route(self, view: View, method: str, named: str) -> Route:
        try:
            return self._forwarder.route(view, method, named)
        except Refusal as unknown:
            raise Problem(404, unknown.message, more={"code": unknown.code}) from None

    # tasks

    async def _start(self, asked: Request, named: str) -> None:
        arguments = asked.arguments()
        route = self._route(self._views.of(asked.identity), "tools/call", named)
        if route.policy is None or route.policy.mcp == "never":
            raise Problem(409, f"this tool does not run as a task: POST it to {PREFIX}tools/{named}")
        asker, priority, delay = asked.asker(), asked.priority(), asked.delay()
        permit = self._gate.pass_through(asked.identity, "tools/call", named, route, _gated(arguments))
        try:
            params = _params("tools/call", named, arguments)
            task = await self._tasks.begin(named, route, params, asker, priority=priority, delay=delay)
        finally:
            if permit is not None:
                permit.release()
        location = (b"location", f"{PREFIX}tasks/{task['taskId']}".encode())
        await respond(asked.send, 202, orjson.dumps(task), (location,))

    async def _look(self, asked: Request, task_id: str) -> None:
        task = await self._mine(self._tasks.look(task_id, asked.identity.principal))
        if not asked.streams:
            await respond(asked.send, 200, orjson.dumps(task))
            return
        exchange = Exchange(asked.receive, asked.send, self._patrol, may_stream=True)
        exchange.push(b": watching\r\n\r\n")
        await _answer(exchange, self._watched(task_id, asked.identity.principal, task, exchange), name="task")

    async def _watched(self, task_id: str, principal: str, task: dict[str, Any], exchange: Exchange) -> bytes:
        """Tell how a task stands and each change of it, but for the last, which is returned."""
        last = orjson.dumps(task)

        def tell(_: str, changed: dict[str, Any]) -> None:
            nonlocal last
            if (now := orjson.dumps(changed)) != last:
                exchange.push(_event("task", last))
                last = now

        await self._tasks.watch(task_id, principal, tell)
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


def _params(method: str, named: str, arguments: bytes | None) -> bytes:
    params: dict[str, Any] = {NAMED[method]: named}
    if arguments is not None:
        params["arguments"] = orjson.Fragment(arguments)
    return orjson.dumps(params)


def _gated(arguments: bytes | None) -> Params:
    """As much of the params as the policy looks at."""
    return Params() if arguments is None else Params(arguments=Raw(arguments))


class _Outcome(Struct):
    """What decides whether a result is one."""

    is_error: bool = msgspec.field(default=False, name="isError")
    content: list[dict[str, Any]] = msgspec.field(default_factory=list[dict[str, Any]])


_read_outcome: Final = msgspec.json.Decoder(_Outcome).decode


def _checked(result: Body) -> bytes:
    """The result, if it is no error that the tool reports, nor a question, which nobody here can answer."""
    encoded = result.encoded()
    if ASKS in encoded and (asks := Asked.of(result)) is not None:
        check_capabilities(asks, {})
        raise Problem(422, "the agent asks something before it goes on, and can be answered over MCP alone")
    if b'"isError"' in encoded:
        try:
            outcome = _read_outcome(encoded)
        except msgspec.DecodeError:
            raise errors.HandlerFailed("the agent answered what is no result") from None
        if outcome.is_error:
            said = " ".join(str(each["text"]) for each in outcome.content if "text" in each)
            raise Problem(422, said or "the tool reported an error", more={"content": outcome.content})
    return encoded


async def _answer(exchange: Exchange, work: Awaitable[bytes], *, name: str = "result") -> None:
    """Send the outcome of `work`, by itself or as the last event, which is called so."""
    try:
        answer = await work
    except Exception as failure:
        problem = problem_of(failure)
        await exchange.finish(
            problem.status, problem.body(), lambda body: _event("error", body), problem.headers, MEDIA_TYPE
        )
    except BaseException:  # a cancellation among them: whatever ends the work, the exchange ends too
        await exchange.close()
        if exchange.left:
            return  # the client hung up, which cancels a call
        raise
    else:
        await exchange.finish(200, answer, lambda body: _event(name, body))


def _event(name: str, data: bytes) -> bytes:
    """One server-sent event; line breaks, which an agent's result may have, would end it."""
    return b"event: %b\r\ndata: %b\r\n\r\n" % (name.encode(), b" ".join(data.splitlines()))
