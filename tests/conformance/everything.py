"""The server under test: one `mcp` server object with everything the public conformance suite asks a server for.

It knows nothing of the fabric. The suite reaches it in two ways, and both must give the same answers: through the
gateway and a pool of worker processes that host `everything.py:server`, and directly over the official SDK's own HTTP
transport (`serve_direct.py`), which is the control.

The suite dictates the name of every tool, prompt and resource, the texts it looks for, and the questions that are asked
back. Any worker of a pool can serve any round: the key that seals `requestState` is fixed, and no request needs what an
earlier one left behind.

`test_streaming_elicitation` and `test_logging_tool` are called by `server-stateless` although the SDK's own example
server lacks them. A server that answers an unknown tool with a protocol error, as the 2026-07-28 revision wants, fails
those checks unless the tools are there.
"""

import asyncio
import base64
import json
import warnings
from typing import Annotated, Any

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.types import (
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Logging and sampling are deprecated in 2026-07-28, not removed: the suite asks for both on the older wires.
warnings.simplefilter("ignore", MCPDeprecationWarning)

PAUSE_SECONDS = 0.05
RED_PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP4z8DwHwAFAAH/VscvDQAAAABJRU5ErkJggg=="
ONE_SAMPLE_WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=="

# In the open on purpose: a fixture has no secrets, and every worker of a pool must hold the same key.
FIXTURE_STATE_KEY = b"agent-fabric-conformance-fixture-request-state"

KEYWORDS_OF_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def schema_keeper() -> str:
    """Carries an input schema whose 2020-12 keywords must survive tools/list."""
    return "The schema of this tool is what matters."


def simple_text() -> str:
    """Answers with one text block."""
    return "This is a simple text response for testing."


def with_schema(tool: Tool, schema: dict[str, Any]) -> Tool:
    """The same tool with `schema` announced as its input schema, in place of the one read from the signature."""
    return tool.model_copy(update={"parameters": schema})


server = MCPServer(
    name="agent-fabric-conformance-fixture",
    version="1.0.0",
    tools=[
        # First, because http-header-validation calls whatever tool is listed first, with no arguments.
        Tool.from_function(simple_text, name="test_simple_text", structured_output=False),
        with_schema(
            Tool.from_function(schema_keeper, name="json_schema_2020_12_tool", structured_output=False),
            KEYWORDS_OF_2020_12,
        ),
    ],
    request_state_security=RequestStateSecurity(keys=[FIXTURE_STATE_KEY]),
    log_level="WARNING",
)


# --- content -----------------------------------------------------------------------------------------------------


def text(value: str) -> TextContent:
    return TextContent(type="text", text=value)


def image() -> ImageContent:
    return ImageContent(type="image", data=RED_PIXEL_PNG, mime_type="image/png")


def embedded(uri: str, mime_type: str, value: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=value))


@server.tool("test_image_content", structured_output=False)
def image_content() -> list[ImageContent]:
    """Answers with one image block."""
    return [image()]


@server.tool("test_audio_content", structured_output=False)
def audio_content() -> list[AudioContent]:
    """Answers with one audio block."""
    return [AudioContent(type="audio", data=ONE_SAMPLE_WAV, mime_type="audio/wav")]


@server.tool("test_embedded_resource", structured_output=False)
def embedded_resource() -> list[EmbeddedResource]:
    """Answers with one embedded resource."""
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@server.tool("test_multiple_content_types", structured_output=False)
def multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Answers with a text, an image and a resource block."""
    return [
        text("Multiple content types test:"),
        image(),
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]


@server.tool("test_error_handling", structured_output=False)
def error_handling() -> str:
    """Always fails, so that the answer must be a result with isError."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool("test_x_mcp_header", structured_output=False)
def x_mcp_header(
    region: Annotated[
        str, Field(description="Also sent as the Mcp-Param-Region header", json_schema_extra={"x-mcp-header": "Region"})
    ] = "unset",
) -> str:
    """Has an argument that clients must repeat in a request header."""
    return f"region={region}"


# --- during a call: log, progress, questions on the wire of the handshake revisions ------------------------------


async def log_info(ctx: Context, message: str) -> None:
    await ctx.info(message)  # pyright: ignore[reportDeprecated]


@server.tool("test_tool_with_logging", structured_output=False)
async def tool_with_logging(ctx: Context) -> str:
    """Logs three times while it works."""
    await log_info(ctx, "Tool execution started")
    await asyncio.sleep(PAUSE_SECONDS)
    await log_info(ctx, "Tool processing data")
    await asyncio.sleep(PAUSE_SECONDS)
    await log_info(ctx, "Tool execution completed")
    return "Logged three times."


@server.tool("test_logging_tool", structured_output=False)
async def logging_tool(ctx: Context) -> str:
    """Logs once; nothing of it may reach a client that set no log level on the request."""
    await log_info(ctx, "Only for those who asked for a log level")
    return "Logged once."


