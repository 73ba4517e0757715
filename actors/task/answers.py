"""Messages for a task at work: each is recorded, and wakes the step that waits for it.

A message that names no step, or that nobody waits for yet, is kept for `ctx.receive`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from callboard.actors.log.values import content_of, part_json, store_value
from callboard.actors.state.fold import WAITS
from callboard.actors.state.step_record import StepRecord
from callboard.actors.task.cancellation import cancel, reason_of
from callboard.protocols import events as e
from callboard.protocols.errors import BadName, DeadlineExceeded, MessageNotInLog, StoreUnavailable
from callboard.protocols.messages import Message, encode_json, error_info

if TYPE_CHECKING:
    from callboard.actors.task.work import Work

Settle = Callable[[], None]
NOBODY_WAITS = "nothing waits for it any more"


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="outcome"):
    """What a person says of a tool call with an unknown outcome. `by` is who."""

    by: str


class Happened(Decision, frozen=True, tag="happened"):
    """It was done, and this is its result."""

    result: Any = None


class Run(Decision, frozen=True, tag="run"):
    """It was not done, or may be done again."""


class Approve(Decision, frozen=True, tag="approve"):
    """What has this digest may be done."""

    digest: str


class Deny(Decision, frozen=True, tag="deny"):
    """It may not be done."""

    reason: str = ""


_decisions = msgspec.json.Decoder(Happened | Run)
_approvals = msgspec.json.Decoder(Approve | Deny)


def receive(work: "Work", message: Message, settle: Settle) -> None:
    """Take a message for the task. `settle` is called when it is recorded."""
    if message.kind == "cancel":
        cancel(work, reason_of(message), message.id, settle)
    elif message.kind == "timer" and message.step is None:
        work.end_late(message.id, settle)
    elif message.step is not None:
        _receive_answer(work, message, message.step, settle)
    else:
        _receive_other(work, message, settle)


def _receive_answer(work: "Work", message: Message, key: str, settle: Settle) -> None:
    step = work.fold.steps.get(key)
    if step is None or step.form not in WAITS or not step.open:
        work.actor.discard(message, settle, NOBODY_WAITS)
    elif isinstance(step.request, e.WaitStarted):
        _receive_other(work, message, settle)
    elif isinstance(step.request, e.ApprovalRequested):
        _decide(work, message, step.request, settle)
    elif isinstance(step.request, e.ToolRequested):
        work.services.spawn(_resolve(work, message, step.request, settle))
    else:
        work.write(_answer(message, key, step), handles=message.id, then=settle)
        work.wake(key)


def _answer(message: Message, key: str, step: StepRecord) -> e.Body:
    if message.kind == "timer" and isinstance(step.request, e.QuestionAsked):
        due_at = message.due_at.isoformat() if message.due_at else ""
        late = DeadlineExceeded(f"the answer of {step.request.to}", due_at)
        return e.QuestionFailed(step=key, error=error_info(late))
    if message.kind == "timer":
        return e.TimerFired(step=key)
    if message.error is not None:
        return e.QuestionFailed(step=key, error=message.error)
    return e.QuestionAnswered(step=key, result=content_of(message))


def _receive_other(work: "Work", message: Message, settle: Settle) -> None:
    waits = work.fold.open_steps("wait", "review")
    key = next((k for k, s in waits if isinstance(s.request, e.WaitStarted) and s.request.kind == message.kind), None)
    body = e.MessageReceived(kind=message.kind, sender=message.sender, content=content_of(message), step=key)
    work.write(body, handles=message.id, then=settle)
    if key is not None:
        work.wake(key)


def _decide(work: "Work", message: Message, request: e.ApprovalRequested, settle: Settle) -> None:
    """A person approves something, or says no. An approval of anything else than what is asked for is none."""
    try:
        decision = _approvals.decode(part_json(message.parts[0]) if message.parts else b"null")
    except (msgspec.DecodeError, RecursionError) as error:
        work.actor.discard(message, settle, f"it neither approves nor denies: {error}")
        return
    if isinstance(decision, Approve) and decision.digest != request.digest:
        work.actor.discard(message, settle, f"it approves {decision.digest}, and what is asked for is {request.digest}")
        return
    body = e.ApprovalDecided(
        step=request.step,
        approved=isinstance(decision, Approve),
        digest=request.digest,
        by=decision.by,
        reason=decision.reason if isinstance(decision, Deny) else "",
    )
    work.write(body, handles=message.id, then=settle)
    work.wake(request.step)


async def _resolve(work: "Work", message: Message, request: e.ToolRequested, settle: Settle) -> None:
    """A person says what became of a tool call: it happened, or it is to run (again)."""
    try:
        whole = message if message.parts is not None else await work.store.message(message.id)
        decision = _decisions.decode(part_json(whole.parts[0]) if whole.parts else b"null")
    except StoreUnavailable as error:
        work.actor.reload(error)
        return
    except (msgspec.DecodeError, RecursionError, MessageNotInLog, BadName) as error:
        work.actor.discard(message, settle, f"it is no decision about a tool call: {error}")
        return
    result = await store_value(work.store, encode_json(decision.result)) if isinstance(decision, Happened) else None
    step = work.fold.steps.get(request.step) if not work.ended else None
    if step is None or not step.open or step.form != "review":  # meanwhile somebody else has decided
        if not work.actor.dropped:
            work.actor.discard(message, settle, NOBODY_WAITS)
        return
    body: e.Body = request
    if result is not None:
        body = e.ToolCompleted(
            step=request.step, tool=request.tool, result=result, duration_ms=0, resolved_by=decision.by
        )
    work.write(body, handles=message.id, then=settle)
    work.wake(request.step)
