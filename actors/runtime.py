"""The actors of one process: delivers messages to them, publishes what they send, and drops the idle ones."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from actors.cell import Cell
from actors.definition import Definition
from actors.directory import Directory
from actors.journal import Idle
from actors.models import Models
from actors.timers import Timers
from protocols.errors import BadEvent, CallboardError, StoreUnavailable
from protocols.events import NewEvent
from protocols.messages import OPENS_TASK, Message
from protocols.names import message_id, parse_stream, partition_of
from protocols.ports import Bus, Clock, Delivery, EventStore, Lease, SystemClock
from protocols.states import RUNNING

log = logging.getLogger("callboard.actors")

DRAIN_POLL_S: Final = 0.02
RELOAD_PAUSE_S: Final = (0.1, 5.0)  # first and longest wait for a store that doesn't answer


class Runtime:
    """`async with` owns the handlers' tasks; leaving it stops them all where they are, which loses nothing.

    `settle` takes a delivery off the bus; `capacity_freed` is called when a slot comes free; `confirm` asks whether
    this process still owns a partition. The host sets them; by default there is no bus to settle and all is owned.
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
        passivate_after_s: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self.bus = bus
        self.directory = directory
        self.definitions = definitions
        self.gateway = gateway
        self.process = process
        self.slots = slots
        self.passivate_after_s = passivate_after_s
        self.clock = clock or SystemClock()
        self.idle = Idle()
        self.timers = Timers(self.clock, self._deliver_due)
        self.owned: dict[tuple[str, int], Lease] = {}
        self.serving: set[tuple[str, int]] = set()  # of those, the ones that have been taken over
        self.on_settle: Callable[[Delivery], None] = lambda _delivery: None
        self.on_capacity: Callable[[], None] = lambda: None
        self.confirm: Callable[[Lease], Awaitable[bool]] = _always
        self._cells: dict[str, Cell] = {}
        self._busy = 0
        self._unknown: list[Message] = []  # for roles that are not known here yet
        self._parked: dict[str, float] = {}  # streams of cells that could be dropped, and since when, oldest first
        self._group = asyncio.TaskGroup()

    def __repr__(self) -> str:
        return f"Runtime({self.process}: {len(self._cells)} actors, {self._busy} busy of {self.slots}, {self.timers})"

    async def __aenter__(self) -> "Runtime":
        await self._group.__aenter__()
        self._service = [self._group.create_task(self.timers.run()), self._group.create_task(self._passivate())]
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for cell in list(self._cells.values()):
            self._drop(cell)
        for task in self._service:
            task.cancel()
        await self._group.__aexit__(*exc)

    # -- in -----------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """A message for one of this process's actors."""
        message = delivery.message
        cell = self._cells.get(message.to)
        if cell is None:
            cell = self._new_cell(message.to, delivery.lease)
            if delivery.fresh and message.kind in OPENS_TASK and message.task == message.key:
                cell.begin_new()
            else:
                self._load(cell, takeover=False)
        cell.offer(delivery)

    def activate(self, stream: str, lease: Lease) -> None:
        """Load an actor whose task was at work in another process, and go on with it."""
        if stream not in self._cells:
            self._load(self._new_cell(stream, lease), takeover=True)

    def holds(self, message: Message | str, stream: str) -> bool:
        """Whether a message is in memory here and not settled."""
        cell = self._cells.get(stream)
        name = message if isinstance(message, str) else message.id
        return (cell is not None and cell.holds(name)) or self.timers.holds(name)

    def hosts(self, stream: str) -> bool:
        """Whether an actor is in memory here."""
        return stream in self._cells

    def capacity(self) -> int:
        """How many more tasks may start."""
        return max(0, self.slots - self._busy)

    def lease_of(self, stream: str) -> Lease | None:
        """The lease under which this process owns an actor; None if it doesn't."""
        role, key = parse_stream(stream)
        route = self.directory.route(role)
        return self.owned.get((role, partition_of(key, route.partitions))) if route else None

    def _deliver_due(self, message: Message) -> None:
        lease = self.lease_of(message.to)
        if lease is not None:
            self.deliver(Delivery(message, lease, entry="", fresh=False))

    def _new_cell(self, stream: str, lease: Lease) -> Cell:
        cell = Cell(self, stream, self.definitions[parse_stream(stream).role], lease.epoch)
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

    # -- out ----------------------------------------------------------------------------------------------------------

    def send(self, stream: str, events: Sequence[NewEvent], first_version: int) -> None:
        """Publish what durable events send; what has a due time is kept until then."""
        for version, event in enumerate(events, first_version):
            for place, sent in enumerate(event.meta.sends):
                message = replace(sent, id=message_id(stream, version, place))
                if message.due_at is None:
                    self._publish(message)
                else:
                    self.timers.add((message,))

    def _publish(self, message: Message) -> None:
        lease = self._at_hand(message)
        if lease is not None:
            self.deliver(Delivery(message, lease, entry="", fresh=True))
            return
        if self.directory.route(message.role) is not None:
            self.bus.publish((message,))
            return
        # An answer to a role that began after this process last read the register: the bus would drop it.
        self._unknown.append(message)
        if len(self._unknown) == 1:
            self.spawn(self._publish_unknown())

    def _at_hand(self, message: Message) -> Lease | None:
        """The lease under which a message may go straight to its actor, past the bus; None if it may not.

        Only what has no order to keep goes so: an answer to a step, and what opens the one task of a fresh actor. If
        this process dies before it is claimed, the partition's next owner finds it in the mailbox projection, as it
        does with all that the bus does not have.
        """
        if message.step is None and (message.task != message.key or not self.capacity()):
            return None
        lease = self.lease_of(message.to)
        return lease if lease is not None and (lease.role, lease.partition) in self.serving else None

    async def _publish_unknown(self) -> None:
        try:
            await self.directory.refresh()
        except StoreUnavailable as error:
            log.warning("the register of roles can't be read: %s", error)
        messages, self._unknown = self._unknown, []
        self.bus.publish(messages)

    def settle(self, delivery: Delivery) -> None:
        """A message is claimed: take it off the bus, if that is where it came from."""
        if delivery.entry:
            self.on_settle(delivery)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something under this runtime's ownership."""
        return self._group.create_task(coroutine)

    # -- cells come and go ----------------------------------------------------------------------------------------

    def busy_changed(self, cell: Cell) -> None:
        """Count the cells that hold a slot, and remember those that could be dropped."""
        work = cell.work
        busy = not cell.dropped and (cell.fold is None or (work is not None and not work.parked))
        if work is not None and work.parked and cell.stream not in self._parked and not cell.dropped:
            self._parked[cell.stream] = self.clock.monotonic()
        elif busy or cell.dropped:
            self._parked.pop(cell.stream, None)
        if busy == cell.busy:
            return
        cell.busy = busy
        self._busy += 1 if busy else -1
        if not busy:
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
        lease = self.lease_of(cell.stream)
        if lease is not None:
            self.spawn(self._reload(cell.stream, lease, held, error))

    async def _reload(self, stream: str, lease: Lease, held: Sequence[Delivery], error: BaseException) -> None:
        if not isinstance(error, StoreUnavailable) and not await self.confirm(lease):
            return
        self.activate(stream, lease)
        if isinstance(error, BadEvent):
            self._cells[stream].refusal = error
        for delivery in held:
            self.deliver(Delivery(delivery.message, delivery.lease, delivery.entry, fresh=False))

    def _drop(self, cell: Cell) -> None:
        if self._cells.get(cell.stream) is cell:
            del self._cells[cell.stream]
        cell.drop()

    async def _passivate(self) -> None:
        pause = min(1.0, max(0.05, self.passivate_after_s / 2))
        while True:
            await self.clock.sleep(pause)
            self.passivate(older_than_s=self.passivate_after_s)

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

    async def drain(self, lease: Lease | None = None, *, grace_s: float) -> None:
        """Let the tasks of a partition (or all) end or come to wait, for so long at most; then drop its actors."""
        deadline = self.clock.monotonic() + grace_s
        while cells := [cell for cell in self._cells.values() if lease is None or self._in(cell, lease)]:
            late = self.clock.monotonic() >= deadline
            for cell in cells:
                if late or cell.resting:
                    self._drop(cell)
            if not late:
                await self.clock.sleep(DRAIN_POLL_S)

    def abandon(self, lease: Lease) -> None:
        """A partition is somebody else's now: drop its actors at once."""
        for cell in [cell for cell in self._cells.values() if self._in(cell, lease)]:
            self._drop(cell)

    def _in(self, cell: Cell, lease: Lease) -> bool:
        route = self.directory.route(cell.name.role)
        return (
            cell.name.role == lease.role
            and route is not None
            and partition_of(cell.name.key, route.partitions) == lease.partition
        )


async def _always(_lease: Lease) -> bool:
    return True
