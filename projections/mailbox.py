"""The mailbox: messages that were sent and that nobody has handled yet.

    a send (an entry of `meta.sends`) without `due_at`    opens a message
    an event whose `meta.handles` is its id               closes it

A message that is opened and closed within one page never touches the table, so that in steady state the table holds
what waits, and little else. Messages with `due_at` are in `callboard.projections.timers`; those that nobody can handle,
in `callboard.projections.dead_letters`.
"""

from collections.abc import Sequence
from datetime import datetime

from asyncpg import Connection
from msgspec import Struct

from callboard.projections.base import Database, Page, Projection, Table
from callboard.protocols.events import Event
from callboard.protocols.messages import Kind, Message, Priority
from callboard.protocols.names import key_hash

DDL = """
-- one row a message that is open; (position, place) is its place in the log
create table mailbox (
    id        text collate "C" primary key,  -- stream@version.place
    role      text collate "C" not null,     -- of the actor that it is addressed to
    key       text collate "C" not null,
    key_hash  bigint not null,               -- callboard.protocols.names.key_hash; modulo a count, its partition
    kind      text not null,
    run       text collate "C" not null,
    task      text collate "C" not null,
    sender    text collate "C" not null,
    priority  text not null,
    position  bigint not null,
    place     integer not null,
    opened_at timestamptz not null
);
create index mailbox_by_role on mailbox (role, position, place);
-- actors that are not made for one task take their messages in order; of the others there are many more
create index mailbox_ordered_to on mailbox (role, key, position, place) where key <> task;
create index mailbox_ordered_from on mailbox (sender) where key <> task;
"""


class OpenMessage(Struct, frozen=True, gc=False):
    """A message that nobody has handled yet. `id` leads to the whole message (`EventStore.message`)."""

    id: str
    role: str
    key: str
    key_hash: int
    kind: Kind
    run: str
    task: str
    sender: str
    priority: Priority
    position: int
    place: int
    opened_at: datetime


class Backlog(Struct, frozen=True):
    """Open messages: how many, and when the oldest was sent."""

    count: int
    oldest_at: datetime


class Changes(Struct):
    """What a page does to the table."""

    opened: dict[str, OpenMessage]
    closed: list[str]


OPEN = Table("mailbox", OpenMessage)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    changes = fold(page)
    await OPEN.delete(connection, changes.closed)
    await OPEN.insert(connection, changes.opened.values())


def fold(page: Page) -> Changes:
    """What a page opens and closes."""
    changes = Changes({}, [])
    opened = changes.opened
    for fact in page:
        event = fact.event
        handled = event.meta.handles
        if handled is not None and opened.pop(handled, None) is None:
            changes.closed.append(handled)
        for place, sent in enumerate(fact.sends):
            if sent.due_at is None:
                opened[sent.id] = _open(event, place, sent)
    return changes


def _open(event: Event, place: int, sent: Message) -> OpenMessage:
    role, _, key = sent.to.partition("/")
    return OpenMessage(
        sent.id,
        role,
        key,
        key_hash(key),
        sent.kind,
        sent.run,
        sent.task,
        sent.sender,
        sent.priority,
        event.position,
        place,
        event.recorded_at,
    )


PROJECTION = Projection(name="mailbox", version=2, tables=("mailbox",), ddl=DDL, handles=None, apply=apply)


# -- queries -----------------------------------------------------------------------------------------------


async def open_messages(
    database: Database,
    role: str,
    partitions: int,
    numbers: Sequence[int],
    *,
    after: tuple[int, int] = (0, 0),
    limit: int = 1000,
) -> list[OpenMessage]:
    """The open messages of some of a role's partitions, in the log's order, behind a (position, place)."""
    records = await database.fetch(
        """
        select * from mailbox
        where role = $1 and key_hash % $2 = any($3::bigint[]) and (position, place) > ($4, $5)
        order by position, place limit $6
        """,
        role,
        partitions,
        list(numbers),
        *after,
        limit,
    )
    return [OPEN.row(record) for record in records]


async def open_to(database: Database, role: str, key: str, upto: tuple[int, int]) -> list[OpenMessage]:
    """The open messages to an actor that takes them in order, up to a (position, place), in the log's order."""
    records = await database.fetch(
        """
        select * from mailbox where role = $1 and key = $2 and key <> task and (position, place) <= ($3, $4)
        order by position, place
        """,
        role,
        key,
        *upto,
    )
    return [OPEN.row(record) for record in records]


async def open_from(database: Database, sender: str) -> list[OpenMessage]:
    """The open messages from an actor to actors that take them in order, in the log's order."""
    records = await database.fetch(
        "select * from mailbox where sender = $1 and key <> task order by position, place", sender
    )
    return [OPEN.row(record) for record in records]


async def open_counts(database: Database, role: str, partitions: int) -> dict[int, int]:
    """How many messages each partition of a role has open; partitions without any are left out."""
    records = await database.fetch(
        "select key_hash % $2, count(*) from mailbox where role = $1 group by 1", role, partitions
    )
    return dict(records)


async def backlog(database: Database, role: str, partitions: int) -> dict[int, Backlog]:
    """What each partition of a role has open, and since when; partitions without any are left out."""
    records = await database.fetch(
        "select key_hash % $2, count(*), min(opened_at) from mailbox where role = $1 group by 1", role, partitions
    )
    return {number: Backlog(count, oldest_at) for number, count, oldest_at in records}


async def list_open(
    database: Database, *, role: str | None = None, key: str | None = None, run: str | None = None, limit: int = 100
) -> list[OpenMessage]:
    """Open messages, oldest first."""
    records = await database.fetch(
        """
        select * from mailbox
        where ($1::text is null or role = $1) and ($2::text is null or key = $2) and ($3::text is null or run = $3)
        order by position, place limit $4
        """,
        role,
        key,
        run,
        limit,
    )
    return [OPEN.row(record) for record in records]


async def oldest_age_s(database: Database, role: str | None = None) -> float | None:
    """For how many seconds the oldest open message (of a role) has been waiting; None if none is open."""
    age: float | None = await database.fetchval(
        """
        select extract(epoch from clock_timestamp() - min(opened_at))::double precision
        from mailbox where $1::text is null or role = $1
        """,
        role,
    )
    return age
