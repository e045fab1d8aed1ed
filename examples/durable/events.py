"""Events: told once, heard by whoever wants to, now and later. Beside a fabric with shop.py:

eval "$(fabric env)"; python examples/durable/events.py
"""

import asyncio
from uuid import uuid4

from fabric_sdk import Fabric, FabricError

SCHEMA = {
    "type": "object",
    "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["item", "count"],
}


async def main() -> None:
    async with Fabric.connect() as fabric:
        # What is published on a topic fits its schema, and a version that would break readers is refused.
        await fabric.schemas.register("orders.charged", SCHEMA)
        try:
            await fabric.publish("orders.charged", {"item": "tea"})
        except FabricError as misfit:
            print("refused:", misfit)
        try:
            await fabric.schemas.register("orders.charged", {**SCHEMA, "required": ["item"]})
        except FabricError as breaking:
            print("refused:", str(breaking)[:60])

        # Live, with a filter and a transformation of the subscriber's own.
        async with fabric.subscribe("orders.*", filter="data.count > 1", transform="{'what': data.item}") as events:
            for count in (1, 2, 24):
                await fabric.publish("orders.charged", {"item": "cups", "count": count}, subject=f"order/{count}")
            async for event in events:
                print("live:", event.data, event.subject)
                if event.subject == "order/24":
                    break

        # A durable group: shared by its members, remembered while nobody is there. Asking for the next acknowledges.
        group = f"billing-{uuid4().hex[:8]}"
        async with fabric.subscribe("orders.charged", group=group, start="all") as events:
            async for event in events:
                print("billed:", event.data["count"] > 0)
                await event.ack()
                break

        # The past again.
        async with fabric.replay("orders.>") as events:
            print("replayed:", len([event async for event in events]) >= 3)

        # The agent reacted to the one large order.
        async with fabric.subscribe("thanks.said", start="all") as events:
            print("thanked:", (await anext(events)).data)


asyncio.run(main())
