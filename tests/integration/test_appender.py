"""The appender on PostgreSQL when things go wrong: broken connections, lost replies, stale snapshots, other writers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from callboard.eventstore import PostgresEventStore, appender
from callboard.eventstore.database import redacted
from callboard.eventstore.migrations import migrations
from callboard.eventstore.verify import Damage, verify
from callboard.protocols.codec import digest
from callboard.protocols.errors import BadEvent, Conflict, DatabaseUnavailable, SchemaTooNew, StoreUnavailable
from callboard.protocols.events import Event, Meta, NewEvent
from callboard.protocols.ports import ANY, NO_STREAM, STREAM_EXISTS
from tests.conftest import DEADLINE_S
from tests.servers import Servers


def event(data: bytes = b"{}", *, handles: str | None = None) -> NewEvent:
    return NewEvent(type="test.happened", data=data, meta=Meta(run="r", handles=handles))


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(url)
    try:
        yield opened
    finally:
        await opened.close()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Poll until something is so."""
    with anyio.fail_after(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110, it is PostgreSQL that changes
            await anyio.sleep(0.005)


async def whole_log(store: PostgresEventStore) -> list[Event]:
    return [each async for page in store.read_all() for each in page]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresEventStore]:
    async with PostgresEventStore.open(database_url) as store:
        yield store


