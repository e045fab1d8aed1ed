"""Ports of the private servers: free, and then the same again. Proves: OP-1 (a taken port is no obstacle)."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from fabric.embedded import DataFolder, ports
from fabric.process import ProcessSpec, ProcessStartError, Supervisor

pytestmark = pytest.mark.anyio


@contextmanager
def taken(port: int) -> Generator[None]:
    with socket.create_server((ports.HOST, port)):
        yield


def running(chosen: tuple[int, ...]) -> ProcessSpec:
    return ProcessSpec(name="server", argv=("sleep", "1000"))


async def test_ports_are_the_same_again_after_a_restart(folder: DataFolder, supervisor: Supervisor) -> None:
    first = await ports.start_on_ports(supervisor, folder, ("a", "b"), running)
    await supervisor.remove("server")
    assert len(set(first)) == 2
    assert await ports.start_on_ports(supervisor, folder, ("a", "b"), running) == first


async def test_a_taken_port_is_replaced_and_the_others_stay(folder: DataFolder, supervisor: Supervisor) -> None:
    a, b = await ports.start_on_ports(supervisor, folder, ("a", "b"), running)
    await supervisor.remove("server")
    with taken(a):
        other, same = await ports.start_on_ports(supervisor, folder, ("a", "b"), running)
    assert other != a
    assert same == b


async def test_a_port_taken_between_choosing_and_starting_is_replaced(
    folder: DataFolder, supervisor: Supervisor
) -> None:
    tried: list[int] = []
    listening: list[socket.socket] = []

    def spec(chosen: tuple[int, ...]) -> ProcessSpec:
        tried.append(chosen[0])
        if len(tried) == 1:
            listening.append(socket.create_server((ports.HOST, chosen[0])))
            return ProcessSpec(name="server", argv=("sh", "-c", "exit 1"), probe=never)
        return running(chosen)

    (port,) = await ports.start_on_ports(supervisor, folder, ("a",), spec)
    listening[0].close()
    assert tried[0] != port == tried[1]


async def test_a_server_that_fails_for_another_reason_is_not_tried_again(
    folder: DataFolder, supervisor: Supervisor
) -> None:
    tried: list[int] = []

    def spec(chosen: tuple[int, ...]) -> ProcessSpec:
        tried.append(chosen[0])
        return ProcessSpec(name="server", argv=("sh", "-c", "exit 1"), probe=never)

    with pytest.raises(ProcessStartError):
        await ports.start_on_ports(supervisor, folder, ("a",), spec)
    assert len(tried) == 1


async def test_a_port_is_not_one_that_the_system_gives_to_outgoing_connections(
    folder: DataFolder, supervisor: Supervisor
) -> None:
    """There a client that keeps trying to reach its restarting server sooner or later connects to itself."""
    with socket.create_server((ports.HOST, 0)) as server, socket.create_connection(server.getsockname()) as client:
        outgoing = client.getsockname()[1]
    chosen = await ports.start_on_ports(supervisor, folder, tuple("abcdefgh"), running)
    first, last = ports._ephemeral_range()  # pyright: ignore[reportPrivateUsage]
    assert first <= outgoing <= last
    assert not any(first <= port <= last for port in chosen)


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"a": "x"}', '{"a": 99999}'])
async def test_a_damaged_memory_of_ports_only_costs_new_ones(
    folder: DataFolder, supervisor: Supervisor, damaged: str
) -> None:
    folder.write("ports.json", damaged)
    (port,) = await ports.start_on_ports(supervisor, folder, ("a",), running)
    assert port > 0


async def never() -> None:
    """The probe of what never becomes ready."""
    raise RuntimeError("never")
