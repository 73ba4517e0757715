"""What an event did, in words: for `events` and `replay`. Contents are left out; names, sizes and errors are told."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from callboard.cli.words import count, duration, money, one_line, short
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, sent_messages
from callboard.protocols.events import Event, Stored
from callboard.protocols.messages import Message
from callboard.protocols.money import Money


class EventLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as --json shows it. The last three only where bodies were asked for."""

    position: int
    at: datetime
    stream: str
    version: int
    type: str
    run: str
    words: str
    task: str | None = None
    handles: str | None = None
    sends: tuple[str, ...] = ()  # message ids
    trigger: str | None = None  # of the state machine, with the states before and after
    before: str | None = None
    after: str | None = None
    body: Raw | UnsetType = UNSET
    messages: tuple[Message, ...] = ()  # that it sends, whole
    blobs: Mapping[str, Raw] = {}  # what it keeps elsewhere, such as prompts: JSON by digest


def line(event: Event, blobs: Mapping[str, bytes] | None = None) -> EventLine:
    """An event for machines; with `blobs` (those of `digests(event)` among them), bodies and all."""
    state = event.meta.state
    told = EventLine(
        position=event.position,
        at=event.recorded_at,
        stream=event.stream,
        version=event.version,
        type=event.type,
        run=event.meta.run,
        words=tell(event),
        task=event.meta.task,
        handles=event.meta.handles,
        sends=tuple(message.id for message in sent_messages(event)),
        trigger=state.trigger if state else None,
        before=state.source if state else None,
        after=state.dest if state else None,
    )
    if blobs is None:
        return told
    return replace(
        told,
        body=Raw(event.data),
        messages=tuple(sent_messages(event)),
        blobs={digest: Raw(blobs[digest]) for digest in digests(event)},
    )


def digests(event: Event) -> list[str]:
    """The blobs that an event's body refers to."""
    body = body_of(event)
    if isinstance(body, e.ModelRequested):
        return list(body.messages)
    values = [getattr(body, name) for name in body.__struct_fields__]
    kept = [value.blob for value in values if isinstance(value, Stored) and value.blob]
    return kept + ([body.blob] if isinstance(body, e.ArtifactAdded) and body.blob else [])


def tell(event: Event) -> str:
    """What an event did, and whom it told."""
    words = WORDS[event.type](body_of(event))
    told = [f"{message.kind} to {short(message.to)}" for message in event.meta.sends if message.kind != "timer"]
    if told and event.type not in _TELLS_OF_SENDS:
        shown = ", ".join(told[:3]) + (f" and {len(told) - 3} more" if len(told) > 3 else "")
        words = f"{words}; sends {shown}" if words else f"sends {shown}"
    return words


def _size(value: Stored) -> str:
    if value.inline is not UNSET:
        return count(len(bytes(value.inline)), "byte")
    return f"blob {value.blob[:8]}" if value.blob else f"as in message {short(value.message or '')}"


def _model_completed(body: e.ModelCompleted) -> str:
    cost = money({body.cost.currency: body.cost.amount}) if body.cost else "unpriced"
    took = duration(body.duration_ms / 1000)
    return f"{body.step}: {body.model} answered, {body.usage.total:,} tokens, {cost}, {took}"


def _dead(body: e.MessageDeadLettered) -> str:
    return f"a message to {short(body.to)} can't be handled after {count(body.attempts, 'attempt')}: {body.reason}"


def _tool_completed(body: e.ToolCompleted) -> str:
    if body.resolved_by:
        return f"{body.step}: {body.resolved_by} said that {body.tool} was done, with {_size(body.result)}"
    return f"{body.step}: {body.tool} gave {_size(body.result)} in {duration(body.duration_ms / 1000)}"


def _progressed(body: e.TaskProgressed) -> str:
    total = f" of {body.total:g}" if body.total is not None else ""
    return f"{body.done:g}{total} done" + (f": {one_line(body.note)}" if body.note else "")


def _received(body: e.MessageReceived) -> str:
    ends = f", which ends the wait {body.step}" if body.step else ""
    return f"{body.kind} came from {short(body.sender)}{ends}"


def _because(reason: str) -> str:
    return f": {one_line(reason)}" if reason else ""


def _amount(amount: Money) -> str:
    return money({amount.currency: amount.amount})


def _failed(body: Any) -> str:
    return f"{body.error.type}: {one_line(body.error.message)}"


def _failed_step(body: Any) -> str:
    return f"{body.step} failed: {_failed(body)}"


