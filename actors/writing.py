"""What a task at work writes: each event with its state change, and with what it means for the ledger."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from actors.definition import Definition
from actors.fold import ActorFold, TaskFold
from actors.machine import LIFECYCLE_MACHINE
from actors.outgoing import outgoing
from protocols import events as e
from protocols.codec import entry_of
from protocols.errors import Detached, IllegalTrigger, LimitReached
from protocols.messages import ErrorInfo, Message, encode_json
from protocols.states import WAITING, StateChange

if TYPE_CHECKING:
    from actors.cell import Cell

log = logging.getLogger("callboard.actors")

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

    __slots__ = ("cell", "definition", "effects", "ended", "message", "reserving", "since")

    cell: "Cell"
    definition: Definition
    message: Message
    effects: int
    reserving: dict[str, e.ModelRequested]  # by step: requests that the ledger has not answered
    ended: bool
    since: float

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
        self.since = self.cell.runtime.clock.monotonic()
        self.actor_fold.take(body, message.task, handles)
        if state is None:
            state = self._state_change(body)
        meta = self._meta(handles, sends, state)
        self.cell.write(self._event(body, data, meta), then)

    async def reserve(self, body: e.ModelRequested) -> None:
        """Write a request whose hold every budget has to admit. Raises NotAdmitted, and then nothing has happened."""
        self.goes_on()
        await self.cell.journal.rest()
        if self.ended:
            raise Detached(self.message.task)
        self.since = self.cell.runtime.clock.monotonic()
        event = self._event(body, encode_json(body), self._meta())
        self.reserving[body.step] = body
        admitted = self.cell.journal.alone(event, lambda: self._reserved(body))
        try:
            await asyncio.shield(admitted)
        except asyncio.CancelledError:
            if not self.ended and body.step in self.reserving:  # it may be admitted all the same
                self._lose(body)
            raise
        finally:
            self.reserving.pop(body.step, None)

    def _reserved(self, body: e.ModelRequested) -> None:
        self.reserving.pop(body.step, None)
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
        trigger, state = self.fold.working_state()
        if state in WAITING and isinstance(body, e.MessageReceived) and body.step is None:
            return None  # nobody waited for it
        if state in WAITING and (self.effects or not isinstance(body, BEGINS_WAIT) or self.fold.cancel is not None):
            trigger, state = "think", "thinking"
        return None if state == self.actor_fold.state else self._fire(trigger)

    def goes_on(self) -> None:
        """Something begins to run that has no event of its own: say so, if the log says that the task waits."""
        if self.actor_fold.state in WAITING:
            self.write(e.TaskStateChanged(), state=self._fire("think"))

    @property
    def waits_for_people(self) -> bool:
        """Whether somebody has to send, or to decide, something that it waits for."""
        return self.fold.working_state()[1] in ("waiting_input", "waiting_review")

    def only_waits(self, then: Callable[[], None] | None = None) -> None:
        """Say that nothing of the task runs any more: the log can't know it where one branch of several has ended."""
        trigger, _ = self.fold.working_state()
        self.write(e.TaskStateChanged(), state=self._fire(trigger), then=then)
        self.cell.journal.flush()

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
        for request in self.reserving.values():
            self._lose(request)
        self.reserving.clear()

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

    def check_caps(self, call: str = "", fingerprint: str = "") -> None:
        """Raise LimitReached if the task may not do one more step, or make this call of a tool or a model."""
        limit = self.definition.actor.caps.exceeded(self.fold.tally, call, fingerprint)
        if limit is not None:
            raise LimitReached(str(self), *limit)
