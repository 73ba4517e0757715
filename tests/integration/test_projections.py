"""The read models and their runner, on PostgreSQL."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard import projections
from callboard.eventstore import MemoryEventStore, PostgresEventStore
from callboard.projections import (
    agents,
    answers,
    audit,
    checkpoints,
    costs,
    dead_letters,
    lag,
    mailbox,
    runs,
    tasks,
    timers,
)
from callboard.projections.base import Page, Projection
from callboard.projections.runner import Runner
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.errors import (
    AmbiguousId,
    BadName,
    NotProjected,
    ProjectionsBehind,
    SchemaTooNew,
    UnknownRun,
    UnknownTask,
)
from callboard.protocols.events import Event, Meta, NewEvent
from callboard.protocols.messages import ErrorInfo, Message
from callboard.protocols.names import key_hash, partition_of
from callboard.protocols.ports import ANY, EventStore
from tests.conftest import DEADLINE_S
from tests.projection_kit import BEGINNING, VALUE, Log, RandomLog, model_completed, model_failed, opening

# Built before the test's coroutine starts: what Hypothesis draws inside one, it can't abandon.
LOGS = st.builds(RandomLog, st.builds(Random, st.integers(0, 2**32)), st.integers(1, 80))
TABLES = [table for projection in projections.ALL for table in projection.tables]


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=8) as pool:
        yield pool


@pytest.fixture
def log() -> Log:
    return Log()


async def fill(store: EventStore, log: Log, first: int = 1, last: int | None = None) -> None:
    """Put a log's events into a store: all, or those of some positions."""
    for event in log.events[first - 1 : last]:
        new = NewEvent(type=event.type, data=event.data, meta=event.meta, schema_version=event.schema_version)
        await store.append(event.stream, [new], ANY)


async def projected(pool: asyncpg.Pool, log: Log, *, page: int = 1000) -> asyncpg.Pool:
    """Fold a log into all projections, in pages; gives the pool to query."""
    await checkpoints.prepare(pool, projections.ALL)
    facts = log.facts
    for start in range(0, len(facts), page):
        async with pool.acquire() as connection, connection.transaction():
            for projection in projections.ALL:
                await projection.apply(connection, projection.of(facts[start : start + page]))
    return pool


async def contents(pool: asyncpg.Pool) -> dict[str, list[Any]]:
    """All rows of all tables."""
    return {table: sorted(map(repr, await pool.fetch(f"select * from {table}"))) for table in TABLES}


