"""The audit trail: one row for each notable event, in words, without any contents.

It says who did what and when: runs, tasks, retries, calls of tools and models, questions, waits and decisions, cancels,
role states, dead letters and what became of them. Details are ids, names, sizes and error types; prompts, arguments,
results and error messages stay in the log. Rows are only ever added.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from asyncpg import Connection
from msgspec import UNSET, Struct

from callboard.projections.base import Database, Fact, Page, Projection, Table, clean
from callboard.protocols import events
from callboard.protocols.events import Stored

DDL = """
create table audit (
    position bigint not null,            -- of the event
    at       timestamptz not null,
    run      text collate "C" not null,
    task     text collate "C",
    actor    text collate "C" not null,  -- the event's stream
    what     text not null,              -- the event's type
    detail   text not null               -- in words
);
create index audit_by_run on audit (run, position);
create index audit_by_actor on audit (actor, position);
create index audit_by_time on audit using brin (at);
"""

# Messages to a task at work that are notable by themselves.
NOTABLE_MESSAGES: Final = frozenset({"decision", "cancel", "feedback"})


class Entry(Struct, frozen=True, gc=False):
    """One notable event."""

    position: int
    at: datetime
    run: str
    task: str | None
    actor: str
    what: str
    detail: str


AUDIT = Table("audit", Entry)


async def apply(connection: Connection, page: Page) -> None:
    """Add a page to the table."""
    await AUDIT.insert(connection, fold(page))


def fold(page: Page) -> list[Entry]:
    """A page's notable events."""
    entries = []
    for fact in page:
        event = fact.event
        detail = DETAILS[event.type](fact)
        if detail is not None:
            meta = event.meta
            entries.append(
                Entry(event.position, event.recorded_at, meta.run, meta.task, event.stream, event.type, clean(detail))
            )
    return entries


# -- an event's details in words; None: not notable --------------------------------------------------------


def _run_started(fact: Fact) -> str:
    body: events.RunStarted = fact.body
    return f"task {body.task} to {body.to}" + (f", from {body.origin}" if body.origin else "")


def _task_started(fact: Fact) -> str:
    body: events.TaskStarted = fact.body
    return f"attempt {body.attempt} by {body.process}"


def _task_resumed(fact: Fact) -> str:
    body: events.TaskResumed = fact.body
    return f"attempt {body.attempt} by {body.process}: {body.reason}"


def _task_stalled(fact: Fact) -> str:
    body: events.TaskStalled = fact.body
    return f"blocked {body.process} for {body.seconds:.1f} s, in {body.place}"


def _retry_scheduled(fact: Fact) -> str:
    body: events.TaskRetryScheduled = fact.body
    return f"{body.error.type}: again at {body.due_at.isoformat(timespec='seconds')}"


def _task_completed(fact: Fact) -> str:
    sent = len(fact.sends)
    return f"{sent} message{'s' * (sent > 1)} sent" if sent else ""


def _task_failed(fact: Fact) -> str:
    body: events.TaskFailed = fact.body
    return body.error.type


def _handed_off(fact: Fact) -> str:
    body: events.TaskHandedOff = fact.body
    return f"to {body.to} as task {body.task}"


def _tool_requested(fact: Fact) -> str:
    body: events.ToolRequested = fact.body
    return f"{body.tool}: arguments of {_size(body.arguments)}"


def _tool_completed(fact: Fact) -> str:
    body: events.ToolCompleted = fact.body
    if body.resolved_by:
        return f"{body.tool}: it happened, says {body.resolved_by}, with {_size(body.result)}"
    return f"{body.tool}: result of {_size(body.result)} in {body.duration_ms} ms"


def _outcome_unknown(fact: Fact) -> str:
    body: events.ToolOutcomeUnknown = fact.body
    return f"{body.tool}: step {body.step}"


def _tool_failed(fact: Fact) -> str:
    body: events.ToolFailed = fact.body
    return f"{body.tool}: {body.error.type} after {body.duration_ms} ms"


def _model_requested(fact: Fact) -> str:
    body: events.ModelRequested = fact.body
    return f"{body.model}: {len(body.messages)} messages, attempt {body.attempt}"


def _model_completed(fact: Fact) -> str:
    body: events.ModelCompleted = fact.body
    cost = f"{body.cost.amount} {body.cost.currency}" if body.cost else "unpriced"
    stand_in = " (stand-in)" if body.stand_in else ""
    return f"{body.model}{stand_in}: {body.usage.total} tokens, {cost}, {body.duration_ms} ms, {body.finish_reason}"


def _model_failed(fact: Fact) -> str:
    body: events.ModelFailed = fact.body
    return f"{body.model}: {body.error.type} after {body.duration_ms} ms, attempt {body.attempt}"


def _model_refused(fact: Fact) -> str:
    body: events.ModelRefused = fact.body
    return f"step {body.step}: {body.error.type}"


def _approval_requested(fact: Fact) -> str:
    body: events.ApprovalRequested = fact.body
    return f"step {body.step}: {body.subject} {body.tool}".rstrip() + f" {body.digest[:12]}"


def _approval_decided(fact: Fact) -> str:
    body: events.ApprovalDecided = fact.body
    return f"step {body.step}: {'approved' if body.approved else 'denied'} by {body.by}, {body.digest[:12]}"


