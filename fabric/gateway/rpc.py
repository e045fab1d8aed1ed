"""JSON-RPC on the gateway's wire: reads requests without opening their arguments, writes answers around raw bytes.

Above: every door, and what refuses on the way. Below: msgspec, whose `Raw` leaves a part of a document as the bytes it
is, and MCP's own constants. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import orjson
from mcp_types import CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY, PROTOCOL_VERSION_META_KEY, jsonrpc
from msgspec import UNSET, Raw, Struct, UnsetType

from fabric.gateway.inbound import ERROR_CODE_HTTP_STATUS

VERSION_KEY: Final = PROTOCOL_VERSION_META_KEY
CAPABILITIES_KEY: Final = CLIENT_CAPABILITIES_META_KEY
PARSE_ERROR: Final = jsonrpc.PARSE_ERROR
INVALID_REQUEST: Final = jsonrpc.INVALID_REQUEST
METHOD_NOT_FOUND: Final = jsonrpc.METHOD_NOT_FOUND
INVALID_PARAMS: Final = jsonrpc.INVALID_PARAMS
HEADER_MISMATCH: Final = jsonrpc.HEADER_MISMATCH
UNSUPPORTED_VERSION: Final = jsonrpc.UNSUPPORTED_PROTOCOL_VERSION
RESOURCE_NOT_FOUND: Final = -32002
"""Of the handshake revisions only; the current one says `INVALID_PARAMS`."""
FORBIDDEN: Final = 4030
"""Ours, for what the policy, or a person, does not allow."""
STATUS: Final = ERROR_CODE_HTTP_STATUS
"""HTTP status of a JSON-RPC error code; 200 for all others."""

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

_INTEGER: Final = re.compile(rb"-?(?:0|[1-9]\d*)")


M = TypeVar("M", "Rpc", "Message")


class Refusal(Exception):
    """A request that goes no further, as the JSON-RPC error it is answered with."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        data: Any = None,
        status: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.data, self.headers = code, message, data, headers
        self.status = STATUS.get(code, 200) if status is None else status


class Meta(Struct, frozen=True):
    """The parts of `_meta` that the gateway itself looks at."""

    version: Raw | UnsetType = msgspec.field(default=UNSET, name=VERSION_KEY)
    capabilities: Raw | UnsetType = msgspec.field(default=UNSET, name=CAPABILITIES_KEY)
    log_level: Raw | UnsetType = msgspec.field(default=UNSET, name=LOG_LEVEL_META_KEY)
    progress_token: Raw | UnsetType = msgspec.field(default=UNSET, name="progressToken")
    traceparent: str | None = None
    tracestate: str | None = None


class Params(Struct, frozen=True):
    """The parts of a request's params that route it; everything else stays bytes."""

    meta: Meta | UnsetType = msgspec.field(default=UNSET, name="_meta")
    name: str | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    task_id: str | UnsetType = msgspec.field(default=UNSET, name="taskId")
    input_responses: Raw | UnsetType = msgspec.field(default=UNSET, name="inputResponses")
    request_state: Raw | UnsetType = msgspec.field(default=UNSET, name="requestState")
    ref: Reference | UnsetType = UNSET
    notifications: Filter | UnsetType = UNSET


class Reference(Struct, frozen=True):
    """What a completion is for."""

    type: str = ""
    name: str = ""
    uri: str = ""


class Filter(Struct, frozen=True):
    """What a subscriber wants to hear of."""

    tools: bool = msgspec.field(default=False, name="toolsListChanged")
    prompts: bool = msgspec.field(default=False, name="promptsListChanged")
    resources: bool = msgspec.field(default=False, name="resourcesListChanged")
    uris: list[str] = msgspec.field(default_factory=list[str], name="resourceSubscriptions")
    tasks: list[str] = msgspec.field(default_factory=list[str], name="taskIds")


class Rpc(Struct, frozen=True):
    """One JSON-RPC message."""

    jsonrpc: str
    method: str
    id: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET


class Message(Struct, frozen=True):
    """One JSON-RPC message of a session: a request, a notification or an answer."""

    jsonrpc: str
    method: str | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_read_message: Final = msgspec.json.Decoder(Message).decode
_read_rpc: Final = msgspec.json.Decoder(Rpc).decode
_read_params: Final = msgspec.json.Decoder(Params).decode
_read_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_write_members: Final = msgspec.json.Encoder().encode
_read_any: Final = msgspec.json.Decoder().decode

NULL: Final = b"null"


def read_rpc(body: bytes) -> Rpc:
    """The one request or notification in an HTTP body.

    Raises:
        Refusal: it is not JSON, or not one JSON-RPC 2.0 request or notification.
    """
    return _read(_read_rpc, body, "the body must be one JSON-RPC request or notification object")


