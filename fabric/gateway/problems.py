"""What goes wrong at the REST door, as `application/problem+json` (RFC 9457).

Above: `rest`, `app`. Below: the errors of the gateway and of the fabric. Which status an error has is decided here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson

from fabric.gateway import rpc
from fabric.gateway.approving import PENDING
from fabric.gateway.http import Send, respond
from fabric.gateway.rpc import Refusal
from fabric.observability.metrics_gateway import REFUSED
from fabric_sdk import FabricError
from fabric_sdk.contracts import errors

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = b"application/problem+json"
Lines = tuple[tuple[bytes, bytes], ...]

_RETRY: Final[Lines] = ((b"retry-after", b"1"),)
STATUS: Final = {
    rpc.INVALID_PARAMS: 400,
    rpc.METHOD_NOT_FOUND: 404,
    errors.KeyReused.code: 422,
    errors.CapabilityMissing.code: 422,
    errors.AnswerRequired.code: 422,
    rpc.FORBIDDEN: 403,
    PENDING: 409,
    errors.MessageTooLarge.code: 413,
    errors.Overloaded.code: 429,
    errors.CallCancelled.code: 409,
    errors.WorkerLost.code: 502,
    errors.AgentUnavailable.code: 503,
    errors.TransportUnavailable.code: 503,
    errors.DeadlineExceeded.code: 504,
}
"""HTTP status of an error's code; 500 for all others."""


class Problem(Exception):
    """A request that leads to no result: the HTTP status, why, and what else a client is told."""

    def __init__(self, status: int, detail: str, *, headers: Lines = (), more: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, headers, more or {}

    def body(self) -> bytes:
        """It in the words of RFC 9457; its type is that of the status."""
        title = HTTPStatus(self.status).phrase
        return orjson.dumps({**self.more, "title": title, "status": self.status, "detail": self.detail})


async def refuse(send: Send, status: int, message: str, headers: Lines = ()) -> None:
    """Say no to a request before it is looked at."""
    REFUSED.of(str(status)).add()
    await fail(send, Problem(status, message, headers=headers))


async def fail(send: Send, problem: Problem) -> None:
    await respond(send, problem.status, problem.body(), problem.headers, MEDIA_TYPE)


def problem_of(failure: Exception) -> Problem:
    """What a client is told of a failure."""
    if isinstance(failure, Problem):
        return failure
    if isinstance(failure, Refusal):
        status = STATUS.get(failure.code, failure.status if failure.status >= 400 else 500)
        return Problem(status, failure.message, headers=failure.headers, more=_known(failure.code, failure.data))
    if isinstance(failure, FabricError):
        status = STATUS.get(failure.code, 500)
        wire = errors.to_wire(failure)
        headers = _RETRY if status in (429, 503) else ()
        return Problem(status, wire["message"], headers=headers, more=_known(failure.code, failure.data))
    log.error("a request failed", exc_info=failure)
    return Problem(500, f"the gateway failed: {type(failure).__name__}")


def _known(code: int, data: Any) -> dict[str, Any]:
    return {"code": code} if data is None else {"code": code, "data": data}