def lose_replies(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The next batches are committed, and then the connection breaks before the reply arrives."""
    send = appender.Appender._send
    left = count

    async def send_and_break(self: appender.Appender, connection: asyncpg.Connection, batch: appender.Batch) -> int:
        nonlocal left
        first = await send(self, connection, batch)
        if left and not connection.is_in_transaction():
            left -= 1
            raise ConnectionResetError("the reply is lost")
        return first

    monkeypatch.setattr(appender.Appender, "_send", send_and_break)


# -- broken connections ------------------------------------------------------------------------------------


async def test_a_lost_reply_neither_loses_nor_doubles(
    store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_replies(monkeypatch, 1)
    outcomes = []

    async def append(n: int) -> None:
        outcomes.append(await store.append(f"writer/{n}", [event(handles=f"m/a@{n}.0")] * 1, NO_STREAM))

    async with anyio.create_task_group() as tasks:
        for n in range(1, 6):
            tasks.start_soon(append, n)
    assert sorted(each.position for each in outcomes) == [1, 2, 3, 4, 5]
    assert [each.position for each in await whole_log(store)] == [1, 2, 3, 4, 5]


async def test_a_lost_reply_to_the_commit_of_the_careful_way_neither_loses_nor_doubles(
    store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With refused appends in the batch: who is told what must not depend on the reply."""
    await store.append("writer/taken", [event()], NO_STREAM)
    attempt = appender.Appender._attempt
    left = 1

    async def attempt_and_break(self: appender.Appender, batch: appender.Batch) -> int:
        nonlocal left
        first = await attempt(self, batch)
        if left:
            left -= 1
            raise ConnectionResetError("the reply is lost")
        return first

    monkeypatch.setattr(appender.Appender, "_attempt", attempt_and_break)
    outcomes = await asyncio.gather(
        store.append("writer/a", [event()], ANY),
        store.append("writer/taken", [event()], NO_STREAM),
        store.append("writer/b", [event(), event()], ANY),
        return_exceptions=True,
    )
    assert [getattr(each, "position", type(each)) for each in outcomes] == [2, Conflict, 4]
    assert len(await whole_log(store)) == 4


async def test_killed_backends_neither_lose_nor_double(store: PostgresEventStore, database_url: str) -> None:
    appended: list[tuple[str, int]] = []
    kills = 0

    async def write(writer: int) -> None:
        version = 0
        while kills < 5:
            handles = f"m/{writer}@{version + 1}.0"
            version = (await store.append(f"writer/{writer}", [event(handles=handles)], version)).version
            appended.append((f"writer/{writer}", version))

    async def kill() -> None:
        """Each time that a batch is caught at work, but not before an append has succeeded since the last time."""
        nonlocal kills
        async with connection(database_url) as killer:
            while True:
                killed = await killer.fetch("""
                    select pg_terminate_backend(pid) from pg_stat_activity
                    where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'
                    and query ~ 'append_batch|lock_log'
                """)
                kills += len(killed)
                before = len(appended)
                while killed and len(appended) == before:  # noqa: ASYNC110 - a list tells nobody
                    await anyio.sleep(0.001)
                await anyio.sleep(0.001)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as killing:
            killing.start_soon(kill)
            async with anyio.create_task_group() as writing:
                for writer in range(8):
                    writing.start_soon(write, writer)
            killing.cancel_scope.cancel()
    log = await whole_log(store)
    assert [each.position for each in log] == list(range(1, len(appended) + 1))
    assert sorted((each.stream, each.version) for each in log) == sorted(appended)


async def test_an_attempt_that_stalls_is_given_up_and_made_again(
    store: PostgresEventStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "ATTEMPT_S", 0.1)
    async with connection(database_url) as other, connection(database_url) as watch, anyio.create_task_group() as tasks:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select lock_log()")
        tasks.start_soon(store.append, "writer/a", [event()], NO_STREAM)

        async def tried_again() -> bool:
            """By then the first attempt's session has been left behind."""
            return await watch.fetchval("""
                select count(*) > 0 from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock' and query ~ 'lock_log'
            """)

        await until(tried_again)
        await transaction.rollback()
    assert [each.version for each in await whole_log(store)] == [1]


async def test_the_store_says_that_it_is_unavailable_and_comes_back_by_itself(
    database_url: str, servers: Servers
) -> None:
    seen: list[int] = []
    name = urlsplit(database_url).path.removeprefix("/")

    async def follow(store: PostgresEventStore) -> None:
        async with aclosing(store.subscribe()) as pages:
            async for page in pages:
                seen.extend(each.position for each in page)

    async def cut(admin: asyncpg.Connection, *, off: bool) -> None:
        await admin.execute(f"alter database {name} allow_connections {not off}")
        if off:
            await admin.fetch("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)

    async with connection(servers.database_url) as admin, PostgresEventStore.open(database_url, retry_s=0.2) as store:
        await store.append("writer/a", [event()], NO_STREAM)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow, store)
            await cut(admin, off=True)
            for expected in (1, ANY):
                with pytest.raises(StoreUnavailable):
                    await store.append("writer/a", [event()], expected)
            with pytest.raises(StoreUnavailable):
                await store.head()
            await cut(admin, off=False)
            assert (await store.append("writer/a", [event()], 1)).position == 2

            async def seen_all() -> bool:
                return seen == [1, 2]

            await until(seen_all)
            tasks.cancel_scope.cancel()


# -- leaving -----------------------------------------------------------------------------------------------


async def test_what_was_submitted_is_written_before_the_store_closes(database_url: str) -> None:
    async with PostgresEventStore.open(database_url) as store:
        outcomes = [store.submit(f"writer/{n}", [event()], NO_STREAM) for n in range(10)]
    assert [outcome.result().position for outcome in outcomes] == list(range(1, 11))
    with pytest.raises(StoreUnavailable):
        await store.append("writer/a", [event()], NO_STREAM)


async def test_an_error_of_the_caller_leaves_the_store_as_it_is(database_url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with PostgresEventStore.open(database_url):
            raise ZeroDivisionError


async def hides_its_cancellation(*_: object) -> None:
    """What asyncpg does where a connection breaks while a cancelled statement's transaction is rolled back."""
    try:
        await anyio.sleep_forever()
    except asyncio.CancelledError:
        raise asyncpg.InternalClientError("cannot switch to state 15; another operation (12) is in progress") from None


async def test_an_appender_that_is_cancelled_while_its_connection_breaks_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender.Appender, "_attempt", hides_its_cancellation)
    outcomes = []

    async def leave_in_error() -> None:
        async with PostgresEventStore.open(database_url, retry_s=10 * DEADLINE_S) as store:
            outcomes.append(store.submit("writer/a", [event()], NO_STREAM))
            await anyio.wait_all_tasks_blocked()
            raise ZeroDivisionError

    leaving = asyncio.create_task(leave_in_error())
    await asyncio.wait([leaving], timeout=DEADLINE_S / 4)
    assert isinstance(leaving.exception(), ZeroDivisionError)
    assert isinstance(outcomes[0].exception(), StoreUnavailable)


async def test_a_read_that_is_cancelled_while_its_connection_breaks_is_not_tried_again(
    store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncpg.Pool, "fetch", hides_its_cancellation)
    reading = asyncio.create_task(store.head())
    await anyio.wait_all_tasks_blocked()
    reading.cancel()
    await asyncio.wait([reading], timeout=DEADLINE_S)
    assert reading.cancelled()


# -- several writers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "versions"), [(ANY, [1, 2]), (STREAM_EXISTS, [1, 2]), (NO_STREAM, [1]), (1, [1, 2])]
)
async def test_an_append_decides_on_what_the_writer_before_it_left(
    store: PostgresEventStore, database_url: str, expected: object, versions: list[int]
) -> None:
    """Lock and version in one statement would be decided on a snapshot from before the wait."""
    async with (
        PostgresEventStore.open(database_url) as other,
        connection(database_url) as session,
        connection(database_url) as watch,
    ):
        holding = session.transaction()
        await holding.start()
        await session.execute("select lock_log()")
        first = other.submit("writer/a", [event()], NO_STREAM)

        async def queued(count: int) -> bool:
            return count == await watch.fetchval("""
                select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
            """)

        await until(lambda: queued(1))
        second = store.submit("writer/a", [event()], expected)  # type: ignore[arg-type]
        await until(lambda: queued(2))
        await holding.rollback()
        await asyncio.wait([first, second])
    assert first.exception() is None
    assert isinstance(second.exception(), Conflict if versions == [1] else type(None))
    assert [each.version for each in await whole_log(store)] == versions


