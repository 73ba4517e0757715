"""What all leases do, whether on PostgreSQL or in memory: the promises of `callboard.protocols.ports.Leases`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.eventstore import MemoryLeases, PostgresEventStore, PostgresLeases
from callboard.protocols.a2a import AgentCapabilities, AgentCard, AgentSkill
from callboard.protocols.errors import BadOption, UnknownRole
from callboard.protocols.ports import Lease, Leases, Route
from tests.host_kit import becomes

LEASE_S = 30.0


class Bench(NamedTuple):
    """Leases to test, and a way to let time pass for them."""

    leases: Leases
    pass_time: Callable[[float], Awaitable[None]]


class SetClock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture(params=["memory", "postgres"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        clock = SetClock()
        yield Bench(MemoryLeases(clock), clock.sleep)
        return
    async with bench_on(request.getfixturevalue("database_url")) as bench:
        yield bench


@asynccontextmanager
async def bench_on(database_url: str) -> AsyncIterator[Bench]:
    """Leases on PostgreSQL. Its clock can't be set: what it will be compared with moves back instead."""
    async with PostgresEventStore.open(database_url) as store:

        async def pass_time(seconds: float) -> None:
            for table, columns in (
                ("partitions", ["expires_at"]),
                ("members", ["expires_at", "joined_at", "progressed_at"]),
            ):
                back = ", ".join(f"{column} = {column} - $1::interval" for column in columns)
                await store.pool.execute(f"update {table} set {back}", timedelta(seconds=seconds))

        yield Bench(PostgresLeases(store.pool), pass_time)


@pytest.fixture
def leases(bench: Bench) -> Leases:
    return bench.leases


async def beat(leases: Leases, process: str, *roles: str) -> list[Lease]:
    return await leases.heartbeat(process, roles or ["writer"], lease_s=LEASE_S)


def lease(partition: int, epoch: int, *, role: str = "writer", of: int, **more: Any) -> Lease:
    """A lease on one of the role's `of` partitions."""
    return Lease(role, partition, epoch, partitions=of, **more)


async def settle(leases: Leases, *processes: str, role: str = "writer") -> dict[str, list[int]]:
    """Heartbeats until everybody has its share and hands over what is above it; the partitions of each."""
    for _ in range(3):
        for process in processes:
            owned = await beat(leases, process, role)
            await leases.release(process, [it for it in owned if it.surplus])
    return {process: [it.partition for it in await beat(leases, process, role)] for process in processes}


# -- the register ------------------------------------------------------------------------------------------


async def test_a_role_comes_back_as_it_was_registered(leases: Leases) -> None:
    card = AgentCard(
        name="writer",
        description="Writes.",
        version="1",
        supported_interfaces=(),
        capabilities=AgentCapabilities(),
        default_input_modes=("text/plain",),
        default_output_modes=("text/plain",),
        skills=(AgentSkill(id="write", name="Write", description="Writes.", tags=("text",)),),
    )
    route = Route("writer", 8, topics=("news", "tides"), card=card, input_schema=b'{"type": "object"}')
    assert await leases.register(route) == route
    assert await leases.register(Route("reviewer", 2)) == Route("reviewer", 2)
    assert await leases.routes() == {"writer": route, "reviewer": Route("reviewer", 2)}


async def test_the_partition_count_of_a_known_role_stays(leases: Leases) -> None:
    await leases.register(Route("writer", 8))
    assert await leases.register(Route("writer", 3, topics=("news",))) == Route("writer", 8, topics=("news",))
    assert (await leases.routes())["writer"] == Route("writer", 8, topics=("news",))
    assert len(await leases.partitions()) == 8


async def test_a_role_is_registered_by_many_at_once(leases: Leases) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(leases.register, Route("writer", 4))
    assert [(state.partition, state.epoch, state.owner) for state in await leases.partitions()] == [
        (n, 0, None) for n in range(4)
    ]


# -- shares ------------------------------------------------------------------------------------------------


async def test_the_only_process_owns_everything(leases: Leases) -> None:
    await leases.register(Route("writer", 4))
    assert await beat(leases, "p1") == [lease(n, 1, of=4) for n in range(4)]
    assert await beat(leases, "p1") == [lease(n, 1, of=4) for n in range(4)]


async def test_a_role_that_nobody_registered_gives_no_leases(leases: Leases) -> None:
    await leases.register(Route("writer", 1))
    assert await beat(leases, "p1", "reviewer", "writer") == [lease(0, 1, of=1)]


