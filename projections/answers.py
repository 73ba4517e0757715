"""Answers of models that may be used again: the newest under each key.

    model.requested with a `cache` key    opens an attempt
    model.completed of that attempt       closes it, and is the key's newest answer
    model.failed of that attempt          closes it

An answer that came from here is no attempt, so it renews nothing. What is older than MAX_AGE is forgotten.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from asyncpg import Connection, Pool, UndefinedTableError
from msgspec import Struct

from callboard.eventstore.database import fetch
from callboard.projections.base import Page, Projection, Table
from callboard.protocols import events as e
from callboard.protocols.errors import StoreUnavailable
from callboard.protocols.ledger import attempt_id
from callboard.protocols.names import event_id

DDL = """
-- one row an attempt that was made under a key, and has not ended
create table answers_asked (
    attempt text collate "C" primary key,  -- callboard.protocols.ledger.attempt_id
    key     text collate "C" not null,
    at      timestamptz not null
);
create index answers_asked_by_time on answers_asked (at);
-- one row a key: the newest answer
create table answers (
    key     text collate "C" primary key,
    address text not null,                 -- of the model.completed: stream@version
    at      timestamptz not null
);
create index answers_by_time on answers (at);
"""
MAX_AGE: Final = timedelta(days=30)

log = logging.getLogger(__name__)


class Asked(Struct, frozen=True, gc=False):
    """An attempt that was made under a key."""

    attempt: str
    key: str
    at: datetime


class Answer(Struct, frozen=True, gc=False):
    """Where the newest answer under a key stands."""

    key: str
    address: str
    at: datetime


class Changes(Struct):
    """What a page does to the tables."""

    asked: dict[str, Asked]
    ended: list[str]
    answers: dict[str, Answer]


ASKED = Table("answers_asked", Asked)
ANSWERS = Table("answers", Answer)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the tables."""
    if not page:
        return
    asked = await ASKED.load(connection, ends(page))
    changes = fold(page, asked)
    await ASKED.delete(connection, changes.ended)
    await ASKED.save(connection, changes.asked.values())
    await ANSWERS.save(connection, changes.answers.values())
    oldest = page[-1].event.recorded_at - MAX_AGE
    await connection.execute("delete from answers_asked where at < $1", oldest)
    await connection.execute("delete from answers where at < $1", oldest)


def ends(page: Page) -> Iterable[str]:
    """The attempts that end in a page."""
    return [_attempt(fact.event, fact.body) for fact in page if fact.event.type != e.ModelRequested.TYPE]


def fold(page: Page, asked: dict[str, Asked]) -> Changes:
    """What a page changes. `asked` are the attempts that were made before, of those that end in it."""
    changes = Changes({}, [], {})
    for fact in page:
        event, body = fact.event, fact.body
        attempt = _attempt(event, body)
        if isinstance(body, e.ModelRequested):
            if body.cache:
                changes.asked[attempt] = Asked(attempt, body.cache, event.recorded_at)
            continue
        of = changes.asked.pop(attempt, None) or asked.get(attempt)
        if of is None:
            continue
        changes.ended.append(attempt)
        if isinstance(body, e.ModelCompleted) and event.recorded_at - of.at <= MAX_AGE:
            changes.answers[of.key] = Answer(of.key, event_id(event.stream, event.version), event.recorded_at)
    return changes


def _attempt(event: e.Event, body: e.ModelRequested | e.ModelCompleted | e.ModelFailed) -> str:
    return attempt_id(event.meta.task or "", body.step, body.attempt)


PROJECTION = Projection(
    name="answers",
    version=1,
    tables=("answers_asked", "answers"),
    ddl=DDL,
    handles=frozenset({e.ModelRequested.TYPE, e.ModelCompleted.TYPE, e.ModelFailed.TYPE}),
    apply=apply,
)


# -- queries -----------------------------------------------------------------------------------------------


class PostgresAnswers:
    """See `callboard.protocols.ports.Answers`. Where the database can't tell, there is no answer: a call is only made
    anew.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, key: str, since: datetime) -> str | None:
        try:
            rows = await fetch(self._pool, "select address from answers where key = $1 and at >= $2", key, since)
        except (StoreUnavailable, UndefinedTableError) as error:
            log.warning("no answer is used again now: %s", error)
            return None
        address: str | None = rows[0][0] if rows else None
        return address
