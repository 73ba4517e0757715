"""The messages that a task sends: what follows from the message that opened it is filled in."""

from typing import Any

from callboard.protocols.messages import OPENS_TASK, ErrorInfo, Kind, Message, part_of
from callboard.protocols.trace import child_traceparent


def outgoing(mine: Message, kind: Kind, to: str, task: str, payload: Any, **fields: Any) -> Message:
    """A message from the task that `mine` opened: everything that follows from whom it is from is filled in."""
    return Message(
        kind=kind,
        to=to,
        sender=mine.to,
        run=mine.run,
        task=task,
        parts=(part_of(payload),),
        causation=mine.id,
        priority=mine.priority,
        traceparent=child_traceparent(mine.traceparent),
        tenant=mine.tenant,
        depth=mine.depth + (kind != "handoff") if kind in OPENS_TASK else 0,
        handoffs=mine.handoffs + 1 if kind == "handoff" else 0,
        **fields,
    )


def reply(mine: Message, result: Any, error: ErrorInfo | None = None) -> Message:
    """The answer of the task that `mine` opened. Of a task that was handed over, it answers the first message."""
    there = mine.reply_to
    assert there is not None
    kind: Kind = "feedback" if mine.kind == "review-request" else "reply"
    question = mine.correlation or mine.id
    return outgoing(mine, kind, there.actor, there.task, result, step=there.step, error=error, correlation=question)


def error_reply(mine: Message, error: ErrorInfo) -> tuple[Message, ...]:
    """The answer of a task that failed, if anybody asked."""
    return () if mine.reply_to is None else (reply(mine, None, error),)
