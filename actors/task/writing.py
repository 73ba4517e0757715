"""What a task at work writes: each event with its state change, and with what it means for the ledger."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from callboard.actors.log.journal import Journal
from callboard.actors.roles.definition import Definition
from callboard.actors.roles.outgoing import outgoing
from callboard.actors.state.fold import ActorFold, TaskFold
from callboard.actors.state.machine import LIFECYCLE_MACHINE
from callboard.actors.state.step_record import StepRecord
from callboard.actors.state.waits import TRIGGERS, Activity, activity
from callboard.actors.task.branches import Branches
from callboard.actors.task.services import Services
from callboard.protocols import events as e
from callboard.protocols.codec import entry_of
from callboard.protocols.errors import Detached, IllegalTrigger, LimitReached, TooDeep, TooManyHandoffs
from callboard.protocols.messages import ErrorInfo, Message, encode_json
from callboard.protocols.states import WAITING, StateChange

log = logging.getLogger("callboard.actors")


class Waiter(NamedTuple):
    """A step that waits: the future that ends it, and the asyncio task that waits."""

    future: "asyncio.Future[None]"
    task: "asyncio.Task[Any] | None"


BEGINS_WAIT = (
    e.QuestionAsked,
    e.TimerSet,
    e.WaitStarted,
    e.TaskRetryScheduled,
    e.ToolOutcomeUnknown,
    e.ApprovalRequested,
)


class Writing:
    """The part of `Work` that writes."""

    __slots__ = (
        "actor_fold",
        "branches",
        "definition",
        "effects",
        "ended",
        "journal",
        "message",
        "reserving",
        "services",
        "since",
        "waiters",
    )

    actor_fold: ActorFold  # the actor, as of what was written last
    branches: Branches
    definition: Definition
    journal: Journal
    message: Message
    services: Services
    effects: int
    reserving: dict[str, e.ModelRequested]  # by step: requests that the ledger has not answered
    ended: bool
    since: float
    waiters: dict[str, Waiter]  # steps that wait for a message, by key

    def __str__(self) -> str:
        return f"{self.definition.role}<{self.message.task}@{self.actor_fold.version}>"

    @property
    def fold(self) -> TaskFold:
        """The task, as of what was written last."""
        assert self.actor_fold.current is not None
        return self.actor_fold.current

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
        self.services.run_tasks.open(message.run, sum(sent.opens_task for sent in sends))
        self.since = self.services.clock.monotonic()
        self.actor_fold.take(body, message.task, handles)
        if state is None:
            state = self._state_change(body)
        meta = self._meta(handles, sends, state)
        self.journal.write(self._event(body, data, meta), then)

    async def reserve(self, body: e.ModelRequested) -> None:
        """Write a request whose hold every budget has to admit. Raises NotAdmitted, and then nothing has happened."""
        self.goes_on()
        await self.journal.rest()
        if self.ended:
            raise Detached(self.message.task)
        self.since = self.services.clock.monotonic()
        event = self._event(body, encode_json(body), self._meta())
        self.reserving[body.step] = body
        admitted = self.journal.alone(event, lambda: self._reserved(body))
        try:
            await _outcome(admitted)
        except asyncio.CancelledError:
            record = self.fold.steps.get(body.step) if not self.ended else None
            if record is not None and record.open and record.request is body:  # it was admitted
                self._lose(body)
            raise
        finally:
            self.reserving.pop(body.step, None)

    def _reserved(self, body: e.ModelRequested) -> None:
        if self.reserving.pop(body.step, None) is not None:
            self.actor_fold.take(body, self.message.task, None)

    def _event(self, body: e.Body, data: bytes, meta: e.Meta) -> e.NewEvent:
        entry = entry_of(body, self.message.to, meta)
        return e.NewEvent(type=body.TYPE, data=data, meta=meta, schema_version=body.SCHEMA_VERSION, entry=entry)

    def _meta(
        self,
        handles: str | None = None,
        sends: tuple[Message, ...] = (),
        state: StateChange | None = None,
    ) -> e.Meta:
        message = self.message
        return e.Meta(
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
        if isinstance(body, e.MessageReceived) and body.step is None and self.actor_fold.state in WAITING:
            return None  # nobody waited for it
        waits = isinstance(body, BEGINS_WAIT) and not self.goes_on_besides(asyncio.current_task())
        now = activity(self.fold.open, runs=not waits)
        return None if now.value == self.actor_fold.state else self._fire(TRIGGERS[now])

    def goes_on_besides(self, task: "asyncio.Task[None] | None" = None) -> bool:
        """Whether something of the task runs that no open step tells of, besides one of its asyncio tasks."""
        return bool(self.effects) or self.fold.cancel is not None or self.branches.any_goes_on(task)

    @property
    def activity(self) -> Activity:
        """What the task does at this moment, in memory. The log may say that it runs while it only waits, but never
        the other way round.
        """
        runs = not self.waiters or self.goes_on_besides()
        return activity(self.fold.open, runs=runs, ended=self.ended)

    def goes_on(self) -> None:
        """Something begins to run that has no event of its own: say so, if the log says that the task waits."""
        if self.actor_fold.state in WAITING:
            self.write(e.TaskStateChanged(), state=self._fire("think"))

    def only_waits(self, then: Callable[[], None] | None = None) -> None:
        """Say that nothing of the task runs any more: the log can't know it where one branch of several has ended."""
        self.write(e.TaskStateChanged(), state=self._fire(TRIGGERS[self.activity]), then=then)
        self.journal.flush()

    def _fire(self, trigger: str) -> StateChange:
        change = LIFECYCLE_MACHINE.fire(trigger, self.actor_fold.state)
        self.actor_fold.state = change.dest
        return change

    def warn(self, text: str, *values: object) -> None:
        """Log a warning that begins with who speaks."""
        log.warning("%s " + text, self, *values)  # noqa: G003 - one fixed text and its values

    def timer(self, step: str | None, due_at: datetime) -> Message:
        """A timer of this task, which finds it wherever it is then, in memory or not. Without a step: its deadline."""
        mine = self.message
        return outgoing(mine, "timer", mine.to, mine.task, None, step=step, due_at=due_at)

    def lose(self, step: str) -> None:
        """An attempt at a model was given up in mid-call: nobody knows what came of it, nor what it costs."""
        request = self.fold.steps[step].request
        assert isinstance(request, e.ModelRequested)
        self._lose(request)

    def lose_all(self) -> None:
        """Give up all attempts that are under way, or are just being admitted."""
        for step, _ in self.fold.open_steps("model"):
            self.lose(step)
        reserving, self.reserving = self.reserving, {}
        for request in reserving.values():  # it may be admitted all the same, and then its event comes before this one
            self.actor_fold.take(request, self.message.task, None)
            self._lose(request)

    def _lose(self, request: e.ModelRequested) -> None:
        info = ErrorInfo(type="Lost", message="the call was given up before it ended")
        self.write(
            e.ModelFailed(
                step=request.step,
                attempt=request.attempt,
                model=request.model,
                error=info,
                duration_ms=0,
                kind="lost",
            )
        )

    def check_tasks(self, more: int) -> None:
        """Raise TooDeep, LimitReached or TooManyTasks if the task may not open so many other tasks."""
        caps, message = self.definition.actor.caps, self.message
        if caps.depth is not None and more and message.depth >= caps.depth:
            raise TooDeep(str(self), caps.depth)
        if caps.tasks is not None and self.fold.tally.tasks + more > caps.tasks:
            raise LimitReached(str(self), str(caps.tasks), "tasks that it asks for or tells")
        self.services.run_tasks.check(message.run, more)

    def check_handoffs(self) -> None:
        """Raise TooManyHandoffs or TooManyTasks if the task may not be handed over once more."""
        most = self.definition.actor.caps.handoffs
        if most is not None and self.message.handoffs >= most:
            raise TooManyHandoffs(str(self), most)
        self.services.run_tasks.check(self.message.run, 1)

    def check_caps(self, call: str = "", fingerprint: str = "") -> None:
        """Raise LimitReached if the task may not do one more step, or make this call of a tool or a model."""
        limit = self.definition.actor.caps.exceeded(self.fold.tally, call, fingerprint)
        if limit is not None:
            raise LimitReached(str(self), *limit)

    def give_up(self, step: str) -> None:
        """The branch of a step was cancelled, and the handler goes on: nobody waits for the step any more."""
        record = self.fold.steps.get(step)
        if record is not None and record.given_up:
            return
        if record is not None and record.open and isinstance(record.request, e.ModelRequested):
            self.lose(step)
        sends = () if record is None else self._stop(record, "nobody waits for the answer any more")
        self.write(e.StepGivenUp(step=step), sends=sends)

    def stop_all(self, reason: str) -> tuple[Message, ...]:
        """The messages that end what the task has asked others for and has no answer to."""
        return tuple(sent for _, step in self.fold.open_steps("question") for sent in self._stop(step, reason))

    def _stop(self, step: StepRecord, reason: str) -> tuple[Message, ...]:
        """The message that ends what a question asks for, if it is open and was not told before."""
        asked = step.request
        if not isinstance(asked, e.QuestionAsked) or not step.open or step.stopped:
            return ()
        return (outgoing(self.message, "cancel", asked.to, asked.task, reason),)


async def _outcome(admitted: "asyncio.Future[None]") -> None:
    """Wait for an append, also if the branch is cancelled meanwhile, which it is as soon as the outcome is known: only
    then is it clear whether there is something to give up.
    """
    cancelled: asyncio.CancelledError | None = None
    while not admitted.done():
        try:
            await asyncio.wait([admitted])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        admitted.cancelled() or admitted.exception()  # seen
        raise cancelled
    admitted.result()
