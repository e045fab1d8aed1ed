"""Questions to whoever called, in MCP's own words: a result that asks, and the request that answers (docs/wire.md).

Above: context, worker, callers, the gateway. Below: bodies. A handler of ours that asks waits where it is; the state
that goes with its question says where, and holds the earlier answers, so that another worker can begin anew if that is
harmless. State of a hosted server is its own, and passed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from fabric_sdk.contracts.envelope import Body

RESUME: Final = "fabric/resume"
"""The method that brings a waiting handler its answers; sent to its own instance."""
CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
"""Where `_meta` says what the caller can be asked."""
NEEDED: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What may be asked, and the capability that it needs."""

_MARK: Final = "fabric:"
ASKS: Final = b'"input_required"'
"""What the bytes of each result hold that asks something, and of few others."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where a handler of ours waits for an answer, and which it has had."""

    instance: str = ""
    """Empty: nowhere; it begins anew with the answers."""
    id: str = ""
    answers: dict[str, Any] = field(default_factory=dict[str, Any])

    def state(self) -> str:
        """This as MCP's `requestState`."""
        return _MARK + orjson.dumps([self.instance, self.id, self.answers]).decode()

    @staticmethod
    def of(state: Any) -> Waiting | None:
        """What `state` says, if it is ours."""
        if not isinstance(state, str) or not state.startswith(_MARK):
            return None
        try:
            instance, identifier, answers = orjson.loads(state.removeprefix(_MARK))
            return Waiting(str(instance), str(identifier), dict(answers))
        except (ValueError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class Asked:
    """A result that is none yet: it asks something first."""

    requests: dict[str, Any]
    """MCP requests (`method`, `params`), by key."""
    state: str | None = None
    """To be sent back with the answers."""

    @staticmethod
    def of(result: Body) -> Asked | None:
        """What `result` asks, if it does."""
        encoded = result.encoded()
        if ASKS not in encoded:
            return None
        said = result.value()
        if not isinstance(said, dict) or said.get("resultType") != "input_required":  # pyright: ignore[reportUnknownMemberType]
            return None
        return Asked(dict(said.get("inputRequests") or {}), said.get("requestState"))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]

    def result(self) -> Body:
        """This as an MCP result."""
        said: dict[str, Any] = {"resultType": "input_required", "inputRequests": self.requests}
        return Body(said if self.state is None else {**said, "requestState": self.state})


def answers_in(params: Mapping[str, Any]) -> dict[str, Any]:
    """All answers that a request brings: in its state those of earlier rounds, and beside it those of the last."""
    waiting = Waiting.of(params.get("requestState"))
    given: Any = params.get("inputResponses")
    return {**(waiting.answers if waiting else {}), **(given if isinstance(given, dict) else {})}