async def eventually(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # what is logged can only be polled for
            await anyio.sleep(0.01)


@asynccontextmanager
async def running(*runners: Runner) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        for each in runners:
            group.start_soon(each.run)
        yield
        group.cancel_scope.cancel()


def runner(
    pool: asyncpg.Pool,
    store: EventStore,
    process: str = "p1",
    *,
    of: Sequence[Projection] = projections.ALL,
    page: int = 100,
    lease_s: float = 60.0,
) -> Runner:
    return Runner(pool, store, of, process, page=page, pause_s=0.01, lease_s=lease_s)


async def expire(pool: asyncpg.Pool) -> None:
    """Make the lease look as if its time had passed."""
    await pool.execute("update projection_lease set expires_at = clock_timestamp() - interval '1 second'")


async def position(pool: asyncpg.Pool, name: str) -> int:
    at: int = await pool.fetchval("select position from projections where name = $1", name)
    return at


# -- pages -------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=LOGS, page=st.integers(1, 12))
async def test_how_the_log_is_cut_into_pages_makes_no_difference(pool: asyncpg.Pool, log: Log, page: int) -> None:
    tables = []
    for size in (page, 1000):
        await checkpoints.prepare(pool, projections.ALL)
        async with pool.acquire() as connection, connection.transaction():
            await checkpoints.reset(connection, projections.ALL)
        tables.append(await contents(await projected(pool, log, page=size)))
    assert tables[0] == tables[1]


@pytest.mark.parametrize("page", [1, 2, 7])
async def test_a_long_log_in_small_pages_gives_the_same_tables(pool: asyncpg.Pool, page: int) -> None:
    log = RandomLog(Random(4), 400)
    small = await contents(await projected(pool, log, page=page))
    async with pool.acquire() as connection, connection.transaction():
        await checkpoints.reset(connection, projections.ALL)
    assert await contents(await projected(pool, log)) == small
    assert {table for table in TABLES if not small[table]} == set()


# -- queries -----------------------------------------------------------------------------------------------


async def test_open_messages_come_by_partition_in_the_logs_order_page_by_page(pool: asyncpg.Pool, log: Log) -> None:
    for number in range(12):
        sends = [opening(f"writer/k{number}-{n}", f"t{number}-{n}") for n in range(11)]
        log.add("run/r1", e.MessageSent(step="s", fingerprint="f"), sends=sends)
    await projected(pool, log, page=5)
    wanted = [message.id for fact in log.facts for message in fact.sends if partition_of(message.key, 4) in (1, 3)]
    found: list[mailbox.OpenMessage] = []
    after = (0, 0)
    while page := await mailbox.open_messages(pool, "writer", 4, [1, 3], after=after, limit=10):
        found += page
        after = (page[-1].position, page[-1].place)
    assert [message.id for message in found] == wanted
    counts = await mailbox.open_counts(pool, "writer", 4)
    assert counts[1] + counts[3] == len(wanted)
    assert sum(counts.values()) == 12 * 11


async def test_the_mailbox_lists_what_is_open(pool: asyncpg.Pool, log: Log) -> None:
    first = log.start_run()
    second = log.start_run("reviewer/dave", "t2", "r2")
    third = log.start_run("reviewer/erin", "t3", "r3")
    log.add("writer/t1", e.MessageDeadLettered(to="writer/t1", reason="kills", attempts=3), task="t1", handles=first)
    await projected(pool, log, page=1)
    assert [each.id for each in await mailbox.list_open(pool)] == [second, third]
    assert [each.id for each in await mailbox.list_open(pool, role="reviewer", key="erin")] == [third]
    assert [each.id for each in await mailbox.list_open(pool, run="r2")] == [second]
    assert await mailbox.oldest_age_s(pool, "writer") is None
    assert await mailbox.oldest_age_s(pool) is not None
    counts = await mailbox.open_counts(pool, "reviewer", 4)
    found = await mailbox.backlog(pool, "reviewer", 4)
    assert {number: each.count for number, each in found.items()} == counts
    assert found[key_hash("dave") % 4].oldest_at == log.events[1].recorded_at


async def test_dead_letters_are_listed_and_found(pool: asyncpg.Pool, log: Log) -> None:
    run, task = "01a1f94de650778f8af20ad662398366", "01a1f94de650778f8af20ad6deadbeef"
    first = log.start_run("writer/dave", task, run)
    body = e.MessageDeadLettered(to="writer/dave", reason="It Kills", attempts=3)
    log.add("writer/dave", body, run=run, task=task, handles=first)
    log.add("dead/writer", e.MessageDeadLettered(to="writer", reason="no JSON", entry=b"{"), run="")
    second = log.start_run("reviewer/dave", "t2", "r2")
    body = e.MessageDeadLettered(to="reviewer/dave", reason="odd")
    log.add("reviewer/dave", body, run="r2", task="t2", handles=second)
    again = e.DeadLetterRedriven(letter=second, by="ann")
    log.add("dead/reviewer", again, run="r2", task="t2", handles="reviewer/dave@1")
    await projected(pool, log, page=1)
    unreadable, killer = await dead_letters.list_letters(pool)
    assert (unreadable.id, unreadable.is_message, killer.id, killer.is_message) == ("dead/writer@1", False, first, True)
    assert [each.id for each in await dead_letters.list_letters(pool, redriven=True, limit=1)] == [second]
    assert await dead_letters.list_letters(pool, role="reviewer") == []
    assert await dead_letters.list_letters(pool, run=run, role="writer") == [killer]
    assert await dead_letters.list_letters(pool, reason="kills") == [killer]
    for name in (first, "run/62398366@1.0", "writer/dave@1", task, "deadbeef"):
        assert await dead_letters.find(pool, name) == [killer]
    assert await dead_letters.find(pool, "%") == []


async def test_timers_are_due_by_time_and_partition(pool: asyncpg.Pool, log: Log) -> None:
    times = [BEGINNING + timedelta(hours=hours) for hours in (3, 1, 2)]
    for number, due_at in enumerate(times):
        to = f"writer/k{number}"
        sends = [Message(kind="timer", to=to, sender=to, run="r1", task=f"t{number}", due_at=due_at)]
        log.add(to, e.TimerSet(step="nap", due_at=due_at), task=f"t{number}", sends=sends)
    await projected(pool, log)
    everything = list(range(4))
    due = await timers.due(pool, "writer", 4, everything, times[2])
    assert [timer.due_at for timer in due] == [times[1], times[2]]
    mine = [key_hash("k1") % 4]
    others = [number for number in everything if number not in mine]
    assert "k1" in [timer.key for timer in await timers.due(pool, "writer", 4, mine, times[0])]
    assert "k1" not in [timer.key for timer in await timers.due(pool, "writer", 4, others, times[0])]
    assert len(await timers.list_timers(pool, role="writer")) == 3


async def test_only_tasks_whose_actor_must_run_are_at_work(pool: asyncpg.Pool, log: Log) -> None:
    for number, state in enumerate(("thinking", "executing", "blocked", "waiting_input")):
        message = log.start_run(f"writer/t{number}", f"t{number}", f"r{number}")
        log.start_task(f"writer/t{number}", f"t{number}", message)
        log.add(f"writer/t{number}", e.MessageSent(step="s", fingerprint="f"), task=f"t{number}", state=state)
    log.start_run("writer/t8", "t8")
    log.start_task("writer/t9", "t9", log.start_run("writer/t9", "t9"))
    log.add("writer/t9", e.TaskCompleted(), task="t9", state="completed")
    await projected(pool, log, page=2)
    assert [task.task for task in await tasks.at_work(pool, "writer", 1, [0])] == ["t0", "t1"]
    split = [await tasks.at_work(pool, "writer", 2, [number]) for number in (0, 1)]
    assert sorted(task.task for half in split for task in half) == ["t0", "t1"]
    assert all(key_hash(task.key) % 2 == number for number, half in enumerate(split) for task in half)


async def test_open_tasks_come_with_those_that_they_were_handed_over_from(pool: asyncpg.Pool, log: Log) -> None:
    for task in ("t1", "t5"):
        log.start_task(f"writer/{task}", task, log.start_run(f"writer/{task}", task, f"r{task}"), f"r{task}")
    over = opening("editor/t2", "t2", "handoff", run="rt1")
    handed = e.TaskHandedOff(to="editor/t2", task="t2")
    log.add("writer/t1", handed, run="rt1", task="t1", sends=[over], state="completed")
    log.add("writer/t5", e.TaskCompleted(), run="rt5", task="t5", state="completed")
    await projected(pool, log)
    assert [task.task for task in await tasks.open_tasks(pool)] == ["t2", "t1"]


async def test_tasks_are_found_by_filter_and_by_part_of_their_id(pool: asyncpg.Pool, log: Log) -> None:
    for task, role in (("aa1", "writer"), ("aa2", "writer"), ("bb2", "reviewer")):
        log.start_run(f"{role}/{task}", task, f"r{task}")
    log.start_task("writer/aa1", "aa1", "run/raa1@1.0")
    await projected(pool, log)
    assert [task.task for task in await tasks.list_tasks(pool)] == ["bb2", "aa2", "aa1"]
    assert [task.task for task in await tasks.list_tasks(pool, role="writer", limit=1)] == ["aa2"]
    assert [task.task for task in await tasks.list_tasks(pool, run="raa2")] == ["aa2"]
    assert [task.task for task in await tasks.list_tasks(pool, state="TASK_STATE_WORKING")] == ["aa1"]
    assert [task.task for task in await tasks.list_tasks(pool, state="thinking")] == ["aa1"]
    assert (await tasks.find_task(pool, "bb")).task == "bb2"
    assert (await tasks.find_task(pool, "a1")).task == "aa1"
    assert (await tasks.find_task(pool, "aa2")).task == "aa2"
    with pytest.raises(AmbiguousId, match="aa2, aa1"):
        await tasks.find_task(pool, "aa")
    with pytest.raises(UnknownTask):
        await tasks.find_task(pool, "%")


async def test_a_task_keeps_what_it_waits_for_and_what_it_cost(pool: asyncpg.Pool, log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.QuestionAsked(step="q\0", fingerprint="f", to="reviewer/t2", task="t2"), task="t1")
    log.add("writer/t1", model_completed("0.000000000000000000001"), task="t1")
    log.add("writer/t1", model_completed("1000000000000000000000"), task="t1")
    log.add("writer/t1", model_completed("5", "EUR"), task="t1")
    await projected(pool, log, page=1)
    (task,) = await tasks.list_tasks(pool)
    assert [wait.on for wait in task.waiting] == ["reviewer/t2"]
    assert task.cost == {"USD": Decimal("1000000000000000000000.000000000000000000001"), "EUR": Decimal(5)}
    with pytest.raises(AttributeError):
        task.attempt = 2


async def test_a_run_adds_up_its_tasks(pool: asyncpg.Pool, log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    ask = opening("reviewer/t2", "t2", "query", parent="t1")
    log.add("writer/t1", e.QuestionAsked(step="q", fingerprint="f", to=ask.to, task="t2"), task="t1", sends=[ask])
    log.start_task("reviewer/t2", "t2", "writer/t1@2.0")
    log.add("reviewer/t2", model_completed("0.1"), task="t2")
    log.add("reviewer/t2", e.TaskFailed(error=ErrorInfo("E", "m")), task="t2")
    log.add("writer/t1", model_completed("0.2"), task="t1")
    log.add("writer/t1", model_completed(None), task="t1")
    log.add("writer/t1", e.TaskCompleted(), task="t1")
    log.start_run("writer/t9", "t9", "r9")
    await projected(pool, log, page=2)
    newest, run = await runs.list_runs(pool)
    assert (newest.run, newest.tasks, newest.cost, newest.ended_at) == ("r9", 1, {}, None)
    assert (run.tasks, run.completed, run.failed, run.canceled, run.events) == (2, 1, 1, 0, 9)
    assert (run.model_calls, run.input_tokens, run.output_tokens, run.unpriced) == (3, 30, 15, 1)
    assert run.cost == {"USD": Decimal("0.3")}
    assert (run.state, run.origin, run.actor) == ("TASK_STATE_COMPLETED", "test", "writer/t1")
    assert await runs.list_runs(pool, state="TASK_STATE_COMPLETED") == [run]
    assert await runs.find_run(pool, "1") == run
    with pytest.raises(AmbiguousId):
        await runs.find_run(pool, "r")
    with pytest.raises(UnknownRun):
        await runs.find_run(pool, "x")


async def test_agents_say_what_they_did(pool: asyncpg.Pool, log: Log) -> None:
    log.start_task("writer/t1", "t1", "m1")
    log.start_task("writer/t2", "t2", "m2", process="p2")
    log.start_task("writer/dave", "t3", "m3")
    log.add("writer/t1", model_completed("0.5"), task="t1")
    log.add("writer/t1", e.TaskCompleted(), task="t1", state="completed")
    await projected(pool, log, page=1)
    role, dave = await agents.list_agents(pool)
    assert (role.agent, role.tasks, role.completed, role.at_work, role.cost) == (
        "writer",
        2,
        1,
        1,
        {"USD": Decimal("0.5")},
    )
    assert (role.first_seen, role.last_seen, role.last_process) == (
        log.events[0].recorded_at,
        log.events[4].recorded_at,
        "p2",
    )
    assert (dave.agent, dave.role, dave.at_work) == ("writer/dave", "writer", 1)
    assert await agents.list_agents(pool, role="reviewer") == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    amounts=st.lists(
        st.tuples(st.decimals(0, 10**9, allow_nan=False, places=12), st.booleans(), st.integers(1, 3)), max_size=20
    ),
    page=st.integers(1, 5),
)
async def test_sums_of_money_are_exact_and_the_same_over_anything(
    pool: asyncpg.Pool, amounts: list[tuple[Decimal, bool, int]], page: int
) -> None:
    """Over attempts, whether they gave an answer or not, over runs, tasks, agents, models, days, tenants, outcomes."""
    await checkpoints.prepare(pool, projections.ALL)
    async with pool.acquire() as connection, connection.transaction():
        await checkpoints.reset(connection, projections.ALL)
    log = Log()
    for number in range(1, 4):
        run, task, stream = f"r{number}", f"t{number}", f"writer/{number}"
        log.start_task(stream, task, log.start_run(stream, task, run), run)
    for amount, ok, number in amounts:
        attempt = (model_completed if ok else model_failed)(str(amount))
        log.add(f"writer/{number}", attempt, run=f"r{number}", task=f"t{number}", tenant=f"tenant{number}")
    await projected(pool, log, page=page)
    total = sum((amount for amount, _, _ in amounts), Decimal())

    def added(found: Sequence[Any], name: str) -> Decimal:
        return sum((getattr(each, name).get("USD", Decimal()) for each in found), Decimal())

    for dimension in costs.DIMENSIONS:
        assert added(await costs.costs(pool, [dimension]), "amounts") == total
    assert added(await tasks.list_tasks(pool), "cost") == total
    assert added(await runs.list_runs(pool), "cost") == total
    assert added(await agents.list_agents(pool), "cost") == total
    assert sum(each.attempts for each in await costs.costs(pool, ["run"])) == len(amounts)


async def test_a_million_times_a_tiny_amount_is_exact(pool: asyncpg.Pool) -> None:
    """In the arithmetic of the server: a million rows of $0.0000015."""
    total = await pool.fetchval("select sum(0.0000015::numeric) from generate_series(1, 1000000)")
    assert total == Decimal("1.5")
    log = Log()
    for _ in range(1000):
        log.add("writer/t1", model_completed("0.0015"), task="t1")
    await projected(pool, log, page=7)
    (line,) = await costs.costs(pool)
    assert line.amounts == {"USD": Decimal("1.5")}


async def test_costs_are_grouped_by_any_dimensions(pool: asyncpg.Pool, log: Log) -> None:
    log.add("writer/t1", model_completed("0.1"), task="t1")
    log.add("writer/t1", model_completed("0.2", model="claude", stand_in=True), task="t1", run="r2")
    log.add("writer/dave", model_completed(None), task="t2")
    failed = e.ModelFailed(step="s", attempt=1, model="gpt-5", error=ErrorInfo("E", "m"), duration_ms=1)
    log.add("reviewer/t3", failed, task="t3")
    for _ in range(60):
        log.add("writer/t1", e.StepCompleted(step="s", fingerprint="f", result=VALUE), task="t1")
    log.add("writer/t1", model_completed("3", "EUR"), task="t1")
    await projected(pool, log, page=1)
    (total,) = await costs.costs(pool)
    assert (total.by, total.calls, total.attempts, total.failed, total.answered) == ((), 5, 5, 1, 4)
    assert (total.unpriced, total.unknown, total.stand_ins) == (1, 1, 1)
    assert (total.input, total.output) == (40, 20)
    assert total.amounts == {"USD": Decimal("0.3"), "EUR": Decimal(3)}
    by_role = {line.by: line for line in await costs.costs(pool, ["role"])}
    assert by_role["reviewer",].amounts == {}
    assert [line.by for line in await costs.costs(pool, ["agent", "model"])] == [
        ("reviewer", "gpt-5"),
        ("writer", "claude"),
        ("writer", "gpt-5"),
        ("writer/dave", "gpt-5"),
    ]
    assert [line.by for line in await costs.costs(pool, ["day"])] == [("2030-01-01",), ("2030-01-02",)]
    (second,) = await costs.costs(pool, since=date(2030, 1, 2))
    assert second.amounts == {"EUR": Decimal(3)}
    (dave,) = await costs.costs(pool, agent="writer/dave")
    assert (dave.calls, dave.unpriced, dave.amounts) == (1, 1, {})
    outcomes = {line.by[0]: (line.attempts, line.failed) for line in await costs.costs(pool, ["outcome"])}
    assert outcomes == {"ok": (4, 0), "unknown": (1, 1)}
    (first,) = await costs.costs(pool, ["run"], run="r2", until=date(2030, 1, 1))
    assert (first.by, first.amounts) == (("r2",), {"USD": Decimal("0.2")})
    with pytest.raises(ValueError, match="unknown dimensions"):
        await costs.costs(pool, ["model; drop table costs"])  # type: ignore[list-item]


class Explaining:
    """A database that tells the plans of queries and gives no rows."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.plans: list[str] = []
        self._connection = connection

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        rows = await self._connection.fetch(f"explain {query}", *arguments)
        self.plans.append("\n".join(row[0] for row in rows))
        return []


async def test_what_the_runtime_polls_has_an_index(pool: asyncpg.Pool) -> None:
    await checkpoints.prepare(pool, projections.ALL)
    async with pool.acquire() as connection:
        await connection.execute("set enable_seqscan = off")  # tables without rows are always scanned
        database = Explaining(connection)
        await mailbox.open_messages(database, "writer", 4, [1])
        await timers.due(database, "writer", 4, [1], BEGINNING)
        await tasks.at_work(database, "writer", 4, [1])
    for plan, index in zip(database.plans, ("mailbox_by_role", "timers_by_role", "tasks_at_work"), strict=True):
        assert index in plan
        assert "Seq Scan" not in plan
    assert "Sort" not in database.plans[0] + database.plans[1]


async def test_the_audit_trail_is_read_by_run_actor_and_time(pool: asyncpg.Pool, log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.start_task("writer/t2", "t2", log.start_run("writer/t2", "t2", "r2"), "r2")
    await projected(pool, log, page=1)
    assert [entry.position for entry in await audit.audit(pool)] == [1, 2, 3, 4]
    assert [entry.position for entry in await audit.audit(pool, run="r2")] == [3, 4]
    assert [entry.position for entry in await audit.audit(pool, actor="writer/t1")] == [2]
    assert [entry.position for entry in await audit.audit(pool, since=log.events[2].recorded_at)] == [3, 4]
    assert [entry.position for entry in await audit.audit(pool, after=1, limit=2)] == [2, 3]


# -- the runner --------------------------------------------------------------------------------------------


async def test_the_runner_follows_the_log(database_url: str) -> None:
    async with PostgresEventStore.open(database_url) as store:
        await fill(store, RandomLog(Random(1), 150))
        following = runner(store.pool, store, page=40)
        async with running(following):
            await following.wait_until(150, within_s=DEADLINE_S)
            more = Log()
            more.start_run("writer/new", "new", "new")
            await fill(store, more)
            await following.wait_until(151, within_s=DEADLINE_S)
        assert [task.task for task in await tasks.list_tasks(store.pool, run="new")] == ["new"]


async def test_what_the_runner_folds_is_what_one_page_gives(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    await fill(store, RandomLog(Random(2), 200))
    await runner(pool, store, page=7).catch_up()
    folded = await contents(pool)
    again = runner(pool, store, page=1000)
    await again.rebuild([projection.name for projection in projections.ALL])
    assert not any((await contents(pool)).values())
    await again.catch_up()
    assert await contents(pool) == folded


class Crash(Exception):
    """The process ends here."""


async def test_a_crash_between_pages_or_within_one_loses_and_doubles_nothing(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    log = RandomLog(Random(3), 120)
    await fill(store, log)
    pages = 0

    async def crash(_connection: Any, _page: Page) -> None:
        nonlocal pages
        pages += 1
        if pages % 2:
            raise Crash

    bomb = Projection(name="bomb", version=1, tables=("bomb",), ddl="create table bomb ()", handles=None, apply=crash)
    crashes = 0
    while True:  # each time a new process
        try:
            await runner(pool, store, of=(*projections.ALL, bomb), page=17).catch_up()
        except Crash:
            crashes += 1
        else:
            break
    folded = await contents(pool)
    assert crashes == 8
    again = runner(pool, store)
    await again.rebuild([projection.name for projection in projections.ALL])
    await again.catch_up()
    assert folded == await contents(pool)


async def test_one_runner_works_and_the_others_stand_by(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    first, second = runner(pool, store, "first"), runner(pool, store, "second")
    async with running(first, second):
        await fill(store, RandomLog(Random(4), 50))
        await first.wait_until(50, within_s=DEADLINE_S)
        working = (await lag.lag(pool, store)).holder
        standby = "second" if working == "first" else "first"
        assert {repr(first), repr(second)} == {
            f"<Runner of {working}: at 50, epoch 2>",
            f"<Runner of {standby}: standing by>",
        }


async def test_a_standby_takes_over_when_the_lease_has_expired(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    log = RandomLog(Random(5), 60)
    await fill(store, log, last=30)
    await runner(pool, store).catch_up()
    stalled = await checkpoints.take(pool, projections.ALL, "stalled", 60)
    assert stalled is not None
    standby = runner(pool, store, "standby", lease_s=0.5)
    async with running(standby):
        await fill(store, log, first=31, last=60)
        assert await checkpoints.take(pool, projections.ALL, "third", 60) is None
        await expire(pool)
        await standby.wait_until(60, within_s=DEADLINE_S)
        with pytest.raises(checkpoints.Fenced):
            await checkpoints.renew(pool, stalled, 60)


class Stalling(MemoryEventStore):
    """Gives pages to readers that fall asleep with them in hand, until `wake` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep, self.wake = anyio.Event(), anyio.Event()

    async def read_all(self, *, after: int = 0, page: int = 1000) -> AsyncIterator[list[Event]]:
        async for each in super().read_all(after=after, page=page):
            self.asleep.set()
            await self.wake.wait()
            yield each


async def test_a_stalled_runner_is_fenced_and_changes_nothing(pool: asyncpg.Pool) -> None:
    log, store, slow = RandomLog(Random(6), 40), MemoryEventStore(), Stalling()
    await fill(store, log)
    await fill(slow, log)
    stalled = runner(pool, slow, "slow")
    async with running(stalled):
        await slow.asleep.wait()
        assert "epoch" in repr(stalled)
        await expire(pool)
        await runner(pool, store, "fast").catch_up()
        folded = await contents(pool)
        assert await checkpoints.take(pool, projections.ALL, "fast", 60) is not None
        slow.wake.set()
        await eventually(lambda: "standing by" in repr(stalled))
    assert await contents(pool) == folded
    assert await position(pool, "mailbox") == 40
    assert await pool.fetchval("select owner from projection_lease") == "fast"


async def test_a_released_lease_is_free_at_once(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    await fill(store, RandomLog(Random(8), 10))
    first = runner(pool, store)
    async with running(first):
        await first.wait_until(10, within_s=DEADLINE_S)
    assert (await lag.lag(pool, store)).holder is None


async def test_catching_up_waits_for_whoever_runs_them_and_gives_up_by_name(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    mine = runner(pool, store)
    await mine.prepare()
    await fill(store, RandomLog(Random(9), 10))
    assert await checkpoints.take(pool, projections.ALL, "somebody", 60) is not None
    with pytest.raises(ProjectionsBehind, match=r"position 10 within 0\.05 s; somebody"):
        await mine.catch_up(within_s=0.05)
    assert not await mine.reached(10)
    await expire(pool)
    await mine.catch_up(within_s=DEADLINE_S)
    assert await mine.reached(10)
    assert not await mine.reached(11)


async def test_another_version_is_folded_anew_while_the_others_go_on(pool: asyncpg.Pool, database_url: str) -> None:
    store = MemoryEventStore()
    log = RandomLog(Random(10), 80)
    await fill(store, log, last=60)
    await runner(pool, store).catch_up()
    seen: list[tuple[str, int]] = []

    def changed(projection: Projection) -> Projection:
        async def apply(connection: Any, page: Page) -> None:
            seen.extend((projection.name, fact.event.position) for fact in page)
            await projection.apply(connection, page)

        version = projection.version + (projection.name == "audit")
        return msgspec.structs.replace(projection, apply=apply, version=version)

    await pool.execute("alter table audit add column gone integer")
    newer = [changed(projection) for projection in projections.ALL if projection.name in ("audit", "mailbox")]
    await fill(store, log, first=61, last=80)
    async with asyncpg.create_pool(database_url, min_size=0) as upgraded:  # a process of the next release
        await runner(upgraded, store, of=newer, page=25).catch_up()
    mailed = [at for name, at in seen if name == "mailbox"]
    audited = [at for name, at in seen if name == "audit"]
    assert mailed == list(range(61, 81))
    assert audited == sorted(set(audited))
    assert min(audited) <= 25
    assert [column["column_name"] for column in await _columns(pool, "audit")] == list(audit.Entry.__struct_fields__)
    with pytest.raises(SchemaTooNew):
        await runner(pool, store).prepare()


async def _columns(pool: asyncpg.Pool, table: str) -> list[asyncpg.Record]:
    columns: list[asyncpg.Record] = await pool.fetch(
        "select column_name from information_schema.columns where table_name = $1 order by ordinal_position", table
    )
    return columns


async def test_each_event_is_decoded_once_for_all_projections(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    body_of = projections.base.body_of

    def counting(event: Event) -> e.Body:
        decoded.append(f"{event.stream}@{event.version}")
        return body_of(event)

    monkeypatch.setattr(projections.base, "body_of", counting)
    store = MemoryEventStore()
    await fill(store, RandomLog(Random(12), 100))
    await runner(pool, store).catch_up()
    assert decoded
    assert len(decoded) == len(set(decoded))


async def test_an_event_that_a_projection_cannot_take_is_named(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    log = Log()
    log.start_run()
    log.start_run("writer/t2", "t2", "r2")
    await fill(store, log)
    bad = NewEvent(type="task.failed", data=b'{"error": 5}', meta=Meta(run="r1", task="t1"))
    await store.append("writer/t1", [bad], ANY)
    await store.append("writer/t2", [new_event(e.TaskCompleted(), Meta(run="r2", task="t2"))], ANY)
    broken = runner(pool, store)
    with pytest.raises(NotProjected, match=r"'tasks' can't take event writer/t1@1 \(task.failed, position 3\)"):
        await broken.catch_up()
    assert await position(pool, "tasks") == 2  # what came before is folded
    assert (await lag.lag(pool, store)).holder is None


async def test_lag_is_in_events_and_seconds(database_url: str) -> None:
    async with PostgresEventStore.open(database_url) as store:
        behind = runner(store.pool, store)
        await behind.prepare()
        await fill(store, RandomLog(Random(13), 10))
        found = await lag.lag(store.pool, store)
        assert (found.head, found.holder, {each.events for each in found.projections}) == (10, None, {10})
        assert [each.name for each in found.projections] == sorted(each.name for each in projections.ALL)
        assert all(0 < each.seconds < DEADLINE_S for each in found.projections)
        await behind.catch_up()
        assert {(p.events, p.seconds) for p in (await lag.lag(store.pool, store)).projections} == {(0, 0.0)}


async def test_the_working_tables_do_not_wait_for_a_projection_that_is_folded_anew(pool: asyncpg.Pool) -> None:
    store = MemoryEventStore()
    await fill(store, RandomLog(Random(14), 10))
    mine = runner(pool, store)
    await mine.catch_up()
    await mine.rebuild(["audit"])
    assert not await mine.reached(10)
    await mine.wait_until(10, of=projections.WORKING, within_s=0)


async def test_only_known_projections_are_rebuilt(pool: asyncpg.Pool) -> None:
    with pytest.raises(BadName, match="agents, answers, audit, costs"):
        await runner(pool, MemoryEventStore()).rebuild(["tsaks"])


async def test_a_projections_columns_are_its_rows_fields(pool: asyncpg.Pool) -> None:
    await checkpoints.prepare(pool, projections.ALL)
    rows = [
        *(mailbox.OPEN, dead_letters.LETTERS, timers.TIMERS, tasks.TASKS, runs.RUNS, agents.AGENTS),
        *(costs.COSTS, audit.AUDIT, answers.ASKED, answers.ANSWERS),
    ]
    assert sorted(table.name for table in rows) == sorted(TABLES)
    for table in rows:
        columns = await _columns(pool, table.name)
        assert [column["column_name"] for column in columns] == list(table.columns)
