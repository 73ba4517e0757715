"""The actors of one process: lets messages in to them, publishes what they send, and drops the idle ones."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final

from callboard.actors.log.journal import Idle
from callboard.actors.log.prompts import Prompts
from callboard.actors.models.call import Models
from callboard.actors.process.busy import Busy
from callboard.actors.process.cell import Cell
from callboard.actors.process.gate import Gate
from callboard.actors.process.look_again import LookAgain
from callboard.actors.process.partitions import Partitions
from callboard.actors.process.sender import Sender
from callboard.actors.process.timers import Timers
from callboard.actors.roles.definition import Definition
from callboard.actors.roles.directory import Directory
from callboard.actors.state.fold import HANDED_OVER, LOST, RELOADED, TaskFold
from callboard.actors.task.bounds import RUN_TASKS, RunTasks
from callboard.actors.task.branches import follow_branches
from callboard.actors.task.services import Services
from callboard.actors.tools.toolbox import Toolbox
from callboard.protocols.errors import BadEvent, CallboardError, StoreUnavailable
from callboard.protocols.events import NewEvent
from callboard.protocols.messages import Message
from callboard.protocols.names import parse_stream
from callboard.protocols.ports import Answers, Bus, Clock, Delivery, EventStore, SystemClock, Tenure, Throttle
from callboard.protocols.states import RUNNING

log = logging.getLogger("callboard.actors")

DRAIN_POLL_S: Final = 0.02
RELOAD_PAUSE_S: Final = (0.1, 5.0)  # first and longest wait for a store that doesn't answer


class Runtime:
    """`async with` owns the handlers' tasks; leaving it stops them all where they are, which loses nothing.

    `on_settle` takes a delivery off the bus; `on_capacity` is called when there is room for more; `confirm` asks
    whether this process still owns a partition; `resend` publishes what an actor sent and may not have arrived. The
    host sets them; by default there is no bus, and all is owned.
    """

    def __init__(
        self,
        store: EventStore,
        bus: Bus,
        directory: Directory,
        definitions: Mapping[str, Definition],
        gateway: Models,
        *,
        process: str,
        slots: int = 64,
        run_slots: int | None = None,
        run_tasks: int | None = RUN_TASKS,
        ahead: int = 4096,
        passivate_after_s: float = 60.0,
        clock: Clock | None = None,
        throttle: Throttle,
        answers: Answers,
        toolbox: Toolbox | None = None,
    ) -> None:
        self.store = store
        self.bus = bus
        self.directory = directory
        self.definitions = definitions
        self.process = process
        self.slots = slots
        self.run_slots = min(run_slots or slots, slots)
        self.ahead = ahead
        self.passivate_after_s = passivate_after_s
        self.clock = clock or SystemClock()
        self.services = Services(
            process=process,
            store=store,
            clock=self.clock,
            directory=directory,
            gateway=gateway,
            throttle=throttle,
            answers=answers,
            toolbox=toolbox or Toolbox(directory),
            prompts=Prompts(store),
            run_tasks=RunTasks(run_tasks),
            show=bus.show,
            spawn=self.spawn,
        )
        self.idle = Idle()
        self.timers = Timers(self.clock, self._deliver_due)
        self.partitions = Partitions()
        self.progress = 0  # grows with all that is written, and all that is settled
        self.on_settle: Callable[[Delivery], None] = lambda _delivery: None
        self.on_capacity: Callable[[], None] = lambda: None
        self.confirm: Callable[[Tenure], Awaitable[bool]] = _always
        self.resend: Callable[[str], Awaitable[None]] = _nothing
        self.busy = Busy()
        self.gate = Gate(self, self._begin, self.clock)
        self._cells: dict[str, Cell] = {}
        self._untold: set[str] = set()  # streams of cells that wait for people, and the log says that they run
        self._parked: dict[str, float] = {}  # streams of cells that could be dropped, and since when, oldest first
        self._look_again = LookAgain(self.busy_changed)
        self._group = asyncio.TaskGroup()
        self._context = copy_context()
        self._sender = Sender(bus, directory, self.timers, self._hand_over, self.spawn)

    def __repr__(self) -> str:
        return (
            f"Runtime({self.process}: {len(self._cells)} actors, {len(self.busy)} busy of {self.slots}, "
            f"{self.gate}, {self.timers})"
        )

    async def __aenter__(self) -> "Runtime":
        await self._group.__aenter__()
        follow_branches()
        self._service = [self._group.create_task(self.timers.run()), self._group.create_task(self._passivate())]
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for cell in list(self._cells.values()):
            self._drop(cell)
        self._look_again.close()
        for task in self._service:
            task.cancel()
        await self._group.__aexit__(*exc)

    # -- in -----------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """A message for one of this process's actors. What opens a task may have to wait until it is let in."""
        self.gate.deliver(delivery)

    def _begin(self, deliveries: Sequence[Delivery]) -> None:
        """What came for one actor goes to it."""
        first, message = deliveries[0], deliveries[0].message
        cell = self._cells.get(message.to)
        if cell is None:
            cell = self._new_cell(message.to, first.tenure, message.run)
            if first.fresh and message.opens_task and message.task == message.key:
                cell.begin_new()
            else:
                self._load(cell, takeover=False)
        for delivery in deliveries:
            if not cell.dropped:
                cell.offer(delivery)

    def activate(self, stream: str, tenure: Tenure) -> None:
        """Load an actor whose task was at work in another process, and go on with it."""
        if stream not in self._cells and tenure.held:
            self._load(self._new_cell(stream, tenure, None), takeover=True)

    def expire(self, stream: str, tenure: Tenure, task: str, error: CallboardError) -> None:
        """Let a task that only waits fail of an error, whether it is in memory or not."""
        if not tenure.held:
            return
        cell = self._cells.get(stream)
        if cell is None:
            cell = self._new_cell(stream, tenure, None)
            cell.refusal = error
            self._load(cell, takeover=False)
        elif cell.work is not None and cell.work.message.task == task and cell.work.parked:
            cell.work.fail(error)

    def holds(self, message: Message | str, stream: str) -> bool:
        """Whether a message is in memory here and not settled."""
        cell = self._cells.get(stream)
        name = message if isinstance(message, str) else message.id
        return (cell is not None and cell.holds(name)) or self.gate.holds(stream, name) or self.timers.holds(name)

    def has(self, delivery: Delivery) -> bool:
        """Whether something here has a message, and will begin it, settle it, or let it go with its tenure."""
        return self.gate.has_gap(delivery.tenure) or self.holds(delivery.message, delivery.message.to)

    def cell(self, stream: str) -> Cell | None:
        """An actor in memory."""
        return self._cells.get(stream)

    def hosts(self, stream: str) -> bool:
        """Whether an actor is in memory here."""
        return stream in self._cells

    def at_rest(self) -> bool:
        """Whether nothing is at work, and nothing waits to be."""
        return not self.busy and self.gate.empty

    def _deliver_due(self, message: Message) -> None:
        tenure = self.partitions.of(message.to)
        if tenure is not None:
            self.deliver(Delivery(message, tenure, entry="", fresh=False))

    def _new_cell(self, stream: str, tenure: Tenure, run: str | None) -> Cell:
        cell = Cell(self, stream, self.definitions[parse_stream(stream).role], tenure)
        cell.run = run
        self._cells[stream] = cell
        self.busy_changed(cell)
        return cell

    def _load(self, cell: Cell, *, takeover: bool) -> None:
        self.spawn(self._load_when_possible(cell, takeover=takeover))

    async def _load_when_possible(self, cell: Cell, *, takeover: bool) -> None:
        pause, longest = RELOAD_PAUSE_S
        while not cell.dropped:
            try:
                await cell.load(takeover=takeover)
            except StoreUnavailable as error:
                log.warning("%s waits to be loaded: %s", cell.stream, error)
                await self.clock.sleep(pause)
                pause = min(2 * pause, longest)
            except CallboardError:  # an event that this version doesn't know, a message that was never sent
                log.exception("%s can't be loaded; what came for it stays on the bus", cell.stream)
                self._drop(cell)
            else:
                break
        self.busy_changed(cell)

    def why(self, tenure: Tenure, task: TaskFold) -> str:
        """Why a task that was at work is taken up again; see `callboard.protocols.events.TaskResumed`."""
        if task.process == self.process:
            return RELOADED
        return HANDED_OVER if tenure.lease.clean else LOST

    async def alone(self, cell: Cell) -> None:
        """Return when nothing but this cell is at work here; it stays so for a while."""
        await self.gate.alone(cell)
        self.spawn(self.gate.quarantine.watch(cell))

    # -- out ----------------------------------------------------------------------------------------------------------

    def send(self, stream: str, events: Sequence[NewEvent], first_version: int) -> None:
        """Events are durable: publish what they send."""
        self.progress += 1
        self._sender.send(stream, events, first_version)

    def _hand_over(self, message: Message) -> bool:
        """Give a message straight to its actor, past the bus, if it may go that way.

        Only what has no order to keep does: an answer to a step, and what opens the one task of a fresh actor. If
        this process dies before it is claimed, the partition's next owner finds it in the mailbox projection, as it
        does with all that the bus does not have.
        """
        if message.step is None and (message.task != message.key or self.gate.admission.waiting >= self.slots):
            return False
        tenure = self.partitions.of(message.to)
        if tenure is None or not tenure.serving:
            return False
        self.deliver(Delivery(message, tenure, entry="", fresh=True))
        return True

    def settle(self, delivery: Delivery) -> None:
        """A message is claimed: take it off the bus, if that is where it came from."""
        self.progress += 1
        if delivery.entry:
            self.on_settle(delivery)

    def spawn(self, coroutine: Coroutine[Any, Any, None], *, name: str | None = None) -> asyncio.Task[None]:
        """Run something under this runtime's ownership, and as no part of what runs now."""
        return self._group.create_task(coroutine, name=name, context=self._context.copy())

    # -- cells come and go ----------------------------------------------------------------------------------------

    def busy_changed(self, cell: Cell) -> None:
        """Count the cells that hold a slot, and remember those that could be dropped."""
        work = cell.work
        parked = work is not None and work.parked
        busy = not cell.dropped and (cell.fold is None or (work is not None and not parked))
        if busy and work is not None and work.undecided:
            self._look_again.add(cell)
        if parked and cell.stream not in self._parked and not cell.dropped:
            self._parked[cell.stream] = self.clock.monotonic()
        elif busy or cell.dropped:
            self._parked.pop(cell.stream, None)
        if not busy and work is not None and work.actor_fold.state in RUNNING and work.activity.waits_for_people:
            self._untold.add(cell.stream)  # the log is told in a moment, if no branch of it goes on
        if busy == cell.busy:
            return
        cell.busy = busy
        if busy:
            self.busy.add(cell)
        else:
            self.busy.remove(cell)
            if work is not None and parked and work.fold.losses and work.actor_fold.state in RUNNING:
                work.only_waits()  # or each further loss of a process would count against it, though it did not run
            self.gate.fill_soon()
            self.on_capacity()

    def rested(self, cell: Cell) -> None:
        """A cell has nothing to do. An actor of one task is dropped at once, a named one stays a while."""
        task = cell.fold.current if cell.fold is not None else None
        if not cell.resting:
            return
        if task is None or task.task == cell.name.key:
            self._drop(cell)
        else:
            self._parked.pop(cell.stream, None)  # the oldest stay in front
            self._parked[cell.stream] = self.clock.monotonic()

    def reload(self, cell: Cell, held: Sequence[Delivery], error: BaseException) -> None:
        """A cell can't go on: if its partition is still this process's, its messages go to a new one."""
        self._cells.pop(cell.stream, None)
        if cell.tenure.held:
            self.gate.hold(cell.stream, cell.tenure, held)
            self.spawn(self._reload(cell.stream, cell.tenure, error))

    async def _reload(self, stream: str, tenure: Tenure, error: BaseException) -> None:
        ours = isinstance(error, StoreUnavailable) or await self.confirm(tenure)
        kept = self.gate.release(stream, tenure)
        if not (ours and tenure.held):
            return
        self.activate(stream, tenure)
        if isinstance(error, BadEvent):
            self._cells[stream].refusal = error
        for delivery in kept:
            self._cells[stream].offer(Delivery(delivery.message, tenure, delivery.entry, fresh=False))

    def _drop(self, cell: Cell) -> None:
        if self._cells.get(cell.stream) is cell:
            del self._cells[cell.stream]
        cell.drop()

    async def _passivate(self) -> None:
        pause = min(1.0, max(0.05, self.passivate_after_s / 2))
        while True:
            await self.clock.sleep(pause)
            self.tell_waits()
            self.passivate(older_than_s=self.passivate_after_s)

    def tell_waits(self) -> None:
        """Let the log know of tasks that wait for people, where one branch of several has ended last."""
        untold, self._untold = self._untold, set()
        for stream in untold:
            cell = self._cells.get(stream)
            work = cell.work if cell is not None else None
            if work is not None and work.parked and work.actor_fold.state in RUNNING and work.activity.waits_for_people:
                work.only_waits()

    def passivate(self, *, older_than_s: float) -> int:
        """Drop actors that have only waited for so long; gives how many. What they wait for brings them back."""
        latest = self.clock.monotonic() - older_than_s
        idle = []
        for stream, since in self._parked.items():
            if since > latest:
                break
            idle.append(stream)
        dropped = 0
        for stream in idle:
            del self._parked[stream]
            cell = self._cells.get(stream)
            if cell is not None and cell.resting:
                self._drop_resting(cell)
                dropped += cell.dropped
            elif cell is not None:  # it waits, but not all that came for it is settled: another time
                self._parked[stream] = self.clock.monotonic()
        return dropped

    def _drop_resting(self, cell: Cell) -> None:
        """Drop a cell that rests, once the log knows that it only waits: else recovery would take it for lost."""
        if not cell.resting:
            return
        if cell.work is not None and cell.fold is not None and cell.fold.state in RUNNING:
            cell.work.only_waits(then=lambda: self._drop_resting(cell))
        else:
            self._drop(cell)

    async def drain(self, tenure: Tenure | None = None, *, grace_s: float) -> None:
        """Let the tasks of a partition (or all) end or come to wait, for so long at most; then drop its actors."""
        deadline = self.clock.monotonic() + grace_s
        for each in [tenure] if tenure is not None else self.partitions:
            self.gate.forget_waiting(each)
        while cells := self._cells_of(tenure):
            late = self.clock.monotonic() >= deadline
            for cell in cells:
                if late or cell.resting:
                    self._drop(cell)
            if not late:
                await self.clock.sleep(DRAIN_POLL_S)

    def abandon(self, tenure: Tenure) -> None:
        """A tenure has ended: drop its actors at once, and what waits for them."""
        self.gate.forget(tenure)
        for cell in self._cells_of(tenure):
            self._drop(cell)

    def _cells_of(self, tenure: Tenure | None) -> list[Cell]:
        return [cell for cell in self._cells.values() if tenure is None or cell.tenure is tenure]

    def cells(self) -> Iterable[Cell]:
        """The actors in memory."""
        return self._cells.values()


async def _always(_tenure: Tenure) -> bool:
    return True


async def _nothing(_stream: str) -> None:
    """Nothing has to be sent again."""
