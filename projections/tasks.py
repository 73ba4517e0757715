"""Tasks: one row each, from the message that opens it to its end.

the send of a message that opens a task (`messages.OPENS_TASK`)   opens the row, unless the task is known already
an event with `meta.state`                                        moves the actor's state and the A2A state
state.changed                                                     moves the role's own machine
task.started, task.resumed                                        say who is at work
task.completed | failed | canceled | handed_off                   end it, begun or not
message.dead_lettered of the message that opened it               ends it as failed
message.discarded of the message that opened it                   ends it as canceled: it can never start
question.asked, timer.set, wait.started, task.retry_scheduled,
tool.outcome_unknown, approval.requested, and what answers them   keep the list of what it waits for
model, tool and step events                                       count steps, tokens and costs
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from asyncpg import Connection
from msgspec import Struct

from callboard.projections.base import Database, Fact, Page, Projection, Table, add_usage, clean
from callboard.protocols import events
from callboard.protocols.errors import AmbiguousId, UnknownTask
from callboard.protocols.messages import Kind, Message
from callboard.protocols.names import key_hash
from callboard.protocols.states import State, TaskState, task_state

MAX_WAITING = 500  # that a row lists: a task that asks for more at a time is rare, and costs each event the whole list

DDL = """
create table tasks (
    task           text collate "C" primary key,
    run            text collate "C" not null,
    role           text collate "C" not null,  -- of the actor that it was given to
    key            text collate "C" not null,
    key_hash       bigint not null,            -- modulo a partition count: the partition of that actor
    kind           text not null,              -- of the message that opened it
    message        text collate "C" not null,  -- the id of that message
    parent         text collate "C",           -- the task that asked for it
    opened_at      timestamptz not null,
    updated_at     timestamptz not null,
    state          text not null,              -- A2A's TaskState
    actor_state    text not null,              -- callboard.protocols.states
    role_state     text,                       -- of the role's own machine, if it has one
    started_at     timestamptz,
    ended_at       timestamptz,
    process        text,                       -- who is at work on it, or was last
    attempt        integer not null,           -- 0: not started
    epoch          bigint not null,
    handed_to      text collate "C",           -- the task that took over
    error_type     text,
    error_message  text,
    steps          integer not null,           -- steps, tools and models that gave a result
    model_calls    integer not null,
    input_tokens   bigint not null,            -- with those read from or written to a cache
    output_tokens  bigint not null,            -- with those of reasoning
    cost           jsonb not null,             -- exact amounts by currency: {"USD": "0.0123"}
    unpriced       integer not null,           -- attempts at models whose cost is not known: not in `cost`
    waiting        jsonb not null,             -- what it waits for, at most MAX_WAITING: [{step, kind, on ...}]
    progress_done  double precision,
    progress_total double precision,
    progress_note  text
) with (fillfactor = 80);
create index tasks_by_run on tasks (run);
create index tasks_at_work on tasks (role) where started_at is not null and ended_at is null;
"""


BUDGET_WAIT: Final = (
    "/budget#"  # in the step of a timer that waits for room in a budget; see callboard.actors.task.pauses
)
OUTCOME: Final = "outcome of tool "  # begins `on` where nobody knows whether a tool was called


class Waiting(Struct, frozen=True, gc=False, omit_defaults=True):
    """Something that a task waits for: `on` names it in words."""

    step: str
    kind: Kind | Literal["question"]  # the kind of the message that ends it; "question": an answer
    on: str
    since: datetime
    task: str | None = None  # that answers a question; it may have been handed over
    until: datetime | None = None  # when a timer wakes it
    approves: str | None = None  # the digest of what somebody has to approve

    @property
    def unknown_tool(self) -> str | None:
        """The tool whose outcome nobody knows; None where it waits for something else."""
        return self.on.removeprefix(OUTCOME) if self.on.startswith(OUTCOME) else None


class TaskRow(Struct, gc=False):
    """A row, as the fold moves it."""

    task: str
    run: str
    role: str
    key: str
    key_hash: int
    kind: Kind
    message: str
    parent: str | None
    opened_at: datetime
    updated_at: datetime
    state: TaskState = "TASK_STATE_SUBMITTED"
    actor_state: State = "idle"
    role_state: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    process: str | None = None
    attempt: int = 0
    epoch: int = 0
    handed_to: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    steps: int = 0
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: dict[str, Decimal] = {}
    unpriced: int = 0
    waiting: tuple[Waiting, ...] = ()
    progress_done: float | None = None
    progress_total: float | None = None
    progress_note: str | None = None


class Task(TaskRow, frozen=True):  # type: ignore[misc]  # a Struct may freeze its base's fields
    """A task as the queries give it. `cost` is exact; `unpriced` model calls are not in it."""


TASKS = Table("tasks", TaskRow, json=("cost", "waiting"))


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    rows = await TASKS.load(connection, concerned(page))
    await TASKS.save(connection, fold(page, rows))


def concerned(page: Page) -> set[str]:
    """The tasks that a page may open or change."""
    tasks = {message.task for fact in page for message in fact.sends if message.opens_task}
    tasks.update(
        fact.event.meta.task
        for fact in page
        if fact.event.meta.task is not None and (fact.event.type in HANDLERS or fact.event.meta.state is not None)
    )
    return tasks


def fold(page: Page, rows: dict[str, TaskRow]) -> list[TaskRow]:
    """The rows that a page opens or changes. `rows`, the known ones among `concerned(page)`, are moved in place."""
    changed = {}
    for fact in page:
        task = fact.event.meta.task
        row = rows.get(task) if task is not None else None
        if row is not None and _advance(row, fact):
            row.updated_at = fact.event.recorded_at
            changed[row.task] = row
        for message in fact.sends:
            if message.opens_task and message.task not in rows:
                rows[message.task] = changed[message.task] = _opened(message, fact.event.recorded_at)
    return list(changed.values())


def _opened(message: Message, at: datetime) -> TaskRow:
    role, _, key = message.to.partition("/")
    return TaskRow(
        message.task,
        message.run,
        role,
        key,
        key_hash(key),
        message.kind,
        message.id,
        message.parent,
        opened_at=at,
        updated_at=at,
    )


def _advance(row: TaskRow, fact: Fact) -> bool:
    """Move a row by one event; False if that changes nothing."""
    event = fact.event
    change = event.meta.state
    if change is not None:
        if event.type == events.StateChanged.TYPE:
            row.role_state = change.dest
        else:
            _set_state(row, change.dest)  # type: ignore[arg-type]  # the log holds what the machine allowed
    handler = HANDLERS.get(event.type)
    if handler is not None:
        handler(row, fact)
    return change is not None or handler is not None


def _set_state(row: TaskRow, state: State) -> None:
    row.actor_state = state
    row.state = task_state(state)


# -- what each event type does to a row --------------------------------------------------------------------


def _started(row: TaskRow, fact: Fact) -> None:
    body: events.TaskStarted = fact.body
    row.started_at = fact.event.recorded_at
    row.process, row.attempt, row.epoch = body.process, body.attempt, body.epoch
    row.role_state = body.role_state
    if fact.event.meta.state is None:
        _set_state(row, "thinking")


def _resumed(row: TaskRow, fact: Fact) -> None:
    body: events.TaskResumed = fact.body
    row.process, row.attempt, row.epoch = body.process, body.attempt, body.epoch


def _progressed(row: TaskRow, fact: Fact) -> None:
    body: events.TaskProgressed = fact.body
    row.progress_done, row.progress_total, row.progress_note = body.done, body.total, clean(body.note)


def _ended(row: TaskRow, fact: Fact, state: State) -> None:
    _set_state(row, state)
    row.ended_at = fact.event.recorded_at
    row.waiting = ()


def _completed(row: TaskRow, fact: Fact) -> None:
    _ended(row, fact, "completed")


def _failed(row: TaskRow, fact: Fact) -> None:
    body: events.TaskFailed = fact.body
    _ended(row, fact, "failed")
    row.error_type, row.error_message = clean(body.error.type), clean(body.error.message)


def _canceled(row: TaskRow, fact: Fact) -> None:
    body: events.TaskCanceled = fact.body
    _ended(row, fact, "canceled")
    row.error_type, row.error_message = "TaskCanceled", clean(body.reason)


def _handed_off(row: TaskRow, fact: Fact) -> None:
    body: events.TaskHandedOff = fact.body
    _ended(row, fact, "completed")
    row.handed_to = body.task


def _dead_lettered(row: TaskRow, fact: Fact) -> None:
    body: events.MessageDeadLettered = fact.body
    if row.message in (body.message, fact.event.meta.handles) and row.ended_at is None:
        _ended(row, fact, "failed")
        row.error_type, row.error_message = "MessageDeadLettered", clean(body.reason)


def _discarded(row: TaskRow, fact: Fact) -> None:
    body: events.MessageDiscarded = fact.body
    if fact.event.meta.handles == row.message and row.ended_at is None:
        _ended(row, fact, "canceled")
        row.error_type, row.error_message = "MessageDiscarded", clean(body.reason)


def _cancel_requested(row: TaskRow, _fact: Fact) -> None:
    row.waiting = ()  # what its compensations wait for comes after this


def _asked(row: TaskRow, fact: Fact) -> None:
    body: events.QuestionAsked = fact.body
    _wait(row, fact, body.step, "question", body.to, task=body.task)


def _timer_set(row: TaskRow, fact: Fact) -> None:
    body: events.TimerSet = fact.body
    on = clean(body.note) or f"timer until {body.due_at.isoformat(timespec='seconds')}"
    _wait(row, fact, body.step, "timer", on, until=body.due_at)


def _retry_scheduled(row: TaskRow, fact: Fact) -> None:
    body: events.TaskRetryScheduled = fact.body
    _wait(row, fact, body.step, "timer", f"retry after {clean(body.error.type)}", until=body.due_at)


def _outcome_unknown(row: TaskRow, fact: Fact) -> None:
    body: events.ToolOutcomeUnknown = fact.body
    _wait(row, fact, body.step, "decision", OUTCOME + clean(body.tool))


def _approval_requested(row: TaskRow, fact: Fact) -> None:
    body: events.ApprovalRequested = fact.body
    _wait(row, fact, body.step, "decision", f"approval of {clean(body.note)}", approves=body.digest)


def _wait_started(row: TaskRow, fact: Fact) -> None:
    body: events.WaitStarted = fact.body
    _wait(row, fact, body.step, body.kind, f"{body.kind}: {clean(body.note)}" if body.note else body.kind)


def _wait(
    row: TaskRow,
    fact: Fact,
    step: str,
    kind: Kind | Literal["question"],
    on: str,
    *,
    task: str | None = None,
    until: datetime | None = None,
    approves: str | None = None,
) -> None:
    if len(row.waiting) < MAX_WAITING:
        row.waiting = (*row.waiting, Waiting(clean(step), kind, on, fact.event.recorded_at, task, until, approves))


def _step_answered(row: TaskRow, fact: Fact) -> None:
    if not row.waiting:
        return
    step = clean(fact.body.step or "")  # a message that came before anybody waited names no step
    row.waiting = tuple(wait for wait in row.waiting if wait.step != step)


def _step_completed(row: TaskRow, _fact: Fact) -> None:
    row.steps += 1


def _tool_completed(row: TaskRow, fact: Fact) -> None:
    row.steps += 1
    _step_answered(row, fact)  # a person may have said so


def _model_completed(row: TaskRow, fact: Fact) -> None:
    row.steps += 1
    row.model_calls += 1
    add_usage(row, fact.body)


def _model_failed(row: TaskRow, fact: Fact) -> None:
    add_usage(row, fact.body)


HANDLERS: dict[str, Callable[[TaskRow, Fact], None]] = {
    events.TaskStarted.TYPE: _started,
    events.TaskResumed.TYPE: _resumed,
    events.TaskProgressed.TYPE: _progressed,
    events.TaskRetryScheduled.TYPE: _retry_scheduled,
    events.TaskCancelRequested.TYPE: _cancel_requested,
    events.TaskCompleted.TYPE: _completed,
    events.TaskFailed.TYPE: _failed,
    events.TaskCanceled.TYPE: _canceled,
    events.TaskHandedOff.TYPE: _handed_off,
    events.MessageDeadLettered.TYPE: _dead_lettered,
    events.MessageDiscarded.TYPE: _discarded,
    events.QuestionAsked.TYPE: _asked,
    events.QuestionAnswered.TYPE: _step_answered,
    events.QuestionFailed.TYPE: _step_answered,
    events.TimerSet.TYPE: _timer_set,
    events.TimerFired.TYPE: _step_answered,
    events.ApprovalRequested.TYPE: _approval_requested,
    events.ApprovalDecided.TYPE: _step_answered,
    events.WaitStarted.TYPE: _wait_started,
    events.MessageReceived.TYPE: _step_answered,
    events.StepCompleted.TYPE: _step_completed,
    events.StepGivenUp.TYPE: _step_answered,
    events.ToolRequested.TYPE: _step_answered,  # it runs again, where its outcome was unknown
    events.ToolOutcomeUnknown.TYPE: _outcome_unknown,
    events.ToolCompleted.TYPE: _tool_completed,
    events.ModelCompleted.TYPE: _model_completed,
    events.ModelFailed.TYPE: _model_failed,
}

PROJECTION = Projection(name="tasks", version=4, tables=("tasks",), ddl=DDL, handles=None, apply=apply)


# -- queries -----------------------------------------------------------------------------------------------


async def at_work(database: Database, role: str, partitions: int, numbers: Sequence[int]) -> list[Task]:
    """The tasks of some of a role's partitions whose actor must run: started, not ended, and waiting for nothing."""
    records = await database.fetch(
        """
        select * from tasks
        where role = $1 and key_hash % $2 = any($3::bigint[])
            and started_at is not null and ended_at is null and actor_state in ('thinking', 'executing')
        order by started_at, task
        """,
        role,
        partitions,
        list(numbers),
    )
    return [TASKS.view(record, Task) for record in records]


