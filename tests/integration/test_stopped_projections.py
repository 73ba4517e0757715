"""An event that a projection can't take stops that projection, and nothing else."""

from collections.abc import AsyncIterator

import anyio
import asyncpg
import pytest
from msgspec.structs import replace

import callboard.actors.process.host
from callboard import Context, projections
from callboard.eventstore import MemoryEventStore
from callboard.projections import costs, lag, tasks
from callboard.projections.base import Page, Projection
from callboard.projections.runner import Runner
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.errors import NotProjected, ProjectionsBehind, UnknownEventType
from callboard.protocols.events import Meta, NewEvent
from callboard.protocols.ports import ANY
from tests.actor_kit import worker
from tests.conftest import DEADLINE_S
from tests.host_kit import becomes, stage

META = Meta(run="r1", task="t1")
BAD = NewEvent(type="task.failed", data=b'{"error": 5}', meta=META)
UNKNOWN = NewEvent(type="task.teleported", data=b"{}", meta=META)
FINE = new_event(e.MessageDiscarded(kind="reply", reason="late"), META)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=8) as pool:
        yield pool


@pytest.fixture
def store() -> MemoryEventStore:
    return MemoryEventStore()


def picky(*, healed: bool = False) -> Projection:
    """The costs as a projection that can't take BAD; or that can, after an upgrade."""

    async def apply(connection: asyncpg.Connection, page: Page) -> None:
        for fact in page:
            if fact.event.data == BAD.data and not healed:
                raise ValueError("no such error")
        await costs.PROJECTION.apply(connection, [fact for fact in page if fact.event.type in costs.PROJECTION.handles])

    return replace(costs.PROJECTION, handles=None, apply=apply)


def runner(pool: asyncpg.Pool, store: MemoryEventStore, *of: Projection, process: str = "p1") -> Runner:
    return Runner(pool, store, of or projections.ALL, process, page=100, pause_s=0.01, lease_s=1)


async def positions(pool: asyncpg.Pool) -> dict[str, int]:
    return dict(await pool.fetch("select name, position from projections"))


async def test_the_others_go_on_and_the_one_that_stopped_says_why(pool: asyncpg.Pool, store: MemoryEventStore) -> None:
    mine = runner(pool, store, tasks.PROJECTION, picky())
    async with anyio.create_task_group() as group:
        for new in (FINE, FINE, replace(BAD, type="message.discarded"), FINE, FINE):
            await store.append("writer/t1", [new], ANY)
        group.start_soon(mine.run)
        await mine.wait_until(5, of=[tasks.PROJECTION], within_s=DEADLINE_S)
        await store.append("writer/t1", [FINE], ANY)
        await mine.wait_until(6, of=[tasks.PROJECTION], within_s=DEADLINE_S)
        assert await positions(pool) == {"tasks": 6, "costs": 2}
        event = "event writer/t1@3 (message.discarded, position 3)"
        why = f"Projection 'costs' can't take {event}: ValueError: no such error."
        found = {each.name: (each.events, each.error) for each in (await lag.lag(pool, store)).projections}
        assert found == {"tasks": (0, None), "costs": (4, why)}
        assert await mine.stopped(projections.ALL) == {"costs": why}
        assert repr(mine).startswith("<Runner of p1: at 6, 1 stopped")
        with (
            anyio.fail_after(DEADLINE_S),
            pytest.raises(ProjectionsBehind, match=r"p1 runs them; 'costs' is stopped: "),
        ):
            await mine.wait_until(6, within_s=1000)  # it doesn't wait for what nobody folds
        group.cancel_scope.cancel()


async def test_what_all_refuse_stops_all_until_the_next_runner_tries_again(
    pool: asyncpg.Pool, store: MemoryEventStore
) -> None:
    for new in (FINE, UNKNOWN, FINE):
        await store.append("writer/t1", [new], ANY)
    with pytest.raises(UnknownEventType, match=r"writer/t1@2"):
        await runner(pool, store).catch_up()
    assert set((await positions(pool)).values()) == {1}
    mine = runner(pool, store)
    async with anyio.create_task_group() as group:
        group.start_soon(mine.run)
        await becomes(lambda: all_stopped(mine))
        store._log[1] = replace(store._log[1], type=FINE.type, data=FINE.data)  # as an upgraded process knows it
        await runner(pool, store).rebuild(["costs"])  # takes the lease away: the next tenure tries all again
        await mine.wait_until(3, within_s=DEADLINE_S)
        assert await mine.stopped(projections.ALL) == {}
        group.cancel_scope.cancel()


async def all_stopped(mine: Runner) -> bool:
    return len(await mine.stopped(projections.ALL)) == len(projections.ALL)


@pytest.mark.parametrize("rebuilt", [True, False])
async def test_a_rebuild_and_a_restart_try_again(pool: asyncpg.Pool, store: MemoryEventStore, rebuilt: bool) -> None:
    for new in (FINE, replace(BAD, type="message.discarded"), FINE):
        await store.append("writer/t1", [new], ANY)
    with pytest.raises(NotProjected, match="'costs' can't take"):
        await runner(pool, store, picky(), tasks.PROJECTION).catch_up()
    assert await positions(pool) == {"tasks": 3, "costs": 1}
    healed = runner(pool, store, picky(healed=True), tasks.PROJECTION)
    if rebuilt:
        await healed.rebuild(["costs"])
        assert await healed.stopped(projections.ALL) == {}
    await healed.catch_up(within_s=DEADLINE_S)
    assert await positions(pool) == {"tasks": 3, "costs": 3}
    assert await healed.stopped(projections.ALL) == {}


async def test_a_database_of_a_former_version_gets_the_column(pool: asyncpg.Pool, store: MemoryEventStore) -> None:
    await store.append("writer/t1", [FINE], ANY)
    await runner(pool, store).catch_up()
    await pool.execute("alter table projections drop column error")
    assert await runner(pool, store).stopped(projections.ALL) == {}
    await runner(pool, store).catch_up()
    assert set((await positions(pool)).values()) == {1}  # nothing is folded anew
    assert [each.error for each in (await lag.lag(pool, store)).projections] == [None] * len(projections.ALL)


async def test_hosts_serve_on_when_a_projection_for_people_stops_and_say_so_when_a_working_one_does(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callboard.actors.process.host, "RECONCILE_EVERY_S", 0.1)

    async def greet(payload: str, ctx: Context) -> str:
        return f"hello {payload}"

    def told(what: str) -> int:
        return sum(record.levelname == "ERROR" and what in record.getMessage() for record in caplog.records)

    async with stage(database_url, redis_url, worker(greet)) as it:
        await it.host("a")
        assert await it.client.call("worker", "you") == "hello you"
        await it.stack.store.append("x/y", [NewEvent(type="model.completed", data=b"{}", meta=META)], ANY)
        await becomes(lambda: has_stopped(it.stack.runner, "costs"))
        assert await it.client.call("worker", "again") == "hello again"
        assert not told("can't recover")
        (started, *_) = [event for event in await it.log() if event.type == "task.started"]
        bad = NewEvent(type="task.failed", data=BAD.data, meta=Meta(run="r1", task=started.meta.task))
        await it.stack.store.append(started.stream, [bad], ANY)
        await becomes(lambda: has_stopped(it.stack.runner, "tasks"))

        async def told_often() -> bool:
            return told("can't recover") >= 3

        await becomes(told_often)
        assert await it.client.call("worker", "still") == "hello still"


async def has_stopped(runner: Runner, name: str) -> bool:
    return name in await runner.stopped(projections.ALL)
