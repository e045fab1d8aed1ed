"""A stream is made on as many servers as were stated, or on what the cluster has: never on fewer than were stated.

Proves: MB-3 (a cluster that still starts takes nothing for one server alone)
"""

from __future__ import annotations

import asyncio

import pytest
from support.nats_server import private_nats

from fabric.cli.durability import Doubt, streams
from fabric_sdk import Fabric
from fabric_sdk.contracts.errors import ConfigurationError
from fabric_sdk.contracts.streams import EVENTS
from fabric_sdk.jetstream import TooFewServers, api, replicas

CONFIGURATION = 'jetstream { store_dir: "js", sync_interval: always }\n'


def test_without_a_number_a_stream_takes_what_the_cluster_has_and_with_one_that_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.2)

    async def publish() -> None:
        async with Fabric.connect(nats.url) as fabric:
            await fabric.jetstream.ensure(EVENTS)

    with private_nats(CONFIGURATION) as nats:
        monkeypatch.setenv("FABRIC_NATS_URL", nats.url)
        monkeypatch.setenv(replicas.VARIABLE, "3")
        with pytest.raises(TooFewServers, match="FAB_EVENTS is to be kept on 3 servers") as refused:
            asyncio.run(publish())
        assert refused.value.retryable
        assert replicas.VARIABLE in str(refused.value.fix)
        monkeypatch.delenv(replicas.VARIABLE)
        asyncio.run(publish())
        assert asyncio.run(streams(None)).startswith("FAB_EVENTS: 0 messages")
        monkeypatch.setenv(replicas.VARIABLE, "3")
        with pytest.raises(Doubt, match="FAB_EVENTS is kept on 1, not on 3 servers") as doubt:
            asyncio.run(streams(None))
        assert "nats stream edit FAB_EVENTS --replicas 3" in str(doubt.value.fix)


@pytest.mark.parametrize("wrong", ["0", "6", "three", "-1"])
def test_a_number_that_jetstream_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv(replicas.VARIABLE, wrong)
    with pytest.raises(ConfigurationError, match=replicas.VARIABLE):
        replicas.stated()
