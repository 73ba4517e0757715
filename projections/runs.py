"""Runs: one row each, from the first message that came from outside to the end of its answering task.

The *answering task* is the root task or, when that was handed off, the task that took over, and so on; and where it
ended as a dead letter that was sent again, the task that this opened. The run's state is that task's, and the run ends
when it ends. What a run's tasks did and cost is not kept here a second time:
the queries add it up from the rows of `callboard.projections.tasks`.
"""

from collections.abc import Collection, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec
from asyncpg import Connection, Record
from msgspec import Struct

from callboard.projections.base import Database, Fact, Page, Projection, Table, clean
from callboard.protocols import events
from callboard.protocols.errors import AmbiguousId, UnknownRun
from callboard.protocols.states import TaskState, task_state

DDL = """
create table runs (
    run        text collate "C" primary key,
    origin     text not null,              -- where it came from: "command line", "python", ...
    root       text collate "C" not null,  -- the root task
    actor      text collate "C" not null,  -- the actor that it was sent to
    started_at timestamptz not null,
    answering  text collate "C" not null,  -- the task whose end is the run's end
    message    text collate "C" not null,  -- the id of the message that opens it
    state      text not null,              -- A2A's TaskState
    ended_at   timestamptz,
    events     bigint not null,
    updated_at timestamptz not null
) with (fillfactor = 80);
"""


class RunRow(Struct, gc=False):
    """A row, as the fold moves it."""

    run: str
    origin: str
    root: str
    actor: str
    started_at: datetime
    answering: str
    message: str
    state: TaskState
    ended_at: datetime | None
    events: int
    updated_at: datetime


class Run(RunRow, frozen=True):  # type: ignore[misc]  # a Struct may freeze its base's fields
    """A run as the queries give it, with the sums over its tasks. `cost` is exact, by currency; model calls whose
    cost is not known are counted in `unpriced` and are not in it."""

    tasks: int
    completed: int  # handed over counts as completed
    failed: int
    canceled: int
    model_calls: int
    input_tokens: int
    output_tokens: int
    unpriced: int
    cost: dict[str, Decimal]


RUNS = Table("runs", RunRow)

_ENDS: Final[dict[str, TaskState]] = {
    events.TaskCompleted.TYPE: "TASK_STATE_COMPLETED",
    events.TaskFailed.TYPE: "TASK_STATE_FAILED",
    events.TaskCanceled.TYPE: "TASK_STATE_CANCELED",
}


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    rows = await RUNS.load(connection, {fact.event.meta.run for fact in page})
    await RUNS.save(connection, fold(page, rows))


def fold(page: Page, rows: dict[str, RunRow]) -> Iterable[RunRow]:
    """The rows that a page opens or changes. `rows`, the known ones among the page's runs, are moved in place."""
    for fact in page:
        event = fact.event
        run = event.meta.run
        row = rows.get(run)
        if row is None:
            if event.type != events.RunStarted.TYPE:
                continue  # what belongs to no run, such as a dead letter that is no message
            row = rows[run] = _started(fact)
        row.events += 1
        row.updated_at = event.recorded_at
        if event.meta.task == row.answering:
            _advance(row, fact)
    return rows.values()


def _started(fact: Fact) -> RunRow:
    event, body = fact.event, fact.body
    first = next((message.id for message in fact.sends if message.task == body.task), "")
    return RunRow(
        run=event.meta.run,
        origin=clean(body.origin),
        root=body.task,
        actor=body.to,
        started_at=event.recorded_at,
        answering=body.task,
        message=first,
        state="TASK_STATE_SUBMITTED",
        ended_at=None,
        events=0,
        updated_at=event.recorded_at,
    )


