"""The user's own NATS and Redis 6.2, which are there, go away and come back. Proves: OP-1, CM-1, CM-2, PT-1."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from support.nats_server import PrivateNats, private_nats
from support.running import wait_until

from cli.command import HELLO, Done, Up, fabric, started, up
from cli.servers import RedisServer, redis_server

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def nats() -> Generator[PrivateNats]:
    with private_nats('jetstream { store_dir: "js", sync_interval: always }\n') as nats:
        yield nats


@pytest.fixture(scope="module")
def redis(folder: Path) -> Generator[RedisServer]:
    with redis_server(folder, password="right") as redis:
        yield redis


@pytest.fixture(scope="module")
def own(folder: Path, nats: PrivateNats, redis: RedisServer) -> Generator[Up]:
    env = {"FABRIC_NATS_URL": nats.url, "FABRIC_REDIS_URL": redis.url}
    with up("--data", folder / "data", HELLO, folder=folder, env=env) as own:
        yield own
        assert own.command.stop() == 0
    assert "Traceback" not in own.command.said


def catalogue(own: Up) -> dict[str, Any]:
    return fabric("ps", "--json", env=own.env).json


def names(own: Up) -> set[str]:
    return {agent["name"] for agent in catalogue(own)["agents"] if agent["instances"]}


def doctor(own: Up) -> Done:
    return fabric("doctor", "--json", "--data", own.command.output.parent / "data")


def says(own: Up, text: str = "hi") -> Done:
    return fabric("call", "hello", "echo", f"text={text}", "--timeout", "3", env=own.env)


def test_they_are_used_and_none_is_started_beside_them(own: Up, nats: PrivateNats, redis: RedisServer) -> None:
    assert (own.nats_url, own.redis_url) == (nats.url, redis.url)
    assert not {"nats-server", "valkey-server"} & set(own.pids)
    assert says(own).out == "hi\n"
    assert catalogue(own)["revision"] > 0, "it comes from Redis"
    checks = {each["check"]: each for each in doctor(own).json}
    assert "version 6.2." in checks["redis"]["detail"]
    assert checks.pop("jetstream")["state"] == "warning", "its monitor is off, so nobody can ask how it syncs"
    assert {each["state"] for each in checks.values()} == {"ok"}


def test_redis_goes_away_and_comes_back_empty(own: Up, redis: RedisServer) -> None:
    redis.kill()
    wait_until(lambda: catalogue(own)["revision"] == 0, what="a catalogue from the bus")
    assert names(own) == {"access", "approvals", "audit", "durable", "hello", "registry"}
    assert says(own).out == "hi\n"
    unwell = doctor(own)
    assert unwell.code == 1
    assert {each["check"] for each in unwell.json if each["state"] == "failed"} == {"redis", "registry"}
    assert all(each["fix"] for each in unwell.json if each["state"] == "failed")
    redis.start()
    wait_until(lambda: catalogue(own)["revision"] > 0, what="a catalogue in Redis")
    assert names(own) == {"access", "approvals", "audit", "durable", "hello", "registry"}, "it is whole or not there"


def test_nats_goes_away_and_comes_back(own: Up, nats: PrivateNats) -> None:
    nats.kill()
    says(own).refused(3, "no NATS server answers at", "fabric up")
    nats.start()
    wait_until(lambda: says(own).code == 0, seconds=10, what="an answer")
    assert own.command.process.poll() is None


def test_a_worker_that_is_started_before_nats_waits_and_then_serves(own: Up, nats: PrivateNats, tmp_path: Path) -> None:
    nats.kill()
    ready = tmp_path / "ready"
    with started("worker", HELLO, "--ready-file", ready, folder=tmp_path, env=own.env) as command:
        command.until_said("no NATS server answers at")
        assert not ready.exists()
        nats.start()
        command.until(ready.exists, what="the worker's readiness")
        wait_until(lambda: says(own).code == 0, seconds=10, what="an answer")
        assert command.stop() == 0
        assert not ready.exists()
