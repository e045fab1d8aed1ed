"""`Agent`: what an author writes. It gathers tools, resources and prompts and answers MCP requests for them.

Above: the worker, which serves it. Below: `authoring`. An agent holds no state between calls and knows no transport.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, TypeVar, overload

from typing_extensions import Unpack

from fabric_sdk.authoring.completion import Completion, asked, completed
from fabric_sdk.authoring.prompt import Prompt, PromptOptions
from fabric_sdk.authoring.reaction import MARK, Reaction
from fabric_sdk.authoring.resource import Resource
from fabric_sdk.authoring.signature import Function
from fabric_sdk.authoring.streaming import RUN, Streaming
from fabric_sdk.authoring.tool import Tool, ToolOptions
from fabric_sdk.client import Fabric
from fabric_sdk.context import Context
from fabric_sdk.contracts import errors
from fabric_sdk.contracts.description import Description, checked_traits
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.options import check_options
from fabric_sdk.contracts.subjects import checked_agent_name
from fabric_sdk.contracts.task import Policy, Priority
from fabric_sdk.patterns.stream import Stream
from fabric_sdk.pipeline import Request

F = TypeVar("F", bound=Function)
T = TypeVar("T")
Lifespan = Callable[[Fabric], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _no_lifespan(fabric: Fabric) -> AsyncGenerator[None]:
    yield


class Agent:
    """A named set of tools, resources and prompts.

    Args:
        name: 1 to 63 lower-case letters, digits and hyphens, starting with a letter.
        version: shown to operators; semantic versions sort best.
        description: one sentence for people and models.
        instructions: how a model should use this agent.
        capabilities: what it can do, in words that other agents share: `fabric.capability("translate")` reaches
            whoever has this one. All who have it should offer the same tools for it.
        labels: by what else it is found: `{"team": "search"}`.
        lifespan: entered with a `Fabric` when a worker starts, left when it stops.
        kind: `platform` for parts of the fabric itself.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        description: str | None = None,
        instructions: str | None = None,
        capabilities: Collection[str] = (),
        labels: Mapping[str, str] | None = None,
        lifespan: Lifespan = _no_lifespan,
        kind: Literal["agent", "platform"] = "agent",
    ) -> None:
        self.name = checked_agent_name(name)
        self.version = version
        self.lifespan = lifespan
        self._about = {"description": description, "instructions": instructions, "kind": kind}
        self._about |= checked_traits(capabilities, labels or {})
        self._stamp = {"io.modelcontextprotocol/serverInfo": {"name": name, "version": version}}
        self._tools: dict[str, Tool] = {}
        self._resources: dict[str, Resource] = {}
        self._prompts: dict[str, Prompt] = {}
        self._completions: dict[tuple[str, str], Completion] = {}  # by prompt or template, and argument
        self._streams: dict[str, Streaming] = {}
        self.reactions: dict[str, Reaction] = {}
        """What is done about events, by the function's name."""
        self._methods = {
            "tools/call": self._call_tool,
            "resources/read": self._read_resource,
            "prompts/get": self._get_prompt,
            "completion/complete": self._complete_argument,
            RUN: self._run_stream,
        }

    def __repr__(self) -> str:
        return f"<Agent {self.name} {self.version}: {len(self._tools)} tools>"

    @overload
    def tool(self, function: F, /) -> F: ...
    @overload
    def tool(self, /, **options: Unpack[ToolOptions]) -> Callable[[F], F]: ...
    def tool(self, function: F | None = None, /, **options: Unpack[ToolOptions]) -> F | Callable[[F], F]:
        """Offer a function as a tool: `@agent.tool` or `@agent.tool(annotations={"readOnlyHint": True})`.

        Types become JSON Schema, the docstring the description. `annotations` are MCP's `ToolAnnotations`: a tool
        with `readOnlyHint` or `idempotentHint` is called again by itself when a worker is lost. `task` says how it is
        tried and retried where it runs as a task.
        """
        check_options("Agent.tool", options, ToolOptions)

        def offer(function: F) -> F:
            tool = Tool(function, **options)
            _add(self._tools, tool.name, tool, "tool")
            tool.stamp = self._stamp
            return function

        return offer if function is None else offer(function)

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
    ) -> Callable[[F], F]:
        """Offer a function as a resource at `uri`, or at all URIs of a template like `notes://{day}`."""
        if callable(uri):
            raise errors.ConfigurationError("a resource needs a URI", fix='write @agent.resource("scheme://…")')

        def offer(function: F) -> F:
            resource = Resource(uri, function, name=name, title=title, description=description, mime_type=mime_type)
            _add(self._resources, uri, resource, "resource")
            return function

        return offer

    @overload
    def prompt(self, function: F, /) -> F: ...
    @overload
    def prompt(self, /, **options: Unpack[PromptOptions]) -> Callable[[F], F]: ...
    def prompt(self, function: F | None = None, /, **options: Unpack[PromptOptions]) -> F | Callable[[F], F]:
        """Offer a function as a prompt: `@agent.prompt` or `@agent.prompt(title="…")`."""
        check_options("Agent.prompt", options, PromptOptions)

        def offer(function: F) -> F:
            prompt = Prompt(function, **options)
            _add(self._prompts, prompt.name, prompt, "prompt")
            return function

        return offer if function is None else offer(function)

    def completion(self, of: str, argument: str) -> Callable[[F], F]:
        """Say what an argument may be, while somebody types it: `@agent.completion("greet", "name")`.

        The function takes what was typed, and a `Context` if it wants one, and returns a list of values, the best
        first; clients are shown a hundred of them.

        Args:
            of: the name of a prompt above, or the URI template of a resource above.
            argument: the prompt's argument, or the template's variable.

        Raises:
            ConfigurationError: there is no such argument, or the function does not suit.
        """

        def complete(function: F) -> F:
            if argument not in self._arguments_of(of):
                raise errors.ConfigurationError(
                    f"there is no argument {argument!r} of {of!r} to complete",
                    fix="name a prompt or a URI template that stands above, and one of its arguments",
                )
            _add(self._completions, (of, argument), Completion(function), "completion of")
            return function

        return complete

    def _arguments_of(self, of: str) -> list[str]:
        """The arguments of a prompt, or the variables of a URI template; none of what there is not."""
        if (prompt := self._prompts.get(of)) is not None:
            return prompt.arguments
        resource = self._resources.get(of)
        return resource.variables if resource is not None else []

    def stream(self, function: F) -> F:
        """Offer a function as a stream: it sends and receives for as long as the stream lives.

        It takes a `Stream`, and a `Context` if it wants one. Clients open it by its name.
        """
        streaming = Streaming(function)
        _add(self._streams, streaming.name, streaming, "stream")
        return function

    def on(
        self,
        *topics: str,
        filter: str | None = None,
        transform: str | None = None,
        task: Policy | None = None,
        priority: Priority = "normal",
    ) -> Callable[[F], F]:
        """Run a function for each event of these topics: `@agent.on("orders.*", filter="data.total > 100")`.

        All workers of this agent share the events. Each event is reacted to once, as a task: tried again as `task`
        says, put with the dead letters when that fails.

        Args:
            topics: patterns; `*` stands for one word, `>` at the end for the rest.
            filter: a CEL expression over `event` and `data`; only events for which it is true come.
            transform: a CEL expression; what it makes of an event is what the function sees as its data.
            task: how it is tried, and tried again.
            priority: of the tasks.
        """

        def react(function: F) -> F:
            reaction = Reaction(topics, function, filter=filter, transform=transform, policy=task, priority=priority)
            _add(self.reactions, reaction.name, reaction, "reaction")
            return function

        return react

    async def describe(self) -> Description:
        """Everything this agent offers."""
        resources = list(self._resources.values())
        return Description(
            name=self.name,
            version=self.version,
            tools=[tool.described for tool in self._tools.values()],
            resources=[each.described for each in resources if not each.is_template],
            resource_templates=[each.described for each in resources if each.is_template],
            prompts=[prompt.described for prompt in self._prompts.values()],
            streams=[streaming.described for streaming in self._streams.values()],
            completions=bool(self._completions),
            **self._about,  # type: ignore[arg-type]
        )

    async def handle(self, context: Context, request: Request) -> Body:
        """Answer one MCP request (`pipeline.Handler`)."""
        method = self._methods.get(request.method)
        if method is None:
            raise errors.UnknownMethod(f"agent {self.name!r} does not serve {request.method!r}")
        try:
            params = request.params.members()
        except ValueError as broken:
            raise errors.InvalidParams(f"params: {broken}") from None
        context.params = params
        return await method(params, context)

    def _call_tool(self, params: dict[str, Any], context: Context) -> Awaitable[Body]:
        tool = _named(self._tools, params)
        if tool is None and context.task is not None and (name := str(params.get("name"))).startswith(MARK):
            reaction = self.reactions.get(name.removeprefix(MARK))
            if reaction is not None:
                return reaction.react(_arguments(params), context)
        if tool is None:
            raise errors.UnknownName(f"agent {self.name!r} has no tool {params.get('name')!r}")
        return tool.call(_arguments(params), context)

    async def _read_resource(self, params: dict[str, Any], context: Context) -> Body:
        uri = params.get("uri")
        if not isinstance(uri, str):
            raise errors.InvalidParams("params.uri must be a string")
        own = self._resources.get(uri)  # a resource at this very URI comes before every template that matches it
        for resource in [own] if own is not None and not own.is_template else self._resources.values():
            if (variables := resource.match(uri)) is not None:
                content = await resource.read(uri, variables, context)
                return self._complete({"contents": [content], "ttlMs": 0, "cacheScope": "private"})
        raise errors.UnknownName(f"agent {self.name!r} has no resource {uri!r}", data={"uri": uri})

    async def _get_prompt(self, params: dict[str, Any], context: Context) -> Body:
        prompt = _named(self._prompts, params)
        if prompt is None:
            raise errors.UnknownName(f"agent {self.name!r} has no prompt {params.get('name')!r}")
        return self._complete(await prompt.get(_arguments(params), context))

    async def _complete_argument(self, params: dict[str, Any], context: Context) -> Body:
        of, argument, typed = asked(params)
        if of not in self._prompts and of not in self._resources:
            raise errors.UnknownName(f"agent {self.name!r} has no prompt and no resource {of!r}")
        completion = self._completions.get((of, argument))
        return self._complete(await completion.complete(typed, context) if completion else completed(None))

    async def _run_stream(self, params: dict[str, Any], context: Context) -> Body:
        streaming, stream = _named(self._streams, params), params.get("stream")
        if streaming is None or not isinstance(stream, Stream):  # a worker opens streams, a message cannot
            raise errors.UnknownMethod(f"agent {self.name!r} does not serve {RUN!r}")
        await streaming.run(stream, context)
        return self._complete({})

    def _complete(self, result: dict[str, Any]) -> Body:
        return Body({**result, "resultType": "complete", "_meta": self._stamp})


def _named(offers: dict[str, T], params: dict[str, Any]) -> T | None:
    name = params.get("name")
    return offers.get(name) if isinstance(name, str) else None


def _arguments(params: dict[str, Any]) -> Any:
    arguments = params.get("arguments")
    return {} if arguments is None else arguments


def _add(offers: dict[Any, Any], name: Any, offer: Any, what: str) -> None:
    if name in offers:
        raise errors.ConfigurationError(f"there is a {what} {name!r} already", fix="give one of them another name")
    offers[name] = offer
