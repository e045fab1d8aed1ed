"""A tailor who asks before it cuts: `fabric up examples/asking/agent.py`, then `examples/asking/client.py`."""

from pydantic import BaseModel

from fabric_sdk import Agent, Context, Policy

agent = Agent("tailor", version="1.0.0", description="Makes clothes, and asks for what it does not know.")

shelf: list[str] = []
cuts: list[str] = []


class Size(BaseModel):
    size: int


@agent.tool
async def fit(what: str, ctx: Context) -> str:
    """Ask the person for the size."""
    answer = await ctx.elicit(f"Which size shall the {what} have?", Size)
    if answer.content is None:  # declined, or closed
        return f"no {what} then"
    return f"a {what} of size {answer.content.size}"


@agent.tool
async def praise(what: str, ctx: Context) -> str:
    """Have the caller's model say something."""
    said = await ctx.sample(f"Praise this {what} in five words.", max_tokens=50)
    return said["content"]["text"]


@agent.tool
async def folders(ctx: Context) -> list[str]:
    """Ask which folders the caller works in."""
    return [root["uri"] for root in await ctx.list_roots()]


@agent.tool(task=Policy(mcp="optional"))
async def sew(what: str, ctx: Context) -> str:
    """Take days, if need be: a task that waits for its answer."""

    async def cut() -> int:
        cuts.append(what)
        return len(cuts)

    number = await ctx.once("cut", cut)  # begun anew with the answer, it does not cut again
    answer = await ctx.elicit("Which button?", {"type": "object", "properties": {"button": {"type": "string"}}})
    return f"{what} {number} with a {(answer.content or {}).get('button', 'plain')} button"


@agent.resource("shelf://all")
async def on_shelf() -> list[str]:
    """What lies on the shelf."""
    return shelf


@agent.tool
async def put(what: str, ctx: Context) -> int:
    """Put something on the shelf, and tell all who watch it."""
    shelf.append(what)
    await ctx.resource_updated("shelf://all")
    return len(shelf)


@agent.tool
async def learn(skill: str, ctx: Context) -> str:
    """Offer one tool more, and tell everybody that there is one."""

    async def work() -> str:
        return f"{skill} done"

    agent.tool(name=skill, description=f"Do some {skill}.")(work)
    await ctx.list_changed("tools")
    return f"I can do {skill} now"


@agent.prompt
async def order(what: str) -> str:
    """Order something."""
    return f"Order a {what} from the tailor, and answer what it asks."


@agent.completion("order", "what")
async def goods(typed: str) -> list[str]:
    """What begins so."""
    return [what for what in ("hat", "coat", "cape") if what.startswith(typed)]
