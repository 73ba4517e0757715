"""Everything works through pgbouncer in transaction mode, where each statement may go to another server connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from callboard import Context
from callboard.eventstore import PostgresEventStore
from callboard.projections import ALL, runs
from callboard.projections.runner import Runner
from callboard.protocols.names import new_id
from callboard.protocols.ports import Appended, EventStore, Leases
from tests.actor_kit import Echo, worker
from tests.conftest import DEADLINE_S
from tests.contracts.test_eventstore import (  # noqa: F401 - run here, too
    events,
    test_a_message_is_found_by_its_id,
    test_a_message_is_handled_once,
    test_a_stream_longer_than_any_page_is_read_whole,
    test_a_subscription_never_misses_nor_repeats_with_eight_writers,
    test_an_event_comes_back_as_it_was_appended,
    test_another_version_is_a_conflict_that_names_the_actual_one,
    test_appends_that_wait_together_are_decided_one_by_one,
    test_blobs_are_stored_once_by_content,
    test_positions_and_versions_have_no_gaps_under_concurrency,
    test_what_cannot_be_stored_is_refused_and_its_neighbours_are_not,
)
from tests.contracts.test_leases import (  # noqa: F401 - run here, too
    Bench,
    bench_on,
    test_a_dead_process_loses_its_partitions_and_their_epoch_grows,
    test_a_process_that_leaves_gives_everything_back_and_no_longer_counts,
    test_a_role_is_registered_by_many_at_once,
    test_new_partitions_are_given_when_no_former_one_is_owned,
    test_no_partition_has_two_owners_when_processes_start_at_once,
)
from tests.host_kit import SHORT_LEASE_S, becomes, stage
from tests.pgbouncer_kit import CONNECTIONS, pgbouncer, program

pytestmark = pytest.mark.skipif(program() is None, reason="no pgbouncer is installed: apt-get install pgbouncer")

TERMINATE = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and query like '%append_batch%'
"""


@pytest.fixture
async def pooled_url(database_url: str) -> AsyncIterator[str]:
    async with pgbouncer(database_url) as url:
        yield url


@pytest.fixture
async def store(pooled_url: str) -> AsyncIterator[EventStore]:
    async with PostgresEventStore.open(pooled_url) as store:
        yield store


@pytest.fixture
async def bench(pooled_url: str) -> AsyncIterator[Bench]:
    async with bench_on(pooled_url) as bench:
        yield bench


@pytest.fixture
def leases(bench: Bench) -> Leases:
    return bench.leases


async def test_an_empty_database_gets_its_schema(empty_database_url: str) -> None:
    async with pgbouncer(empty_database_url) as url, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(opened_once, url)


async def opened_once(url: str) -> None:
    async with PostgresEventStore.open(url) as store:
        assert await store.head() == 0


async def test_statements_of_many_clients_share_few_connections_and_are_not_mixed_up(pooled_url: str) -> None:
    backends: set[int] = set()
    async with PostgresEventStore.open(pooled_url, connections=21) as store:

        async def ask(number: int) -> None:
            for count in range(50):
                columns = "$1::bigint, " * (number % 3 + 1)
                row = await store.pool.fetchrow(f"select {columns} {number} as number, pg_backend_pid() as pid", count)
                assert (row["number"], len(row), row[0]) == (number, number % 3 + 3, count)
                backends.add(row["pid"])

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
    assert 1 < len(backends) <= CONNECTIONS


async def test_appends_are_written_once_though_connections_break(pooled_url: str, database_url: str) -> None:
    # asyncpg sets a future twice if a pooler refuses in the middle of a connection's start: it says so, and goes on.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with PostgresEventStore.open(pooled_url) as store, PostgresEventStore.open(database_url) as direct:
        last: dict[str, Appended] = {}
        broken: list[object] = []

        async def append(stream: str) -> None:
            for version in range(40):
                last[stream] = await store.append(stream, events(1), version)

        async def break_connections() -> None:
            while not stop.is_set():
                broken.extend(await direct.pool.fetch(TERMINATE))
                await anyio.sleep(0.01)

        stop = anyio.Event()
        async with anyio.create_task_group() as breaking:
            breaking.start_soon(break_connections)
            async with anyio.create_task_group() as tasks:
                for number in range(5):
                    tasks.start_soon(append, f"writer/{number}")
            stop.set()
        assert broken
        log = [each async for page in direct.read_all() for each in page]
        assert [each.position for each in log] == list(range(1, 201))
        assert {stream: it.version for stream, it in last.items()} == {f"writer/{number}": 40 for number in range(5)}


async def test_hosts_work_hand_over_and_take_over(pooled_url: str, redis_url: str) -> None:
    async def ask(payload: int, ctx: Context) -> Any:
        await ctx.step(asyncio.sleep, 0.01, name="nap")
        return await ctx.ask("echo", payload)

    async with stage(pooled_url, redis_url, worker(ask), Echo, lease_s=SHORT_LEASE_S) as it:
        first, second = await it.host("a"), await it.host("b")
        sent = [(await it.client.send("worker", number))[0] for number in range(60)]
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent[:20]] == list(range(20))
            await first.abandon()
            assert [await it.client.wait(each) for each in sent] == list(range(60))
        await it.settled()
        assert await it.client.call("worker", 7) == 7
        await second.stop()
        await it.stack.runner.catch_up()
        listed = await runs.list_runs(it.stack.store.pool, limit=100)
        assert len(listed) == 61


async def test_a_runner_folds_anew_what_is_reset(pooled_url: str) -> None:
    async with PostgresEventStore.open(pooled_url) as store:
        first, other = (Runner(store.pool, store, ALL, new_id()) for _ in range(2))
        await first.catch_up()
        await other.rebuild(["runs"])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.run)
            tasks.start_soon(other.run)
            await becomes(lambda: first.reached(0))
            tasks.cancel_scope.cancel()
