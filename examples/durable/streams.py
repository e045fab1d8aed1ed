"""Streams, broadcasts and conversations. Beside a fabric with shop.py:

eval "$(fabric env)"; python examples/durable/streams.py
"""

import asyncio

from fabric_sdk import Fabric


async def main() -> None:
    async with Fabric.connect() as fabric:
        shop = fabric.agent("shop")

        # Both ways at once, in order; who reads slowly slows the other down, and a lost connection loses nothing.
        async with shop.open("haggle") as stream:
            price = 1
            while price < 5:
                await stream.send({"price": price})
                price = (await anext(stream))["price"]
            await stream.end()
            print("price:", price, "rest:", [each async for each in stream])

        # Every instance answers for itself.
        answers = await shop.broadcast("who", timeout=10)
        print("instances:", len(answers), all(instance == answer for instance, answer in answers.items()))

        # What is to be remembered is kept outside every process.
        conversation = fabric.conversation("customer-7", keep=3600)
        version = await conversation.append({"role": "user", "text": "Have you got tea?"})
        await conversation.append({"role": "shop", "text": "Yes."}, expected=version)
        remembered = await conversation.read()
        print("remembered:", len(remembered.entries))
        await conversation.snapshot({"wants": "tea"}, expected=remembered.version)
        print("in short:", (await conversation.read()).snapshot)
        await conversation.forget()


asyncio.run(main())
