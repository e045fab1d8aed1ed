"""A gateway with nothing in it: `python -m fabric.bench.floors.forward READY DESCRIPTOR`.

Above: `ground`. Below: uvicorn, orjson, nats-py. Reads the JSON, makes one request to the floor's worker, answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from nats.aio.client import Client  # noqa: TID251 - the floor is the bare library

from fabric.bench.floors import http
from fabric.bench.floors.worker import SUBJECT, connected

_TIMEOUT: Final = 30.0


class Forward:
    """The ASGI application."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]  # small enough to come in one piece
        request = orjson.loads(body)
        answer = await self._client.request(SUBJECT, orjson.dumps(request["params"]), timeout=_TIMEOUT)
        response = orjson.dumps({"jsonrpc": "2.0", "id": request["id"], "result": orjson.Fragment(answer.data)})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(response))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": response})


async def main(ready: Path, descriptor: int) -> None:
    """Connect and serve."""
    client = await connected(os.environ["FABRIC_NATS_URL"])
    try:
        await http.serve(Forward(client), ready=ready, descriptor=descriptor)
    finally:
        await client.close()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), int(sys.argv[2])))
