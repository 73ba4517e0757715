"""A PostgreSQL that answers, and refuses: what is said of it, what to do, and what goes on by itself."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from callboard import projections
from callboard.eventstore.connections import check_connections
from callboard.eventstore.refusals import explained
from callboard.eventstore.store import PostgresEventStore
from callboard.projections.runner import Runner
from callboard.protocols.codec import new_event
from callboard.protocols.errors import (
    CallboardError,
    DatabaseRefuses,
    DatabaseUnavailable,
    DatabaseUnfit,
    StoreUnavailable,
    TooFewConnections,
)
from callboard.protocols.events import MessageDeadLettered, Meta
from callboard.protocols.ports import ANY
from tests.conftest import administer, at, run
from tests.servers import Servers

DISK_FULL = "raise exception 'could not extend file: No space left on device' using errcode = '53100'"

Make = Callable[..., str]


@pytest.fixture
def make(servers: Servers) -> Iterator[Make]:
    """Makes a database, and gives its URL."""
    made = []

    def database(options: str = "") -> str:
        made.append(name := f"callboard_test_{uuid4().hex}")
        run(administer(servers, f"create database {name} {options}"))
        return at(servers.database_url, name)

    yield database
    for name in made:
        run(administer(servers, f"drop database {name} with (force)"))


@pytest.fixture
def role(servers: Servers) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"role_{uuid4().hex}"
    run(administer(servers, f"create role {name} login"))
    yield name
    run(administer(servers, f"drop role {name}"))


def by(url: str, role: str) -> str:
    """The URL of the same database for another role."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


async def do(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def opening(url: str) -> str:
    """Why it can't be opened."""
    with pytest.raises(CallboardError) as caught:
        async with PostgresEventStore.open(url):
            pass
    return f"{type(caught.value).__name__}: {caught.value}"


@asynccontextmanager
async def failing_table(url: str, table: str, what: str = DISK_FULL) -> AsyncIterator[None]:
    """While it lasts, nothing can be written to a table."""
    function = f"create function fail() returns trigger language plpgsql as $$ begin {what}; end $$"
    await do(url, function, f"create trigger fail before insert on {table} execute function fail()")
    yield
    await do(url, f"drop trigger fail on {table}", "drop function fail()")


async def test_a_role_that_may_not_create_tables_is_told_what_to_grant(make: Make, role: str) -> None:
    told = await opening(by(make(), role))
    assert told.startswith("DatabaseUnfit")
    assert "permission denied for schema public" in told
    assert f"GRANT USAGE, CREATE ON SCHEMA public TO {role}" in told


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1251"])
async def test_a_database_in_another_encoding_is_refused_by_name(make: Make, encoding: str) -> None:
    told = await opening(make(f"encoding '{encoding}' template template0 locale 'C'"))
    assert told.startswith("DatabaseUnfit")
    assert f"its encoding is {encoding}" in told
    assert "ENCODING 'UTF8'" in told


async def test_a_database_that_can_not_be_written_is_told_at_the_start(servers: Servers, database_url: str) -> None:
    name = urlsplit(database_url).path[1:]
    run(administer(servers, f"alter database {name} set default_transaction_read_only = on"))
    told = await opening(database_url)
    assert told.startswith("DatabaseRefuses")
    assert "name the primary" in told


async def test_having_no_connection_left_is_told_with_what_to_do(make: Make, servers: Servers, role: str) -> None:
    url = make()
    run(administer(servers, f"alter role {role} connection limit 0"))
    told = await opening(by(url, role))
    assert told.startswith("DatabaseRefuses")
    assert "CALLBOARD_CONNECTIONS" in told


async def test_a_connection_that_is_ended_in_the_middle_is_an_error_in_a_line(database_url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"terminating connection|closed"):
        async with PostgresEventStore.open(database_url) as store:
            await store.pool.fetch("select pg_terminate_backend(pg_backend_pid())")


async def test_a_full_disk_is_what_a_refused_append_tells(database_url: str) -> None:
    event = new_event(MessageDeadLettered(to="a", reason="r", entry=b"", at="bus"), Meta(run="", role="a"))
    async with failing_table(database_url, "events"):
        with pytest.raises(DatabaseRefuses, match="Its disk is full: make room"):
            async with PostgresEventStore.open(database_url, retry_s=0.0) as store:
                await store.append("dead/a", [event], ANY)


async def test_a_runner_that_meets_a_full_disk_keeps_the_lease_from_those_that_would_meet_it_too(
    database_url: str,
) -> None:
    event = new_event(MessageDeadLettered(to="a", reason="r", entry=b"", at="bus"), Meta(run="", role="a"))
    async with PostgresEventStore.open(database_url) as store:
        first = Runner(store.pool, store, projections.ALL, "first", lease_s=300)
        await first.catch_up()
        await store.append("dead/a", [event], ANY)
        async with failing_table(database_url, "dead_letters"):
            with pytest.raises(asyncpg.DiskFullError):
                await first.catch_up()
            assert await store.pool.fetchval("select owner from projection_lease") == "first"
        await store.pool.execute("update projection_lease set expires_at = now()")
        await Runner(store.pool, store, projections.ALL, "second").catch_up()


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (asyncpg.InsufficientPrivilegeError("denied"), DatabaseUnfit),
        (asyncpg.DiskFullError("full"), DatabaseRefuses),
        (asyncpg.TooManyConnectionsError("many"), DatabaseRefuses),
        (asyncpg.DeadlockDetectedError("deadlock"), DatabaseRefuses),
        (asyncpg.QueryCanceledError("timeout"), DatabaseRefuses),
        (asyncpg.PostgresIOError("read error"), DatabaseRefuses),
        (asyncpg.AdminShutdownError("shutdown"), DatabaseUnavailable),
        (asyncpg.CannotConnectNowError("starting up"), DatabaseUnavailable),
        (asyncpg.InterfaceError("connection is closed"), DatabaseUnavailable),
        (ConnectionResetError("reset"), DatabaseUnavailable),
        (ExceptionGroup("", [asyncpg.DiskFullError("full"), asyncpg.DiskFullError("full")]), DatabaseRefuses),
        (StoreUnavailable("it was closed"), StoreUnavailable),
        # not the server's:
        (asyncpg.UndefinedColumnError("column"), asyncpg.UndefinedColumnError),
        (FileNotFoundError(2, "none", "report.md"), FileNotFoundError),
        (BrokenPipeError("stdout"), BrokenPipeError),
        (ValueError("bad"), ValueError),
        (ExceptionGroup("", [asyncpg.DiskFullError("full"), ValueError("bad")]), ExceptionGroup),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, BaseException) else it.__name__,
)
def test_what_an_error_of_the_server_means_is_told_and_no_other_error_hidden(
    raised: Exception, told: type[Exception]
) -> None:
    with pytest.raises(told) as caught, explained("postgresql://dave:hunter2@db/board"):
        raise raised
    assert type(caught.value) is told
    assert "hunter2" not in str(caught.value)


