"""Timers: messages that were sent with a due time and that nobody has handled yet.

    a send (an entry of `meta.sends`) with `due_at`    opens one
    an event whose `meta.handles` is its id            closes it

Sleeps, delayed sends, retries and the deadlines of approvals are all such messages. Whoever owns the partition of the
actor that one is addressed to delivers it when its time has come.
"""

from collections.abc import Sequence
from datetime import datetime

from asyncpg import Connection
from msgspec import Struct

from callboard.projections.base import Database, Page, Projection, Table
from callboard.protocols.messages import Kind
from callboard.protocols.names import key_hash

DDL = """
-- one row a message that is not yet handled and has a due time
create table timers (
    id       text collate "C" primary key,  -- stream@version.place
    role     text collate "C" not null,     -- of the actor that it is addressed to
    key      text collate "C" not null,
    key_hash bigint not null,               -- callboard.protocols.names.key_hash; modulo a count, its partition
    kind     text not null,
    run      text collate "C" not null,
    task     text collate "C" not null,
    due_at   timestamptz not null
);
create index timers_by_role on timers (role, due_at, id);
"""


class Timer(Struct, frozen=True, gc=False):
    """A message that is to be delivered at a time. `id` leads to the whole message (`EventStore.message`)."""

    id: str
    role: str
    key: str
    key_hash: int
    kind: Kind
    run: str
    task: str
    due_at: datetime


class Changes(Struct):
    """What a page does to the table."""

    opened: dict[str, Timer]
    closed: list[str]


TIMERS = Table("timers", Timer)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    changes = fold(page)
    await TIMERS.delete(connection, changes.closed)
    await TIMERS.insert(connection, changes.opened.values())


def fold(page: Page) -> Changes:
    """What a page opens and closes."""
    changes = Changes({}, [])
    opened = changes.opened
    for fact in page:
        handled = fact.event.meta.handles
        if handled is not None and opened.pop(handled, None) is None:
            changes.closed.append(handled)
        for sent in fact.sends:
            if sent.due_at is not None:
                key = sent.key
                opened[sent.id] = Timer(
                    sent.id, sent.role, key, key_hash(key), sent.kind, sent.run, sent.task, sent.due_at
                )
    return changes


PROJECTION = Projection(name="timers", version=1, tables=("timers",), ddl=DDL, handles=None, apply=apply)


# -- queries -----------------------------------------------------------------------------------------------


async def due(
    database: Database, role: str, partitions: int, numbers: Sequence[int], before: datetime, *, limit: int = 1000
) -> list[Timer]:
    """The timers of some of a role's partitions with `due_at <= before`, the earliest first."""
    records = await database.fetch(
        """
        select * from timers
        where role = $1 and key_hash % $2 = any($3::bigint[]) and due_at <= $4
        order by due_at, id limit $5
        """,
        role,
        partitions,
        list(numbers),
        before,
        limit,
    )
    return [TIMERS.row(record) for record in records]


async def list_timers(
    database: Database, *, role: str | None = None, run: str | None = None, limit: int = 100
) -> list[Timer]:
    """All timers, the earliest first."""
    records = await database.fetch(
        """
        select * from timers
        where ($1::text is null or role = $1) and ($2::text is null or run = $2)
        order by due_at, id limit $3
        """,
        role,
        run,
        limit,
    )
    return [TIMERS.row(record) for record in records]
