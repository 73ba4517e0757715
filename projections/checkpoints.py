"""How far each projection has come, and who may move them: the two tables that the runner keeps for itself.

There is one lease for all projections. Each new owner gets a higher epoch, and each page's transaction begins by
renewing the lease of its epoch, which also locks the row. So at most one runner writes at a time; one that stalled
and was replaced changes nothing any more; and the time is the database's own.
"""

from collections.abc import Sequence
from typing import Final

from asyncpg import Connection, Pool, UndefinedTableError
from msgspec import Struct

from projections.base import Database, Projection
from protocols.errors import SchemaTooNew

DDL: Final = """
create table if not exists projections (
    name     text primary key,
    version  integer not null,        -- another one in the code: the tables are dropped and folded anew
    position bigint not null          -- of the last event that is in its tables
);
create table if not exists projection_lease (
    only_row   boolean primary key default true check (only_row),
    epoch      bigint not null,       -- grows with each new owner
    owner      text,                  -- a process; null: nobody
    expires_at timestamptz            -- after that, anybody may take it
);
insert into projection_lease (epoch) values (0) on conflict do nothing;
"""
LOCK: Final = 0x70726F6A65637421  # "project!": processes that start at once make the tables one after the other
_BEGIN: Final = """
insert into projections (name, version, position) values ($1, $2, 0)
on conflict (name) do update set version = excluded.version, position = 0
"""


class Fenced(Exception):
    """Another runner has taken the lease, or somebody has reset the projections: what is known here is stale."""


class Tenure(Struct):
    """The time of one owner of the lease: its epoch, and how far its projections have come."""

    epoch: int
    positions: dict[str, int]


async def prepare(pool: Pool, projections: Sequence[Projection]) -> None:
    """Make the tables that are missing, and make those of another version anew; raises SchemaTooNew."""
    if not _outdated(await _known(pool, projections), projections):
        return
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(DDL)
        outdated = _outdated(await _known(connection, projections), projections)
        if outdated:
            await reset_lease(connection)
        for projection in outdated:
            await connection.execute(f"drop table if exists {', '.join(projection.tables)}")
            await connection.execute(projection.ddl)
            await connection.execute(_BEGIN, projection.name, projection.version)


async def _known(database: Database, projections: Sequence[Projection]) -> dict[str, int]:
    """The versions in the database; raises SchemaTooNew where one is newer than here."""
    if await database.fetchval("select to_regclass('projections')") is None:
        return {}
    versions: dict[str, int] = dict(await database.fetch("select name, version from projections"))
    for projection in projections:
        if versions.get(projection.name, 0) > projection.version:
            raise SchemaTooNew(versions[projection.name], projection.version)
    return versions


def _outdated(versions: dict[str, int], projections: Sequence[Projection]) -> list[Projection]:
    return [projection for projection in projections if versions.get(projection.name) != projection.version]


async def reset(connection: Connection, projections: Sequence[Projection]) -> None:
    """Empty the tables of some projections and put them back to the log's beginning; in a transaction."""
    await reset_lease(connection)
    for projection in projections:
        await connection.execute(f"truncate {', '.join(projection.tables)}")
    names = [projection.name for projection in projections]
    await connection.execute("update projections set position = 0 where name = any($1)", names)


async def reset_lease(connection: Connection) -> None:
    """Take the lease from whoever has it."""
    await connection.execute("update projection_lease set epoch = epoch + 1, owner = null, expires_at = null")


async def reached(database: Database, projections: Sequence[Projection], position: int) -> bool:
    """Whether all of these projections have come to a position; False before `prepare`."""
    names = [projection.name for projection in projections]
    try:
        count: int = await database.fetchval(
            "select count(*) from projections where name = any($1) and position >= $2", names, position
        )
    except UndefinedTableError:
        return False
    return count == len(names)


# -- the lease ---------------------------------------------------------------------------------------------


async def take(pool: Pool, projections: Sequence[Projection], process: str, lease_s: float) -> Tenure | None:
    """Take the lease if it is free or expired; None if another has it. Raises SchemaTooNew."""
    async with pool.acquire() as connection, connection.transaction():
        epoch = await connection.fetchval(
            """
            update projection_lease
            set epoch = epoch + 1, owner = $1, expires_at = clock_timestamp() + make_interval(secs => $2)
            where owner is null or expires_at < clock_timestamp()
            returning epoch
            """,
            process,
            lease_s,
        )
        if epoch is None:
            return None
        await _known(connection, projections)
        positions = dict(await connection.fetch("select name, position from projections"))
        return Tenure(epoch, {projection.name: positions[projection.name] for projection in projections})


async def renew(database: Database, tenure: Tenure, lease_s: float) -> None:
    """Renew the lease, as the first thing in a page's transaction; raises Fenced.

    The transaction then commits without waiting for the disk: rows and checkpoint move together, so a crash of the
    server can only put both back, and the log is the truth. And its statements are planned anew each time: a plan
    made for a table while it was small would be kept, and scan it when it is large.
    """
    renewed = await database.fetchrow(
        """
        update projection_lease set expires_at = clock_timestamp() + make_interval(secs => $2)
        where epoch = $1 and owner is not null
        returning set_config('synchronous_commit', 'off', true),
            set_config('plan_cache_mode', 'force_custom_plan', true)
        """,
        tenure.epoch,
        lease_s,
    )
    if renewed is None:
        raise Fenced


async def move(connection: Connection, projections: Sequence[Projection], position: int) -> None:
    """Move checkpoints, as the last thing in a page's transaction."""
    names = [projection.name for projection in projections]
    await connection.execute("update projections set position = $2 where name = any($1)", names, position)


async def release(pool: Pool, tenure: Tenure) -> None:
    """Give the lease back; if it is another's by now, leave it alone."""
    await pool.execute("update projection_lease set owner = null, expires_at = null where epoch = $1", tenure.epoch)