async def test_a_second_process_gets_its_share_when_the_first_hands_it_over(leases: Leases) -> None:
    await leases.register(Route("writer", 5))
    await beat(leases, "p1")
    assert await beat(leases, "p2") == []
    owned = await beat(leases, "p1")
    assert owned == [lease(n, 1, of=5, surplus=n >= 3) for n in range(5)]  # the first by name has the remainder
    await leases.release("p1", [it for it in owned if it.surplus])
    assert await beat(leases, "p1") == [lease(n, 1, of=5) for n in range(3)]
    assert await beat(leases, "p2") == [lease(3, 2, of=5), lease(4, 2, of=5)]


@given(partitions=st.integers(1, 7), processes=st.sets(st.sampled_from(["B", "a", "b", "a2", "é", "_"]), min_size=1))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_partitions_are_shared_evenly_and_the_first_by_name_get_the_remainder(
    leases: Leases, partitions: int, processes: set[str]
) -> None:
    role = f"writer-{len(await leases.routes())}"
    await leases.register(Route(role, partitions))
    shares = await settle(leases, *processes, role=role)
    assert sorted(number for owned in shares.values() for number in owned) == list(range(partitions))
    least, remainder = divmod(partitions, len(processes))
    for place, process in enumerate(sorted(processes)):
        assert len(shares[process]) == least + (place < remainder)


async def test_no_partition_has_two_owners_when_processes_start_at_once(leases: Leases) -> None:
    await leases.register(Route("writer", 16))
    owned: list[Lease] = []

    async def start(process: str) -> None:
        owned.extend(await beat(leases, process))

    async with anyio.create_task_group() as tasks:
        for n in range(6):
            tasks.start_soon(start, f"p{n}")
    numbers = [it.partition for it in owned]
    assert len(numbers) == len(set(numbers))


async def test_roles_are_shared_each_by_itself(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    await leases.register(Route("reviewer", 2))
    assert await beat(leases, "p1", "writer", "reviewer") == [
        lease(0, 1, of=2, role="reviewer"),
        lease(1, 1, of=2, role="reviewer"),
        lease(0, 1, of=2),
        lease(1, 1, of=2),
    ]
    await beat(leases, "p2", "writer")
    assert [it.surplus for it in await beat(leases, "p1", "reviewer", "writer")] == [False, False, False, True]


# -- time --------------------------------------------------------------------------------------------------


async def test_a_dead_process_loses_its_partitions_and_their_epoch_grows(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S - 1)
    assert await beat(bench.leases, "p2") == []
    await bench.pass_time(2)
    assert await beat(bench.leases, "p2") == [lease(0, 2, of=2, clean=False), lease(1, 2, of=2, clean=False)]
    assert await beat(bench.leases, "p1") == []


async def test_a_heartbeat_keeps_the_leases(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))
    for _ in range(3):
        assert await beat(bench.leases, "p1") == [lease(0, 1, of=1)]
        await bench.pass_time(LEASE_S - 1)
        assert await beat(bench.leases, "p2") == []


async def test_an_expired_lease_that_nobody_took_is_renewed(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S + 1)
    assert await beat(bench.leases, "p1") == [lease(0, 1, of=1)]
    assert await beat(bench.leases, "p2") == []


async def test_when_all_were_away_the_first_to_come_back_leaves_the_others_what_they_had(bench: Bench) -> None:
    """As after an outage of the database."""
    await bench.leases.register(Route("writer", 4))
    before = await settle(bench.leases, "p1", "p2")
    await bench.pass_time(10 * LEASE_S)
    assert [it.partition for it in await beat(bench.leases, "p1")] == before["p1"]
    await bench.pass_time(LEASE_S - 1)
    assert [it.partition for it in await beat(bench.leases, "p1")] == before["p1"]
    assert [(it.partition, it.clean) for it in await beat(bench.leases, "p2")] == [(n, True) for n in before["p2"]]


