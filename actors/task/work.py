"""One task at work: its handler runs here, its events are made here, its messages arrive here."""

import asyncio
import logging
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from callboard.actors.log.journal import Journal
from callboard.actors.roles.definition import Definition, Handler, Handoff
from callboard.actors.roles.outgoing import error_reply, outgoing, reply
from callboard.actors.state.fold import ActorFold
from callboard.actors.state.steps import leave_branches
from callboard.actors.task.attempt import Attempt
from callboard.actors.task.branches import Branches
from callboard.actors.task.cancellation import compensate
from callboard.actors.task.context import Context
from callboard.actors.task.services import OwnActor, Services
from callboard.protocols import events as e
from callboard.protocols.causes import causes, name_of
from callboard.protocols.errors import (
    BadPayload,
    CallboardError,
    DeadlineExceeded,
    StoreUnavailable,
    TaskCanceled,
)
from callboard.protocols.messages import ErrorInfo, Message, error_info
from callboard.protocols.names import RUN, role_of
from callboard.protocols.redaction import redact
from callboard.protocols.values import encode_value

log = logging.getLogger("callboard.actors")

MAX_TRACEBACK_CHARACTERS = 8000


def _traceback_of(error: BaseException) -> str:
    """The end of an exception's traceback; of one that can't be told, what is in the way."""
    try:
        return "".join(traceback.format_exception(error))[-4 * MAX_TRACEBACK_CHARACTERS :]
    except Exception as failure:  # noqa: BLE001 - an exception's own code may raise anything
        return f"its traceback can't be made: {name_of(type(failure))}"


class Undeliverable(Exception):
    """No handler takes the message that opens the task."""


