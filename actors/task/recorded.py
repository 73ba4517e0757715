"""What a context has of the log: which step comes next, and what is recorded of it."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, Final

from callboard.actors.log.values import load_value
from callboard.actors.state.step_record import StepRecord
from callboard.actors.state.steps import StepCounter, in_own_task, same_input
from callboard.actors.task.attempt import PREFIX, Attempt
from callboard.actors.task.cancellation import compensating, new_ground
from callboard.actors.task.function_calls import step_failed
from callboard.protocols import events as e
from callboard.protocols.errors import Detached, StepInputChanged, TaskCanceled, TaskFailed
from callboard.protocols.messages import ErrorInfo, Kind
from callboard.protocols.types import decode_as
from callboard.protocols.values import encode_value

OWN_TASKS: Final = (
    "it runs in an asyncio task of the handler's own (as asyncio.gather makes them), where steps come in another order "
    "each time. Run such steps with ctx.gather, which knows each branch again; or the code changed"
)


class Recorded:
    """The record of one task at work, as one run of its handler goes along it."""

    __slots__ = ("_counter", "_live", "_received", "_state", "_task")

    def __init__(self, work: Attempt) -> None:
        self._live: Attempt | None = work
        self._task = work.message.task
        self._counter = StepCounter()
        self._received: dict[Kind, int] = {}
        self._state: str | None = None  # of the role's machine, where the handler has come to; None: as it began

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._live or self._task})"

    def detach(self) -> None:
        """From now on every call raises Detached."""
        self._live = None

    @property
    def _work(self) -> Attempt:
        if self._live is None:
            raise Detached(self._task)
        return self._live

    async def _step(self, name: str, mark: str) -> tuple[str, StepRecord | None]:
        """The key of the next step of this name, and what the log has of it."""
        work = self._work
        if not name.isascii():
            encode_value(name, "the step's name")  # before anything is done under it
        if work.fold.cancel is not None and compensating():
            name = PREFIX + name
        key = self._counter.next(name)
        record = self._recorded(key, mark)
        if record is not None and record.given_up:
            await self._given_up()
        if record is None or not record.done:
            await new_ground(work)
        if record is None:
            work.check_caps()
        return key, record

    async def _given_up(self) -> None:
        """A former run of the handler came to here, and went on without an outcome: what cancelled it there does so
        again.
        """
        await asyncio.get_running_loop().create_future()

    def _recorded(self, key: str, mark: str) -> StepRecord | None:
        """What the log has of a step; raises StepInputChanged if it had another input (or logs it, by option)."""
        work = self._work
        record = work.fold.steps.get(key)
        if record is not None and not same_input(record.fingerprint, mark):
            if work.definition.actor.on_changed_input == "error":
                raise StepInputChanged(key, OWN_TASKS) if in_own_task() else StepInputChanged(key)
            work.warn("step %s was recorded with another input; its recorded result stands", key)
        return record

    async def _answered(self, step: str) -> StepRecord:
        work = self._work
        record = work.fold.steps[step]
        if not record.done:
            with work.step(step):
                await work.wait(step)
        return record

    async def _outcome(self, step: str, record: StepRecord, returns: Any) -> Any:
        """A recorded step's result, or its error raised again."""
        if record.error is not None:
            raise failure(step, record.error, record.request)
        result: e.Stored | None = getattr(record.result, "result", None)
        return None if result is None else decode(await load_value(self._work.store, result), returns)

    def _deadline(self, timeout_s: float | None) -> datetime | None:
        mine = self._work.deadline
        if timeout_s is None:
            return mine
        there = self._work.services.clock.now() + timedelta(seconds=timeout_s)
        return there if mine is None else min(mine, there)


def failure(step: str, error: ErrorInfo, request: e.Body | None) -> Exception:
    """The error that a step ended with, as it is raised again."""
    if not isinstance(request, e.QuestionAsked):
        return step_failed(step, error)
    if error.type == TaskCanceled.__name__:
        return TaskCanceled(request.task, request.to, error.message)
    return TaskFailed(request.task, request.to, error.type, error.message, bases=error.bases, step=step)


def decode(encoded: bytes, returns: Any) -> Any:
    """A result as `returns`, by default as plain data."""
    return decode_as(encoded, returns)
