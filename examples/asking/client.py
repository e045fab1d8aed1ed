"""Answers what the tailor asks: `eval "$(fabric env)"; python examples/asking/client.py` beside a running fabric."""

import asyncio
from typing import Any

from fabric_sdk import CapabilityMissing, Fabric


async def answer(method: str, params: dict[str, Any]) -> Any:
    """Stands for a person, a model and a desktop: takes an MCP request, returns its MCP result."""
    if method == "sampling/createMessage":
        return {"role": "assistant", "model": "a-model", "content": {"type": "text", "text": "a hat to be seen in"}}
    if method == "roots/list":
        return {"roots": [{"uri": "file:///home/ann"}]}
    return {"action": "accept", "content": {"size": 42}}


async def main() -> None:
    async with Fabric.connect() as fabric:
        tailor = fabric.agent("tailor")

        # A call: its handler waits where it is, and goes on with the answer.
        print(await tailor.call("fit", {"what": "hat"}, on_ask=answer))
        print(await tailor.call("praise", {"what": "hat"}, on_ask=answer))
        print(await tailor.call("folders", on_ask=answer))
        try:
            await tailor.call("fit", {"what": "hat"})
        except CapabilityMissing as missing:
            print("refused:", missing)

        # A task: it is put aside until the answer is there, for days if need be.
        task = await tailor.start("sew", {"what": "coat"})
        async for record in task.changes():
            if record.parked is not None:
                for key, request in record.parked["requests"].items():
                    print("asked:", request["params"]["message"])
                    given = {"action": "accept", "content": {"button": "horn"}}
                    await fabric.tasks.answer("tailor", task.id, {key: given})
        print(await task.result(timeout=30))

        # Agents change while they run.
        print(await tailor.call("learn", {"skill": "knitting"}), "-", await tailor.call("knitting"))
        print("on the shelf:", await tailor.call("put", {"what": "hat"}))


asyncio.run(main())
