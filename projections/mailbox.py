"""The mailbox: messages that were sent and that nobody has handled yet, and those that nobody can handle.

    a send (an entry of `meta.sends`) without `due_at`    opens a message
    an event whose `meta.handles` is its id               closes it
    message.dead_lettered                                 closes it too, and keeps it as a dead letter

A message that is opened and closed within one page never touches the table, so that in steady state the table holds
what waits, and little else. Messages with `due_at` are in `projections.timers`.
"""

from collections.abc import Sequence
from datetime import datetime

from asyncpg import Connection
from msgspec import Struct

from projections.base import Database, Page, Projection, Table, clean
from protocols.events import Event, MessageDeadLettered
from protocols.messages import Kind, Message, Priority
from protocols.names import key_hash

DDL = """
-- one row a message that is open; (position, place) is its place in the log
create table mailbox (
    id        text collate "C" primary key,  -- stream@version.place
    role      text collate "C" not null,     -- of the actor that it is addressed to
    key       text collate "C" not null,
    key_hash  bigint not null,               -- protocols.names.key_hash(key): modulo a partition count, its partition
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

-- one row a message that can't be handled; of bytes that are no message (id: stream@version of the event that says
-- so), and of messages with a due time, only the role, the reason and the time may be known
create table dead_letters (
    id        text collate "C" primary key,
    role      text collate "C" not null,
    key       text collate "C",
    kind      text,
    run       text collate "C",
    task      text collate "C",
    sender    text collate "C",
    position  bigint not null,  -- of the event that says so
    opened_at timestamptz,
    reason    text not null,
    attempts  integer not null,
    died_at   timestamptz not null
);
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


class DeadLetter(Struct, frozen=True, gc=False):
    """A message that can't be handled, or bytes that are no message; None where it is not known."""

    id: str
    role: str
    key: str | None
    kind: Kind | None
    run: str | None
    task: str | None
    sender: str | None
    position: int
    opened_at: datetime | None
    reason: str
    attempts: int
    died_at: datetime


class Changes(Struct):
    """What a page does to the tables."""

    opened: dict[str, OpenMessage]
    closed: list[str]
    dead: list[DeadLetter]


OPEN = Table("mailbox", OpenMessage)
DEAD = Table("dead_letters", DeadLetter)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the tables."""
    dead = [fact.event.meta.handles for fact in page if fact.event.type == MessageDeadLettered.TYPE]
    known = await OPEN.load(connection, [message for message in dead if message])
    changes = fold(page, known)
    await OPEN.delete(connection, changes.closed)
    await OPEN.insert(connection, changes.opened.values())
    await DEAD.save(connection, changes.dead)


def fold(page: Page, known: dict[str, OpenMessage]) -> Changes:
    """What a page opens and closes. `known`: the open messages from before that the page makes dead letters."""
    changes = Changes({}, [], [])
    opened = changes.opened
    for fact in page:
        event = fact.event
        handled = event.meta.handles
        message = None
        if handled is not None:
            message = opened.pop(handled, None)
            if message is None:
                changes.closed.append(handled)
                message = known.get(handled)
        if event.type == MessageDeadLettered.TYPE:
            changes.dead.append(_dead(event, fact.body, message))
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


def _dead(event: Event, body: MessageDeadLettered, message: OpenMessage | None) -> DeadLetter:
    to_role, _, to_key = body.to.partition("/")
    return DeadLetter(
        id=event.meta.handles or f"{event.stream}@{event.version}",
        role=message.role if message else to_role,
        key=message.key if message else to_key or None,
        kind=message.kind if message else None,
        run=message.run if message else event.meta.run or None,
        task=message.task if message else event.meta.task,
        sender=message.sender if message else None,
        position=event.position,
        opened_at=message.opened_at if message else None,
        reason=clean(body.reason),
        attempts=body.attempts,
        died_at=event.recorded_at,
    )


PROJECTION = Projection(
    name="mailbox", version=1, tables=("mailbox", "dead_letters"), ddl=DDL, handles=None, apply=apply
)


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


async def open_counts(database: Database, role: str, partitions: int) -> dict[int, int]:
    """How many messages each partition of a role has open; partitions without any are left out."""
    records = await database.fetch(
        "select key_hash % $2, count(*) from mailbox where role = $1 group by 1", role, partitions
    )
    return dict(records)


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


async def list_dead(
    database: Database, *, role: str | None = None, run: str | None = None, limit: int = 100
) -> list[DeadLetter]:
    """Dead letters, newest first."""
    records = await database.fetch(
        """
        select * from dead_letters
        where ($1::text is null or role = $1) and ($2::text is null or run = $2)
        order by position desc limit $3
        """,
        role,
        run,
        limit,
    )
    return [DEAD.row(record) for record in records]


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
