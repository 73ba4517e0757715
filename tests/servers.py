"""The PostgreSQL and the Redis that the tests run on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Servers(NamedTuple):
    """URLs of servers on which the tests may create databases and keys of their own."""

    database_url: str
    redis_url: str


@contextmanager
def servers() -> Iterator[Servers]:
    """Servers from CALLBOARD_TEST_DATABASE_URL and CALLBOARD_TEST_REDIS_URL."""
    yield Servers(os.environ["CALLBOARD_TEST_DATABASE_URL"], os.environ["CALLBOARD_TEST_REDIS_URL"])