def read_message(body: bytes) -> Message:
    """The one message in the body of a request of a session.

    Raises:
        Refusal: it is not JSON, or not one JSON-RPC 2.0 message.
    """
    message = _read(_read_message, body, "the body must be one JSON-RPC message")
    answers = message.result is not UNSET or message.error is not UNSET
    if (message.method is UNSET) != answers or (answers and message.id is UNSET):
        raise Refusal(INVALID_REQUEST, "the body must be one JSON-RPC request, notification or answer")
    return message


def _read(decode: Callable[[bytes], M], body: bytes, words: str) -> M:
    try:
        if not body.isascii():
            body.decode()  # the decoder below looks into a string only when it has to make one of it
        message = decode(body)
    except msgspec.ValidationError:
        raise Refusal(INVALID_REQUEST, words) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Refusal(PARSE_ERROR, "the body is not JSON") from None
    if message.jsonrpc != "2.0":
        raise Refusal(INVALID_REQUEST, 'jsonrpc must be "2.0"')
    return message


def request_id(rpc: Rpc) -> bytes:
    """The id of a request, as it was written.

    Raises:
        Refusal: it is neither a string nor an integer.
    """
    return identifier(rpc.id)


def identifier(raw: Raw | UnsetType) -> bytes:
    """The id of a message, as it was written.

    Raises:
        Refusal: it is neither a string nor an integer.
    """
    if raw is UNSET or not is_identifier(bytes(raw)):
        raise Refusal(INVALID_REQUEST, "the id must be a string or an integer")
    return bytes(raw)


def is_identifier(raw: bytes) -> bool:
    """Whether a part left as bytes is a string or an integer."""
    return raw[:1] == b'"' or (raw.isdigit() and raw[:1] != b"0") or _INTEGER.fullmatch(raw) is not None


def read_params(rpc: Rpc) -> Params:
    """What routes the request.

    Raises:
        Refusal: params is no object, or a part of it that the gateway reads has the wrong type.
    """
    if rpc.params is UNSET:
        return Params()
    try:
        return _read_params(rpc.params)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as wrong:
        raise Refusal(INVALID_PARAMS, f"params: {wrong}") from None


def value_of(raw: Raw | UnsetType) -> Any:
    """The Python value of a part left as bytes; `None` for an absent one.

    Raises:
        Refusal: it is not JSON after all.
    """
    if raw is UNSET:
        return None
    try:
        return _read_any(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as wrong:
        raise Refusal(INVALID_PARAMS, f"params: {wrong}") from None


def member_of(params: Raw | UnsetType, name: str) -> bytes | None:
    """One member of a params object, as it was written; `None` if it has none."""
    try:
        return None if params is UNSET else bytes(_read_members(params)[name])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError):
        return None


def levels_from(lowest: str) -> tuple[str, ...]:
    """The log levels that are no lower than `lowest`."""
    return LOG_LEVELS[LOG_LEVELS.index(lowest) :]


def with_member(params: bytes, member: str, value: Any) -> bytes:
    """The params object with one member changed; the others keep their bytes."""
    return _write_members(_read_members(params) | {member: value})


def with_meta(params: bytes, meta: dict[str, Any], *, over: bool = False) -> bytes:
    """The params object with more in its `_meta`: `over` what it has of the same names, or beside it."""
    members = _read_members(params)
    has: Any = _read_members(members["_meta"]) if members.get("_meta", NULL) != NULL else {}
    return _write_members(members | {"_meta": has | meta if over else meta | has})


def answer(request: bytes, result: bytes) -> bytes:
    """A response around an encoded result."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (request, result)


def error(request: bytes, code: int, message: str, data: Any = None) -> bytes:
    """An error response."""
    body: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request, orjson.dumps(body))


def notification(method: str, params: dict[str, Any]) -> bytes:
    """A notification, as one server-sent event."""
    return b'event: message\r\ndata: {"jsonrpc":"2.0","method":"%b","params":%b}\r\n\r\n' % (
        method.encode(),
        orjson.dumps(params),
    )


def notice(method: str, params: dict[str, Any]) -> bytes:
    """A notification."""
    return b'{"jsonrpc":"2.0","method":"%b","params":%b}' % (method.encode(), orjson.dumps(params))


def request(identifier: str, method: str, params: Any) -> bytes:
    """A request to a client."""
    return orjson.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params or {}})


def without_members(result: bytes, names: frozenset[str]) -> bytes:
    """An object without some of its members; the others keep their bytes.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        members = _read_members(result)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as wrong:
        raise ValueError(str(wrong)) from None
    return _write_members({name: value for name, value in members.items() if name not in names})


ANSWERS: Final = frozenset(("inputResponses", "requestState"))
"""Members of params that bring answers to what was asked."""


def event(message: bytes) -> bytes:
    """A JSON-RPC message as one server-sent event; line breaks, which an agent's result may have, would end it."""
    return b"event: message\r\ndata: %b\r\n\r\n" % b" ".join(message.splitlines())