async def list_tasks(
    database: Database,
    *,
    run: str | None = None,
    role: str | None = None,
    state: TaskState | State | None = None,
    limit: int = 100,
) -> list[Task]:
    """Tasks, newest first (ids sort by time). `state` is A2A's or the actor's."""
    records = await database.fetch(
        """
        select * from tasks
        where ($1::text is null or run = $1) and ($2::text is null or role = $2)
            and ($3::text is null or $3 in (state, actor_state))
        order by task desc limit $4
        """,
        run,
        role,
        state,
        limit,
    )
    return [TASKS.view(record, Task) for record in records]


async def count_by_run(database: Database, runs: Sequence[str]) -> dict[str, int]:
    """How many tasks each of some runs has."""
    records = await database.fetch(
        "select run, count(*) as tasks from tasks where run = any($1) group by run", list(runs)
    )
    return {record["run"]: record["tasks"] for record in records}


async def awaiting_approval(database: Database, *, run: str | None = None, limit: int = 1000) -> list[Task]:
    """The tasks (of a run) in which something waits until somebody approves it, whatever else goes on there; those
    that wait longest first.
    """
    records = await database.fetch(
        """
        select * from tasks
        where ended_at is null and ($1::text is null or run = $1)
            and jsonb_path_exists(waiting, '$[*].approves')
        order by updated_at, task limit $2
        """,
        run,
        limit,
    )
    return [TASKS.view(record, Task) for record in records]


