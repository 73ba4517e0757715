"""What the benchmarks share: servers that keep what they are told, and a database for each round."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from callboard.services import LocalServices
from callboard.services.local import Urls


@contextmanager
def servers() -> Iterator[Urls]:
    """CALLBOARD_TEST_DATABASE_URL and CALLBOARD_TEST_REDIS_URL, or local servers of our own; commits are durable."""
    database_url, redis_url = (os.environ.get(f"CALLBOARD_TEST_{name}_URL") for name in ("DATABASE", "REDIS"))
    if database_url and redis_url:
        yield Urls(database_url, redis_url)
        return
    with TemporaryDirectory(prefix="callboard-") as home, LocalServices(Path(home)) as urls:
        yield urls


@asynccontextmanager
async def fresh_database(url: str) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped at the end."""
    name = f"benchmark_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"create database {name}")
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        await connection.execute(f"drop database {name} with (force)")
        await connection.close()
