"""Whether PostgreSQL has connections for the processes that are to start.

A serving process holds one connection of its own for appends, and as many as it needs at a moment, up to its bound,
for all else; at rest that is one more.
"""

import logging
from typing import Final

import asyncpg

from callboard.eventstore.database import fetch
from callboard.protocols.errors import TooFewConnections

log = logging.getLogger(__name__)

LEAST: Final = 2  # of a process: the appender's, and one more

# Of the server as a whole, of the database, and of the role: -1 is no limit.
_LIMITS: Final = """
    select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0) as server,
           (select coalesce(sum(numbackends), 0)::int from pg_stat_database) as used,
           d.datconnlimit as of_database, pg_stat_get_db_numbackends(d.oid) as used_of_database,
           r.rolconnlimit as of_role,
           (select count(*)::int from pg_stat_activity where usesysid = r.oid) as used_of_role
    from pg_database d, pg_roles r where d.datname = current_database() and r.rolname = current_user
"""


async def check_connections(pool: asyncpg.Pool, processes: int, connections: int) -> None:
    """Warn if so many processes may use up the server's connections, each holding up to `connections` of them.

    Raises TooFewConnections if there aren't even enough for them to start, and StoreUnavailable.
    """
    (row,) = await fetch(pool, _LIMITS)
    limits = [
        (row["server"], row["used"]),
        (row["of_database"], row["used_of_database"]),
        (row["of_role"], row["used_of_role"]),
    ]
    most, used = min(((most, used) for most, used in limits if most >= 0), key=lambda limit: limit[0] - limit[1])
    needed, at_most, free = LEAST * processes, connections * processes, max(0, most - used)
    if needed > free:
        raise TooFewConnections(processes, needed, free, most, used + at_most)
    if at_most > free:
        log.warning(
            "%d processes may hold up to %d connections to PostgreSQL, and %d of its %d are free: raise its "
            "max_connections to %d, lower CALLBOARD_CONNECTIONS, or put PgBouncer in front of it",
            *(processes, at_most, free, most, used + at_most),
        )
