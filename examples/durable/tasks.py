"""Tasks: started once, done once, whatever dies. Beside a fabric with shop.py:

eval "$(fabric env)"; python examples/durable/tasks.py
"""

import asyncio
from datetime import UTC, datetime, timedelta

from fabric_sdk import Fabric, FabricError
from fabric_sdk.patterns.dead import Which


async def main() -> None:
    async with Fabric.connect() as fabric:
        shop = fabric.agent("shop")

        # Accepted when this returns: it is on the disk.
        task = await shop.start("order", {"item": "tea", "count": 2}, key="order-17", priority="high")
        print("receipt:", await task.result(timeout=30, on_progress=lambda done, of, what: print(what)))

        # The same key is the same task, from anywhere, for as long as its end is kept (a day, unless said otherwise).
        again = await shop.start("order", {"item": "tea", "count": 2}, key="order-17")
        print("joined:", again.joined, again.id == task.id, await again.result(timeout=30) == await task.result())

        # All or none.
        batch = await fabric.start_all([shop.plan("order", {"item": item, "count": 1}) for item in ("cup", "pot")])
        print("batch:", len([await each.result(timeout=30) for each in batch]))

        # Whoever can, whatever it is called: the broker finds one, now or as soon as there is one.
        anyone = fabric.capability("sales")
        sale = await anyone.start("order", {"item": "jam", "count": 1}, key="sale-1")
        print("sold:", (await sale.result(timeout=30))[:7], "by", len(await anyone.broadcast("who")))

        # A checkpoint, and an attempt that asks for another one.
        print("counted to:", await (await shop.start("count_to", {"n": 5})).result(timeout=30))
        print("impatient:", await (await shop.start("impatient")).result(timeout=30))

        # Later, and not too late.
        soon = datetime.now(UTC) + timedelta(seconds=1)
        later = await shop.start("order", {"item": "milk", "count": 1}, at=soon, expires=60)
        print("state:", (await later.status()).state, "then", (await later.result(timeout=30))[:7])

        # Again and again.
        await shop.schedule("stocktaking", "30 6 * * 1-5", "count_to", {"n": 3}, zone="Europe/Rome")
        print("scheduled:", [each.name for each in await fabric.schedules.list("shop")])
        await shop.unschedule("stocktaking")

        # Never begun.
        cancelled = await shop.start("order", {"item": "regret", "count": 1}, delay=3600)
        print("cancelled:", (await cancelled.cancel()).state)

        # What cannot be done is kept, with its history, until somebody decides.
        hopeless = await shop.start("order", {"item": "nothing", "count": 0})
        try:
            await hopeless.result(timeout=30)
        except FabricError as dead:
            print("dead:", dead)
        async for letter in fabric.dead.find(Which(agent="shop", error="nobody can order")):
            print("letter:", letter.id == hopeless.id, letter.errors[-1]["error"])
            await fabric.dead.purge(letter)


asyncio.run(main())