def _value_checked(fact: Fact) -> str:
    body: events.ValueChecked = fact.body
    return f"{body.name}: {'accepted' if body.accepted else 'refused'}, {body.rule}"


def _budget_set(fact: Fact) -> str:
    body: events.BudgetSet = fact.body
    return f"limit {body.limit.amount} {body.limit.currency}, beyond it {body.over}, by {body.by}"


def _budget_topped_up(fact: Fact) -> str:
    body: events.BudgetToppedUp = fact.body
    return f"{body.amount.amount} {body.amount.currency} more for {body.target}, by {body.by}"


def _budget_warned(fact: Fact) -> str:
    body: events.BudgetWarned = fact.body
    return f"{body.target}, {body.window}: {body.committed.amount} of {body.limit.amount} {body.limit.currency}"


def _budget_released(fact: Fact) -> str:
    body: events.BudgetReleased = fact.body
    return f"{body.attempt}: {body.amount.amount} {body.amount.currency}, by {body.by}"


def _budget_removed(fact: Fact) -> str:
    body: events.BudgetRemoved = fact.body
    return f"by {body.by}"


def _question_asked(fact: Fact) -> str:
    body: events.QuestionAsked = fact.body
    return f"{body.to}, task {body.task}"


def _wait_started(fact: Fact) -> str:
    body: events.WaitStarted = fact.body
    return f"for {body.kind}"


def _message_received(fact: Fact) -> str | None:
    body: events.MessageReceived = fact.body
    return f"{body.kind} from {body.sender}" if body.kind in NOTABLE_MESSAGES else None


def _state_changed(fact: Fact) -> str:
    change = fact.event.meta.state
    return f"{change.trigger}: {change.source} -> {change.dest}" if change else ""


def _dead_lettered(fact: Fact) -> str:
    body: events.MessageDeadLettered = fact.body
    what = body.message or fact.event.meta.handles or f"{len(body.entry or b'')} bytes that are no message"
    return f"{what}, to {body.to}, after {body.attempts} attempts"


def _edited(fact: Fact) -> str:
    body: events.DeadLetterEdited = fact.body
    return f"{body.letter}, by {body.by}"


def _redriven(fact: Fact) -> str:
    body: events.DeadLetterRedriven = fact.body
    return f"{body.letter}, by {body.by}" + "".join(f", as task {message.task}" for message in fact.sends)


def _nothing(_fact: Fact) -> str:
    return ""


def _size(value: Stored) -> str:
    if value.inline is not UNSET:
        return f"{len(bytes(value.inline))} bytes"
    return f"blob {value.blob[:12]}" if value.blob else f"message {value.message}"


DETAILS: Final[dict[str, Callable[[Fact], str | None]]] = {
    events.RunStarted.TYPE: _run_started,
    events.TaskStarted.TYPE: _task_started,
    events.TaskResumed.TYPE: _task_resumed,
    events.TaskStalled.TYPE: _task_stalled,
    events.TaskRetryScheduled.TYPE: _retry_scheduled,
    events.TaskCompleted.TYPE: _task_completed,
    events.TaskFailed.TYPE: _task_failed,
    events.TaskCancelRequested.TYPE: _nothing,
    events.TaskCanceled.TYPE: _nothing,
    events.TaskHandedOff.TYPE: _handed_off,
    events.ToolRequested.TYPE: _tool_requested,
    events.ToolCompleted.TYPE: _tool_completed,
    events.ToolOutcomeUnknown.TYPE: _outcome_unknown,
    events.ToolFailed.TYPE: _tool_failed,
    events.ModelRequested.TYPE: _model_requested,
    events.ModelCompleted.TYPE: _model_completed,
    events.ModelFailed.TYPE: _model_failed,
    events.ModelRefused.TYPE: _model_refused,
    events.ApprovalRequested.TYPE: _approval_requested,
    events.ApprovalDecided.TYPE: _approval_decided,
    events.ValueChecked.TYPE: _value_checked,
    events.BudgetSet.TYPE: _budget_set,
    events.BudgetToppedUp.TYPE: _budget_topped_up,
    events.BudgetWarned.TYPE: _budget_warned,
    events.BudgetReleased.TYPE: _budget_released,
    events.BudgetRemoved.TYPE: _budget_removed,
    events.QuestionAsked.TYPE: _question_asked,
    events.WaitStarted.TYPE: _wait_started,
    events.MessageReceived.TYPE: _message_received,
    events.StateChanged.TYPE: _state_changed,
    events.MessageDeadLettered.TYPE: _dead_lettered,
    events.DeadLetterEdited.TYPE: _edited,
    events.DeadLetterRedriven.TYPE: _redriven,
}

PROJECTION = Projection(name="audit", version=3, tables=("audit",), ddl=DDL, handles=frozenset(DETAILS), apply=apply)


# -- queries -----------------------------------------------------------------------------------------------


async def audit(
    database: Database,
    *,
    run: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    after: int = 0,
    limit: int = 1000,
) -> list[Entry]:
    """Entries behind a position, in the log's order. `since` is inclusive; `after` continues from a former page."""
    records = await database.fetch(
        """
        select * from audit
        where ($1::text is null or run = $1) and ($2::text is null or actor = $2)
            and ($3::timestamptz is null or at >= $3) and position > $4
        order by position limit $5
        """,
        run,
        actor,
        since,
        after,
        limit,
    )
    return [AUDIT.row(record) for record in records]
