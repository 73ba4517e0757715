"""What all leases do, whether on PostgreSQL or in memory: the promises of `protocols.ports.Leases`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import MemoryLeases, PostgresEventStore, PostgresLeases
from protocols.a2a import AgentCapabilities, AgentCard, AgentSkill
from protocols.ports import Lease, Leases, Route

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
    async with PostgresEventStore.open(request.getfixturevalue("database_url")) as store:

        async def pass_time(seconds: float) -> None:
            """The database's clock can't be set: what it will be compared with moves back instead."""
            for table in ("partitions", "members"):
                await store.pool.execute(
                    f"update {table} set expires_at = expires_at - $1::interval", timedelta(seconds=seconds)
                )

        yield Bench(PostgresLeases(store.pool), pass_time)


@pytest.fixture
def leases(bench: Bench) -> Leases:
    return bench.leases


async def beat(leases: Leases, process: str, *roles: str) -> list[Lease]:
    return await leases.heartbeat(process, roles or ["writer"], lease_s=LEASE_S)


async def settle(leases: Leases, *processes: str, role: str = "writer") -> dict[str, list[int]]:
    """Heartbeats until everybody has its share and hands over what is above it; the partitions of each."""
    for _ in range(3):
        for process in processes:
            owned = await beat(leases, process, role)
            await leases.release(process, [lease for lease in owned if lease.surplus])
    return {process: [lease.partition for lease in await beat(leases, process, role)] for process in processes}


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
    assert await beat(leases, "p1") == [Lease("writer", n, 1) for n in range(4)]
    assert await beat(leases, "p1") == [Lease("writer", n, 1) for n in range(4)]


async def test_a_role_that_nobody_registered_gives_no_leases(leases: Leases) -> None:
    await leases.register(Route("writer", 1))
    assert await beat(leases, "p1", "reviewer", "writer") == [Lease("writer", 0, 1)]


async def test_a_second_process_gets_its_share_when_the_first_hands_it_over(leases: Leases) -> None:
    await leases.register(Route("writer", 5))
    await beat(leases, "p1")
    assert await beat(leases, "p2") == []
    owned = await beat(leases, "p1")
    assert owned == [Lease("writer", n, 1, surplus=n >= 3) for n in range(5)]  # the first by name has the remainder
    await leases.release("p1", [lease for lease in owned if lease.surplus])
    assert await beat(leases, "p1") == [Lease("writer", n, 1) for n in range(3)]
    assert await beat(leases, "p2") == [Lease("writer", 3, 2), Lease("writer", 4, 2)]


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
    numbers = [lease.partition for lease in owned]
    assert len(numbers) == len(set(numbers))


async def test_roles_are_shared_each_by_itself(leases: Leases) -> None:
    await leases.register(Route("writer", 2))
    await leases.register(Route("reviewer", 2))
    assert await beat(leases, "p1", "writer", "reviewer") == [
        Lease("reviewer", 0, 1),
        Lease("reviewer", 1, 1),
        Lease("writer", 0, 1),
        Lease("writer", 1, 1),
    ]
    await beat(leases, "p2", "writer")
    assert [lease.surplus for lease in await beat(leases, "p1", "reviewer", "writer")] == [False, False, False, True]


# -- time --------------------------------------------------------------------------------------------------


async def test_a_dead_process_loses_its_partitions_and_their_epoch_grows(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 2))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S - 1)
    assert await beat(bench.leases, "p2") == []
    await bench.pass_time(2)
    assert await beat(bench.leases, "p2") == [Lease("writer", 0, 2), Lease("writer", 1, 2)]
    assert await beat(bench.leases, "p1") == []


async def test_a_heartbeat_keeps_the_leases(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))
    for _ in range(3):
        assert await beat(bench.leases, "p1") == [Lease("writer", 0, 1)]
        await bench.pass_time(LEASE_S - 1)
        assert await beat(bench.leases, "p2") == []


async def test_an_expired_lease_that_nobody_took_is_renewed(bench: Bench) -> None:
    await bench.leases.register(Route("writer", 1))
    await beat(bench.leases, "p1")
    await bench.pass_time(LEASE_S + 1)
    assert await beat(bench.leases, "p1") == [Lease("writer", 0, 1)]
    assert await beat(bench.leases, "p2") == []


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
    assert await beat(leases, "p1") == [Lease("writer", 0, 2)]


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
    assert [lease.partition for lease in await beat(leases, "p2")] == [0, 1, 2, 3]
