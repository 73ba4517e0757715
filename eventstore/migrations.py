"""The schema, version by version: the files of `eventstore/sql` in the order of their numbers.

A file that has been released is never changed; what should be different gets a new one.
"""

import logging
from importlib.resources import files
from typing import Final, NamedTuple

import asyncpg

from callboard.eventstore.ledger_tables import rebuild_ledger
from callboard.protocols.errors import SchemaTooNew

log = logging.getLogger(__name__)

LOCK: Final = 0x63616C6C626F6172  # "callboar": processes that start at once migrate one after the other
LEDGER: Final = 7  # the version that has the ledger, which is made from the log that there is

_VERSIONS = """
    create table if not exists schema_versions (
        version    integer primary key,
        name       text not null,
        applied_at timestamptz not null default clock_timestamp()
    )
"""


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All that this Callboard knows, in order."""
    found = []
    for file in files("callboard.eventstore").joinpath("sql").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_text()))
    return sorted(found)


async def migrate(connection: asyncpg.Connection) -> None:
    """Bring the schema up to date, in one transaction; raises SchemaTooNew."""
    known = migrations()
    if await _version(connection) == known[-1].version:
        return
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(_VERSIONS)
        current = await _version(connection)
        if current > known[-1].version:
            raise SchemaTooNew(current, known[-1].version)
        for migration in known:
            if migration.version > current:
                await connection.execute(migration.sql)
                await connection.execute(
                    "insert into schema_versions (version, name) values ($1, $2)", migration.version, migration.name
                )
                log.info("schema: applied %04d_%s", migration.version, migration.name)
                if migration.version == LEDGER:
                    await rebuild_ledger(connection)


async def _version(connection: asyncpg.Connection) -> int:
    """The database's version; 0 for an empty database."""
    if await connection.fetchval("select to_regclass('schema_versions')") is None:
        return 0
    version: int = await connection.fetchval("select coalesce(max(version), 0) from schema_versions")
    return version
