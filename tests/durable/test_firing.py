"""When a schedule fires next, as the server itself reckons it. Proves: MB-8 (schedules say when they are next)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from support.durable import keeping
from support.nats_server import PrivateNats
from support.waiting import until

from fabric.durable.firing import next_firing
from fabric_sdk import Fabric
from fabric_sdk.contracts.streams import LATER
from fabric_sdk.jetstream import StoredMessage
from fabric_sdk.patterns.schedule import Schedule

__all__ = ["keeping"]

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 29, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
async def fabric(keeping: PrivateNats) -> AsyncGenerator[Fabric]:
    async with Fabric.connect(keeping.url) as fabric:
        yield fabric


def schedule(when: str, zone: str | None = None, *, again: bool = True, ago: float = 0.0) -> Schedule:
    """One that was set so many seconds before now."""
    return Schedule(agent="a", name="n", when=when, zone=zone, again=again, stored=NOW.timestamp() - ago)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (schedule("every 90s"), "2026-11-29T12:02:00Z"),
        (schedule("every 90s", ago=100.4), "2026-11-29T12:01:50Z"),
        (schedule("every 1h30m"), "2026-11-29T13:30:30Z"),
        (schedule("every 1.5s", ago=3600), "2026-11-29T12:00:31.5Z"),
        (schedule("30 2 * * *"), "2026-11-30T02:30:00Z"),
        (schedule("30 2 * * *", "Europe/Rome"), "2026-11-30T01:30:00Z"),
        (schedule("*/20 * * * * *"), "2026-11-29T12:00:40Z"),
        (schedule("0 0 12 ? * MON-FRI"), "2026-11-30T12:00:00Z"),
        (schedule("0 0 13 * 5"), "2026-12-04T00:00:00Z"),
        (schedule("@daily"), "2026-11-30T00:00:00Z"),
        (schedule("@daily", "America/New_York"), "2026-11-30T05:00:00Z"),
        (schedule("@weekly"), "2026-12-06T00:00:00Z"),
        (schedule("@yearly"), "2027-01-01T00:00:00Z"),
        (schedule("2026-12-24T18:00:00Z", again=False), "2026-12-24T18:00:00Z"),
        (schedule("0 0 30 2 *"), None),
        (schedule("every so often"), None),
        (schedule("soon", again=False), None),
        (schedule("@daily", "Mars/Phobos"), None),
    ],
    ids=str,
)
def test_it_is_worked_out(given: Schedule, expected: str | None) -> None:
    found = next_firing(given, NOW.timestamp())
    assert found == (expected and datetime.fromisoformat(expected).timestamp())


@pytest.mark.parametrize("when", ["every 1s", "*/2 * * * * *"])
async def test_the_server_reckons_as_we_do(fabric: Fabric, when: str) -> None:
    agent = f"a{uuid4().hex[:8]}"
    await fabric.agent(agent).schedule("n", when, "tick")
    (kept,) = await fabric.schedules.list(agent)

    async def fired() -> StoredMessage | None:
        return await fabric.jetstream.last(LATER, f"fab.later.{agent}.due.n")

    due = await until(fired, lambda found: found is not None, what="the firing")
    assert due is not None
    assert next_firing(kept, due.stored) == datetime.fromisoformat(due.headers["Nats-Schedule-Next"]).timestamp()
    assert await fabric.agent(agent).unschedule("n")
