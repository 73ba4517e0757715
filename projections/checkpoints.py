"""How far each projection has come, and who may move them: the two tables that the runner keeps for itself.

There is one lease for all projections. Each new owner gets a higher epoch, and each page's transaction begins by
renewing the lease of its epoch, which also locks the row. So at most one runner writes at a time; one that stalled
and was replaced changes nothing any more; and the time is the database's own.
"""

from collections.abc import Sequence
from typing import Final

from asyncpg import Connection, Pool, UndefinedColumnError, UndefinedTableError
from msgspec import Struct

from callboard.projections.base import Database, Projection
from callboard.protocols.errors import CallboardError, SchemaTooNew

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
select from projection_lease for update;  -- first the lease, then the projections: everybody locks in this order
alter table projections add column if not exists error text;  -- why it is stopped; null: it is not
"""
LOCK: Final = 0x70726F6A65637421  # "project!": processes that start at once make the tables one after the other
_BEGIN: Final = """
insert into projections (name, version, position) values ($1, $2, 0)
on conflict (name) do update set version = excluded.version, position = 0, error = null
"""
_NONE_STOPPED: Final = "update projections set error = null where error is not null"
# As this Callboard makes it: with the column that was added last.
_HAS_TABLE: Final = """
select exists (select from pg_attribute where attrelid = to_regclass('projections') and attname = 'error')
"""


class Fenced(Exception):
    """Another runner has taken the lease, or somebody has reset the projections: what is known here is stale."""


class Tenure(Struct):
    """The time of one owner of the lease: its epoch, how far its projections have come, and which are stopped: they
    met an event that they can't take, and are left alone until the next owner tries again.
    """

    epoch: int
    positions: dict[str, int]
    stopped: dict[str, CallboardError] = {}

    @property
    def going(self) -> dict[str, int]:
        """How far those have come that are not stopped."""
        return {name: position for name, position in self.positions.items() if name not in self.stopped}


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
    if not await database.fetchval(_HAS_TABLE):
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
    await connection.execute("update projections set position = 0, error = null where name = any($1)", names)


async def reset_lease(connection: Connection) -> None:
    """Take the lease from whoever has it; whoever gets it next tries those again that are stopped."""
    await connection.execute("update projection_lease set epoch = epoch + 1, owner = null, expires_at = null")
    await connection.execute(_NONE_STOPPED)


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
        await connection.execute(_NONE_STOPPED)
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
    await connection.execute("update projections set position = $2, error = null where name = any($1)", names, position)


async def stop(connection: Connection, names: Sequence[str], error: str) -> None:
    """Record why some projections are stopped."""
    await connection.execute("update projections set error = $2 where name = any($1)", names, error)


async def stopped(database: Database, projections: Sequence[Projection]) -> dict[str, str]:
    """Which of these projections are stopped, and why; before `prepare`, none."""
    names = [projection.name for projection in projections]
    try:
        return dict(
            await database.fetch(
                "select name, error from projections where name = any($1) and error is not null order by name", names
            )
        )
    except (UndefinedTableError, UndefinedColumnError):
        return {}


async def release(pool: Pool, tenure: Tenure) -> None:
    """Give the lease back; if it is another's by now, leave it alone."""
    await pool.execute("update projection_lease set owner = null, expires_at = null where epoch = $1", tenure.epoch)