async def awaiting_budget(database: Database, *, limit: int = 10_000) -> list[Task]:
    """The tasks that wait until a budget has room, those that wait longest first."""
    records = await database.fetch(
        """
        select * from tasks
        where ended_at is null and exists (
            select from jsonb_array_elements(waiting) as wait where position($1 in wait ->> 'step') > 0
        )
        order by updated_at, task limit $2
        """,
        BUDGET_WAIT,
        limit,
    )
    return [TASKS.view(record, Task) for record in records]


async def open_tasks(database: Database, *, run: str | None = None, limit: int = 10_000) -> list[Task]:
    """The tasks (of a run) that have not ended, and those of the same runs that were handed over; newest first."""
    records = await database.fetch(
        """
        select * from tasks
        where run in (select run from tasks where ended_at is null and ($1::text is null or run = $1))
            and (ended_at is null or handed_to is not null)
        order by task desc limit $2
        """,
        run,
        limit,
    )
    return [TASKS.view(record, Task) for record in records]


async def of_message(database: Database, message: str) -> Task | None:
    """The task that a message opened, or is to open."""
    record = await database.fetchrow("select * from tasks where message = $1 limit 1", message)
    return None if record is None else TASKS.view(record, Task)


async def find_task(database: Database, given: str) -> Task:
    """The task with this id, or else the only one whose id begins or ends so; raises UnknownTask, AmbiguousId."""
    records = await database.fetch("select * from tasks where task = $1", given) or await database.fetch(
        "select * from tasks where starts_with(task, $1) or right(task, length($1)) = $1 order by task desc limit 5",
        given,
    )
    if not records:
        raise UnknownTask(given)
    if len(records) > 1:
        raise AmbiguousId(given, ", ".join(record["task"] for record in records))
    return TASKS.view(records[0], Task)
