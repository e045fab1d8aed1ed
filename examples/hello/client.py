"""A client: calls an agent by its name, wherever it runs, and gets Python values back.

    eval "$(fabric env)"; python examples/hello/client.py hello

The same for an agent, a fastmcp server and a server of the `mcp` SDK: a caller cannot tell which it is.
"""

import asyncio
import sys

from fabric_sdk import Fabric, ToolError


async def main(name: str) -> None:
    async with Fabric.connect() as fabric:
        hello = fabric.agent(name)
        assert await hello.call("echo", {"text": "hello"}) == "hello"
        assert await asyncio.gather(*(hello.call("add", {"a": a, "b": 1}) for a in range(100))) == list(range(1, 101))
        try:
            await hello.call("add", {"a": "one", "b": 1})
        except ToolError as refused:
            print(f"{name} refuses what does not fit: {str(refused).splitlines()[0]}")
    print(f"{name} answered 101 calls")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "hello"))
