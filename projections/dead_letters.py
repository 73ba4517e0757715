"""Dead letters: messages that nobody can handle, and bytes that are no message, until somebody sends them again.

    message.dead_lettered    makes one
    dead_letter.edited       notes that another content is to be sent in its place
    dead_letter.redriven     notes that it was sent again: what goes out is another message, which opens another task

The messages themselves, and all that was done with them, are in the log (`callboard.actors.outside.dead_letters`).
"""

from datetime import datetime
from typing import Any

from asyncpg import Connection
from msgspec import Struct

from callboard.projections.base import Database, Fact, Page, Projection, Table, clean
from callboard.protocols.events import DeadLetterEdited, DeadLetterRedriven, MessageDeadLettered

DDL = """
create table dead_letters (
    id            text collate "C" primary key,  -- of the message; of bytes that are none, their address
    address       text collate "C" not null,     -- of the event that says so: stream@version
    position      bigint not null,               -- of that event
    role          text collate "C" not null,     -- of the actor that it was addressed to
    key           text collate "C",              -- null: not known
    run           text collate "C",              -- null: not known
    task          text collate "C",              -- that it opened, or would have opened; null: not known
    reason        text not null,
    attempts      integer not null,
    died_at       timestamptz not null,
    edited        boolean not null,              -- another content is to be sent in its place
    redriven_at   timestamptz,                   -- when it was sent again, if it was
    redriven_by   text,
    redriven_task text collate "C"               -- the task that it opens now, in the same run
);
create index dead_letters_waiting on dead_letters (position) where redriven_at is null;
"""


class LetterRow(Struct, gc=False):
    """A row, as the fold moves it."""

    id: str
    address: str
    position: int
    role: str
    key: str | None
    run: str | None
    task: str | None
    reason: str
    attempts: int
    died_at: datetime
    edited: bool = False
    redriven_at: datetime | None = None
    redriven_by: str | None = None
    redriven_task: str | None = None


class DeadLetter(LetterRow, frozen=True):  # type: ignore[misc]  # a Struct may freeze its base's fields
    """A message that can't be handled, or bytes that are no message; None where it is not known."""

    @property
    def is_message(self) -> bool:
        """Whether it is a message at all."""
        return self.id != self.address


LETTERS = Table("dead_letters", LetterRow)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    rows = await LETTERS.load(connection, {_letter(fact) for fact in page})
    fold(page, rows)
    await LETTERS.save(connection, rows.values())


def fold(page: Page, rows: dict[str, LetterRow]) -> None:
    """Add a page to the rows of its letters; `rows` has the known ones."""
    for fact in page:
        letter = _letter(fact)
        if fact.event.type == MessageDeadLettered.TYPE:
            rows[letter] = _dead(letter, fact)
        elif letter in rows:
            _tell(rows[letter], fact)


def _letter(fact: Fact) -> str:
    """The id of the letter that an event is about."""
    event, body = fact.event, fact.body
    if event.type == MessageDeadLettered.TYPE:
        return body.message or event.meta.handles or f"{event.stream}@{event.version}"
    letter: str = body.letter
    return letter


def _dead(letter: str, fact: Fact) -> LetterRow:
    event, body = fact.event, fact.body
    role, _, key = body.to.partition("/")
    return LetterRow(
        letter,
        f"{event.stream}@{event.version}",
        event.position,
        role,
        key or None,
        event.meta.run or None,
        event.meta.task,
        clean(body.reason),
        body.attempts,
        event.recorded_at,
    )


def _tell(row: LetterRow, fact: Fact) -> None:
    """Note what became of a letter."""
    body: Any = fact.body
    if fact.event.type == DeadLetterEdited.TYPE:
        row.edited = True
    elif row.redriven_at is None:
        row.redriven_at, row.redriven_by = fact.event.recorded_at, clean(body.by)
        row.redriven_task = next((message.task for message in fact.sends), None)


PROJECTION = Projection(
    name="dead_letters",
    version=1,
    tables=("dead_letters",),
    ddl=DDL,
    handles=frozenset({MessageDeadLettered.TYPE, DeadLetterEdited.TYPE, DeadLetterRedriven.TYPE}),
    apply=apply,
)


# -- queries -----------------------------------------------------------------------------------------------


async def list_letters(
    database: Database,
    *,
    role: str | None = None,
    run: str | None = None,
    reason: str | None = None,
    redriven: bool = False,
    limit: int = 100,
) -> list[DeadLetter]:
    """Dead letters, newest first: those that wait, or, with `redriven`, those that were sent again, too. `reason` is
    a part of it, in capitals or not.
    """
    records = await database.fetch(
        """
        select * from dead_letters
        where ($1::text is null or role = $1) and ($2::text is null or run = $2)
            and ($3::text is null or position(lower($3) in lower(reason)) > 0) and ($4 or redriven_at is null)
        order by dead_letters.position desc limit $5
        """,
        role,
        run,
        reason,
        redriven,
        limit,
    )
    return [LETTERS.view(record, DeadLetter) for record in records]


async def find(database: Database, given: str) -> list[DeadLetter]:
    """The dead letters that an id names: whole, with its run or task cut to their last 8 digits, or the task's own."""
    records = await database.fetch("select * from dead_letters where $1 in (id, address, task)", given)
    records = records or await database.fetch(
        r"""
        select * from dead_letters
        where regexp_replace(id, '[0-9a-f]{24}([0-9a-f]{8})', '\1', 'g') = $1 or right(task, length($1)) = $1
        order by dead_letters.position desc limit 5
        """,
        given,
    )
    return [LETTERS.view(record, DeadLetter) for record in records]
