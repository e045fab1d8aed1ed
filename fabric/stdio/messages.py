"""JSON-RPC as it passes by: what decides where a message goes, and which headers HTTP wants beside it.

Above: all others here. Below: msgspec, whose `Raw` leaves a part of a document as the bytes it is. Pure functions.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, Final, cast

import msgspec
import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from fabric_sdk.contracts.errors import FabricError, to_wire

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
HEADER_MISMATCH: Final = -32020
NULL: Final = b"null"

_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
_NAMED: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""The member of params that the Mcp-Name header repeats, by method."""
_PLAIN: Final = re.compile(r"(?!=\?)[!-~](?:[ -~]*[!-~])?")
"""What a header carries as it is, and nobody takes for the encoded form."""


class NotOurs(FabricError):
    """The line is no JSON-RPC message."""

    code = INVALID_REQUEST


class Unreadable(NotOurs):
    """The line is not JSON."""

    code = PARSE_ERROR


class Message(Struct, frozen=True):
    """The parts of a JSON-RPC message that decide where it goes."""

    jsonrpc: str
    method: str | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET

    @property
    def number(self) -> bytes:
        """The id as it was written; `null` where there is none."""
        return NULL if self.id is UNSET else bytes(self.id)

    @property
    def is_request(self) -> bool:
        return self.method is not UNSET and self.id is not UNSET

    @property
    def is_answer(self) -> bool:
        return self.method is UNSET


class Params(Struct, frozen=True):
    """The parts of params that HTTP repeats, of whatever type they are: the gateway says what is wrong with them."""

    meta: Any = msgspec.field(default=None, name="_meta")
    name: Any = None
    uri: Any = None
    taskId: Any = None  # noqa: N815 - as MCP spells it
    arguments: Raw | UnsetType = UNSET
    request_id: Raw | UnsetType = msgspec.field(default=UNSET, name="requestId")

    @property
    def version(self) -> str | None:
        """The revision that the request itself names, as those since 2026-07-28 do."""
        stated = members(self.meta).get(_VERSION)
        return stated if isinstance(stated, str) else None


_read_message: Final = msgspec.json.Decoder(Message).decode
_read_params: Final = msgspec.json.Decoder(Params).decode
_NO_PARAMS: Final = Params()


def read(line: bytes) -> Message:
    """One message.

    Raises:
        Unreadable: it is not JSON.
        NotOurs: it is JSON, and no message.
    """
    try:
        if not line.isascii():
            line.decode()  # the decoder looks into a string only when it has to make one of it
        message = _read_message(line)
    except msgspec.ValidationError:
        raise NotOurs from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Unreadable from None
    if message.method is UNSET and message.result is UNSET and message.error is UNSET:
        raise NotOurs
    return message


def read_params(message: Message) -> Params:
    """What of the params HTTP repeats."""
    if message.params is UNSET:
        return _NO_PARAMS
    try:
        return _read_params(message.params)
    except (msgspec.DecodeError, RecursionError):
        return _NO_PARAMS


def headers(method: str, params: Params) -> dict[str, str]:
    """What a request since 2026-07-28 says in headers too; a handshake revision's says nothing.

    What no header can carry is left out: the gateway then refuses the request and says why.
    """
    if params.version is None:
        return {}
    lines = {"mcp-protocol-version": params.version, "mcp-method": method}
    lines = {name: value for name, value in lines.items() if _PLAIN.fullmatch(value)}
    named = getattr(params, _NAMED[method]) if method in _NAMED else None
    if isinstance(named, str):
        lines["mcp-name"] = header_value(named)
    return lines


def header_value(value: str) -> str:
    """A value as a header carries it: in base64 where anything less would change it."""
    return value if _PLAIN.fullmatch(value) else f"=?base64?{b64encode(value.encode()).decode()}?="


def error_code(message: Message) -> int | None:
    """The code of an answer that is an error."""
    return None if message.error is UNSET else members(msgspec.json.decode(message.error)).get("code")


def answer_to(request: bytes, message: Message, line: bytes) -> bytes:
    """An answer under the id of its request: a refusal that came before the body was read has none of its own."""
    if message.number == request:
        return line
    body = b'"error":%b' % message.error if message.result is UNSET else b'"result":%b' % message.result
    return b'{"jsonrpc":"2.0","id":%b,%b}' % (request, body)


def failed(request: bytes, failure: FabricError) -> bytes:
    """The answer to a request that came to nothing."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request, orjson.dumps(to_wire(failure)))


def one_line(message: bytes) -> bytes:
    """A message without line breaks, which JSON has between its tokens at most."""
    return b" ".join(message.splitlines())


def members(value: Any) -> dict[str, Any]:
    """Those of a JSON object; none of what is no object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
