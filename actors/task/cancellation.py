"""How a task is cancelled, and what it still does: `finally` blocks, and the functions given to `ctx.on_cancel`.

When a task is cancelled, its handler runs up to the first thing that it has not done yet, and is cancelled there; if
its process is lost meanwhile, another one does the same from the record. What the handler does from then on is a
compensation: its steps have keys of their own, so that they are never taken for the same steps in the normal course.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

import msgspec

from callboard.actors.state.steps import fingerprint
from callboard.actors.task.attempt import Attempt
from callboard.actors.task.function_calls import call_step
from callboard.protocols import events as e
from callboard.protocols.errors import StepFailed
from callboard.protocols.messages import Message, value_of

MAX_REASON_CHARACTERS = 4000

_compensating: ContextVar[bool] = ContextVar("callboard_compensating", default=False)


def compensating() -> bool:
    """Whether the asyncio task that runs has been cancelled, or belongs to one that has."""
    task = asyncio.current_task()
    return _compensating.get() or (task is not None and task.cancelling() > 0)


def reason_of(message: Message) -> str:
    """Why a cancel message wants a task to stop, cut to MAX_REASON_CHARACTERS."""
    try:
        given = value_of(message.parts[0]) if message.parts else ""
        return str(given)[:MAX_REASON_CHARACTERS]
    except (msgspec.DecodeError, RecursionError, ValueError):  # deep nesting; a number of thousands of digits
        return ""


def hand_on() -> None:
    """Let the asyncio tasks that the current one creates compensate, too."""
    _compensating.set(compensating())


def cancel(work: Attempt, reason: str, handles: str, then: Callable[[], None]) -> None:
    """A cancel message came: stop the handler, and what it asked others for."""
    if work.fold.cancel is not None:
        body = e.MessageDiscarded(kind="cancel", reason="the task is being canceled already")
        work.write(body, handles=handles, then=then)
        return
    asked = work.stop_all(reason)
    work.write(e.TaskCancelRequested(reason=reason), handles=handles, sends=asked, then=then)
    work.canceled_at = work.since
    work.changed()
    if work.fold.retries and work.fold.steps[work.fold.retries[-1]].open:
        work.wake(work.fold.retries[-1])
    elif work.live:
        stop(work)


def stop(work: Attempt) -> None:
    """Cancel the handler where it is, once."""
    if work.begun and not work.stopped and work.handler is not None:
        work.stopped = True
        work.handler.cancel()


async def new_ground(work: Attempt) -> None:
    """Called before anything that is not in the record yet. In a task that is being cancelled, only what compensates
    goes on from here.
    """
    work.live = True
    if work.fold.cancel is not None and not compensating():
        stop(work)
        await asyncio.get_running_loop().create_future()


async def compensate(work: Attempt) -> None:
    """Call what was given to `ctx.on_cancel`, the last one first. One that fails is recorded, and the others go on."""
    _compensating.set(True)
    while work.compensations:
        step, function, args, kwargs = work.compensations.pop()
        record = work.fold.steps.get(step)
        if record is None or not record.done:
            try:
                await call_step(work, step, fingerprint((args, kwargs)), function, args, kwargs)
            except StepFailed as error:
                work.warn("%s failed: %s", step, error.type)
