"""Migrated databases for the tests of one process, made ahead and dropped behind their backs."""

import asyncio
import threading
from concurrent.futures import Future
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
from redis.asyncio import Redis

from callboard.bootstrap import namespace_of
from callboard.eventstore.migrations import migrate
from tests.servers import Servers

READY: Final = 2  # databases that wait for a test


class Databases:
    """Copies of one migrated database. A thread makes and drops them while tests run."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="databases")
        self._template = f"callboard_template_{uuid4().hex}"
        self._ready: list[Future[str]] = []
        self._dropping: list[Future[None]] = []
        self._one_at_a_time = asyncio.Lock()

    def take(self) -> str:
        """The URL of a database that nobody has used. Blocks until there is one."""
        while len(self._ready) <= READY:
            self._ready.append(asyncio.run_coroutine_threadsafe(self._make(), self._loop))
        return self._ready.pop(0).result()

    def give_back(self, url: str) -> None:
        """Drop a database, and the keys that were made for it, soon."""
        self._dropping = [each for each in self._dropping if not each.done() or each.result()]
        self._dropping.append(asyncio.run_coroutine_threadsafe(self._drop(url), self._loop))

    async def _make(self) -> str:
        url = at(self._servers.database_url, f"callboard_test_{uuid4().hex}")
        async with self._one_at_a_time:
            await copy(self._servers, self._template, database_of(url))
        return url

    async def _drop(self, url: str) -> None:
        async with self._one_at_a_time:
            await forget_keys(self._servers.redis_url, url)
            await administer(self._servers, f"drop database {database_of(url)} with (force)")

    async def _begin(self) -> None:
        await administer(self._servers, f"create database {self._template}")
        connection = await asyncpg.connect(at(self._servers.database_url, self._template))
        try:
            await migrate(connection)
        finally:
            await connection.close()

    async def _end(self) -> None:
        for each in self._dropping:
            await asyncio.wrap_future(each)
        for ready in self._ready:
            await self._drop(await asyncio.wrap_future(ready))
        await administer(self._servers, f"drop database {self._template} with (force)")

    def __enter__(self) -> "Databases":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def at(url: str, database: str) -> str:
    """The URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def database_of(url: str) -> str:
    """The name of a URL's database."""
    return urlsplit(url).path.removeprefix("/")


async def administer(servers: Servers, statement: str) -> None:
    """Run a statement that concerns whole databases."""
    connection = await asyncpg.connect(servers.database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def copy(servers: Servers, template: str, name: str) -> None:
    """Make a database like a migrated one, as a store of its own."""
    # Copying files is the fast strategy for a small template, and the only one before PostgreSQL 15.
    connection = await asyncpg.connect(servers.database_url)
    try:
        strategy = "strategy file_copy" if connection.get_server_version() >= (15,) else ""
        await connection.execute(f"create database {name} template {template} {strategy}")
    finally:
        await connection.close()
    connection = await asyncpg.connect(at(servers.database_url, name))
    try:
        await connection.execute("update store set id = gen_random_uuid()")
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
