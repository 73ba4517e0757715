"""One task at work: its handler runs here, its events are made here, its messages arrive here."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from actors.cancellation import Compensation, compensate
from actors.context import Context
from actors.definition import Definition, Handler, Handoff
from actors.outgoing import error_reply, outgoing, reply
from actors.steps import leave_branches
from actors.writing import Writing
from protocols import events as e
from protocols.errors import (
    BadPayload,
    DeadlineExceeded,
    StoreUnavailable,
    TaskCanceled,
)
from protocols.messages import ErrorInfo, Message, encode_json, error_info
from protocols.names import RUN, role_of
from protocols.ports import EventStore
from protocols.redaction import redact

if TYPE_CHECKING:
    from actors.cell import Cell

log = logging.getLogger("callboard.actors")

MAX_TRACEBACK_CHARACTERS = 8000


class Undeliverable(Exception):
    """No handler takes the message that opens the task."""


class Work(Writing):
    """A task at work in one cell, from its claim to its end.

    `settle` is called when the message that opened it is claimed for good. A task that is resumed has been claimed.
    """

    __slots__ = (
        "begun",
        "canceled_at",
        "chosen",
        "claimed",
        "compensations",
        "context",
        "fresh",
        "handler",
        "live",
        "models",
        "settles",
        "stopped",
        "waiters",
    )

    def __init__(
        self,
        cell: "Cell",
        definition: Definition,
        message: Message,
        *,
        fresh: bool,
        resumed: bool = False,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.cell = cell
        self.definition = definition
        self.message = message
        self.fresh = fresh
        self.claimed = resumed
        self.settles = [settle]
        self.begun = False  # the handler's asyncio task has come to run
        self.live = not resumed  # the handler has come to where the record of a former run of it ends
        self.stopped = False  # the handler was cancelled because a cancel message came
        self.since = cell.runtime.clock.monotonic()  # when something was recorded last
        self.canceled_at = self.since if resumed and self.fold.cancel is not None else None
        self.chosen: Handler | None = None
        self.models: tuple[str, ...] = ()  # of the role, for this input
        self.reserving = {}
        self.compensations: list[Compensation] = []
        self.context = Context(self)
        self.effects = 0  # steps that run here right now
        self.waiters: dict[str, asyncio.Future[None]] = {}  # steps that wait for a message, by key
        self.handler: asyncio.Task[None] | None = None
        self.ended = False

    def __repr__(self) -> str:
        return f"Work({self}, {self.effects} effects, {len(self.waiters)} waits)"

    @property
    def store(self) -> EventStore:
        """The log."""
        return self.cell.runtime.store

    @property
    def parked(self) -> bool:
        """Whether all that the handler does is wait for messages."""
        return (
            self.claimed
            and not self.effects
            and bool(self.waiters)
            and not self.ended
            and self.fold.cancel is None  # then it has things to do, soon
        )

    @property
    def deadline(self) -> datetime | None:
        """When the task has to have ended, as was fixed when it began."""
        return self.fold.deadline

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write the claim, unless the task was claimed before, and run the handler."""
        if not self.claimed:
            machine = self.definition.machine
            deadline = self._own_deadline()
            body = e.TaskStarted(
                process=self.cell.runtime.process,
                epoch=self.cell.lease.epoch,
                role_state=(self.actor_fold.role_state or machine.initial) if machine else None,
                deadline=deadline,
                memory=self.actor_fold.memory,
            )
            alarm = () if deadline is None else (self.timer(None, deadline),)
            self.write(body, handles=self.message.id, sends=alarm, state=self._fire("start"), then=self._claimed)
        self.handler = self.cell.runtime.spawn(self._run(), name=f"{self.definition.role}<{self.message.task}>")

    def _own_deadline(self) -> datetime | None:
        """The message's deadline, or an earlier one by the role's limits."""
        limits, message = self.definition.limits, self.message
        if limits.task_s is None and limits.run_s is None:
            return message.deadline
        allowed_s = [limits.task_s, limits.run_s if role_of(message.sender) == RUN else None]
        now = self.cell.runtime.clock.now()
        ends = [now + timedelta(seconds=seconds) for seconds in allowed_s if seconds is not None]
        return min([*ends, *([message.deadline] if message.deadline is not None else [])], default=None)

    def _claimed(self) -> None:
        self.claimed = True
        for settle in self.settles:
            settle()
        self.changed()

    async def _run(self) -> None:
        leave_branches()
        self.begun = True
        try:
            if not self.fresh:
                await self.cell.journal.durable()
            while not await self._try():
                self.context.detach()
                self.context = Context(self)
                self.compensations.clear()
                self.live = False
            if self.fold.cancel is not None:
                await compensate(self)
                self.end_canceled(self.fold.cancel)
        except StoreUnavailable as error:
            self.cell.reload(error)  # nobody's fault: the task goes on when the store is back
        except GeneratorExit as error:  # a future that the handler awaited raised it, which closes every coroutine here
            self.fail(error)

    async def _try(self) -> bool:
        """Run the handler once. False: it is to run again."""
        if self.fold.cancel is not None and not self.fold.steps:
            return True  # nothing has been done
        try:
            if self.fold.retries and self.fold.cancel is None:
                await self._retry_due(self.fold.retries[-1])
            body, sends = self._outcome(await self._handle())
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self.ended or (self.fold.cancel is None and task is not None and task.cancelling()):
                raise
            return self._failed(error)  # the handler awaited something that was cancelled
        except StoreUnavailable:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises ends its task, and is recorded
            return self._failed(error)
        if self.fold.cancel is None:
            self._end("complete", body, *sends)
        return True

    async def _retry_due(self, step: str) -> None:
        if self.fold.steps[step].open:
            await self.wait(step)

    def _failed(self, error: BaseException) -> bool:
        """The handler raised. False: it is to run again, at a time that is now written."""
        if self.fold.cancel is not None:
            if not isinstance(error, asyncio.CancelledError):
                self.warn("failed while it was being canceled: %s", type(error).__name__)
            return True
        if isinstance(error, Undeliverable):
            self.die(str(error))
            return True
        policy, tries = self.definition.retry(self.chosen), len(self.fold.retries) + 1
        due_at = self.cell.runtime.clock.now() + policy.wait(tries)
        late = self.deadline is not None and due_at >= self.deadline
        if late or tries >= policy.attempts or not policy.covers(error):
            self.fail(error)
            return True
        step = f"retry#{tries - 1}"
        info = error_info(error)
        self.warn("failed, try %d of %d: %s; it is tried again", tries, policy.attempts, info.type)
        body = e.TaskRetryScheduled(step=step, error=info, due_at=due_at, forgets=self._steps_of(error))
        self.write(body, sends=(self.timer(step, due_at),))
        return False

    def _steps_of(self, error: BaseException | None) -> tuple[str, ...]:
        """The failed steps that an error comes from: those that are named along its causes."""
        steps = []
        while error is not None:
            record = self.fold.steps.get(getattr(error, "step", ""))
            if record is not None and record.error is not None:
                steps.append(error.step)  # type: ignore[attr-defined]
            error = error.__cause__ or error.__context__
        return tuple(dict.fromkeys(steps))

    async def _handle(self) -> Any:
        refusal, self.cell.refusal = self.cell.refusal, None
        if refusal is not None:
            raise refusal
        if self.message.parts is None:
            self.message = await self.store.message(self.message.id)
        try:
            self.chosen, payload = self.definition.select(self.message)
        except BadPayload as error:
            raise Undeliverable(str(error)) from error
        actor = self.definition.actor()
        models = actor.choose_model(payload)
        self.models = (models,) if isinstance(models, str) else tuple(models)
        if self.deadline is not None and self.cell.runtime.clock.now() >= self.deadline:
            raise self._late()
        return await self.chosen.method(actor, payload, self.context)

    def _outcome(self, result: Any) -> tuple[e.Body, tuple[Message, ...]]:
        """The event that ends the task with this result, and what it sends."""
        if isinstance(result, Handoff):
            message = self._hand_off(result)
            return e.TaskHandedOff(to=message.to, task=message.task), (message,)
        if self.message.reply_to is not None:
            return e.TaskCompleted(), (reply(self.message, result),)
        return e.TaskCompleted(result=msgspec.Raw(encode_json(result))), ()

    def _hand_off(self, handoff: Handoff) -> Message:
        return outgoing(
            self.message,
            "handoff",
            handoff.to,
            handoff.task,
            handoff.payload,
            parent=self.message.task,
            reply_to=self.message.reply_to,
            correlation=self.message.correlation or self.message.id,  # whoever asked gets the other's answer
            deadline=self.deadline,
        )

    # -- ending --------------------------------------------------------------------------------------------------

    def _late(self) -> DeadlineExceeded:
        assert self.deadline is not None
        return DeadlineExceeded(str(self), self.deadline.isoformat())

    def end_late(self, handles: str, then: Callable[[], None]) -> None:
        """The timer of the task's deadline came."""
        self.fail(self._late(), handles=handles, then=then)

    def fail(self, error: BaseException, *, handles: str | None = None, then: Callable[[], None] | None = None) -> None:
        """End the task with an error."""
        told = redact("".join(traceback.format_exception(error)))  # before it is cut: half a key is no key any more
        info = error_info(error, told[-MAX_TRACEBACK_CHARACTERS:])
        self.warn("failed: %s", info.type)
        answer = error_reply(self.message, msgspec.structs.replace(info, traceback=""))
        self._end("fail", e.TaskFailed(error=info), *answer, handles=handles, then=then)

    def die(self, reason: str) -> None:
        """Make a dead letter of the message that opened the task, and end it."""
        message = self.message
        self.warn("can't be handled, and is a dead letter now: %s", reason)
        body = e.MessageDeadLettered(
            to=message.to, reason=reason, attempts=self.fold.attempt, message=self.fold.message
        )
        self._end("fail", body, *error_reply(message, ErrorInfo(type="MessageDeadLettered", message=reason)))

    def end_canceled(self, reason: str) -> None:
        """End the task as canceled, whether all that it was to do then is done or not."""
        info = ErrorInfo(type=TaskCanceled.__name__, message=reason)
        self._end("cancel", e.TaskCanceled(reason=reason), *error_reply(self.message, info))

    def _end(
        self,
        trigger: str,
        body: e.Body,
        *sends: Message,
        handles: str | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        def ended() -> None:
            if then is not None:
                then()
            self.cell.ended(self)

        if self.ended:
            return
        self.lose_all()
        self.write(body, handles=handles, sends=sends, state=self._fire(trigger), then=ended)
        self.cell.journal.flush()
        self.detach()

    def detach(self) -> None:
        """Let go of the handler: no call of its context has an effect any more, and it is cancelled."""
        self.ended = True
        self.context.detach()
        for waiter in self.waiters.values():
            waiter.cancel()
        if self.handler is not None and self.handler is not asyncio.current_task():
            self.handler.cancel()

    # -- what the handler waits for --------------------------------------------------------------------------------

    @contextmanager
    def effect(self) -> Iterator[None]:
        """While something runs here that must not be interrupted lightly."""
        self.effects += 1
        if self.waiters:
            self.changed()  # another branch only waits, and this one goes on
        try:
            yield
        finally:
            self.effects -= 1
            self.changed()

    async def wait(self, step: str) -> None:
        """Return when the message that ends this step has come."""
        waiter = self.waiters[step] = asyncio.get_running_loop().create_future()
        self.changed()
        try:
            await waiter
        finally:
            if self.waiters.pop(step, None) is not None:
                self.changed()

    def changed(self) -> None:
        """Tell the runtime whether this work holds a slot."""
        self.cell.runtime.busy_changed(self.cell)

    def wake(self, key: str) -> None:
        """What a step waits for is recorded: let it go on."""
        waiter = self.waiters.pop(key, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
            self.changed()  # before the next message is delivered: from now on the handler holds a slot
