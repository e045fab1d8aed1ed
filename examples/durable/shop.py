"""An agent that must not forget an order, nor charge for it twice: `fabric up examples/durable/shop.py`."""

from fabric_sdk import Agent, Context, Event, Policy, Reject, Retry, Stream

agent = Agent("shop", capabilities={"sales"}, version="1.0.0", description="Sells things, and never twice.")

charged: list[str] = []
"""Stands for a payment service; it lives as long as this process."""


@agent.tool(task=Policy(attempts=5, first_wait=0.2, timeout=60.0))
async def order(item: str, count: int, ctx: Context) -> str:
    """Take an order: called or started as a task, the same function."""
    if count < 1:
        raise Reject(f"nobody can order {count} of anything")  # no other attempt; to the dead letters

    async def charge() -> str:
        # Killed in here, the step is done again: the key and the token let the other side know it for a repetition.
        charged.append(f"{item} x {count} (key {ctx.key}, token {ctx.task.token if ctx.task else None})")
        return f"receipt {len(charged)}"

    receipt = await ctx.once("charge", charge)  # done once this line is through, whatever dies afterwards
    await ctx.progress(1, 2, "charged")
    await ctx.fabric.publish("orders.charged", {"item": item, "count": count, "receipt": receipt})
    await ctx.progress(2, 2, "told everybody")
    return receipt


@agent.tool(task=Policy(attempts=10))
async def count_to(n: int, ctx: Context) -> int:
    """Count slowly, and go on where a killed worker stopped."""
    for number in range((ctx.saved or 0) + 1, n + 1):
        await ctx.checkpoint(number)
    return ctx.saved or n


@agent.tool
async def impatient(ctx: Context) -> str:
    """Fail the first time, and ask for another attempt at once."""
    if ctx.task and ctx.task.attempt == 1:
        raise Retry("the supplier was busy", after=0)
    return "done"


@agent.on("orders.charged", filter="data.count >= 10", transform="{'item': data.item, 'dozens': data.count / 12}")
async def thank(event: Event, ctx: Context) -> None:
    """React to large orders: once for each, whoever of this agent's workers gets it."""
    await ctx.fabric.publish("thanks.said", {"for": event.data["item"], "dozens": event.data["dozens"]})


@agent.stream
async def haggle(stream: Stream) -> None:
    """Answer each offer with a higher price, until the customer has had enough."""
    async for offer in stream:
        await stream.send({"price": offer["price"] + 1})


@agent.tool(annotations={"readOnlyHint": True})
async def who(ctx: Context) -> str:
    """Say which instance this is."""
    return ctx.instance