async def test_two_processes_see_each_other(store: PostgresEventStore, database_url: str) -> None:
    async with PostgresEventStore.open(database_url) as other:
        assert other.store_id == store.store_id
        async with aclosing(other.subscribe()) as pages:
            with anyio.fail_after(DEADLINE_S):
                for n in range(1, 4):
                    await store.append("writer/a", [event()], n - 1)
                    assert [each.position for each in await anext(pages)] == [n]
        with pytest.raises(Conflict):
            await other.append("writer/a", [event()], 2)


async def test_two_processes_make_one_order(database_url: str) -> None:
    async def write(store: PostgresEventStore, writer: int) -> None:
        for n in range(30):
            await store.append(f"writer/{writer}", [event()], n)
            await store.append("writer/shared", [event()], ANY)

    async with (
        PostgresEventStore.open(database_url) as one,
        PostgresEventStore.open(database_url) as two,
        anyio.create_task_group() as tasks,
    ):
        for writer in range(8):
            tasks.start_soon(write, (one, two)[writer % 2], writer)
    async with PostgresEventStore.open(database_url) as store:
        log = await whole_log(store)
        assert [each.position for each in log] == list(range(1, 8 * 60 + 1))
        assert [each.version for each in log if each.stream == "writer/shared"] == list(range(1, 8 * 30 + 1))
        assert all(earlier.recorded_at <= later.recorded_at for earlier, later in pairwise(log))
        assert [damage async for damage in verify(store.pool)] == []


# -- batches -----------------------------------------------------------------------------------------------


async def test_more_than_a_batch_holds_is_written_in_several(
    store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "MAX_BATCH_EVENTS", 10)
    outcomes = [store.submit(f"writer/{n}", [event()] * (n + 1), NO_STREAM) for n in range(15)]
    assert [(await outcome).version for outcome in outcomes] == list(range(1, 16))
    async with store.pool.acquire() as session:
        sizes = [row[0] for row in await session.fetch("select last - first + 1 from commits order by first")]
    assert sum(sizes) == sum(range(1, 16))
    assert sizes == [10, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]  # 1-4 together; one append is never torn


async def test_only_the_culprit_of_a_batch_is_refused_when_the_server_finds_it(store: PostgresEventStore) -> None:
    """What the checks before let through."""
    outcomes = [store.submit(f"writer/{n}", [event()], NO_STREAM) for n in range(7)]
    outcomes.insert(3, store.submit("writer/bad", [event("not bytes")], NO_STREAM))  # type: ignore[arg-type]
    outcomes.append(store.submit("writer/0", [event()], ANY))
    done = await asyncio.gather(*outcomes, return_exceptions=True)
    assert [type(each) for each in done if isinstance(each, BaseException)] == [BadEvent]
    assert isinstance(done[3], BadEvent)
    assert sorted(each.stream for each in await whole_log(store)) == sorted(
        ["writer/0", *(f"writer/{n}" for n in range(7))]
    )


