"""The control: the server under test on the official SDK's own HTTP transport, with no fabric between.

What fails here is the suite's or the SDK's doing; what fails only through the gateway is ours.

    python -m conformance.serve_direct --port 4600     (from tests/, or with tests/ on PYTHONPATH)
"""

import argparse
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.types import JSONRPCMessage

from conformance.everything import server

STOP_SECONDS = 10


class Replay(EventStore):
    """Keeps every event of every stream, in order: enough for a test that reconnects (2025-11-25)."""

    def __init__(self) -> None:
        self._events: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: EventId, send_callback: EventCallback) -> StreamId | None:
        seen = int(last_event_id) if last_event_id.isdecimal() else 0
        if not 1 <= seen <= len(self._events):
            return None
        stream_id = self._events[seen - 1][0]
        for number, (stream, message) in enumerate(self._events[seen:], start=seen + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


@contextmanager
def running() -> Generator[str]:
    """The control in a process of its own, on a free port; yields its URL."""
    tests = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "conformance.serve_direct", "--port", "0"]
    with subprocess.Popen(command, cwd=tests, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("The control server did not start; its error output is above.")
            yield url
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=4600, help="0 takes a free one; the URL is printed either way")
    parser.add_argument("--http", choices=["h11", "httptools"], default="h11", help="httptools keeps blanks in headers")
    arguments = parser.parse_args()
    app = server.streamable_http_app(event_store=Replay(), retry_interval=100)
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        print(f"http://localhost:{listener.getsockname()[1]}/mcp", flush=True)
        config = uvicorn.Config(app, http=arguments.http, log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
