"""What waits for what: queries over the tasks, for those that guard against waiting for ever."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from callboard.projections.base import Database

MAX_TASKS = 1000  # that one search for a cycle looks at


class Blocked(Struct, frozen=True):
    """A task that has been blocked for long, with nothing recorded since `updated_at`."""

    task: str
    key: str
    key_hash: int
    updated_at: datetime


class Waiting(Struct, frozen=True):
    """A task on the way round a cycle. One that is `queued` has not begun: its actor is at work on another."""

    task: str
    actor: str
    queued: bool


async def blocked(
    database: Database, role: str, partitions: int, numbers: Sequence[int], longer_than_s: float
) -> list[Blocked]:
    """The tasks of some of a role's partitions that have waited for an answer for so long, by the database's time."""
    records = await database.fetch(
        """
        select task, key, key_hash, updated_at from tasks
        where role = $1 and key_hash % $2 = any($3::bigint[])
            and started_at is not null and ended_at is null and actor_state = 'blocked'
            and updated_at < clock_timestamp() - make_interval(secs => $4)
            and (waiting @> '[{"kind": "question"}]' or waiting = '[]')  -- or it is one of more than are listed
        order by updated_at limit 100
        """,
        role,
        partitions,
        list(numbers),
        longer_than_s,
    )
    return [Blocked(*record) for record in records]


async def cycle(database: Database, task: str) -> list[Waiting]:
    """The tasks of a wait-for cycle that a task is part of, beginning with it; empty if there is none."""
    path: list[Waiting] = []
    seen: set[str] = set()

    async def leads_back(there: Waiting) -> bool:
        path.append(there)
        for further in await _waits_for(database, there):
            if further.task == task:
                return True
            if further.task not in seen and len(seen) < MAX_TASKS:
                seen.add(further.task)
                if await leads_back(further):
                    return True
        path.pop()
        return False

    record = await database.fetchrow(
        "select task, role || '/' || key, started_at is null from tasks where task = $1 and ended_at is null", task
    )
    return path if record is not None and await leads_back(Waiting(*record)) else []


async def _waits_for(database: Database, there: Waiting) -> list[Waiting]:
    """What a task can't go on without: if it is queued, the task before it; else what it asked for, wherever that
    has been handed to.
    """
    if there.queued:
        role, _, key = there.actor.partition("/")
        records = await database.fetch(
            """
            select task, role || '/' || key, false from tasks
            where role = $1 and key = $2 and task <> $3 and started_at is not null and ended_at is null
            """,
            role,
            key,
            there.task,
        )
    else:
        records = await database.fetch(
            """
            with recursive asked as (
                select c.* from tasks t join tasks c on c.run = t.run and c.parent = t.task
                where t.task = $1 and t.actor_state = 'blocked'
                union
                select further.* from asked join tasks further on further.task = asked.handed_to
            )
            select task, role || '/' || key, started_at is null from asked where ended_at is null
            """,
            there.task,
        )
    return [Waiting(*record) for record in records]
