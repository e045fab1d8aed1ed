"""What the platform's own agents are told to do, noted where it is done: whether it came through a gateway or not.

Above: `platform`. Below: the SDK's one handler shape. Of arguments only what names the thing is noted, by a fixed list:
the id of an approval, the name of a key; never what it is to be.
"""

from __future__ import annotations

import time
from typing import Any, Final, cast

from fabric.audit.entry import Entry, Outcome, named
from fabric.audit.trail import Trail
from fabric_sdk import Context, FabricError
from fabric_sdk.contracts.description import Description
from fabric_sdk.contracts.envelope import Body
from fabric_sdk.contracts.errors import to_wire
from fabric_sdk.contracts.scope import FROM
from fabric_sdk.pipeline import Handler, Middleware, Request
from fabric_sdk.results import is_error

_CALL: Final = "tools/call"
_NAMING: Final = {
    "create_token": ("name",),
    "revoke_token": ("id",),
    "mount": ("agent", "prefix"),
    "unmount": ("agent", "prefix"),
    "grant": ("id",),
    "refuse": ("id",),
    "revoke_grant": ("id",),
    "start_task": ("agent", "tool"),
    "cancel_task": ("id",),
    "redrive_dead": ("ids", "agent"),
    "purge_dead": ("ids", "agent"),
    "set_schedule": ("agent", "name"),
    "remove_schedule": ("agent", "name"),
    "publish_event": ("topic",),
    "register_schema": ("topic",),
}
"""The arguments that say what an act is about."""


def noting(trail: Trail, of: Description) -> Middleware:
    """Notes each call of a tool that changes something, as all do that do not say they only read, and its outcome."""
    watched = {tool["name"] for tool in of.tools if not _reads(tool)}

    def wrap(handler: Handler) -> Handler:
        async def handle(context: Context, request: Request) -> Body:
            if request.method != _CALL or (params := _params(request)).get("name") not in watched:
                return await handler(context, request)
            began, code = time.perf_counter(), 0
            outcome: Outcome = "failed"
            try:
                result = await handler(context, request)
                outcome = "failed" if is_error(result) else "managed"
            except FabricError as failure:
                code = to_wire(failure)["code"]
                raise
            finally:
                trail.note(
                    Entry(
                        at=time.time(),
                        outcome=outcome,
                        principal=context.principal or "",
                        address="" if context.principal else _typist(params),
                        door="" if context.principal else "bus",
                        method=_CALL,
                        agent=of.name,
                        tool=params["name"],
                        about=about(params["name"], params.get("arguments")),
                        code=code,
                        ms=round((time.perf_counter() - began) * 1000, 3),
                        trace=context.scope.trace.trace_id if context.scope.trace else "",
                        size=len(request.params.encoded()),
                    )
                )
            return result

        return handle

    return wrap


def about(tool: str, arguments: Any) -> str:
    """What a call of `tool` is about, in few words."""
    if not isinstance(arguments, dict):
        return ""
    given = cast("dict[str, Any]", arguments)
    said = [given.get(name) for name in _NAMING.get(tool, ())]
    words = [each for value in said for each in (cast("list[Any]", value) if isinstance(value, list) else [value])]
    return named(" ".join(each for each in words if isinstance(each, str)))


def _typist(params: dict[str, Any]) -> str:
    """Who typed it, as they say: whoever is on the bus is the operator, or runs what the operator has put there."""
    meta = params.get("_meta")
    said = cast("dict[str, Any]", meta).get(FROM) if isinstance(meta, dict) else None
    return named(said) if isinstance(said, str) else ""


def _reads(tool: dict[str, Any]) -> bool:
    hints: dict[str, Any] = tool.get("annotations") or {}
    return hints.get("readOnlyHint") is True


def _params(request: Request) -> dict[str, Any]:
    try:
        return request.params.members()
    except ValueError:
        return {}
