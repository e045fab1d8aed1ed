"""Leases and descriptions in Redis 6.2, Redis 7 and Valkey 9: what is seen is what was heard, in time.

Proves: CM-1, CM-2
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from fabric.registry import keys, store
from fabric.registry.store import GRACE, LEASE, Store, StoreUnavailable
from fabric_sdk.contracts.description import Beat, Description
from registry.servers import Server, running, valkey

Shown = dict[str, tuple[str, dict[str, str]]]
"""By agent: the digest, and the state of each instance."""


@dataclass
class Clock:
    """The time, as the store sees it. Kept in eighths of a second, which binary fractions hold exactly."""

    now: float = 1_800_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(store, "time", clock)
    return clock


@pytest.fixture
async def kept(any_redis: Server, clock: Clock) -> AsyncGenerator[Store]:
    """A store in an empty Redis."""
    with any_redis.client() as client:
        client.flushall()
    kept = Store(any_redis.url)
    yield kept
    await kept.close()


def beat(agent: str = "a", instance: str = "a1", digest: str = "d1", started: float = 1.0, **more: Any) -> Beat:
    given: dict[str, Any] = {"version": "1.0.0", "host": "here", "pid": 1, "capacity": 64, **more}
    return Beat(agent=agent, instance=instance, digest=digest, started=started, **given)


async def shown(kept: Store) -> Shown:
    """The catalogue."""
    _, agents = await kept.agents()
    return {name: (digest, {beat.instance: beat.state for beat in beats}) for name, digest, beats in agents}


async def fill(kept: Store, *beats: Beat) -> None:
    assert await kept.beat(beats, everybody=True) is not None


async def test_an_empty_redis_is_filled_by_everybody_or_not_at_all(kept: Store) -> None:
    assert await kept.beat([beat()]) is None
    assert await kept.agents() == (0, [])
    assert await kept.beat([beat(), beat("b", "b1", "d2")], everybody=True) == (True, {("a", "d1"), ("b", "d2")}, [])
    revision, _ = await kept.agents()
    assert revision > 0
    assert await shown(kept) == {"a": ("d1", {"a1": "ready"}), "b": ("d2", {"b1": "ready"})}


async def test_a_beat_comes_back_as_it_was(kept: Store) -> None:
    sent = beat(running=3, waiting=2, served=2**53 - 1, failed=1, host='a "host"\n\\', started=1_800_000_000.125)
    await fill(kept, sent)
    _, [(_, _, [found])] = await kept.agents()
    assert found == sent


async def test_the_order_depends_on_names_and_ages_and_not_on_who_beat_last(kept: Store, clock: Clock) -> None:
    beats = [beat(agent, f"{agent}-{number}", started=9.0 - number) for agent in "cab" for number in range(3)]
    await fill(kept, *beats)
    for each in reversed(beats):
        clock.now += 1
        await kept.beat([each])
        found = [(name, [beat.instance for beat in instances]) for name, _, instances in (await kept.agents())[1]]
        assert found == [(agent, [f"{agent}-2", f"{agent}-1", f"{agent}-0"]) for agent in "abc"]


async def test_a_beat_that_says_nothing_new_changes_nothing(kept: Store) -> None:
    await fill(kept, beat())
    revision, _ = await kept.agents()
    assert await kept.beat([beat(running=5)]) == (False, {("a", "d1")}, [])
    assert await kept.beat([]) == (False, set(), [])
    assert (await kept.agents())[0] == revision


async def test_comings_and_goings_change_the_revision(kept: Store, clock: Clock) -> None:
    await fill(kept, beat())
    revision, _ = await kept.agents()
    for beats in (
        [beat(instance="a2")],  # one comes
        [beat(instance="a2", state="draining")],  # takes no more calls
        [beat(instance="a2", state="gone")],  # goes
        [beat(digest="d2", started=2.0, instance="a3")],  # something else is offered
        [beat("b", "b1", "d3")],  # another agent
    ):
        assert (await kept.beat(beats) or (None,))[0] is True, beats
        assert (await kept.beat(beats) or (None,))[0] is False, beats
        revision += 1
        assert (await kept.agents())[0] == revision


async def test_a_description_is_asked_for_until_it_is_there(kept: Store) -> None:
    described = Description(name="a", tools=[{"name": "t", "inputSchema": {"x": ["é", 1.5, None]}}])
    heard = beat(digest=described.digest)
    await fill(kept, heard)
    assert await kept.beat([heard, beat(instance="a2", digest=described.digest)]) == (
        True,
        {("a", described.digest)},
        [],
    )
    assert await kept.description("a", described.digest) is None
    await kept.describe(described)
    assert await kept.beat([heard]) == (False, set(), [])
    assert await kept.description("a", described.digest) == described


async def test_a_lease_that_is_not_renewed_ends_and_the_agent_stays_for_the_grace(kept: Store, clock: Clock) -> None:
    await fill(kept, beat(), beat(instance="a2"))
    clock.now += LEASE - 1
    assert await kept.beat([beat()]) == (False, {("a", "d1")}, [])
    assert (await shown(kept))["a"][1].keys() == {"a1", "a2"}
    clock.now += 1.125
    assert (await shown(kept))["a"][1].keys() == {"a1"}, "an ended lease is not shown, swept or not"
    assert await kept.beat([]) == (True, set(), [])
    clock.now += LEASE
    assert await kept.beat([]) == (True, set(), [])
    assert await shown(kept) == {"a": ("d1", {})}
    clock.now += GRACE - LEASE - 1.25
    assert await kept.beat([]) == (False, set(), [])
    assert await shown(kept) == {"a": ("d1", {})}
    clock.now += 0.125
    assert await kept.beat([]) == (True, set(), [])
    assert await shown(kept) == {}
    assert await kept.beat([]) == (False, set(), [])


async def test_who_says_goodbye_is_gone_at_once_and_its_agent_stays_for_the_grace(kept: Store, clock: Clock) -> None:
    await fill(kept, beat())
    assert await kept.beat([beat(state="gone")]) == (True, set(), [])
    assert await shown(kept) == {"a": ("d1", {})}
    assert await kept.beat([beat(state="gone"), beat(instance="unknown", state="gone")]) == (False, set(), [])
    clock.now += GRACE
    assert await kept.beat([]) == (True, set(), [])
    assert await shown(kept) == {}


async def test_a_heartbeat_that_is_late_does_not_call_back_who_said_goodbye(kept: Store) -> None:
    """Two registries share the heartbeats, and the one that has an earlier one may write it later."""
    await fill(kept, beat(), beat(instance="a2"))
    await kept.beat([beat(state="gone")])
    assert await kept.beat([beat(), beat(state="draining")]) == (False, set(), [])
    assert await shown(kept) == {"a": ("d1", {"a2": "ready"})}


async def test_a_look_in_the_middle_of_a_goodbye_sees_who_is_left(kept: Store, any_redis: Server) -> None:
    await fill(kept, beat(), beat(instance="a2"))
    with any_redis.client() as client:  # between the two questions of one look
        client.set(keys.lease("a", "a1"), keys.GONE)
    assert await shown(kept) == {"a": ("d1", {"a2": "ready"})}


async def test_a_goodbye_of_an_agent_that_nobody_knew_shows_nothing(kept: Store) -> None:
    await fill(kept, beat())
    await kept.beat([beat("stranger", "s1", state="gone")])
    assert (await shown(kept)).keys() == {"a"}


async def test_in_a_rolling_restart_the_new_description_wins_once(kept: Store, clock: Clock) -> None:
    old = [beat(instance=f"old{number}", digest="old", started=1.0 + number) for number in range(3)]
    new = [beat(instance=f"new{number}", digest="new", started=100.0 + number) for number in range(3)]
    await fill(kept, *old)
    changes: list[str] = []
    living = list(old)
    for number in range(3):
        living.append(new[number])
        for _ in range(3):  # they beat in turns
            for each in living:
                await kept.beat([each])
                changes.append((await shown(kept))["a"][0])
        gone = living.pop(0)
        await kept.beat([gone.model_copy(update={"state": "gone"})])
        changes.append((await shown(kept))["a"][0])
    assert changes == sorted(changes, reverse=True), "once new, never old again"
    assert changes[-1] == "new"


@pytest.mark.parametrize("goes", ["says goodbye", "falls silent"])
async def test_a_single_newer_instance_does_not_speak_for_the_pool(kept: Store, clock: Clock, goes: str) -> None:
    old = [beat(instance=f"old{number}", digest="old", started=1.0 + number) for number in range(2)]
    canary = beat(instance="canary", digest="new", started=100.0)
    await fill(kept, *old)
    await kept.beat([canary])
    everybody = {"old0": "ready", "old1": "ready"}
    assert await shown(kept) == {"a": ("old", everybody | {"canary": "ready"})}
    if goes == "says goodbye":
        await kept.beat([canary.model_copy(update={"state": "gone"})])
    else:
        clock.now += LEASE - 1
        await kept.beat(old)
        clock.now += 2
        await kept.beat([])
    assert await shown(kept) == {"a": ("old", everybody)}


@pytest.mark.parametrize("goes", ["drains", "says goodbye", "falls silent"])
async def test_of_two_the_newest_speaks_and_gives_way_when_it_goes(kept: Store, clock: Clock, goes: str) -> None:
    old = beat(instance="old", digest="old", started=1.0)
    new = beat(instance="new", digest="new", started=100.0)
    await fill(kept, new, old)
    assert (await shown(kept))["a"][0] == "new"
    if goes == "falls silent":
        clock.now += LEASE - 1
        await kept.beat([old])
        clock.now += 2
        await kept.beat([])
    else:
        await kept.beat([new.model_copy(update={"state": "draining" if goes == "drains" else "gone"})])
    assert (await shown(kept))["a"][0] == "old"


async def test_an_instance_that_offers_something_else_now_changes_its_vote(kept: Store) -> None:
    beats = [beat(instance=f"i{number}", digest="x", started=float(number)) for number in range(3)]
    await fill(kept, *beats)
    for number, speaks in enumerate(("x", "y", "y")):
        changed = beats[number].model_copy(update={"digest": "y"})
        assert (await kept.beat([changed]) or (None,))[0] is True
        assert (await shown(kept))["a"][0] == speaks


async def test_each_agent_has_instances_and_descriptions_of_its_own(kept: Store) -> None:
    """Whatever another agent calls its own: a broker may let each speak on its own subject alone."""
    mine = Description(name="a", digest="d1", title="mine")
    await fill(kept, beat())
    await kept.describe(mine)
    assert await kept.beat([beat("b", "a1", "d1", state="gone")]) == (False, set(), [])
    assert await kept.beat([beat("b", "a1", "d1", started=50.0)]) == (False, set(), []), "b's own has said goodbye"
    await kept.describe(Description(name="b", digest="d1", title="not mine"))
    assert await shown(kept) == {"a": ("d1", {"a1": "ready"})}
    assert await kept.description("a", "d1") == mine


async def test_a_full_catalogue_takes_nobody_new_and_keeps_those_it_has(
    kept: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("MOST_AGENTS", 3), ("MOST_OF_ONE", 2), ("MOST_OF_ALL", 4)):
        monkeypatch.setattr(store, name, most)
    await fill(kept, *(beat("a", f"a{number}") for number in range(2)), beat("b", "b0"))
    for newcomer, why in (
        (beat("a", "a2"), "a has 2 instances"),
        (beat("c", "c0"), None),
        (beat("b", "b1"), "there are 4 instances"),
        (beat("d", "d0"), "there are 3 agents"),
        (beat("d", "d0", state="gone"), "there are 3 agents"),
    ):
        assert (await kept.beat([newcomer, newcomer]) or ())[2:] == ([why] if why else [],)
    everybody = {"a": ["a0", "a1"], "b": ["b0"], "c": ["c0"]}
    assert {name: [*states] for name, (_, states) in (await shown(kept)).items()} == everybody
    clock.now += LEASE - 1
    await kept.beat([beat("a", "a0", running=1), beat("b", "b0"), beat("c", "c0")])
    clock.now += 2
    assert (await kept.beat([beat("a", "a2")]) or ())[2:] == ([],), "another lease has ended"
    assert (await shown(kept))["a"][1].keys() == {"a0", "a2"}


async def test_who_comes_back_after_everybody_was_gone_speaks_for_the_agent(kept: Store, clock: Clock) -> None:
    await fill(kept, beat(instance="new", digest="new", started=100.0))
    clock.now += LEASE + 1
    await kept.beat([])
    await kept.beat([beat(instance="old", digest="old", started=1.0)])
    assert await shown(kept) == {"a": ("old", {"old": "ready"})}


async def test_what_is_lost_is_filled_again(kept: Store, any_redis: Server) -> None:
    described = Description(name="a")
    beats = [beat(digest=described.digest), beat("b", "b1", "d2")]
    await fill(kept, *beats)
    await kept.describe(described)
    before = await shown(kept)
    with any_redis.client() as client:
        client.flushall()
        client.script_flush()
    assert await kept.agents() == (0, [])
    assert await kept.beat([beats[0]]) is None
    assert await kept.beat(beats, everybody=True) == (True, {("a", described.digest), ("b", "d2")}, [])
    assert await shown(kept) == before


async def test_two_registries_share_one_catalogue(kept: Store, any_redis: Server, clock: Clock) -> None:
    other = Store(any_redis.url)
    try:
        await fill(kept, beat())
        assert await other.beat([beat("b", "b1")]) == (True, {("b", "d1")}, [])
        assert await shown(kept) == await shown(other) == {"a": ("d1", {"a1": "ready"}), "b": ("d1", {"b1": "ready"})}
        clock.now += LEASE - 1
        await asyncio.gather(*(each.beat([beat()]) for each in (kept, other) for _ in range(50)))
        clock.now += 2
        await other.beat([])
        assert await shown(kept) == {"a": ("d1", {"a1": "ready"}), "b": ("d1", {})}
    finally:
        await other.close()


async def test_thousands_of_instances_are_one_batch(kept: Store) -> None:
    beats = [beat(f"agent-{number % 50}", f"i{number}", f"d{number % 50}") for number in range(5000)]
    async with asyncio.timeout(10):
        missing = {(f"agent-{number}", f"d{number}") for number in range(50)}
        assert await kept.beat(beats, everybody=True) == (True, missing, [])
        assert await kept.beat(beats) == (False, missing, [])
        assert sum(len(instances) for _, instances in (await shown(kept)).values()) == 5000


async def test_no_key_is_written_that_the_catalogue_of_keys_does_not_know(kept: Store, any_redis: Server) -> None:
    described = Description(name="a")
    await fill(kept, beat(digest=described.digest))
    await kept.describe(described)
    known = {
        *(keys.AGENTS, keys.DIGESTS, keys.REVISION, keys.instances("a"), keys.lease("a", "a1")),
        keys.description("a", described.digest),
    }
    with any_redis.client() as client:
        assert {key.decode() for key in client.scan_iter()} == known
        for key in (keys.lease("a", "a1"), keys.description("a", described.digest)):
            assert 0 < client.pttl(key) <= (GRACE + LEASE) * 1000


async def test_a_redis_that_refuses_is_as_good_as_away(kept: Store, any_redis: Server) -> None:
    with any_redis.client() as client:
        client.set(keys.AGENTS, "of another kind")
        with pytest.raises(StoreUnavailable):
            await kept.beat([beat()], everybody=True)
        client.flushall()
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable, match=r"cannot be used: .*maxmemory"):
                await kept.beat([beat()], everybody=True)
        finally:
            client.config_set("maxmemory", "0")
    await fill(kept, beat())


async def test_a_redis_that_is_away_is_told_without_its_password_and_used_again_when_it_is_back() -> None:
    with running(valkey()) as server:
        kept, where = Store(server.url), f"redis://127.0.0.1:{server.port}"
        await fill(kept, beat())
        server.stop()
        for ask in (
            kept.agents(),
            kept.beat([beat()]),
            kept.description("a", "d1"),
            kept.describe(Description(name="a")),
        ):
            with pytest.raises(StoreUnavailable, match=f"Redis at {where}/0 cannot be used") as away:
                await ask
            assert "secret" not in str(away.value)
            assert away.value.retryable
        server.start()
        assert await kept.agents() == (0, [])
        await fill(kept, beat())
        await kept.close()


# against a model

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

SPEAKERS = {
    f"{agent}{number}": (agent, f"{agent}-{number % 2}", 10.0 + number) for agent in "ab" for number in range(4)
}
"""By instance: agent, digest, start."""


class Model:
    """What the catalogue is by the rules, in plain Python."""

    def __init__(self) -> None:
        self.exists = False
        self.leases: dict[str, float] = {}
        self.states: dict[str, str] = {}
        self.heard: dict[str, float] = {}
        self.digests: dict[str, str] = {}
        self.gone: set[str] = set()

    def beat(self, beats: list[Beat], now: float, *, everybody: bool) -> None:
        self.exists = self.exists or everybody
        if not self.exists:
            return
        for each in beats:
            self.heard[each.agent] = now
            if each.state == "gone":
                self.gone.add(each.instance)
                self.leases.pop(each.instance, None)
            elif each.instance not in self.gone:
                self.states[each.instance] = each.state
                self.leases[each.instance] = now + LEASE
        self.leases = {instance: end for instance, end in self.leases.items() if end > now}
        self.heard = {agent: at for agent, at in self.heard.items() if at > now - GRACE}
        self.digests = {agent: digest for agent, digest in self.digests.items() if agent in self.heard}
        for agent in self.heard:
            if living := [instance for instance in self.leases if SPEAKERS[instance][0] == agent]:
                votes = Counter(SPEAKERS[each][1] for each in living if self.states[each] == "ready")
                speaker = max(living, key=lambda each: (votes[SPEAKERS[each][1]], SPEAKERS[each][2]))
                self.digests[agent] = SPEAKERS[speaker][1]

    def shown(self, now: float) -> Shown:
        return {
            agent: (
                digest,
                {
                    instance: self.states[instance]
                    for instance, end in self.leases.items()
                    if SPEAKERS[instance][0] == agent and end >= now
                },
            )
            for agent, digest in self.digests.items()
        }


class Machine(RuleBasedStateMachine):
    """Beats, time and losses in any order."""

    clock = Clock()
    server: Server

    @initialize()
    def begin(self) -> None:
        with self.server.client() as client:
            client.flushall()
        self.model = Model()
        self.described: set[tuple[str, str]] = set()
        self.revision = 0
        self.runner = asyncio.Runner()
        self.kept = self.runner.run(_opened(self.server.url))

    @rule(
        heard=st.lists(st.tuples(st.sampled_from(sorted(SPEAKERS)), st.sampled_from(["ready", "draining", "gone"]))),
        everybody=st.integers(0, 4).map(lambda die: die == 0),
    )
    def beat(self, heard: list[tuple[str, Any]], everybody: bool) -> None:
        beats: list[Beat] = []
        for instance, state in dict(heard).items():
            agent, digest, started = SPEAKERS[instance]
            beats.append(beat(agent, instance, digest, started, state=state))
        before, gone = self.model.shown(self.clock.now), set(self.model.gone)
        answer = self.runner.run(self.kept.beat(beats, everybody=everybody))
        self.model.beat(beats, self.clock.now, everybody=everybody)
        if not self.model.exists:
            assert answer is None
            return
        assert answer is not None
        changed, missing, full = answer
        assert not full
        counted = [each for each in beats if each.state != "gone" and each.instance not in gone]
        assert missing == {(each.agent, each.digest) for each in counted} - self.described
        assert changed or self.model.shown(self.clock.now) == before
        self.look()
        again = self.runner.run(self.kept.beat(beats))
        assert again == (False, missing, []), "the same once more is nothing new"

    @rule(eighths=st.sampled_from([1, 32, 60, 119, 120, 121, 240, 479, 480, 481]))
    def wait(self, eighths: int) -> None:
        self.clock.now += eighths / 8
        self.look(swept=False)

    @rule(named=st.sampled_from(sorted({(agent, digest) for agent, digest, _ in SPEAKERS.values()})))
    def describe(self, named: tuple[str, str]) -> None:
        agent, digest = named
        self.runner.run(self.kept.describe(Description(name=agent, digest=digest)))
        self.described.add(named)

    @rule()
    def lose_everything(self) -> None:
        with self.server.client() as client:
            client.flushall()
        self.model = Model()
        self.described = set()
        self.revision = 0
        self.look()

    def look(self, *, swept: bool = True) -> None:
        """What is shown is what the model shows; a revision never goes back."""
        revision, _ = self.runner.run(self.kept.agents())
        assert revision >= self.revision
        assert (revision > 0) is self.model.exists
        self.revision = revision
        assert self.runner.run(shown(self.kept)) == self.model.shown(self.clock.now)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.kept.close())
            self.runner.close()


async def _opened(url: str) -> Store:
    return Store(url)


def test_any_order_of_beats_time_and_losses_is_as_the_model_says(
    any_redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = type("OnThisServer", (Machine,), {"server": any_redis, "clock": Clock()})
    monkeypatch.setattr(store, "time", machine.clock)
    quick = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=SLOW)
    run_state_machine_as_test(machine, settings=quick)
