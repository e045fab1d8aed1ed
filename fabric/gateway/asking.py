"""What agents ask of clients of the current revision: asked with sealed state, answered with a new request.

Above: `modern`, `rest`, `tasks`; `errands`, for what a client can do. Below: `sealing`, and MCP's models of answers.
The handshake revisions ask over a stream instead (`legacy`); to an agent both are the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final, cast

from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult
from mcp_types.jsonrpc import MISSING_REQUIRED_CLIENT_CAPABILITY
from pydantic import BaseModel, ValidationError

from fabric.gateway import rpc
from fabric.gateway.rpc import Params, Refusal
from fabric.gateway.sealing import Bound, Broken, Seal, State, shared_seal, use_up
from fabric_sdk import Fabric, FabricError
from fabric_sdk.contracts.asking import NEEDED, Asked, Waiting
from fabric_sdk.contracts.envelope import Body

log = logging.getLogger(__name__)

_ANSWERS: Final[Mapping[str, type[BaseModel]]] = {
    "elicitation/create": ElicitResult,
    "sampling/createMessage": CreateMessageResult,
    "roots/list": ListRootsResult,
}


class Questions:
    """Seals what agents ask, and opens what comes back."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._seal: Seal | None = None

    async def asked(self, result: Body, bound: Bound, capabilities: Any, *, approved: str = "") -> Body:
        """`result` as the client may see it, if it asks something; `approved`: see `State`.

        Raises:
            Refusal: it asks what the client has not declared to know.
        """
        if (asked := Asked.of(result)) is None:
            return result
        check_capabilities(asked, capabilities)
        if asked.state is None and not approved:
            return result
        methods = {key: str(request.get("method")) for key, request in asked.requests.items()}
        seal = await self._shared_seal()
        return Body({**result.members(), "requestState": seal.close(State(asked.state, methods, approved), bound)})

    async def answered(self, params: Params, bound: Bound, *, anew: bool = False) -> tuple[State, dict[str, Any]]:
        """The state in which something was asked, and the answers that this request brings.

        Args:
            params: of the request.
            bound: what its state has to be good for.
            anew: whether something begins with the answers, which otherwise may go to a handler that waits for them.

        Raises:
            Refusal: its state is not one that this client was given for this, or an answer does not fit.
        """
        answers = rpc.value_of(params.input_responses)
        if not (answers is None or isinstance(answers, dict)):
            raise Refusal(rpc.INVALID_PARAMS, "params.inputResponses must be an object")
        given = cast("dict[str, Any]", answers or {})
        if params.request_state is rpc.UNSET:
            return State(None), given
        try:
            state = (await self._shared_seal()).open(rpc.value_of(params.request_state), bound)
            check_answers(state.asked, given)
            if anew or (state.asked.keys() <= given.keys() and not _resumes(state)):
                await use_up(self._fabric, state)
        except Broken:
            raise Refusal(
                rpc.INVALID_PARAMS, "params.requestState is not what this client was given for this request, or too old"
            ) from None
        return state, given

    async def _shared_seal(self) -> Seal:
        if self._seal is None:
            try:
                self._seal = await shared_seal(self._fabric)
            except FabricError as alone:
                log.warning("questions can be answered at this gateway only: %s", alone)
                self._seal = Seal(os.urandom(32))
        return self._seal


def brought(params: bytes, state: str | None, answers: Mapping[str, Any]) -> bytes:
    """Params with answers in the agent's own state: what the client sent in their place is not passed on."""
    members = {"inputResponses": answers} if state is None else {"inputResponses": answers, "requestState": state}
    for name, value in members.items():
        params = rpc.with_member(params, name, value)
    return params


def check_capabilities(asked: Asked, declared: Any) -> None:
    """See that a client can be asked this.

    Raises:
        Refusal: it has not declared what that needs.
    """
    known = cast("dict[str, Any]", declared) if isinstance(declared, dict) else {}
    needed = {NEEDED[method] for each in asked.requests.values() if (method := each.get("method")) in NEEDED}
    if missing := sorted(needed - known.keys()):
        data: dict[str, Any] = {"requiredCapabilities": {each: {} for each in missing}}
        words = f"the agent asks for what the client has not declared: {', '.join(missing)}"
        raise Refusal(MISSING_REQUIRED_CLIENT_CAPABILITY, words, data=data)


def check_answers(asked: Mapping[str, str], answers: Mapping[str, Any]) -> None:
    """See that each answer fits its question: a wrong one would fail the work, a refused one can be mended.

    Raises:
        Refusal: one does not.
    """
    for key in asked.keys() & answers.keys():
        if (kind := _ANSWERS.get(asked[key])) is not None:
            try:
                kind.model_validate(answers[key])
            except ValidationError as wrong:
                raise Refusal(rpc.INVALID_PARAMS, f"params.inputResponses[{key!r}]: {wrong}") from None


def _resumes(state: State) -> bool:
    """Whether the answers go to a handler that waits: it takes them once, however often they come."""
    waiting = Waiting.of(state.inner)
    return waiting is not None and bool(waiting.instance)