async def test_it_takes_what_nobody_comes_back_for_after_a_lease(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    await beat(bench.leases, "p1")
    await bench.pass_time(10 * LEASE_S)
    assert await beat(bench.leases, "p2") == []
    await bench.pass_time(LEASE_S - 1)
    assert await beat(bench.leases, "p2") == []
    await bench.pass_time(1)
    assert await beat(bench.leases, "p2") == [lease(0, 2, of=2, clean=False), lease(1, 2, of=2, clean=False)]


async def test_partitions_tell_who_owns_them_and_for_how_long(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    await beat(bench.leases, "p1")
    await bench.leases.release("p1", [Lease("writer", 1, 1)])
    await bench.pass_time(LEASE_S + 5)
    expired, free = await bench.leases.partitions()
    assert (expired.role, expired.partition, expired.epoch, expired.owner) == ("writer", 0, 1, "p1")
    assert expired.expires_in_s == pytest.approx(-5, abs=1)
    assert (free.partition, free.epoch, free.owner, free.expires_in_s) == (1, 1, None, None)


# -- giving back -------------------------------------------------------------------------------------------


async def test_a_released_partition_gets_a_new_epoch(leases: Leases) -> None:
    await leases.register(Route("writer", 1))
    await leases.release("p1", await beat(leases, "p1"))
    assert await beat(leases, "p1") == [lease(0, 2, of=1)]


async def test_the_release_of_a_stale_epoch_is_ignored(leases: Leases) -> None:
    await leases.register(Route("writer", 1))
    first = await beat(leases, "p1")
    await leases.release("p1", first)
    second = await beat(leases, "p1")
    await leases.release("p1", first)
    await leases.release("p2", second)
    await leases.release("p1", [Lease("writer", 99, 2), Lease("nobody", 0, 1)])
    assert await beat(leases, "p1") == second


async def test_a_process_that_leaves_gives_everything_back_and_no_longer_counts(leases: Leases) -> None:
    await leases.register(Route("writer", 4))
    assert await settle(leases, "p1", "p2") == {"p1": [0, 1], "p2": [2, 3]}
    await leases.leave("p1")
    await leases.leave("nobody")
    assert [it.partition for it in await beat(leases, "p2")] == [0, 1, 2, 3]


@pytest.mark.parametrize("partitions", [1, 5, 8])
async def test_heartbeats_at_one_moment_never_take_the_same_partition(database_url: str, partitions: int) -> None:
    processes = [f"p{n}" for n in range(5)]
    owned: list[Lease] = []
    connections = len(processes) + 1  # one is the appender's
    async with (
        PostgresEventStore.open(database_url, connections=connections) as store,
        PostgresEventStore.open(database_url) as other,
    ):
        leases = PostgresLeases(store.pool)
        await leases.register(Route("writer", partitions))

        async def start(process: str) -> None:
            owned.extend(await beat(leases, process))

        async def all_wait() -> bool:
            waiting = (
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = $1"
            )
            return bool(await other.pool.fetchval(waiting, "Lock") == len(processes))

        async with anyio.create_task_group() as tasks, other.pool.acquire() as holder, holder.transaction():
            await holder.execute("select from partitions for update")  # nobody gets on with taking one
            for process in processes:
                tasks.start_soon(start, process)
            await becomes(all_wait)
        numbers = sorted(it.partition for it in owned)
        assert numbers == list(range(partitions))  # each once: the first one took them all
        assert {it.epoch for it in owned} == {1}


# -- clean or lost -----------------------------------------------------------------------------------------


async def test_what_was_given_back_is_clean_for_the_next_owner(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    owned = await beat(leases, "p1")
    await leases.release("p1", owned[:1])
    assert await beat(leases, "p2") == [lease(0, 2, of=2)]
    await leases.leave("p1")
    assert await beat(leases, "p2") == [lease(0, 2, of=2), lease(1, 2, of=2)]


async def test_what_was_lost_is_not_clean_until_an_owner_gives_it_back(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S - 1)
    assert await beat(bench.leases, "p2") == []
    await bench.pass_time(2)
    for _ in range(3):  # renewing changes nothing, not even when it comes late
        assert await beat(bench.leases, "p2") == [lease(0, 2, of=1, clean=False)]
        await bench.pass_time(LEASE_S + 1)
    await bench.leases.leave("p2")
    assert await beat(bench.leases, "p3") == [lease(0, 3, of=1)]


async def test_a_late_renewal_leaves_a_clean_lease_clean(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S + 1)
    assert await beat(bench.leases, "p1") == [lease(0, 1, of=1)]


# -- generations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 6])
async def test_new_partitions_are_given_when_no_former_one_is_owned(leases: Leases, count: int) -> None:
    await leases.register(Route("writer", 4, topics=("news",)))
    assert await settle(leases, "p1", "p2") == {"p1": [0, 1], "p2": [2, 3]}
    assert await leases.repartition("writer", count) == Route("writer", count, 2, topics=("news",))
    assert (await leases.routes())["writer"] == Route("writer", count, 2, topics=("news",))
    former = await beat(leases, "p1")
    assert former == [lease(n, 1, of=4, surplus=True) for n in range(2)]
    await leases.release("p1", former)
    assert await beat(leases, "p1") == []  # p2 has not given its own back
    former = await beat(leases, "p2")
    assert former == [lease(n, 2, of=4, surplus=True) for n in (2, 3)]
    await leases.release("p2", former)
    half = count // 2
    assert await beat(leases, "p2") == [lease(n, 3, of=count, generation=2) for n in range(half)]
    assert await beat(leases, "p1") == [lease(n, 3, of=count, generation=2) for n in range(half, count)]
    assert [(state.partition, state.epoch) for state in await leases.partitions()] == [(n, 3) for n in range(count)]


async def test_partitions_that_nobody_owns_are_counted_anew_at_once(leases: Leases) -> None:
    await leases.register(Route("writer", 4))
    await leases.repartition("writer", 2)
    assert [(state.partition, state.epoch, state.owner) for state in await leases.partitions()] == [
        (n, 0, None) for n in range(2)
    ]
    assert await beat(leases, "p1") == [lease(n, 1, of=2, generation=2) for n in range(2)]


async def test_a_lost_partition_makes_all_of_the_next_generation_unclean(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    await settle(bench.leases, "p1", "p2")
    await bench.leases.leave("p1")
    await bench.leases.repartition("writer", 3)
    await bench.pass_time(LEASE_S - 1)
    assert await beat(bench.leases, "p3") == []
    await bench.pass_time(2)
    assert await beat(bench.leases, "p3") == [lease(n, 3, of=3, generation=2, clean=False) for n in range(3)]
    assert await beat(bench.leases, "p2") == []
    await bench.leases.leave("p3")
    await bench.leases.repartition("writer", 1)
    assert [it.clean for it in await beat(bench.leases, "p2")] == [True]


async def test_epochs_never_fall_from_one_generation_to_the_next(leases: Leases) -> None:
    await leases.register(Route("writer", 4))
    highest = 0
    for count in (2, 5, 1, 4):
        for _ in range(2):
            owned = await beat(leases, "p1")
            assert all(it.epoch > highest for it in owned)
            highest = max(it.epoch for it in owned)
            await leases.release("p1", owned)
        await leases.repartition("writer", count)
        assert {state.epoch for state in await leases.partitions()} == {highest}


async def test_a_lease_of_a_former_generation_gives_nothing_of_the_present_one_back(leases: Leases) -> None:
    await leases.register(Route("writer", 1))
    former = await beat(leases, "p1")
    await leases.release("p1", former)
    await leases.repartition("writer", 2)
    present = await beat(leases, "p1")
    await leases.release("p1", former)
    assert await beat(leases, "p1") == present


async def test_the_same_number_of_partitions_changes_nothing(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    owned = await beat(leases, "p1")
    assert await leases.repartition("writer", 2) == Route("writer", 2)
    assert await beat(leases, "p1") == owned


async def test_a_number_changed_back_is_a_generation_of_its_own(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    former = await beat(leases, "p1")
    await leases.repartition("writer", 3)
    assert await leases.repartition("writer", 2) == Route("writer", 2, 3)
    assert [it.surplus for it in await beat(leases, "p1")] == [True, True]
    await leases.release("p1", former)
    assert await beat(leases, "p1") == [lease(n, 2, of=2, generation=3) for n in range(2)]


async def test_a_role_that_registers_while_it_is_counted_anew_keeps_both_generations(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    await beat(leases, "p1")
    await leases.repartition("writer", 4)
    assert await leases.register(Route("writer", 2, topics=("news",))) == Route("writer", 4, 2, topics=("news",))
    assert len(await leases.partitions()) == 2
    await leases.leave("p1")
    assert [it.generation for it in await beat(leases, "p1")] == [2] * 4


async def test_one_of_two_that_repartition_at_once_comes_last(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    async with anyio.create_task_group() as tasks:
        for count in (3, 4):
            tasks.start_soon(leases.repartition, "writer", count)
    route = (await leases.routes())["writer"]
    assert (route.partitions in (3, 4), route.generation) == (True, 3)
    assert len(await leases.partitions()) == route.partitions


async def test_an_unknown_role_has_no_partitions_to_count(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    with pytest.raises(UnknownRole, match="Known roles: writer"):
        await leases.repartition("reviewer", 2)


@pytest.mark.parametrize("count", [-1, 0, 257])
async def test_a_role_has_1_to_256_partitions(leases: Leases, count: int) -> None:
    await leases.register(Route("writer", 2))
    with pytest.raises(BadOption, match="1 to 256"):
        await leases.repartition("writer", count)
    assert len(await leases.partitions()) == 2
    for possible in (1, 256):
        assert (await leases.repartition("writer", possible)).partitions == possible


async def test_a_renewal_keeps_what_is_owned_and_takes_nothing(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 4))
    await settle(bench.leases, "p1", "p2")
    before = [it.epoch for it in await bench.leases.partitions()]
    for _ in range(3):  # p2 is not heard of any more, p1 only renews
        await bench.pass_time(LEASE_S - 1)
        await bench.leases.renew("p1", lease_s=LEASE_S)
    states = await bench.leases.partitions()
    assert sorted(it.owner or "" for it in states) == ["p1", "p1", "p2", "p2"]
    assert [it.epoch for it in states] == before
    assert [it.process for it in await bench.leases.members()] == ["p1"]
    unheard_s = LEASE_S - 3 * (LEASE_S - 1)
    expected = [LEASE_S if it.owner == "p1" else unheard_s for it in states]
    assert [it.expires_in_s for it in states] == pytest.approx(expected, abs=1.5)
    assert [it.partition for it in await beat(bench.leases, "p1")] == [0, 1, 2, 3]  # a heartbeat takes


async def test_a_renewal_gives_nothing_back_that_was_taken(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S + 1)
    await beat(bench.leases, "p2")
    for passed_s in (LEASE_S - 1, 2):
        await bench.pass_time(passed_s)  # p2 is to have been here for as long as a lease
        await beat(bench.leases, "p2")
    await bench.leases.renew("p1", lease_s=LEASE_S)
    assert [it.owner for it in await bench.leases.partitions()] == ["p2", "p2"]
    assert [it.process for it in await bench.leases.members()] == ["p2"]


async def test_a_renewal_keeps_what_ran_out_and_nobody_took(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    owned = await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S + 1)
    await bench.leases.renew("p1", lease_s=LEASE_S)
    await beat(bench.leases, "p2")
    assert [(it.owner, it.epoch) for it in await bench.leases.partitions()] == [("p1", it.epoch) for it in owned]


async def test_a_renewal_of_a_process_that_has_left_does_nothing(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    await beat(leases, "p1")
    await leases.leave("p1")
    await leases.renew("p1", lease_s=LEASE_S)
    assert [it.owner for it in await leases.partitions()] == [None, None]
    assert await leases.members() == []


# -- members -----------------------------------------------------------------------------------------------


async def test_members_are_the_processes_whose_heartbeat_still_counts(bench: Bench) -> None:
    for role in ("writer", "reviewer"):
        await bench.leases.register(Route(role, 1))
    await beat(bench.leases, "p2", "writer", "reviewer")
    await bench.pass_time(10)
    await beat(bench.leases, "p1", "writer")
    members = await bench.leases.members()
    assert [(it.role, it.process) for it in members] == [("reviewer", "p2"), ("writer", "p1"), ("writer", "p2")]
    assert [it.expires_in_s for it in members] == pytest.approx([LEASE_S - 10, LEASE_S, LEASE_S - 10], abs=1)
    await bench.pass_time(LEASE_S - 9)
    assert [it.process for it in await bench.leases.members()] == ["p1"]
    await bench.leases.leave("p1")
    assert await bench.leases.members() == []


async def test_a_process_is_idle_since_a_heartbeat_last_told_of_progress(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))

    async def idle_s(progress: int) -> float:
        await bench.leases.heartbeat("p1", ["writer"], lease_s=LEASE_S, progress=progress)
        (member,) = await bench.leases.members()
        return member.idle_s

    assert await idle_s(7) == pytest.approx(0, abs=1)
    await bench.pass_time(20)
    assert await idle_s(7) == pytest.approx(20, abs=1)
    await bench.pass_time(LEASE_S + 10)  # it was taken for dead meanwhile, and has still done nothing
    assert await idle_s(7) == pytest.approx(LEASE_S + 30, abs=1)
    assert await idle_s(8) == pytest.approx(0, abs=1)
