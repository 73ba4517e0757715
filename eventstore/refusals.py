"""What to do about an error of PostgreSQL, for people: from an exception to an error of ours.

A server may be away, may refuse its work for a while (a full disk, a standby, no connections left), or may lack
something for good (a right). What none of these explains is a fault in the program, and stays as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from callboard.eventstore.database import UNAVAILABLE, reason_of, redacted
from callboard.protocols.errors import (
    CallboardError,
    DatabaseRefuses,
    DatabaseUnavailable,
    DatabaseUnfit,
    StoreUnavailable,
)

# By SQLSTATE or its class: what to do.
MAY_PASS: Final = {
    "25006": "It is a standby, or read-only: name the primary in CALLBOARD_DATABASE_URL, or end its read-only mode.",
    "53100": "Its disk is full: make room there. What was recorded is safe, and processes go on by themselves then.",
    "53200": "It is out of memory: give it more, or fewer connections.",
    "53300": "It has no connection left: start fewer processes, lower CALLBOARD_CONNECTIONS, raise its "
    "max_connections, or put PgBouncer in front of it (docs/settings.md has the arithmetic).",
    "57014": "It gave up on a statement: raise its statement_timeout, or try again.",
    "55P03": "Something else holds a lock: try again.",
    "40": "Others were at the same rows: try again.",
}
UNFIT: Final = {
    "42501": "Grant the right to its role, for instance: GRANT USAGE, CREATE ON SCHEMA public TO {user}. The role that "
    "made Callboard's tables owns them: use the same one, or grant it that one.",
    "3F": "Create the schema that the role's search_path names, or change the search_path.",
}
BROKEN: Final = ("53", "54", "55", "58", "XX")  # resources, limits, states, the system, corruption
_PROPERTIES: Final = """
    select current_setting('server_encoding'), pg_is_in_recovery() or current_setting('transaction_read_only') = 'on',
           current_database()
"""
GENERIC: Final = "Try again when that is mended: what was recorded is safe."


def explain(error: BaseException | None, url: str) -> CallboardError | None:
    """What is to be said of an error of the server; None where it is none."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        for table, kind in ((MAY_PASS, DatabaseRefuses), (UNFIT, DatabaseUnfit)):
            advice = table.get(state) or table.get(state[:2])
            if advice is not None:
                return kind(redacted(url), _reason(error), advice.format(user=urlsplit(url).username or "the user"))
        if state[:2] in BROKEN:
            return DatabaseRefuses(redacted(url), _reason(error), GENERIC)
    # A file's error has the file's name; a broken pipe is mostly that of standard output.
    if isinstance(error, BrokenPipeError | ValueError) or (isinstance(error, OSError) and error.filename is not None):
        return None
    return DatabaseUnavailable(redacted(url), _reason(error)) if isinstance(error, UNAVAILABLE) else None


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise what errors of the server mean in their place, also where task groups have wrapped them.

    An append whose outcome is not known stays StoreUnavailable, unless the server said why it refused it.
    """
    try:
        yield
    except (StoreUnavailable, asyncpg.PostgresError, BaseExceptionGroup, *UNAVAILABLE) as raised:
        explanations = [_of_leaf(leaf, url) for leaf in _leaves(raised)]
        first = explanations[0]
        if first is None or None in explanations:
            raise
        raise first from raised


def _of_leaf(leaf: BaseException, url: str) -> CallboardError | None:
    if isinstance(leaf, StoreUnavailable):
        refusal = explain(leaf.__cause__, url)
        return refusal if isinstance(refusal, DatabaseRefuses | DatabaseUnfit) else leaf
    return leaf if isinstance(leaf, CallboardError) else explain(leaf, url)


def _leaves(raised: BaseException) -> Iterator[BaseException]:
    if isinstance(raised, BaseExceptionGroup):
        for each in raised.exceptions:
            yield from _leaves(each)
    else:
        yield raised


def _reason(error: BaseException) -> str:
    return reason_of(error).rstrip(".")


async def check_database(connection: asyncpg.Connection, url: str) -> None:
    """Raise DatabaseUnfit for a database that isn't in UTF-8, DatabaseRefuses for one that can't be written."""
    encoding, read_only, name = await connection.fetchrow(_PROPERTIES)
    if encoding != "UTF8":
        advice = f"Create one with: CREATE DATABASE {name}_utf8 ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C.UTF-8'"
        raise DatabaseUnfit(redacted(url), f"its encoding is {encoding}, and texts need UTF8", f"{advice}.")
    if read_only:
        raise DatabaseRefuses(redacted(url), "it can't be written", MAY_PASS["25006"])
