"""A call whose handler asks something before it goes on: answered, and called again.

Guarantee: what the handler did before it asked is not done again, unless its tool is marked as harmless to repeat.

Above: the client, the gateway. Below: `call`. A handler of ours waits at its own instance, and is resumed there; where
that is gone, a harmless tool begins anew with all answers. A hosted server is called again by its own rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fabric_sdk.contracts import errors, subjects
from fabric_sdk.contracts.asking import RESUME, Asked, Waiting
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.patterns.call import Call, Caller, settled_safe
from fabric_sdk.transports.base import Transport


async def follow_up(caller: Caller, call: Call, asked: Asked, answers: Mapping[str, Any]) -> Body:
    """The result of `call` after `answers` to what it `asked`: perhaps another question.

    Raises:
        QuestionLost: the handler that asked is gone, and its tool may not be begun anew.
        FabricError: as `Caller.call`.
    """
    waiting = Waiting.of(asked.state)
    if waiting is not None and waiting.instance:
        # The same handler is asked for its end, however often: that is no repetition of its work.
        params = Body({"id": waiting.id, "answers": dict(answers)})
        resume = replace(call, method=RESUME, params=params, instance=waiting.instance, safe=True, lost=0)
        try:
            return await caller.call(resume)
        except (errors.QuestionLost, errors.AgentUnavailable, errors.WorkerLost) as lost:
            if not await settled_safe(call):
                raise errors.QuestionLost("the worker that asked is gone; call again") from lost
    again = {**call.params.members(), "inputResponses": dict(answers)}
    if asked.state is not None:
        again["requestState"] = asked.state
    return await caller.call(replace(call, params=Body(again), lost=0))


async def give_up(transport: Transport, agent: str, state: str | None) -> None:
    """Cancel the handler of `agent` that waits for an answer where `state` says: nobody will bring one.

    Raises:
        TransportUnavailable: it cannot be told now, and waits until its patience ends.
    """
    if (waiting := Waiting.of(state)) is not None and waiting.instance:
        await transport.publish(Message(subjects.control(agent), Body({"waiting": waiting.id})))