def _advance(row: RunRow, fact: Fact) -> None:
    """Move a row by an event of its answering task."""
    event = fact.event
    if event.type == events.TaskHandedOff.TYPE:
        row.answering = fact.body.task
        row.message = next((message.id for message in fact.sends if message.task == row.answering), "")
    elif event.type in _ENDS:
        row.state, row.ended_at = _ENDS[event.type], event.recorded_at
    elif event.type == events.TaskStarted.TYPE:
        row.state = "TASK_STATE_WORKING"
    elif event.type == events.MessageDeadLettered.TYPE:
        _end(row, fact, (fact.body.message, event.meta.handles), "TASK_STATE_FAILED")
    elif event.type == events.MessageDiscarded.TYPE:
        _end(row, fact, (event.meta.handles,), "TASK_STATE_CANCELED")
    elif event.type == events.DeadLetterRedriven.TYPE:
        _redriven(row, fact)
    elif event.meta.state is not None and event.type != events.StateChanged.TYPE:
        row.state = task_state(event.meta.state.dest)  # type: ignore[arg-type]  # what the machine allowed


def _end(row: RunRow, fact: Fact, messages: Collection[str | None], state: TaskState) -> None:
    """End a run where an event ends the message that opens its answering task."""
    if row.message and row.message in messages and row.ended_at is None:
        row.state, row.ended_at = state, fact.event.recorded_at


def _redriven(row: RunRow, fact: Fact) -> None:
    for message in fact.sends:
        row.answering, row.message = message.task, message.id
        row.state, row.ended_at = "TASK_STATE_SUBMITTED", None


PROJECTION = Projection(name="runs", version=2, tables=("runs",), ddl=DDL, handles=None, apply=apply)


# -- queries -----------------------------------------------------------------------------------------------

_SUMS = """
    select runs.*, t.*, coalesce(c.cost, '{}')
    from chosen runs
    cross join lateral (
        select
            count(*),
            count(*) filter (where state = 'TASK_STATE_COMPLETED'),
            count(*) filter (where state = 'TASK_STATE_FAILED'),
            count(*) filter (where state = 'TASK_STATE_CANCELED'),
            coalesce(sum(model_calls), 0)::bigint,
            coalesce(sum(input_tokens), 0)::bigint,
            coalesce(sum(output_tokens), 0)::bigint,
            coalesce(sum(unpriced), 0)::bigint
        from tasks where tasks.run = runs.run
    ) t
    cross join lateral (
        select jsonb_object_agg(currency, amount::text) as cost
        from (
            select currency, sum(amount::numeric) as amount
            from tasks, jsonb_each_text(tasks.cost) as priced (currency, amount)
            where tasks.run = runs.run group by currency
        ) amounts
    ) c
    order by runs.started_at desc, runs.run desc
"""
_decode_cost = msgspec.json.Decoder(dict[str, Decimal]).decode


async def list_runs(database: Database, *, state: TaskState | None = None, limit: int = 100) -> list[Run]:
    """Runs, newest first (ids sort by time)."""
    chosen = "select * from runs where $1::text is null or state = $1 order by run desc limit $2"
    return [_run(record) for record in await database.fetch(f"with chosen as ({chosen}) {_SUMS}", state, limit)]


async def find_run(database: Database, given: str) -> Run:
    """The run with this id, or else the only one whose id begins or ends so; raises UnknownRun, AmbiguousId."""
    exact = "select * from runs where run = $1"
    similar = "select * from runs where starts_with(run, $1) or right(run, length($1)) = $1 order by run desc limit 5"
    records = await database.fetch(f"with chosen as ({exact}) {_SUMS}", given)
    records = records or await database.fetch(f"with chosen as ({similar}) {_SUMS}", given)
    if not records:
        raise UnknownRun(given)
    if len(records) > 1:
        raise AmbiguousId(given, ", ".join(record["run"] for record in records))
    return _run(records[0])


async def ended(database: Database, given: Collection[str]) -> set[str]:
    """Which of these runs have ended."""
    query = "select run from runs where run = any($1) and ended_at is not null"
    return {record["run"] for record in await database.fetch(query, list(given))}


def _run(record: Record) -> Run:
    *columns, cost = record
    columns.append(_decode_cost(cost))
    return Run(*columns)
