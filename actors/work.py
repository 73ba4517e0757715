"""One task at work: its handler runs here, its events are made here, its messages arrive here."""

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from actors.context import Context
from actors.definition import Definition, Handoff
from actors.fold import WAITS, ActorFold, TaskFold
from actors.machine import LIFECYCLE_MACHINE
from actors.steps import leave_branches
from actors.values import content_of
from protocols import events as e
from protocols.errors import DeadlineExceeded, Detached, IllegalTrigger, StoreUnavailable
from protocols.messages import ErrorInfo, Kind, Message, encode_json, error_info, part_of, value_of
from protocols.ports import EventStore
from protocols.states import WAITING, StateChange
from protocols.trace import child_traceparent

if TYPE_CHECKING:
    from actors.cell import Cell

log = logging.getLogger("callboard.actors")

MAX_TRACEBACK_CHARACTERS = 8000
BEGINS_WAIT = (e.QuestionAsked, e.TimerSet, e.WaitStarted)


class Work:
    """A task at work in one cell, from its claim to its end.

    `settle` is called when the message that opened it is claimed for good. A task that is resumed has been claimed.
    """

    __slots__ = (
        "cell",
        "claimed",
        "context",
        "definition",
        "effects",
        "ended",
        "fresh",
        "handler",
        "message",
        "settles",
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
        self.context = Context(self)
        self.effects = 0  # steps that run here right now
        self.waiters: dict[str, asyncio.Future[None]] = {}  # steps that wait for a message, by key
        self.handler: asyncio.Task[None] | None = None
        self.ended = False

    def __repr__(self) -> str:
        return f"Work({self}, {self.effects} effects, {len(self.waiters)} waits)"

    def __str__(self) -> str:
        return f"{self.cell.name.role}<{self.message.task}@{self.actor_fold.version}>"

    @property
    def actor_fold(self) -> ActorFold:
        """The actor, as of what was written last."""
        assert self.cell.fold is not None
        return self.cell.fold

    @property
    def fold(self) -> TaskFold:
        """The task, as of what was written last."""
        assert self.actor_fold.current is not None
        return self.actor_fold.current

    @property
    def store(self) -> EventStore:
        """The log."""
        return self.cell.runtime.store

    @property
    def parked(self) -> bool:
        """Whether all that the handler does is wait for messages."""
        return self.claimed and not self.effects and bool(self.waiters) and not self.ended

    # -- writing -------------------------------------------------------------------------------------------------

    def write(
        self,
        body: e.Body,
        *,
        handles: str | None = None,
        sends: tuple[Message, ...] = (),
        state: StateChange | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write one event of this task, with the state change that follows from it.

        Raises Detached once the task has ended here: a handler may hold on to what it was doing.
        """
        message = self.message
        if self.ended:
            raise Detached(message.task)
        data = encode_json(body)  # first: if it can't be JSON, nothing has changed
        self.actor_fold.take(body, message.task, handles)
        if state is None:
            state = self._state_change(body)
        meta = e.Meta(
            run=message.run,
            task=message.task,
            role=self.definition.role,
            handles=handles,
            sends=sends,
            state=state,
            causation=message.id,
            correlation=message.correlation,
            traceparent=message.traceparent,
            tenant=message.tenant,
        )
        event = e.NewEvent(type=body.TYPE, data=data, meta=meta, schema_version=body.SCHEMA_VERSION)
        self.cell.write(event, then)

    def trigger(self, step: str, trigger: str, state: str | None) -> str:
        """Move the role's own machine from a state; gives its new one. Raises IllegalTrigger."""
        machine = self.definition.machine
        if machine is None:
            raise IllegalTrigger(self.definition.actor.__name__, trigger, "(it declares no states)", "none")
        change = machine.fire(trigger, state or machine.initial)
        self.write(e.StateChanged(step=step, to=change.dest), state=change)
        return change.dest

    def _state_change(self, body: e.Body) -> StateChange | None:
        """The change that an event brings. A task is in a state that waits only if nothing of it runs: where branches
        of a handler wait and others go on, it must be taken up again when this process is lost.
        """
        trigger, state = self.fold.working_state()
        if state in WAITING and isinstance(body, e.MessageReceived) and body.step is None:
            return None  # nobody waited for it
        if state in WAITING and (self.effects or not isinstance(body, BEGINS_WAIT)):
            trigger, state = "think", "thinking"
        return None if state == self.actor_fold.state else self._fire(trigger)

    def goes_on(self) -> None:
        """Something begins to run that has no event of its own: say so, if the log says that the task waits."""
        if self.actor_fold.state in WAITING:
            self.write(e.TaskStateChanged(), state=self._fire("think"))

    def only_waits(self, then: Callable[[], None]) -> None:
        """Say that nothing of the task runs any more: the log can't know it where one branch of several has ended."""
        trigger, _ = self.fold.working_state()
        self.write(e.TaskStateChanged(), state=self._fire(trigger), then=then)
        self.cell.journal.flush()

    def _fire(self, trigger: str) -> StateChange:
        change = LIFECYCLE_MACHINE.fire(trigger, self.actor_fold.state)
        self.actor_fold.state = change.dest
        return change

    def outgoing(self, kind: Kind, to: str, task: str, payload: Any, **fields: Any) -> Message:
        """A message from this task: everything that follows from whom it is from is filled in."""
        mine = self.message
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
            **fields,
        )

    def warn(self, text: str, *values: object) -> None:
        """Log a warning that begins with who speaks."""
        log.warning("%s " + text, self, *values)  # noqa: G003 - one fixed text and its values

    # -- running -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write the claim, unless the task was claimed before, and run the handler."""
        if not self.claimed:
            machine = self.definition.machine
            role_state = (self.actor_fold.role_state or machine.initial) if machine else None
            body = e.TaskStarted(process=self.cell.runtime.process, epoch=self.cell.epoch, role_state=role_state)
            self.write(
                body, handles=self.message.id, sends=self._alarm(), state=self._fire("start"), then=self._claimed
            )
        self.handler = self.cell.runtime.spawn(self._run())

    def _alarm(self) -> tuple[Message, ...]:
        """A timer for the task's deadline, which finds it wherever it is then, in memory or not."""
        deadline, message = self.message.deadline, self.message
        return () if deadline is None else (self.outgoing("timer", message.to, message.task, None, due_at=deadline),)

    def _claimed(self) -> None:
        self.claimed = True
        for settle in self.settles:
            settle()
        self.changed()

    async def _run(self) -> None:
        leave_branches()
        if not self.fresh:
            await self.cell.journal.durable()
        try:
            body, sends = self._outcome(await self._handle())
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self.ended or (task is not None and task.cancelling()):
                raise
            self._fail(error)  # the handler awaited something that was cancelled
        except StoreUnavailable as error:
            self.cell.reload(error)  # nobody's fault: the task goes on when the store is back
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a handler raises ends its task, and is recorded
            self._fail(error)
        else:
            self._end("complete", body, *sends)

    async def _handle(self) -> Any:
        refusal, self.cell.refusal = self.cell.refusal, None
        if refusal is not None:
            raise refusal
        if self.message.parts is None:
            self.message = await self.store.message(self.message.id)
        handler, payload = self.definition.select(self.message)
        actor = self.definition.actor()
        if self.message.deadline is not None and self.cell.runtime.clock.now() >= self.message.deadline:
            raise self._late()
        return await handler.method(actor, payload, self.context)

    def _outcome(self, result: Any) -> tuple[e.Body, tuple[Message, ...]]:
        """The event that ends the task with this result, and what it sends."""
        if isinstance(result, Handoff):
            message = self._hand_off(result)
            return e.TaskHandedOff(to=message.to, task=message.task), (message,)
        if self.message.reply_to is not None:
            return e.TaskCompleted(), (self._reply(result),)
        return e.TaskCompleted(result=msgspec.Raw(encode_json(result))), ()

    @property
    def _question(self) -> str:
        """The id of the message that an answer of this task answers: of a task that was handed over, the first."""
        return self.message.correlation or self.message.id

    def _hand_off(self, handoff: Handoff) -> Message:
        return self.outgoing(
            "handoff",
            handoff.to,
            handoff.task,
            handoff.payload,
            parent=self.message.task,
            reply_to=self.message.reply_to,
            correlation=self._question,
            deadline=self.message.deadline,
        )

    def _late(self) -> DeadlineExceeded:
        deadline = self.message.deadline
        assert deadline is not None
        return DeadlineExceeded(str(self), deadline.isoformat())

    def _fail(
        self, error: BaseException, *, handles: str | None = None, then: Callable[[], None] | None = None
    ) -> None:
        info = error_info(error, "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARACTERS:])
        log.warning("%s failed: %s", self, info.type)
        reply = self._error_reply(msgspec.structs.replace(info, traceback=""))
        self._end("fail", e.TaskFailed(error=info), *reply, handles=handles, then=then)

    def cancel(self, reason: str, handles: str, then: Callable[[], None]) -> None:
        """End the task and what it asked others for."""
        info = ErrorInfo(type="TaskCanceled", message=reason)
        asked = [
            self.outgoing("cancel", step.request.to, step.request.task, reason)
            for _, step in self.fold.open_steps("question")
            if isinstance(step.request, e.QuestionAsked)
        ]
        self._end("cancel", e.TaskCanceled(reason=reason), *self._error_reply(info), *asked, handles=handles, then=then)

    def _reply(self, result: Any, error: ErrorInfo | None = None) -> Message:
        reply_to = self.message.reply_to
        assert reply_to is not None
        kind: Kind = "feedback" if self.message.kind == "review-request" else "reply"
        return self.outgoing(
            kind, reply_to.actor, reply_to.task, result, step=reply_to.step, error=error, correlation=self._question
        )

    def _error_reply(self, info: ErrorInfo) -> tuple[Message, ...]:
        return () if self.message.reply_to is None else (self._reply(None, info),)

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

    # -- messages for the task at work ---------------------------------------------------------------------------

    def receive(self, message: Message, settle: Callable[[], None]) -> None:
        """Record a message for this task, and wake the step that waits for it."""
        if message.kind == "cancel":
            self.cancel(str(value_of(message.parts[0])) if message.parts else "", message.id, settle)
        elif message.kind == "timer" and message.step is None:
            self._fail(self._late(), handles=message.id, then=settle)
        elif message.step is not None:
            self._receive_answer(message, message.step, settle)
        else:
            self._receive_other(message, settle)

    def _receive_answer(self, message: Message, key: str, settle: Callable[[], None]) -> None:
        step = self.fold.steps.get(key)
        if step is None or step.form not in WAITS or step.done:
            self.cell.discard(message, settle, "nothing waits for it any more")
            return
        if isinstance(step.request, e.WaitStarted):
            self._receive_other(message, settle)
            return
        body: e.Body
        if message.kind == "timer" and isinstance(step.request, e.QuestionAsked):
            late = DeadlineExceeded(
                f"the answer of {step.request.to}", message.due_at.isoformat() if message.due_at else ""
            )
            body = e.QuestionFailed(step=key, error=error_info(late))
        elif message.kind == "timer":
            body = e.TimerFired(step=key)
        elif message.error is not None:
            body = e.QuestionFailed(step=key, error=message.error)
        else:
            body = e.QuestionAnswered(step=key, result=content_of(message))
        self.write(body, handles=message.id, then=settle)
        self._wake(key)

    def _receive_other(self, message: Message, settle: Callable[[], None]) -> None:
        waits = self.fold.open_steps("wait", "review")
        key = next(
            (k for k, s in waits if isinstance(s.request, e.WaitStarted) and s.request.kind == message.kind), None
        )
        body = e.MessageReceived(kind=message.kind, sender=message.sender, content=content_of(message), step=key)
        self.write(body, handles=message.id, then=settle)
        if key is not None:
            self._wake(key)

    def _wake(self, key: str) -> None:
        waiter = self.waiters.pop(key, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
            self.changed()  # before the next message is delivered: from now on the handler holds a slot
