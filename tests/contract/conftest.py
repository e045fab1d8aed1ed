"""The ways for messages to travel, as one fixture: what is promised for all transports is tested on each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol
from uuid import uuid4

import pytest
from support.nats_server import PrivateNats, private_nats
from support.waiting import Ear

from fabric_sdk.client import Fabric
from fabric_sdk.connecting import instances
from fabric_sdk.contracts.envelope import EMPTY, Message
from fabric_sdk.contracts.subjects import CALLS, head
from fabric_sdk.pipeline import Middleware
from fabric_sdk.transports.base import Transport
from fabric_sdk.transports.memory import MemoryTransport
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.transports.nearest import NearestTransport
from fabric_sdk.worker import Limits, Servable, Worker


class Bus(Protocol):
    """One bus, to which a test connects as often as it likes."""

    async def connect(self) -> Transport:
        """A connection of its own, where the transport knows such a thing."""
        ...


class MemoryBus:
    """Everybody in this process holds the same transport."""

    def __init__(self) -> None:
        self._transport = MemoryTransport()

    async def connect(self) -> Transport:
        return self._transport


class NatsBus:
    """A real server, and a connection for each who asks for one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connections: list[Transport] = []

    async def connect(self) -> Transport:
        self._connections.append(await NatsTransport.connect(self._url))
        return self._connections[-1]

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


class _Near(NearestTransport):
    """Looks for a link before each call, so that no test goes over the broker because it is quick."""

    async def publish(self, message: Message) -> None:
        name = head(message.subject)
        if name.startswith(CALLS):
            await self.meet(name.removeprefix(CALLS))
        await super().publish(message)


class NearBus(NatsBus):
    """The same, with sockets between those who call each other."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url)
        self._folder = folder

    async def connect(self) -> Transport:
        broker = await NatsTransport.connect(self._url)
        self._connections.append(_Near(broker, self._folder, partial(instances, broker, seconds=0.02)))
        return self._connections[-1]


@pytest.fixture(scope="session")
def shared_nats() -> Generator[PrivateNats]:
    """A server for all tests that break nothing."""
    with private_nats() as server:
        yield server


@pytest.fixture
async def nats_bus(shared_nats: PrivateNats) -> AsyncGenerator[NatsBus]:
    bus = NatsBus(shared_nats.url)
    yield bus
    await bus.close()


@pytest.fixture
async def near_bus(shared_nats: PrivateNats) -> AsyncGenerator[NearBus]:
    with TemporaryDirectory() as folder:  # pytest's own are too deep for a socket
        bus = NearBus(shared_nats.url, Path(folder))
        yield bus
        await bus.close()


@pytest.fixture(params=["memory", "nats", "near"])
def bus(request: pytest.FixtureRequest) -> Bus:
    return MemoryBus() if request.param == "memory" else request.getfixturevalue(f"{request.param}_bus")


async def settled(publisher: Transport, subscriber: Transport) -> None:
    """Return when `subscriber` has received all that `publisher` sent it until now: one more message overtakes none."""
    ear, subject = Ear(), f"settled.{uuid4().hex}"
    subscription = await subscriber.subscribe(subject, ear)
    await subscriber.flush()
    await publisher.publish(Message(subject, EMPTY))
    await ear.wait()
    await subscription.close()


class Stage:
    """Workers and clients on one bus, each with a connection of its own."""

    def __init__(self, bus: Bus, exit_stack: AsyncExitStack) -> None:
        self.bus = bus
        self._exit = exit_stack
        self._stopped: set[Worker] = set()

    async def serve(
        self, servable: Servable, *, limits: Limits | None = None, middleware: tuple[Middleware, ...] = ()
    ) -> Worker:
        """A started worker; drained at the end of the test, if the test has not done so."""
        worker = Worker(await self.bus.connect(), servable, limits=limits, middleware=middleware)
        await worker.start()
        self._exit.push_async_callback(self._stop, worker)
        return worker

    async def client(self) -> Fabric:
        """A client."""
        return await self._exit.enter_async_context(Fabric.over(await self.bus.connect()))

    async def stop(self, worker: Worker, grace: float = 30.0) -> None:
        """Drain a worker before the end of the test."""
        self._stopped.add(worker)
        await worker.drain(grace)

    async def _stop(self, worker: Worker) -> None:
        if worker not in self._stopped:
            await self.stop(worker, grace=0.0)


@pytest.fixture
async def stage(bus: Bus) -> AsyncGenerator[Stage]:
    async with AsyncExitStack() as exit_stack:
        yield Stage(bus, exit_stack)


@pytest.fixture
async def nats_stage(nats_bus: NatsBus) -> AsyncGenerator[Stage]:
    """For what only happens where messages are encoded."""
    async with AsyncExitStack() as exit_stack:
        yield Stage(nats_bus, exit_stack)