@server.tool("test_tool_with_progress", structured_output=False)
async def tool_with_progress(ctx: Context) -> str:
    """Reports 0, 50 and 100 of 100 while it works."""
    await ctx.report_progress(0, 100, "0 of 100")
    await asyncio.sleep(PAUSE_SECONDS)
    await ctx.report_progress(50, 100, "50 of 100")
    await asyncio.sleep(PAUSE_SECONDS)
    await ctx.report_progress(100, 100, "100 of 100")
    return "Reported three times."


@server.tool("test_reconnection", structured_output=False)
async def reconnection(ctx: Context) -> str:
    """Closes its own event stream half-way, so that the client must come back for the rest."""
    await log_info(ctx, "Before the stream is closed")
    await ctx.close_sse_stream()
    await asyncio.sleep(4 * PAUSE_SECONDS)
    await log_info(ctx, "After the stream was closed")
    return "Reconnection test completed."


@server.tool("test_sampling", structured_output=False)
async def sampling(prompt: str, ctx: Context) -> str:
    """Has the client's model answer `prompt` (handshake revisions)."""
    # The related id puts the question on the stream of this very call.
    answer = await ctx.session.create_message(  # pyright: ignore[reportDeprecated]
        messages=[SamplingMessage(role="user", content=text(prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    return f"LLM response: {text_of(answer)}"


class Contact(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


class Choices(BaseModel):
    """The five ways to offer a choice; the suite looks for the fields' names in camel case."""

    model_config = ConfigDict(alias_generator=to_camel)

    untitled_single: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titled_single: str = Field(
        json_schema_extra={
            "oneOf": [{"const": "value1", "title": "First Option"}, {"const": "value2", "title": "Second Option"}]
        }
    )
    legacy_enum: str = Field(json_schema_extra={"enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]})
    untitled_multi: list[str] = Field(
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}}
    )
    titled_multi: list[str] = Field(
        json_schema_extra={
            "items": {
                "anyOf": [{"const": "value1", "title": "First Choice"}, {"const": "value2", "title": "Second Choice"}]
            }
        }
    )


async def ask(ctx: Context, message: str, form: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, form)
    content = answer.data.model_dump_json(by_alias=True) if answer.action == "accept" else "{}"
    return f"action={answer.action}, content={content}"


@server.tool("test_elicitation", structured_output=False)
async def elicitation(message: str, ctx: Context) -> str:
    """Asks the user for a name and an address (handshake revisions)."""
    return f"User response: {await ask(ctx, message, Contact)}"


@server.tool("test_elicitation_sep1034_defaults", structured_output=False)
async def elicitation_defaults(ctx: Context) -> str:
    """Asks with a default for every primitive type (handshake revisions)."""
    return f"Elicitation completed: {await ask(ctx, 'Please check these values', Defaults)}"


@server.tool("test_elicitation_sep1330_enums", structured_output=False)
async def elicitation_choices(ctx: Context) -> str:
    """Asks with every kind of choice (handshake revisions)."""
    return f"Elicitation completed: {await ask(ctx, 'Please choose', Choices)}"


# --- more than one round: questions inside the result, 2026-07-28 ------------------------------------------------


def question(message: str, field: str, kind: str = "string") -> ElicitRequest:
    """A form with one required field."""
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def completion_request(prompt: str, max_tokens: int) -> CreateMessageRequest:
    messages = [SamplingMessage(role="user", content=text(prompt))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=max_tokens))


def answered(ctx: Context, key: str, field: str) -> str | None:
    """What the user wrote into `field` of the form asked under `key`; None when there is no such answer."""
    answer = (ctx.input_responses or {}).get(key)
    if not isinstance(answer, ElicitResult) or answer.content is None:
        return None
    value = answer.content.get(field)
    return None if value is None else str(value)


def text_of(answer: CreateMessageResult) -> str:
    return answer.content.text if isinstance(answer.content, TextContent) else "(not a text)"


@server.tool("test_missing_capability", structured_output=False)
async def missing_capability(ctx: Context) -> str:
    """Refuses to run for a client that did not declare sampling."""
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool needs the client capability 'sampling'",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "The client declared sampling."


@server.tool("test_streaming_elicitation", structured_output=False)
async def streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Reports progress, then asks: the question must come inside the result, never as a request on the stream."""
    await ctx.report_progress(1, 2, "About to ask")
    if name := answered(ctx, "user_name", "name"):
        return f"Hello, {name}!"
    return InputRequiredResult(input_requests={"user_name": question("What is your name?", "name")})


@server.tool("test_input_required_result_elicitation", structured_output=False)
async def round_of_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Needs one answer from the user."""
    if name := answered(ctx, "user_name", "name"):
        return f"Hello, {name}!"
    return InputRequiredResult(input_requests={"user_name": question("What is your name?", "name")})


@server.tool("test_input_required_result_sampling", structured_output=False)
async def round_of_sampling(ctx: Context) -> str | InputRequiredResult:
    """Needs one answer from the client's model."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if isinstance(answer, CreateMessageResult):
        return f"The model said: {text_of(answer)}"
    return InputRequiredResult(
        input_requests={"capital_question": completion_request("What is the capital of France?", 100)}
    )


@server.tool("test_input_required_result_list_roots", structured_output=False)
async def round_of_roots(ctx: Context) -> str | InputRequiredResult:
    """Needs the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if isinstance(answer, ListRootsResult):
        return f"The client has {len(answer.roots)} root(s)."
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


@server.tool("test_input_required_result_request_state", structured_output=False)
async def round_with_state(ctx: Context) -> str | InputRequiredResult:
    """Needs an answer, and its own state back."""
    if answered(ctx, "confirm", "ok") and ctx.request_state == "waiting-for-confirm":
        return "state-ok"
    return InputRequiredResult(
        input_requests={"confirm": question("Please confirm", "ok", "boolean")}, request_state="waiting-for-confirm"
    )


@server.tool("test_input_required_result_multiple_inputs", structured_output=False)
async def round_of_everything(ctx: Context) -> str | InputRequiredResult:
    """Needs three answers of three kinds at once."""
    questions: dict[str, InputRequest] = {
        "user_name": question("What is your name?", "name"),
        "greeting": completion_request("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    if questions.keys() <= (ctx.input_responses or {}).keys():
        return "All three answers are here."
    return InputRequiredResult(input_requests=questions, request_state="waiting-for-three")


@server.tool("test_input_required_result_multi_round", structured_output=False)
async def two_rounds(ctx: Context) -> str | InputRequiredResult:
    """Asks twice; what the first round brought travels in the state."""
    state: dict[str, str] = json.loads(ctx.request_state) if ctx.request_state else {}
    if "name" in state and (color := answered(ctx, "step2", "color")):
        return f"{state['name']} likes {color}."
    if name := answered(ctx, "step1", "name"):
        return InputRequiredResult(
            input_requests={"step2": question("Step 2: What is your favorite color?", "color")},
            request_state=json.dumps({"step": "2", "name": name}),
        )
    return InputRequiredResult(
        input_requests={"step1": question("Step 1: What is your name?", "name")},
        request_state=json.dumps({"step": "1"}),
    )


@server.tool("test_input_required_result_tampered_state", structured_output=False)
async def sealed_state(ctx: Context) -> str | InputRequiredResult:
    """Never sees a state it did not write: what seals the state refuses the rest."""
    if ctx.request_state is not None:
        return f"state-ok: {ctx.request_state}"
    return InputRequiredResult(
        input_requests={"confirm": question("Please confirm", "ok", "boolean")}, request_state="sealed"
    )


@server.tool("test_input_required_result_capabilities", structured_output=False)
async def only_what_the_client_can(ctx: Context) -> str | InputRequiredResult:
    """Asks only in the ways the client declared."""
    if ctx.input_responses:
        return f"Answered: {', '.join(sorted(ctx.input_responses))}."
    capabilities = ctx.client_capabilities
    questions: dict[str, InputRequest] = {}
    if capabilities is not None and capabilities.sampling is not None:
        questions["sample"] = completion_request("Say hello", 50)
    if capabilities is not None and capabilities.elicitation is not None:
        questions["ask"] = question("What is your name?", "name")
    if not questions:
        return "This client can be asked nothing."
    return InputRequiredResult(input_requests=questions, request_state="asked-what-the-client-can")


# --- tools that run as tasks, 2026-07-28 with the tasks extension ------------------------------------------------


def runs_as_task(mcp: str = "optional", *, asks_first: bool = False) -> dict[str, Any]:
    """The policy that the fabric reads in a tool's `_meta`; one attempt, so that what fails has failed."""
    return {"fabric/task": {"mcp": mcp, "attempts": 1, "asks_first": asks_first}}


@server.tool("greet", structured_output=False)
def greet(name: str = "nobody") -> str:
    """Greets at once, and never as a task."""
    return f"Hello, {name}!"


@server.tool("slow_compute", structured_output=False, meta=runs_as_task())
async def slow_compute(seconds: float, label: str = "") -> str:
    """Takes so many seconds, unless it is cancelled."""
    await asyncio.sleep(seconds)
    return f"{label}: computed for {seconds:g} s"


@server.tool("failing_job", structured_output=False, meta=runs_as_task("required"))
async def failing_job() -> str:
    """Fails as tools do, after a while."""
    await asyncio.sleep(1)
    raise ToolError("This job intentionally fails")


@server.tool("protocol_error_job", structured_output=False, meta=runs_as_task())
async def protocol_error_job() -> str:
    """Fails as servers do."""
    raise MCPError(code=INTERNAL_ERROR, message="This job intentionally breaks the server")


@server.tool("confirm_delete", structured_output=False, meta=runs_as_task())
async def confirm_delete(ctx: Context, filename: str = "nothing") -> str | InputRequiredResult:
    """Asks before it deletes; nothing waits in a worker meanwhile."""
    if answered(ctx, "confirm", "confirm"):
        return f"Deleted {filename}."
    return InputRequiredResult(input_requests={"confirm": question(f"Delete {filename}?", "confirm", "boolean")})


@server.tool("multi_input", structured_output=False, meta=runs_as_task())
async def multi_input(ctx: Context) -> str | InputRequiredResult:
    """Asks two things at once."""
    questions: dict[str, InputRequest] = {
        "name": question("What is your name?", "name"),
        "confirm": question("Are you sure?", "confirm", "boolean"),
    }
    if questions.keys() <= (ctx.input_responses or {}).keys():
        return "Both answers are here."
    return InputRequiredResult(input_requests=questions)


@server.tool("test_tool_with_task", structured_output=False, meta=runs_as_task("required", asks_first=True))
async def tool_with_task(ctx: Context) -> str | InputRequiredResult:
    """Asks in the call, and works in the task that comes of it."""
    if name := answered(ctx, "user_name", "name"):
        return f"Worked for {name}."
    return InputRequiredResult(input_requests={"user_name": question("What is your name?", "name")})


# --- changes of the lists ----------------------------------------------------------------------------------------


def passing() -> str:
    """Is there for a moment only."""
    return "gone soon"


@server.tool("test_trigger_tool_change", structured_output=False)
async def trigger_tool_change(ctx: Context) -> str:
    """Adds a tool, takes it away again, and says so to those who listen."""
    server.add_tool(passing, name="test_passing_tool")
    server.remove_tool("test_passing_tool")
    await ctx.notify_tools_changed()
    return "The list of tools changed."


@server.tool("test_trigger_prompt_change", structured_output=False)
async def trigger_prompt_change(ctx: Context) -> str:
    """Adds a prompt, takes it away again, and says so to those who listen."""
    server.add_prompt(Prompt.from_function(passing, name="test_passing_prompt"))
    server.remove_prompt("test_passing_prompt")
    await ctx.notify_prompts_changed()
    return "The list of prompts changed."


# --- resources ---------------------------------------------------------------------------------------------------


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """A text that never changes."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """An image that never changes."""
    return base64.b64decode(RED_PIXEL_PNG)


@server.resource("test://template/{id}/data", mime_type="application/json")
def template_data(id: str) -> str:
    """The id of its own URI, as JSON."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    """A text that clients subscribe to."""
    return "Watched resource content"


# --- prompts -----------------------------------------------------------------------------------------------------


def said(content: TextContent | ImageContent | EmbeddedResource) -> UserMessage:
    return UserMessage(role="user", content=content)


@server.prompt("test_simple_prompt")
def simple_prompt() -> list[UserMessage]:
    """One message, no arguments."""
    return [said(text("This is a simple prompt for testing."))]


@server.prompt("test_prompt_with_arguments")
def prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    """Puts both arguments into its message."""
    return [said(text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


@server.prompt("test_prompt_with_embedded_resource")
def prompt_with_embedded_resource(uri: Annotated[str, Field(alias="resourceUri")]) -> list[UserMessage]:
    """Shows the resource it was given the URI of."""
    return [
        said(embedded(uri, "text/plain", "Embedded resource content for testing.")),
        said(text("Please process the embedded resource above.")),
    ]


@server.prompt("test_prompt_with_image")
def prompt_with_image() -> list[UserMessage]:
    """Shows an image."""
    return [said(image()), said(text("Please analyze the image above."))]


@server.prompt("test_input_required_result_prompt")
async def prompt_that_asks(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """Needs one answer from the user before it can be written."""
    if context := answered(ctx, "user_context", "context"):
        return [said(text(f"Use this context: {context}"))]
    return InputRequiredResult(
        input_requests={"user_context": question("What context should the prompt use?", "context")}
    )


@server.completion()
async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion:
    """Suggests two endings to whatever was typed."""
    values = [f"{argument.value}-one", f"{argument.value}-two"]
    return Completion(values=values, total=len(values), has_more=False)


# --- methods of the handshake revisions that MCPServer offers no decorator for -----------------------------------


async def set_level(ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
    return EmptyResult()


async def subscribe(ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
    return EmptyResult()


async def unsubscribe(ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
    return EmptyResult()


# The low-level server is the SDK's documented place for them, and MCPServer has no public way to reach it.
_low = server._lowlevel_server  # pyright: ignore[reportPrivateUsage]
_low.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
_low.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
_low.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
