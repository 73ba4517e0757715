"""The PostgreSQL and the Redis that the tests run on."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from callboard.services import LocalServices

DATABASE_URL: Final = "CALLBOARD_TEST_DATABASE_URL"
REDIS_URL: Final = "CALLBOARD_TEST_REDIS_URL"
CONTAINERS: Final = "CALLBOARD_TEST_CONTAINERS"


class Servers(NamedTuple):
    """URLs of servers on which the tests may create databases and keys of their own."""

    database_url: str
    redis_url: str


@contextmanager
def servers(environ: Mapping[str, str] = os.environ) -> Iterator[Servers]:
    """The servers that the environment names; or containers, if it asks for them; or local ones, just for the tests."""
    given = [name for name in (DATABASE_URL, REDIS_URL) if environ.get(name)]
    if len(given) == 1:
        raise RuntimeError(f"{given[0]} is set alone: set both {DATABASE_URL} and {REDIS_URL}, or neither")
    if given:
        yield Servers(environ[DATABASE_URL], environ[REDIS_URL])
    elif environ.get(CONTAINERS) == "1":
        with _containers() as started:
            yield started
    else:
        with TemporaryDirectory(prefix="callboard-") as home, LocalServices(Path(home), durable=False) as urls:
            yield Servers(*urls)


@contextmanager
def _containers() -> Iterator[Servers]:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.community.redis import RedisContainer

    with (
        PostgresContainer("postgres:17-alpine", driver=None) as postgres,
        RedisContainer("redis:7-alpine") as redis,
    ):
        redis_url = f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"
        yield Servers(postgres.get_connection_url(), redis_url)