# -- connections


async def connections_of(url: str, **options: Any) -> int:
    """How many connections a busy store holds."""
    async with PostgresEventStore.open(url, **options) as store:
        event = new_event(MessageDeadLettered(to="a", reason="r", entry=b"", at="bus"), Meta(run="", role="a"))
        await store.append("dead/a", [event], ANY)
        holders = [await store.pool.acquire() for _ in range(store.pool.get_max_size())]
        count = await holders[0].fetchval("select count(*) from pg_stat_activity where datname = current_database()")
        for holder in holders:
            await store.pool.release(holder)
        return int(count)


async def test_a_process_holds_no_more_connections_than_it_may(database_url: str) -> None:
    assert await connections_of(database_url) == 5
    assert await connections_of(database_url, connections=2) == 2


async def test_more_processes_than_the_server_has_connections_for_are_refused_or_warned_of(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with PostgresEventStore.open(database_url) as store:
        most = int(await store.pool.fetchval("show max_connections"))
        await check_connections(store.pool, 1, 2)
        assert not caplog.messages
        await check_connections(store.pool, most // 4, 5)
        assert f"{most // 4} processes may hold up to {most // 4 * 5} connections" in caplog.text
        with pytest.raises(TooFewConnections, match=rf"{most} processes need at least {2 * most} .* max_connections"):
            await check_connections(store.pool, most, 2)


async def test_a_limit_of_the_role_or_the_database_counts_too(servers: Servers, database_url: str, role: str) -> None:
    name = urlsplit(database_url).path[1:]
    async with PostgresEventStore.open(database_url) as store:
        run(administer(servers, f"alter database {name} connection limit 10"))
        with pytest.raises(TooFewConnections, match="of its 10 are free"):
            await check_connections(store.pool, 6, 5)
