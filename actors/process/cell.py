"""One actor in memory: its inbox, its journal, and the task that it works at."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from callboard.actors.log.journal import Journal
from callboard.actors.log.loading import has_begun, load_actor
from callboard.actors.process.ports import OwnProcess
from callboard.actors.process.quarantine import DEAD_AFTER, SUSPECT_AFTER
from callboard.actors.roles.definition import Definition
from callboard.actors.roles.outgoing import error_reply
from callboard.actors.state.fold import LOST, ActorFold, TaskFold
from callboard.actors.task.answers import receive
from callboard.actors.task.cancellation import reason_of
from callboard.actors.task.work import Work
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.errors import (
    AlreadyHandled,
    AppendRefused,
    CallboardError,
    StoreUnavailable,
    TaskCanceled,
)
from callboard.protocols.messages import ErrorInfo, Message, error_info
from callboard.protocols.names import parse_stream
from callboard.protocols.ports import Appended, Delivery, Tenure
from callboard.protocols.states import RUNNING

if TYPE_CHECKING:
    from callboard.protocols.events import NewEvent

MAX_CANCELED = 1000  # tasks of one actor whose cancel came before they did

log = logging.getLogger("callboard.actors")


class Cell:
    """An actor in memory. It is loaded once, takes messages in order, and is dropped when it rests or is refused.

    An append that the store refuses means that somebody else wrote this actor's stream, or that the outcome of a
    former append was lost. Either way what is in memory may be wrong: the cell is dropped, and its messages go to a
    new one, which loads what is true.
    """

    __slots__ = (
        "_early",
        "_held",
        "_queue",
        "busy",
        "definition",
        "dropped",
        "fold",
        "journal",
        "name",
        "refusal",
        "run",
        "runtime",
        "stream",
        "tenure",
        "waits_turn",
        "work",
    )

    def __init__(self, runtime: "OwnProcess[Cell]", stream: str, definition: Definition, tenure: Tenure) -> None:
        self.runtime = runtime
        self.stream = stream
        self.name = parse_stream(stream)
        self.definition = definition
        self.tenure = tenure
        self.fold: ActorFold | None = None  # None while it loads
        self.journal: Journal
        self.work: Work | None = None
        self.busy = False  # holds a slot of the runtime
        self.run: str | None = None  # on whose account
        self.waits_turn = False  # is a suspect, and waits to be alone
        self.dropped = False
        self.refusal: CallboardError | None = None  # what its task is to fail of as soon as it runs
        self._early: list[Delivery] = []  # came while it loads
        # tasks behind the one at work: for each the message that opens it, without its body, and what came for it since
        self._queue: OrderedDict[str, list[Delivery]] | None = None
        self._held: dict[str, Delivery] = {}  # all that came and is not settled, by message id

    def __repr__(self) -> str:
        return f"Cell({self.stream}, {len(self._early)} early, {len(self._queue or ())} queued, work={self.work})"

    @property
    def resting(self) -> bool:
        """Whether it can be dropped from memory without losing anything that is not in the log."""
        return (
            self.fold is not None
            and not (self._early or self._queue or self._held)
            and self.journal.clean
            and (self.work is None or self.work.parked)
        )

    @property
    def suspect(self) -> bool:
        """Whether it runs, and may be what kills its process."""
        return self.busy and self.work is not None and not self.work.ended and self.work.fold.losses >= SUSPECT_AFTER

    @property
    def queued(self) -> Sequence[Message]:
        """The messages that open the tasks behind the one at work, without their parts, in order."""
        return [deliveries[0].message for deliveries in (self._queue or {}).values()]

    def holds(self, message: str) -> bool:
        """Whether a message is here and not settled."""
        return message in self._held

    # -- loading -------------------------------------------------------------------------------------------------

    def begin_new(self) -> None:
        """An actor that can't have a stream yet."""
        self._ready(ActorFold())

    async def load(self, *, takeover: bool) -> None:
        """Read the actor from the log, resume the task at work, and take what came in the meantime."""
        fold = await load_actor(self.runtime.services.store, self.stream)
        at_work = fold.current if fold.at_work else None
        message = await self.runtime.services.store.message(at_work.message) if at_work is not None else None
        # Only an actor that waits is ever dropped from memory: one in another state was lost with its process, and
        # is found here by a message before recovery has come to it.
        reason = self.runtime.why(self.tenure, at_work) if at_work and (takeover or fold.state in RUNNING) else None
        losses = 0 if at_work is None else at_work.losses + (reason == LOST)
        if reason is not None:
            await self.runtime.resend(self.stream)
        if SUSPECT_AFTER <= losses < DEAD_AFTER:  # the last thing that is waited for: it is alone only at work
            self.waits_turn = True
            await self.runtime.alone(self)
            self.waits_turn = False
        if self.dropped:
            return
        self._ready(fold)  # from here to the end at one stroke: a message that comes later finds the task at work
        if at_work is not None and message is not None:
            self._resume(at_work, message, reason, losses)
        early, self._early = self._early, []
        for delivery in early:
            if not self.dropped:
                self._take(delivery)
        if not self.dropped and self.work is None and not self._queue:
            self.runtime.rested(self)

    def _ready(self, fold: ActorFold) -> None:
        self.fold = fold
        self.journal = Journal(
            self.runtime.services.store, self.runtime.idle, self.stream, fold.version, self._committed, self.reload
        )

    def _resume(self, task: TaskFold, message: Message, reason: str | None, losses: int) -> None:
        assert self.fold is not None
        services = self.runtime.services
        work = self.work = Work(
            services, self, self.fold, self.journal, self.definition, message, fresh=False, resumed=True
        )
        if losses >= DEAD_AFTER:
            work.die(f"its process was lost {losses} times in a row while the handler ran")
            return
        if reason is not None:
            attempt = task.attempt + 1
            log.info("%s resumes, attempt %d: %s", work, attempt, reason)
            process, epoch = self.runtime.services.process, self.tenure.lease.epoch
            work.write(e.TaskResumed(process=process, epoch=epoch, attempt=attempt, reason=reason))
        work.start()
        work.changed()

    # -- messages --------------------------------------------------------------------------------------------------

    def offer(self, delivery: Delivery) -> None:
        """A message came. One that is here already changes nothing, but that there is one more entry to settle: the
        later one, so that what stays on the bus is in the order in which it was sent.
        """
        message = delivery.message
        held = self._held.get(message.id)
        if held is not None:
            if not held.entry:
                self._held[message.id] = delivery
            elif delivery.entry != held.entry:
                self.runtime.settle(delivery)
            return
        self._held[message.id] = delivery
        if self.fold is None:
            self._early.append(delivery)
        else:
            self._take(delivery)

    def _take(self, delivery: Delivery, *, looked: bool = False) -> None:
        message, work = delivery.message, self.work
        assert self.fold is not None
        current = self.fold.current
        if current is not None and message.id in current.handled:
            self._settle(message.id)
        elif work is not None and message.task == work.message.task and not work.ended:
            receive(work, message, lambda: self._settle(message.id))
        elif self._queue and message.task in self._queue:
            self._queue[message.task].append(delivery)
            if message.kind == "cancel":
                self._cancel_queued(message)
        elif message.task in self.fold.canceled:
            self._take_of_canceled(message)
        elif message.kind == "cancel" and not looked and (current is None or message.task != current.task):
            self.runtime.services.spawn(self._cancel_unknown(delivery))
        elif not message.opens_task or (current is not None and message.task == current.task):
            self.discard(message, lambda: self._settle(message.id), "its task has ended")
        elif work is not None:
            self._enqueue(delivery)
        else:
            self._begin(delivery)

    async def _cancel_unknown(self, delivery: Delivery) -> None:
        """A cancel came for a task that is not here. Either the task has ended, or the message that opens it is still
        on its way: then the cancel is kept in the log, and ends the task as soon as that comes.
        """
        message = delivery.message
        try:
            begun = await has_begun(self.runtime.services.store, self.stream, message.task)
        except StoreUnavailable as error:
            self.reload(error)
            return
        if self.dropped or not self.holds(message.id):
            return
        assert self.fold is not None
        current = self.fold.current
        here = (self._queue and message.task in self._queue) or (current is not None and message.task == current.task)
        if begun or here or len(self.fold.canceled) >= MAX_CANCELED or message.task in self.fold.canceled:
            self._take(delivery, looked=True)
            return
        body = e.TaskCancelRequested(reason=reason_of(message))
        self._close(message, body, lambda: self._settle(message.id), sends=())

    def _take_of_canceled(self, message: Message) -> None:
        """A message for a task that was canceled before it could begin."""
        assert self.fold is not None
        if not message.opens_task:
            self.discard(message, lambda: self._settle(message.id), "its task was canceled before it began")
            return
        reason = self.fold.canceled[message.task]
        info = ErrorInfo(type=TaskCanceled.__name__, message=reason)
        body = e.TaskCanceled(reason=reason)
        self._close(message, body, lambda: self._settle(message.id), sends=error_reply(message, info))

    def _enqueue(self, delivery: Delivery) -> None:
        message = delivery.message
        held = self._held[message.id]  # it may have come over the bus, too, while the actor was loaded
        bare = replace(held, message=replace(message, parts=None))
        self._held[message.id] = bare
        if self._queue is None:
            self._queue = OrderedDict()
        self._queue[message.task] = [bare]

    def _begin(self, delivery: Delivery) -> None:
        message = delivery.message
        assert self.fold is not None
        self.work = Work(
            self.runtime.services,
            self,
            self.fold,
            self.journal,
            self.definition,
            message,
            fresh=delivery.fresh,
            settle=lambda: self._settle(message.id),
        )
        self.work.start()
        self.work.changed()

    def _cancel_queued(self, cancel: Message) -> None:
        """A task is cancelled before it began."""
        reason = reason_of(cancel)
        info = ErrorInfo(type=TaskCanceled.__name__, message=reason)
        self._close_queued(cancel.task, e.TaskCanceled(reason=reason), info, "its task was canceled before it began")

    def refuse(self, task: str, error: CallboardError) -> None:
        """A task that is queued here can never begin: it fails."""
        info = error_info(error)
        self._close_queued(task, e.TaskFailed(error=info), info, "its task was refused")

    def _close_queued(self, task: str, body: e.Body, error: ErrorInfo, reason: str) -> None:
        assert self._queue is not None
        opening, *further = self._queue.pop(task)
        message = opening.message
        self._close(message, body, lambda: self._settle(message.id), sends=error_reply(message, error))
        for delivery in further:
            late = delivery.message
            self.discard(late, lambda late=late: self._settle(late.id), reason)  # type: ignore[misc]

    def discard(self, message: Message, then: Callable[[], None], reason: str) -> None:
        """Close a message that nobody waits for."""
        body = e.MessageDiscarded(kind=message.kind, reason=reason)
        self._close(message, body, then, sends=self._forwarded(message))

    def _close(self, message: Message, body: e.Body, then: Callable[[], None], *, sends: tuple[Message, ...]) -> None:
        """Write an event that closes a message, and that is not about the task at work."""
        meta = e.Meta(
            run=message.run,
            task=message.task,
            role=self.name.role,
            handles=message.id,
            causation=message.id,
            sends=sends,
            traceparent=message.traceparent,
            tenant=message.tenant,
        )
        assert self.fold is not None
        self.fold.take(body, message.task, message.id)
        self.journal.write(new_event(body, meta), then)

    def _forwarded(self, message: Message) -> tuple[Message, ...]:
        """A cancel goes on to the actor that the task was handed to."""
        current = self.fold.current if self.fold is not None else None
        if message.kind != "cancel" or current is None or current.task != message.task or current.handed_to is None:
            return ()
        to, task = current.handed_to
        return (replace(message, id="", to=to, task=task, sender=self.stream, causation=message.id),)

    def _settle(self, message: str) -> None:
        delivery = self._held.pop(message, None)
        if delivery is not None:
            self.runtime.settle(delivery)
            if self.work is None and not self._held:
                self.runtime.rested(self)

    def take_refusal(self) -> CallboardError | None:
        """What the task at work is to fail of as soon as it runs; given once."""
        refusal, self.refusal = self.refusal, None
        return refusal

    def changed(self) -> None:
        """The task at work may have begun to run, or to wait only: count whether it holds a slot."""
        self.runtime.busy_changed(self)

    # -- the log -----------------------------------------------------------------------------------------------------

    def _committed(self, events: "Sequence[NewEvent]", appended: Appended) -> None:
        assert self.fold is not None
        self.fold.version = appended.version
        self.runtime.send(self.stream, events, appended.version - len(events) + 1)

    def reload(self, error: BaseException) -> None:
        """What is in memory can't go on: drop it, and let a new cell take the messages."""
        if isinstance(error, AlreadyHandled):
            self._settle(error.message)
        elif isinstance(error, AppendRefused | StoreUnavailable):
            log.info("%s is loaded again: %s", self.stream, error)
        else:
            log.error("%s is loaded again after an unexpected error", self.stream, exc_info=error)
        held = list(self._held.values())
        self.drop()
        self.runtime.reload(self, held, error)

    def ended(self) -> None:
        """The task's end is durable: go on with the next one."""
        assert self.work is not None
        assert self.work.ended
        self.work = None
        self.runtime.busy_changed(self)
        if self._queue:
            _, (opening, *further) = self._queue.popitem(last=False)
            self._begin(opening)
            for delivery in further:
                self._take(delivery)
        elif not self._held:
            self.runtime.rested(self)

    def drop(self) -> None:
        """Forget everything that is in memory, and stop the handler."""
        self.dropped = True
        if self.fold is not None:
            self.journal.close()
        work, self.work = self.work, None
        if work is not None:
            work.detach()
        self._held.clear()
        self._early = []
        self._queue = None
        self.runtime.busy_changed(self)