class Work(Attempt):
    """A task at work in one actor, from its claim to its end.

    `settle` is called when the message that opened it is claimed for good. A task that is resumed has been claimed.
    """

    __slots__ = ("chosen", "context", "fresh", "settles")

    def __init__(
        self,
        services: Services,
        actor: OwnActor,
        actor_fold: ActorFold,
        journal: Journal,
        definition: Definition,
        message: Message,
        *,
        fresh: bool,
        resumed: bool = False,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(services, actor, actor_fold, journal, definition, message, resumed=resumed)
        self.fresh = fresh
        self.settles = [settle]
        self.chosen: Handler | None = None
        self.context = Context(self)

    def __repr__(self) -> str:
        return f"Work({self}, {self.effects} effects, {len(self.waiters)} waits)"

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write the claim, unless the task was claimed before, and run the handler."""
        if not self.claimed:
            machine = self.definition.machine
            deadline = self._own_deadline()
            body = e.TaskStarted(
                process=self.services.process,
                epoch=self.actor.tenure.lease.epoch,
                role_state=(self.actor_fold.role_state or machine.initial) if machine else None,
                deadline=deadline,
                memory=self.actor_fold.memory,
                canceled=self.actor_fold.canceled,
            )
            alarm = () if deadline is None else (self.timer(None, deadline),)
            self.write(body, handles=self.message.id, sends=alarm, state=self._fire("start"), then=self._claimed)
        self.handler = self.services.spawn(self._run(), name=f"{self.definition.role}<{self.message.task}>")

    def _own_deadline(self) -> datetime | None:
        """The message's deadline, or an earlier one by the role's limits."""
        limits, message = self.definition.limits, self.message
        if limits.task_s is None and limits.run_s is None:
            return message.deadline
        allowed_s = [limits.task_s, limits.run_s if role_of(message.sender) == RUN else None]
        now = self.services.clock.now()
        ends = [now + timedelta(seconds=seconds) for seconds in allowed_s if seconds is not None]
        return min([*ends, *([message.deadline] if message.deadline is not None else [])], default=None)

    def _claimed(self) -> None:
        self.claimed = True
        for settle in self.settles:
            settle()
        self.changed()

    async def _run(self) -> None:
        leave_branches()
        self.branches.enter()
        self.begun = True
        try:
            if not self.fresh:
                await self.journal.durable()
            while not await self._try():
                self.live = False
            if self.fold.cancel is not None:
                await compensate(self)
                self.end_canceled(self.fold.cancel)
        except StoreUnavailable as error:
            self.actor.reload(error)  # nobody's fault: the task goes on when the store is back
        except GeneratorExit as error:  # a future that the handler awaited raised it, which closes every coroutine here
            self.fail(error)
        except Exception as fault:  # noqa: BLE001 - it ends the task, or it would end the process
            self._end_by(fault)

    def _end_by(self, fault: Exception) -> None:
        """Something beside the handler failed, such as what records its error: that ends the task, and no more."""
        frames = "".join(traceback.format_tb(fault.__traceback__))  # its text may be what can't be told
        self.warn("is ended by %s in what runs it:\n%s", name_of(type(fault)), frames)
        if self.fold.cancel is not None:
            self.end_canceled(self.fold.cancel)
            return
        info = ErrorInfo(type=name_of(type(fault)), message="the error of the task can't be recorded; the log has it")
        self._end("fail", e.TaskFailed(error=info), *error_reply(self.message, info))

    def _leave_try(self) -> None:
        """The handler is to run again. What it left behind in asyncio tasks of its own goes on no more; a question
        that is open is found again by the next try.
        """
        self.context.detach()
        self.context = Context(self)
        self.compensations.clear()
        former, self.branches = self.branches, Branches(self._branch_ended)
        self.branches.enter()
        former.cancel()
        self.waiters.clear()

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
            if not issubclass(type(error), asyncio.CancelledError):
                self.warn("failed while it was being canceled: %s", name_of(type(error)))
            return True
        if issubclass(type(error), Undeliverable):
            self.die(str(error))
            return True
        policy, tries = self.definition.retry(self.chosen), len(self.fold.retries) + 1
        due_at = self.services.clock.now() + policy.wait(tries)
        late = self.deadline is not None and due_at >= self.deadline
        if late or tries >= policy.attempts or not policy.covers(error):
            self.fail(error)
            return True
        self._leave_try()
        step = f"retry#{tries - 1}"
        info = error_info(error)
        self.warn("failed, try %d of %d: %s; it is tried again", tries, policy.attempts, info.type)
        body = e.TaskRetryScheduled(step=step, error=info, due_at=due_at, forgets=self._steps_of(error))
        self.write(body, sends=(self.timer(step, due_at),))
        return False

    def _steps_of(self, error: BaseException) -> tuple[str, ...]:
        """The failed steps that an error comes from: those that are named along its causes."""
        named = [vars(each).get("step") for each in causes(error) if issubclass(type(each), CallboardError)]
        return tuple(dict.fromkeys(step for step in named if isinstance(step, str) and self._has_failed(step)))

    def _has_failed(self, step: str) -> bool:
        record = self.fold.steps.get(step)
        return record is not None and record.error is not None

    async def _handle(self) -> Any:
        refusal = self.actor.take_refusal()
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
        if self.deadline is not None and self.services.clock.now() >= self.deadline:
            raise self._late()
        return await self.chosen.method(actor, payload, self.context)

    def _outcome(self, result: Any) -> tuple[e.Body, tuple[Message, ...]]:
        """The event that ends the task with this result, and what it sends."""
        if isinstance(result, Handoff):
            message = self._hand_off(result)
            return e.TaskHandedOff(to=message.to, task=message.task), (message,)
        if self.message.reply_to is not None:
            return e.TaskCompleted(), (reply(self.message, result),)
        return e.TaskCompleted(result=msgspec.Raw(encode_value(result, "the result"))), ()

    def _hand_off(self, handoff: Handoff) -> Message:
        self.check_handoffs()
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
        told = redact(_traceback_of(error))  # before it is cut: half a key is no key any more
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
            self.actor.ended()

        if self.ended:
            return
        self.lose_all()
        sends = (*sends, *self.stop_all("the task that asked has ended"))
        self.write(body, handles=handles, sends=sends, state=self._fire(trigger), then=ended)
        self.journal.flush()
        self.detach()

    def detach(self) -> None:
        """Let go of the handler: no call of its context has an effect any more, and it is cancelled."""
        self.ended = True
        self.context.detach()
        self.branches.cancel()
        if self.handler is not None and self.handler is not asyncio.current_task():
            self.handler.cancel()  # it may not have begun