async def test_a_refused_append_is_not_followed_by_the_next_one_that_was_submitted(store: PostgresEventStore) -> None:
    await store.append("writer/a", [event()], NO_STREAM)
    first = store.submit("writer/a", [event()], 7)
    second = store.submit("writer/a", [event()], 8)
    done = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(each) for each in done] == [Conflict, Conflict]


async def test_the_store_tells_how_much_it_has_to_do(store: PostgresEventStore) -> None:
    outcome = store.submit("writer/a", [event()], NO_STREAM)
    assert repr(store) == "<PostgresEventStore 1 appends waiting, 0 batches committed, head 0>"
    await outcome
    assert repr(store) == "<PostgresEventStore 0 appends waiting, 1 batches committed, head 1>"


# -- the chain ---------------------------------------------------------------------------------------------


FIRST_TO_LAST = "an event from writer/1@1 to writer/1@3 was changed"
INSERT = """
    insert into events (position, recorded_at, stream, version, type, schema_version, data, meta)
    select {position}, recorded_at, 'writer/x', {version}, type, schema_version, data, meta from events
    where position = 1
"""
TAMPERING = {
    "a changed body": ("update events set data = '{\"a\": 2}' where position = 4", [(4, 6, FIRST_TO_LAST)]),
    "a changed meta": ("update events set meta = '{}' where position = 4", [(4, 6, FIRST_TO_LAST)]),
    "a changed type": ("update events set type = 'other' where position = 5", [(4, 6, FIRST_TO_LAST)]),
    "a changed single event": (
        "update events set type = 'other' where position = 10",
        [(10, 10, "writer/alone@1 was changed")],
    ),
    "a changed time": (
        "update events set recorded_at = recorded_at + interval '1 h' where position = 2",
        [(2, 2, "the time of writer/0@2 was changed")],
    ),
    "a removed event": ("delete from events where position = 5", [(5, 5, "events are missing")]),
    "the last of a commit removed": ("delete from events where position = 6", [(6, 6, "events are missing")]),
    "the first event removed": ("delete from events where position = 1", [(1, 1, "events are missing")]),
    "another event in its place": (
        f"delete from events where position = 5; {INSERT.format(position=5, version=1)}",
        [(5, 5, "the time of writer/x@1 was changed")],
    ),
    "an event inserted behind the end": (
        INSERT.format(position=11, version=1),
        [(11, 11, "writer/x@1 was inserted: no commit has it")],
    ),
    "events inserted before the beginning": (
        f"{INSERT.format(position=-7, version=1)}; {INSERT.format(position=0, version=2)}",
        [
            (-7, -7, "writer/x@1 was inserted: no commit has it"),
            (0, 0, "writer/x@2 was inserted: no commit has it"),
        ],
    ),
    "a removed commit": (
        "delete from commits where first = 4",
        [(4, 6, "no commit covers these positions"), (7, 9, "the commit doesn't continue the one before")],
    ),
    "a removed end": (
        "delete from events where position > 6; delete from commits where first > 6",
        [(7, 10, "the log doesn't end where its head says")],
    ),
    "a removed last commit": (
        "delete from commits where first > 9",
        [(10, 10, "the log doesn't end where its head says")],
    ),
    "a moved commit": (
        """
        update events set recorded_at = '2020-01-01' where position > 6;
        update commits set digest = sha256('') where first = 4
        """,
        [
            (4, 6, FIRST_TO_LAST),
            (4, 6, "the commit doesn't continue the one before"),
            (7, 7, "the time of writer/2@1 was changed"),
            (10, 10, "the time of writer/alone@1 was changed"),
        ],
    ),
    "a changed blob": (
        "update blobs set content = 'other'",
        [(0, 0, f"the content of blob {digest(b'a prompt')} was changed")],
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
async def test_what_was_changed_behind_the_stores_back_is_named(store: PostgresEventStore, how: str) -> None:
    for n in range(3):
        await store.append(f"writer/{n}", [event(b'{"a": 1}'), event(handles=f"m/a@{n + 1}.0"), event()], NO_STREAM)
    await store.append("writer/alone", [event()], NO_STREAM)
    await store.put_blobs([b"a prompt"])
    assert [damage async for damage in verify(store.pool)] == []
    statement, expected = TAMPERING[how]
    await store.pool.execute(statement)
    assert [damage async for damage in verify(store.pool)] == [Damage(*each) for each in expected]


async def test_a_commit_of_any_size_is_verified_some_rows_at_a_time(store: PostgresEventStore) -> None:
    many = 70_000  # in one commit: MessagePack counts them in another way than a few
    await store.append("writer/many", [event()] * many, NO_STREAM)
    await store.append("writer/few", [event()] * 20, NO_STREAM)
    seen: list[int] = []
    assert [damage async for damage in verify(store.pool, seen.append)] == []
    assert seen == [many, many + 20]
    await store.pool.execute("update events set type = 'other' where position = 69999")
    (damage,) = [damage async for damage in verify(store.pool)]
    assert (damage.first, damage.last) == (1, many)


# -- schema and plans --------------------------------------------------------------------------------------


async def test_processes_that_start_at_once_make_the_schema_once(empty_database_url: str) -> None:
    ids = []

    async def start() -> None:
        async with PostgresEventStore.open(empty_database_url) as store:
            ids.append(store.store_id)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(start)
    assert len(ids) == 4
    assert len(set(ids)) == 1


async def test_a_schema_from_the_future_is_refused(database_url: str) -> None:
    async with connection(database_url) as session:
        await session.execute("insert into schema_versions (version, name) values (999, 'future')")
    with pytest.raises(SchemaTooNew) as refusal:
        async with PostgresEventStore.open(database_url):
            pass
    assert (refusal.value.found, refusal.value.known) == (999, migrations()[-1].version)


async def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseUnavailable) as refusal:
        async with PostgresEventStore.open("postgresql://me:secret@127.0.0.1:1/callboard"):
            pass
    assert "postgresql://me:***@127.0.0.1:1/callboard" in str(refusal.value)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:p%40@h/d?password=p%40", "postgresql://u:p%40@h/d", "postgresql:///d?password=p%40&host=/x"]
)
def test_no_password_is_shown(url: str) -> None:
    assert "p%40" not in redacted(url)
    assert redacted("postgresql://u@h:5432/d?host=/tmp/x") == "postgresql://u@h:5432/d?host=/tmp/x"


