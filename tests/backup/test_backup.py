"""A backup taken while tasks are started and end, and every reason not to restore one.

Proves: MB-3 (a task that moved while the backup was made is done once)
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import zipfile
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli.inside import fabric_inside
from support.durable import KEEPING, Serve, keeping, serve, server
from support.nats_server import PrivateNats, private_nats
from support.waiting import until

from backup.digest import digest
from fabric.backup import Damaged, NotEmpty, StillRunning, open_archive, restore, save, write_archive
from fabric.backup.manifest import FORMAT, Manifest, StreamPart, is_older, read_manifest
from fabric.backup.saving import in_order
from fabric_sdk import Agent, Fabric, FabricError
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.streams import CATALOGUE, LATER, OBJECTS, RECORDS, TASKS
from fabric_sdk.jetstream import TooFewServers, replicas
from fabric_sdk.jetstream import restore as restore_stream
from fabric_sdk.transports.nats import NatsTransport
from fabric_sdk.worker import Limits, Worker

__all__ = ["keeping", "serve", "server"]

VERSION = "2.15.1"


class Mill:
    """An agent whose tool waits to be let go, and counts what it did."""

    def __init__(self) -> None:
        self.agent = Agent("mill", version="1.0.0")
        self.done: Counter[str] = Counter()
        self.go = asyncio.Event()

        @self.agent.tool
        async def grind(what: str) -> str:
            await self.go.wait()
            self.done[what] += 1
            return what

    @asynccontextmanager
    async def at(self, url: str) -> AsyncGenerator[None]:
        """Work there."""
        transport = await NatsTransport.connect(url)
        worker = Worker(transport, self.agent, limits=Limits(tasks=64))
        await worker.start()
        try:
            yield
        finally:
            await worker.drain(0.0)
            await transport.close()


async def restored(client: Fabric, path: Path, *, nats: str = VERSION, force: bool = False) -> None:
    with open_archive(path) as archive:
        async for _ in restore(client.jetstream, archive, nats=nats, force=force):
            pass


async def saved(client: Fabric, path: Path) -> None:
    with write_archive(path) as draft:
        async for _ in save(client.jetstream, draft, nats=VERSION, configuration={"limits/limits.yaml": b"{}"}):
            pass


async def test_what_moves_while_a_backup_is_made_is_neither_lost_nor_done_twice(tmp_path: Path) -> None:
    path = tmp_path / "busy.backup"
    with private_nats(KEEPING) as busy, private_nats(KEEPING) as fresh:
        mill = Mill()
        async with Fabric.connect(busy.url) as client, mill.at(busy.url):
            begun = client.agent("mill").plan("grind", {"what": "begun"}, key="begun")
            ending = [await client.agent("mill").start("grind", {"what": f"ended-{number}"}) for number in range(5)]
            with write_archive(path) as draft:
                async for step in save(client.jetstream, draft, nats=VERSION, configuration={}):
                    if step.stream == TASKS.name and step.done:  # the queue is saved; now everything moves
                        mill.go.set()
                        for each in ending:
                            await each.result(timeout=10)
                        mill.go.clear()
                        (task,) = await client.start_all([begun])
                        await until(task.status, lambda record: record.state == "running")
        assert mill.done == Counter({f"ended-{number}": 1 for number in range(5)})
        again = Mill()
        again.go.set()
        async with Fabric.connect(fresh.url) as client:
            await restored(client, path)
            async with again.at(fresh.url):
                assert await client.agent("mill").task(begun.id).result(timeout=20) == "begun"
                after = await client.agent("mill").start("grind", {"what": "after"})
                await after.result(timeout=10)  # whatever waited before it has been taken
        assert again.done == Counter({"begun": 1, "after": 1})


async def test_a_fabric_with_messages_or_agents_or_a_damaged_file_is_left_alone(
    server: PrivateNats, serve: Serve, tmp_path: Path
) -> None:
    path, cut, bent = tmp_path / "a.backup", tmp_path / "cut.backup", tmp_path / "bent.backup"
    async with Fabric.connect(server.url) as client:
        await client.publish("tea.sold", {"cups": 1})
        await saved(client, path)
        before = await digest(client.jetstream)
        whole = path.read_bytes()
        cut.write_bytes(whole[: len(whole) // 2])
        at = whole.index(b"tea.sold") if b"tea.sold" in whole else 200
        bent.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        for broken in (cut, bent):
            with pytest.raises(Damaged, match=r"damaged|cut off"):
                await restored(client, broken, force=True)
        with pytest.raises(NotEmpty, match="FAB_EVENTS 1"):
            await restored(client, path)
        with pytest.raises(ConfigurationError, match="which is older"):
            await restored(client, path, nats="2.14.9", force=True)
        await serve(Agent("baker", version="1.0.0"))
        with pytest.raises(StillRunning, match="baker answers"):
            await restored(client, path, force=True)
        assert await digest(client.jetstream) == before


async def test_force_replaces_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.backup"
    with private_nats(KEEPING) as nats:
        async with Fabric.connect(nats.url) as client:
            for _ in range(4):
                await client.publish("tea.sold", {"leaves": os.urandom(100_000).hex()})  # many pieces, packed or not
            await saved(client, path)
            before = await digest(client.jetstream)
            await client.publish("tea.sold", {"cups": 2})
            await client.conversation("c").append("forgotten")
            await restored(client, path, force=True)
            assert await digest(client.jetstream) == before


async def test_streams_come_back_on_as_many_servers_as_are_stated_or_on_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.backup"
    with private_nats(KEEPING) as nats:
        async with Fabric.connect(nats.url) as client:
            await client.publish("tea.sold", {"cups": 1})
            await saved(client, path)
            before = await digest(client.jetstream)
            monkeypatch.setenv(replicas.VARIABLE, "3")
            with pytest.raises(TooFewServers, match=r"FAB_\w+ is to be kept on 3 servers") as refused:
                await restored(client, path, force=True)
            assert replicas.VARIABLE in str(refused.value.fix)
            monkeypatch.delenv(replicas.VARIABLE)
            with open_archive(path) as archive:
                for part in archive.manifest.streams:
                    on_three = part.config | {"num_replicas": 3}
                    await restore_stream(client.jetstream, on_three, part.state, partial(archive.pieces, part))
            assert await digest(client.jetstream) == before


async def test_a_failed_backup_leaves_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "a.backup"
    path.write_bytes(b"the last one")

    async def broken() -> AsyncGenerator[bytes]:
        yield b"some"
        raise FabricError("the server went away")

    with pytest.raises(FabricError, match="went away"), write_archive(path) as draft:
        async for _ in draft.add_stream("FAB_TASKS", broken()):
            pass
    assert path.read_bytes() == b"the last one"
    assert not path.with_name("a.backup.new").exists()


def test_a_stream_is_saved_after_those_that_lead_to_it() -> None:
    order = in_order([stream.name for stream in CATALOGUE])
    assert order[:3] == [LATER.name, TASKS.name, RECORDS.name]
    assert order[-1] == OBJECTS.name
    assert sorted(order) == sorted(stream.name for stream in CATALOGUE)
    assert in_order(["FAB_OTHER", OBJECTS.name, RECORDS.name]) == [RECORDS.name, "FAB_OTHER", OBJECTS.name]


def test_a_manifest_of_a_later_format_is_refused_in_words() -> None:
    later = Manifest(format=FORMAT + 1, made="2030-01-01T00:00:00Z", fabric="9.0.0", nats=VERSION)
    with pytest.raises(ConfigurationError, match=r"agent-fabric 9\.0\.0"):
        read_manifest(later.model_dump_json().encode(), "x")
    with pytest.raises(Damaged, match="no backup of a fabric"):
        read_manifest(b"{}", "x")


STREAM = {"config": {"name": "FAB_TASKS", "num_replicas": 1}, "state": {"messages": 0, "bytes": 0, "last_seq": 0}}


@pytest.mark.parametrize(
    "missing", [{"config": {"name": "FAB_OTHER", "num_replicas": 1}}, {"config": {}}, {"state": {}}]
)
def test_a_manifest_that_restoring_could_not_go_by_is_refused_before(missing: dict[str, Any]) -> None:
    whole = Manifest(
        made="", fabric="1", nats=VERSION, streams=(StreamPart.model_validate(STREAM | {"name": "FAB_TASKS"}),)
    )
    said = json.loads(whole.model_dump_json())
    assert read_manifest(json.dumps(said).encode(), "x") == whole
    said["streams"][0] |= missing
    with pytest.raises(Damaged, match="no backup of a fabric"):
        read_manifest(json.dumps(said).encode(), "x")


def tamper(path: Path, said: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Have a backup say and hold something else, with hashes that fit it."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()} | {**files}
    manifest = json.loads(parts.pop("manifest.json")) | said
    manifest["started"]["sha256"] = hashlib.sha256(parts["tasks-started.jsonl"]).hexdigest()
    for name, part in manifest["configuration"].items():
        part["sha256"] = hashlib.sha256(parts.get(f"configuration/{name}", b"")).hexdigest()
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (parts | {"manifest.json": json.dumps(manifest).encode()}).items():
            file.writestr(name, content)


STARTED = json.dumps({"subject": "fab.task.mill.normal.1", "headers": {}, "body": "e30="}).encode()


@pytest.mark.parametrize(
    "started",
    [
        b"{",
        b"\xff\n",
        b"[]\n",
        b"{}\n",
        STARTED + b"\n" + STARTED.replace(b"e30=", b"e"),
        STARTED.replace(b"mill.normal.1", b"mill"),
        STARTED.replace(b"{}", b"[]"),
    ],
)
async def test_tasks_that_are_none_are_told_before_anything_is_lost(
    server: PrivateNats, tmp_path: Path, started: bytes
) -> None:
    path = tmp_path / "a.backup"
    async with Fabric.connect(server.url) as client:
        await client.publish("tea.sold", {"cups": 1})
        await saved(client, path)
        tamper(path, {}, {"tasks-started.jsonl": STARTED})
        with open_archive(path) as archive:
            archive.verify()
        tamper(path, {}, {"tasks-started.jsonl": started})
        before = await digest(client.jetstream)
        with pytest.raises(Damaged, match=r"tasks-started\.jsonl has no tasks in it"):
            await restored(client, path, force=True)
        assert await digest(client.jetstream) == before
    checked = await asyncio.to_thread(fabric_inside, "restore", path, "--check", env={})
    checked.refused(2, "has no tasks in it", "take another backup")


async def test_what_no_backup_says_of_itself_is_refused_before_anything_is_lost(
    server: PrivateNats, tmp_path: Path
) -> None:
    path, whole = tmp_path / "a.backup", tmp_path / "whole.backup"
    async with Fabric.connect(server.url) as client:
        await client.publish("tea.sold", {"cups": 1})
        await saved(client, whole)
        before = await digest(client.jetstream)
    (stream, *_) = streams = json.loads(zipfile.ZipFile(whole).read("manifest.json"))["streams"]
    long = stream["name"] + "A" * 300
    lies: tuple[dict[str, Any], ...] = (
        {"streams": [*streams, stream]},
        {"streams": [stream | {"name": long, "config": stream["config"] | {"name": long}}]},
        {"streams": [stream | {"name": "OTHER", "config": stream["config"] | {"name": "OTHER"}}]},
        {"configuration": {"a" * 300: {}}},
        {"configuration": {"a/" * 600: {}}},
        {"configuration": {"a\0": {}}},
        {"configuration": {"": {}}},
        {"configuration": {"a": {}, "a/b": {}}},
        {"streams": [stream | {"config": stream["config"] | {"num_replicas": 9}}]},
        {"streams": [stream | {"state": stream["state"] | {"messages": -1}}]},
        {"nats": "9" * 5000},
        {"records_before": -1},
        {"started": {"size": 1 << 70}},
    )
    for said in lies:
        path.write_bytes(whole.read_bytes())
        tamper(path, said, {})
        with pytest.raises(Damaged, match="no backup of a fabric"), open_archive(path):
            pass
        command = ("restore", path, "--configuration", tmp_path / "laid", "--force")
        done = await asyncio.to_thread(fabric_inside, *command, env={"FABRIC_NATS_URL": server.url})
        done.refused(2, "no backup of a fabric", "name a file that `fabric backup` wrote")
    assert not (tmp_path / "laid").exists()
    async with Fabric.connect(server.url) as client:
        assert await digest(client.jetstream) == before


def test_whatever_bit_is_wrong_it_is_whole_or_damaged(tmp_path: Path) -> None:
    path, bent = tmp_path / "a.backup", tmp_path / "bent.backup"
    with write_archive(path) as draft:
        draft.finish(Manifest(made="", fabric="1", nats=VERSION, started=draft.add_started([b"{}"])))
    whole = path.read_bytes()
    for at, bit in itertools.product(range(len(whole)), range(8)):
        bent.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with suppress(ConfigurationError), open_archive(bent) as archive:
            archive.verify()


@pytest.mark.parametrize(
    ("server_version", "packed", "older"),
    [
        ("2.14.9", "2.15.0", True),
        ("2.15.0", "2.15.9", False),
        ("2.16.0-dev", "2.15.1", False),
        ("3.0.0", "2.15.1", False),
    ],
)
def test_patches_of_a_release_understand_each_other(server_version: str, packed: str, older: bool) -> None:
    assert is_older(server_version, packed) is older


def test_commands_refuse_in_words(tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("a", "b")
    fabric_inside("restore", other, "--check", env={}).refused(2, "no backup of a fabric", "fabric backup")
    fabric_inside("restore", tmp_path / "nothing", "--check", env={}).refused(1, "nothing: No such file")
    nowhere = fabric_inside("backup", tmp_path / "x", "--data", tmp_path / "nowhere", env={})
    nowhere.refused(3, "there is no fabric here", "--data")
