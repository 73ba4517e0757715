"""What all tests share: servers, and a fresh database for each test that asks for one."""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis

from callboard.bootstrap import namespace_of
from eventstore.migrations import migrate
from tests.forking import Forks
from tests.forking import forks as started_forks
from tests.servers import Servers
from tests.servers import servers as running_servers

DEADLINE_S: Final = 60.0  # of whatever a test waits for: a machine that is busy for a while fails none


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run what takes long at its full size: minutes, not seconds")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether tests may take long: they are run with `--long`."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Redis, for the whole session."""
    with running_servers() as running:
        yield running


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What starts `callboard` fast, for the tests that need several processes of it."""
    with started_forks() as forks:
        yield forks


@pytest.fixture
def patient_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of the bus don't look by themselves whether something has changed: they have to be told."""
    monkeypatch.setattr("bus.reader.BLOCK_MS", round(10 * DEADLINE_S * 1000))
    monkeypatch.setattr("bus.reader.CLAIM_AGAIN_S", 10 * DEADLINE_S)


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """A Redis to share with the other tests: a store's `store_id` keeps its keys apart."""
    return servers.redis_url


@pytest.fixture(scope="session")
def template(servers: Servers) -> Iterator[str]:
    """The name of a migrated database, for others to be copied from."""
    name = f"callboard_template_{uuid4().hex}"
    run(administer(servers, f"create database {name}"))
    run(_migrate(at(servers.database_url, name)))
    yield name
    run(administer(servers, f"drop database {name} with (force)"))


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """A fresh, migrated database, dropped after the test; and so are the keys that were made for it."""
    name = f"callboard_test_{uuid4().hex}"
    run(_copy(servers, template, name))
    url = at(servers.database_url, name)
    yield url
    run(forget_keys(servers.redis_url, url))
    run(administer(servers, f"drop database {name} with (force)"))


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database without anything in it, dropped after the test."""
    name = f"callboard_test_{uuid4().hex}"
    run(administer(servers, f"create database {name}"))
    yield at(servers.database_url, name)
    run(administer(servers, f"drop database {name} with (force)"))


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop of its own, also where a fixture of a running loop asks for the database."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


def at(url: str, database: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


async def administer(servers: Servers, statement: str) -> None:
    connection = await asyncpg.connect(servers.database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def forget_keys(redis_url: str, database_url: str) -> None:
    """Delete the bus's keys of a store."""
    connection = await asyncpg.connect(database_url)
    try:
        store_id = await connection.fetchval("select id from store")
    finally:
        await connection.close()
    async with Redis.from_url(redis_url) as redis:
        keys = [key async for key in redis.scan_iter(f"cb:{{{namespace_of(store_id)}:*", count=1000)]
        if keys:
            await redis.delete(*keys)


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()


async def _copy(servers: Servers, template: str, name: str) -> None:
    # Copying files is the fast strategy for a small template, and the only one before PostgreSQL 15.
    connection = await asyncpg.connect(servers.database_url)
    try:
        strategy = "strategy file_copy" if connection.get_server_version() >= (15,) else ""
        await connection.execute(f"create database {name} template {template} {strategy}")
    finally:
        await connection.close()
    connection = await asyncpg.connect(at(servers.database_url, name))
    try:
        await connection.execute("update store set id = gen_random_uuid()")  # a store of its own, not its template
    finally:
        await connection.close()