@pytest.mark.parametrize("size", [0, 50], ids=["empty", "small"])
async def test_the_log_is_never_scanned_also_not_by_plans_made_when_it_was_small(
    store: PostgresEventStore, database_url: str, size: int
) -> None:
    """A table that is known to be small is scanned by any plan that is free to do so."""

    async def scans(kind: str) -> int:
        count: int = await session.fetchval(f"select {kind} from pg_stat_user_tables where relname = 'events'")
        return count

    async with connection(database_url) as session:
        if size:
            await store.append("writer/0", [event(handles=f"m/a@{n + 1}.0") for n in range(size)], NO_STREAM)
        await session.execute("vacuum analyze events")
        before = await scans("idx_scan"), await scans("seq_scan")
        async with PostgresEventStore.open(database_url) as other:
            for n in range(8):  # PostgreSQL begins to keep a plan after five
                await other.append(f"writer/{n % 4}", [event(handles=f"m/b@{n + 1}.0")], ANY)
                await other.append(f"writer/new{n}", [event()], NO_STREAM)
                with pytest.raises(Conflict):
                    await other.append("writer/0", [event()], 999)
                assert [each async for each in other.read_stream("writer/0")]
                assert [each async for each in other.read_stream("writer/0", backwards=True)]
                assert [page async for page in other.read_all()]

        async def counted() -> bool:
            return await scans("idx_scan") > before[0]

        await until(counted)
        assert await scans("seq_scan") == before[1]


async def test_the_log_is_readable_in_sql(store: PostgresEventStore) -> None:
    await store.append("writer/a", [event(b'{"text": "a\\u0000b", "n": 1}')], NO_STREAM)
    row = await store.pool.fetchrow("select data, meta from event_log where (data ->> 'n')::int = 1")
    assert json.loads(row["data"]) == {"text": "a\ufffdb", "n": 1}
    assert json.loads(row["meta"]) == {"run": "r"}