WORDS: Final[dict[str, Callable[[Any], str]]] = {
    e.RunStarted.TYPE: lambda b: (
        f"the run starts with a task for {short(b.to)}" + (f", from {b.origin}" * bool(b.origin))
    ),
    e.RunContinued.TYPE: lambda b: "a further message into the run" + (f", from {b.origin}" * bool(b.origin)),
    e.TaskStarted.TYPE: lambda b: f"starts, attempt {b.attempt}, in {b.process}",
    e.TaskResumed.TYPE: lambda b: f"goes on, attempt {b.attempt}, in {b.process} ({b.reason})",
    e.TaskStalled.TYPE: lambda b: (
        f"blocked {b.process} for {duration(b.seconds)}, which was ended for it, in {b.place}"
    ),
    e.TaskRetryScheduled.TYPE: lambda b: (
        f"{_failed(b)}; tries again at {b.due_at.astimezone():%Y-%m-%d %H:%M:%S} ({b.step})"
    ),
    e.TaskProgressed.TYPE: _progressed,
    e.TaskStateChanged.TYPE: lambda _: "nothing else happened",
    e.TaskCompleted.TYPE: lambda b: (
        "completed" if b.result is UNSET else f"completed, {count(len(bytes(b.result)), 'byte')}"
    ),
    e.TaskFailed.TYPE: lambda b: f"failed: {_failed(b)}",
    e.TaskCancelRequested.TYPE: lambda b: f"is to stop: {one_line(b.reason)}",
    e.TaskCanceled.TYPE: lambda b: f"canceled: {one_line(b.reason)}",
    e.TaskHandedOff.TYPE: lambda b: f"handed over to {short(b.to)}",
    e.StepCompleted.TYPE: lambda b: f"{b.step} done, {_size(b.result)}",
    e.StepFailed.TYPE: _failed_step,
    e.StepGivenUp.TYPE: lambda b: f"{b.step} is given up: its branch was cancelled",
    e.ToolRequested.TYPE: lambda b: f"{b.step}: calls the tool {b.tool}, {_size(b.arguments)} of arguments",
    e.ToolCompleted.TYPE: _tool_completed,
    e.ToolOutcomeUnknown.TYPE: lambda b: f"{b.step}: whether {b.tool} was done is not known, a person has to say it",
    e.ToolFailed.TYPE: _failed_step,
    e.ModelRequested.TYPE: lambda b: (
        f"{b.step}: asks {b.model}, {count(len(b.messages), 'message')}, attempt {b.attempt}"
    ),
    e.ModelCompleted.TYPE: _model_completed,
    e.ModelFailed.TYPE: lambda b: f"{b.step}: {b.model} gave no answer, attempt {b.attempt}: {_failed(b)}",
    e.ModelRefused.TYPE: lambda b: f"{b.step}: the call is not made: {_failed(b)}",
    e.ApprovalRequested.TYPE: lambda b: f"{b.step}: waits until somebody approves: {one_line(b.note)}",
    e.ApprovalDecided.TYPE: lambda b: f"{b.step}: {b.by} {'approves' if b.approved else 'says no'}{_because(b.reason)}",
    e.ValueChecked.TYPE: lambda b: (
        f"{b.step}: {b.name} is {'accepted' if b.accepted else 'refused'}{_because(b.reason)}"
    ),
    e.QuestionAsked.TYPE: lambda b: f"{b.step}: asks {short(b.to)}",
    e.QuestionAnswered.TYPE: lambda b: f"{b.step}: the answer came, {_size(b.result)}",
    e.QuestionFailed.TYPE: _failed_step,
    e.TimerSet.TYPE: lambda b: f"{b.step}: sleeps until {b.due_at.astimezone():%Y-%m-%d %H:%M:%S}",
    e.TimerFired.TYPE: lambda b: f"{b.step}: wakes",
    e.WaitStarted.TYPE: lambda b: f"{b.step}: waits for {b.kind}" + (f": {one_line(b.note)}" * bool(b.note)),
    e.MessageSent.TYPE: lambda b: b.step,
    e.MessageReceived.TYPE: _received,
    e.ArtifactAdded.TYPE: lambda b: f"{b.step}: keeps {b.name}",
    e.StateChanged.TYPE: lambda b: f"{b.step}: its own state is {b.to}",
    e.MessageDiscarded.TYPE: lambda b: f"{b.kind} came too late: {b.reason}",
    e.MessageDeadLettered.TYPE: _dead,
    e.DeadLetterEdited.TYPE: lambda b: (
        f"{b.by} gave dead letter {short(b.letter)} another content" + (f": {one_line(b.reason)}" * bool(b.reason))
    ),
    e.DeadLetterRedriven.TYPE: lambda b: f"{b.by} sent dead letter {short(b.letter)} again",
    e.BudgetSet.TYPE: lambda b: f"{b.by} sets the limit to {_amount(b.limit)}, beyond it: {b.over}{_because(b.note)}",
    e.BudgetToppedUp.TYPE: lambda b: f"{b.by} adds {_amount(b.amount)} for {b.target} in this window{_because(b.note)}",
    e.BudgetWarned.TYPE: lambda b: (
        f"{b.target} has committed {_amount(b.committed)} of {_amount(b.limit)} ({b.window})"
    ),
    e.BudgetReleased.TYPE: lambda b: f"{b.by} says that {b.attempt} cost {_amount(b.amount)}{_because(b.note)}",
    e.BudgetRemoved.TYPE: lambda b: f"{b.by} removes it",
}
_TELLS_OF_SENDS: Final = frozenset({e.RunStarted.TYPE, e.QuestionAsked.TYPE, e.TaskHandedOff.TYPE, e.TimerSet.TYPE})
