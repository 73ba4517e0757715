"""Connections to PostgreSQL: opening them, and telling what went wrong with them.

A connection pooler in transaction mode (PgBouncer) may stand between: nothing here depends on the state of a session,
and named prepared statements are used only where the server itself answers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from callboard.protocols.errors import BadSetting, DatabaseUnavailable, StoreUnavailable

log = logging.getLogger(__name__)

APPLICATION_NAME: Final = "callboard"
CONNECT_TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 3
IDLE_S: Final = 30.0

# The server is gone, is going, refuses, or gave the transaction up: the same thing may well succeed later. asyncpg's
# InterfaceError is a closed connection; its subclasses that are ValueErrors concern arguments: catch those before.
UNAVAILABLE: Final[tuple[type[Exception], ...]] = (
    OSError,  # also TimeoutError
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,  # these three: new connections are refused
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InsufficientPrivilegeError,  # what was granted before may be granted again
)


def redacted(url: str) -> str:
    """The URL without its password, for logs and errors."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    query = [(name, "***" if name == "password" else value) for name, value in parse_qsl(parts.query)]
    netloc = f"{user}:***{at}{host}" if colon else parts.netloc
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/")))


def reason_of(error: BaseException) -> str:
    """What went wrong, in a line."""
    if isinstance(error, asyncpg.InterfaceError) and error.__context__ is not None:
        error = error.__context__  # "can't roll back" only hides why
    first = str(error).strip().partition("\n")[0]
    return first or type(error).__name__


async def connect(url: str, *, pooled: bool) -> asyncpg.Connection:
    """A connection. `pooled`: behind a pooler, so without named prepared statements."""
    return await asyncpg.connect(url, **_options(pooled))


@asynccontextmanager
async def first_connection(url: str) -> AsyncIterator[tuple[asyncpg.Connection, bool]]:
    """A connection to begin with, and whether it goes through a pooler; raises DatabaseUnavailable, BadSetting.

    A PostgresError comes out as it is: see `callboard.eventstore.refusals`.
    """
    try:
        connection = await connect(url, pooled=True)
    except asyncpg.ClientConfigurationError as error:
        raise BadSetting("CALLBOARD_DATABASE_URL", redacted(url), reason_of(error)) from None
    except (OSError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(redacted(url), reason_of(error)) from error
    try:
        # A pooler hands out process ids of its own making.
        pooled = await connection.fetchval("select pg_backend_pid()") != connection.get_server_pid()
        yield connection, pooled
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


@asynccontextmanager
async def connection_pool(url: str, *, size: int, pooled: bool) -> AsyncIterator[asyncpg.Pool]:
    """Up to `size` connections, opened as they are needed, and closed when they were idle for IDLE_S.

    Nothing is reset when one is given back (measured: +20 % on short transactions), so leave no state in a session.
    """
    bounds = {"min_size": 0, "max_size": size, "max_inactive_connection_lifetime": IDLE_S}
    pool = asyncpg.create_pool(url, **bounds, reset=_no_reset, **_options(pooled))
    async with pool:
        try:
            yield pool
        except BaseException:
            pool.terminate()  # don't wait for what was interrupted
            raise


@contextmanager
def cancellation_passes() -> Iterator[None]:
    """Raise CancelledError if the task is cancelled meanwhile, also where something else is raised in its place.

    asyncpg does so: a cancelled statement's transaction is rolled back, which fails if the connection breaks just then
    ("cannot switch to state ...; another operation ... is in progress").
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise


async def fetch(pool: asyncpg.Pool, query: str, *arguments: object) -> list[Any]:
    """A query's rows; raises StoreUnavailable. The query must be one that may run twice.

    It is tried again because a pool may hold connections that broke while nobody used them.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with cancellation_passes():
                rows: list[Any] = await pool.fetch(query, *arguments)
        except ValueError:  # an argument doesn't fit
            raise
        except UNAVAILABLE as error:
            if attempt == ATTEMPTS:
                raise StoreUnavailable(reason_of(error)) from error
        else:
            return rows
    raise AssertionError("the last attempt returns or raises")


async def _no_reset(connection: asyncpg.Connection) -> None:
    """Leave a connection as it is."""


def _options(pooled: bool) -> dict[str, Any]:
    return {
        "timeout": CONNECT_TIMEOUT_S,
        "statement_cache_size": 0 if pooled else 100,
        "server_settings": {"application_name": APPLICATION_NAME},
    }
