"""A process answers what it counted: to whoever is scraped for it on this machine, and to `fabric top` over the bus.

Above: worker and gateway processes; `metrics_page` and `fabric top`, which ask. Below: `metrics`. On this machine the
port is any free one of loopback, told by a file in the run folder: it works while the bus is away, which is when it is
wanted most.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from fabric.observability.metrics import Family, Metrics
from fabric.settings.passing import PROCESS, RUN
from fabric_sdk.cancelling import end
from fabric_sdk.contracts import subjects
from fabric_sdk.contracts.envelope import Body, Message
from fabric_sdk.contracts.errors import FabricError
from fabric_sdk.transports.base import Transport

_LOOPBACK: Final = "127.0.0.1"
_ANSWER_SECONDS: Final = 3.0
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(list[Family])


def supervised() -> Path | None:
    """The file by which this process says where it answers, if a supervisor wants to know."""
    run, name = os.environ.get(RUN), os.environ.get(PROCESS)
    return port_file(Path(run), name) if run and name else None


def port_file(run: Path, process: str) -> Path:
    """Where a process of this name says on which port it answers."""
    return run / f"{process}.metrics"


@contextmanager
def _left(file: Path, port: int) -> Generator[None]:
    """The file, while the block runs."""
    file.write_text(str(port))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@asynccontextmanager
async def answering(metrics: Metrics, file: Path) -> AsyncGenerator[None]:
    """Answer each connection of this machine with everything that was counted, and close it."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # who asked did not wait
            writer.write(_ENCODER.encode(await metrics.collect()))
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(answer, _LOOPBACK, 0)
    try:
        with _left(file, server.sockets[0].getsockname()[1]):
            yield
    finally:
        server.close()


def asked(file: Path) -> list[Family]:
    """What the process counted that answers where `file` says; blocks for some seconds at most.

    Raises:
        OSError, ValueError: it does not answer.
    """
    said = bytearray()
    with socket.create_connection((_LOOPBACK, int(file.read_text())), timeout=_ANSWER_SECONDS) as connection:
        while piece := connection.recv(65536):
            said += piece
    return _DECODER.decode(said)


@asynccontextmanager
async def answering_on_bus(metrics: Metrics, transport: Transport) -> AsyncGenerator[None]:
    """Answer whoever asks all processes of the fabric."""
    answers: set[asyncio.Task[None]] = set()

    async def answer(reply: str) -> None:
        said = {"process": process_name(), "families": msgspec.to_builtins(await metrics.collect())}
        with suppress(FabricError):  # whoever asked asks again
            await transport.publish(Message(reply, Body(said)))

    def hear(message: Message) -> None:
        if message.reply:
            answering = asyncio.get_running_loop().create_task(answer(message.reply))
            answers.add(answering)
            answering.add_done_callback(answers.discard)

    subscription = await transport.subscribe(subjects.METRICS, hear)
    try:
        yield
    finally:
        await subscription.close()
        await end(list(answers))


def process_name() -> str:
    """This process among all of the fabric: `host/name`."""
    return f"{socket.gethostname().partition('.')[0]}/{os.environ.get(PROCESS) or os.getpid()}"
