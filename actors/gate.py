"""Which message goes to its actor now, and which waits, and what for.

a gap         messages of a partition are missing on the bus: what has an order to keep comes behind them
a drain       a partition is given away: what opens a task stays on the bus, for the next owner
a suspect     a task that may kill its process runs alone (actors.quarantine)
no slot       it waits for its turn (actors.admission)
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from actors.admission import Admission
from actors.quarantine import Quarantine
from protocols.messages import OPENS_TASK, Message
from protocols.ports import Clock, Delivery, Lease

if TYPE_CHECKING:
    from actors.cell import Cell
    from actors.runtime import Runtime

Place = tuple[str, int]


class Gate:
    """The gate of one process. `begin` gives an actor what came for it, in order."""

    def __init__(self, runtime: "Runtime", begin: Callable[[Sequence[Delivery]], None], clock: Clock) -> None:
        self._runtime = runtime
        self._begin = begin
        self._paused = False
        self._gaps: Counter[Place] = Counter()  # by partition, where messages are missing
        self._behind: dict[Place, list[Delivery]] = {}  # of those, what has to come behind, in order
        self._draining: set[Place] = set()
        self._held_back: list[Delivery] = []  # while a suspect runs alone
        self._reloading: dict[str, list[Delivery]] = {}  # by actor, what has to come behind what it had already
        self._fills = False  # soon
        self.quarantine = Quarantine(clock, self._others_at_work, self.open)
        self.admission = Admission(self._role_has_room, self._run_has_room)

    def __repr__(self) -> str:
        behind = sum(map(len, self._behind.values()))
        return f"Gate({self.admission}, {self.quarantine}, {behind} behind gaps, {len(self._held_back)} held back)"

    # -- in ------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """A message came."""
        if self._draining or self._behind:
            place, message = delivery.lease.place, delivery.message
            if place in self._draining and (message.kind in OPENS_TASK or not self._runtime.hosts(message.to)):
                return  # it stays on the bus: only actors in memory get what they wait for
            if place in self._behind and message.task != message.key:  # an actor of one task needs no order
                self._behind[place].append(delivery)
                return
        self.let_in(delivery)

    def let_in(self, delivery: Delivery) -> None:
        """A message in its place, whatever is missing."""
        message = delivery.message
        cell = self._runtime.cell(message.to)
        if message.to in self._reloading:
            self._reloading[message.to].append(delivery)
        elif self.quarantine and self.quarantine.closed_to(cell):
            self._held_back.append(delivery)
        elif message.to in self.admission:
            self.admission.offer(delivery)
            if message.kind == "cancel":  # let it find its task at work: nothing will come of that
                self._begin(self.admission.pull(message.to))
        elif message.kind == "cancel" or (cell is not None and _needs_no_slot(cell, message)):
            self._begin([delivery])
        elif message.kind not in OPENS_TASK:
            if self.admission.woken or self.free <= 0:
                self.admission.offer(delivery, woken=True)
            else:
                self._begin([delivery])
        elif self.admission.waiting or not self._has_room(message):
            self.admission.offer(delivery)
            self.fill()
        else:
            self._begin([delivery])

    def fill_soon(self) -> None:
        """Let in what waits, when whoever gave a slot back is done."""
        if self.admission.waiting and not self._fills:
            self._fills = True
            asyncio.get_running_loop().call_soon(self.fill)

    def fill(self) -> None:
        """Let in what waits, as far as there are slots."""
        self._fills = False
        while self.admission.waiting and self.free > 0:
            deliveries = self.admission.next()
            if deliveries is None:
                return
            self._begin(deliveries)

    def open(self) -> None:
        """What was held back may go on."""
        held, self._held_back = self._held_back, []
        for delivery in held:
            if self._runtime.owned.get(delivery.lease.place) is not None:
                self.let_in(delivery)
        self.fill()
        self._runtime.on_capacity()

    def hold(self, stream: str) -> None:
        """An actor is about to be loaded again: what comes for it meanwhile is kept, until `release`."""
        waiting = self.admission.pull(stream) if stream in self.admission else []
        self._reloading.setdefault(stream, []).extend(waiting)

    def release(self, stream: str) -> list[Delivery]:
        """What came for an actor since `hold`, in order."""
        return self._reloading.pop(stream, [])

    def holds(self, stream: str, message: str) -> bool:
        """Whether a message waits for its turn here. One behind a gap doesn't count: it may come another way first."""
        elsewhere = (*self._held_back, *self._reloading.get(stream, ()))
        return self.admission.holds(stream, message) or any(each.message.id == message for each in elsewhere)

    # -- room ----------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more tasks may be at work."""
        return 0 if self._paused or self.quarantine else self._runtime.slots - len(self._runtime.busy)

    def capacity(self) -> int:
        """How many more messages may come off the bus: more than there are free slots, so that none waits unseen."""
        if self._paused or self.quarantine:
            return 0
        return max(0, self._runtime.ahead - self.admission.waiting - sum(map(len, self._behind.values())))

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        waits = self.admission.waiting or self._held_back or self.quarantine or self._reloading
        return not (waits or any(self._behind.values()))

    @property
    def paused(self) -> bool:
        """Whether nothing is begun, and nothing read, because the log can't be written."""
        return self._paused

    def pause(self, *, paused: bool) -> None:
        """Begin nothing new and read nothing more, or go on again."""
        self._paused = paused
        if not paused:
            self.open()

    def _has_room(self, message: Message) -> bool:
        return self.free > 0 and self._role_has_room(message.role) and self._run_has_room(message.run)

    def _role_has_room(self, role: str) -> bool:
        most = self._runtime.definitions[role].max_at_work
        return most is None or self._runtime.busy.of_role[role] < most

    def _run_has_room(self, run: str) -> bool:
        return self._runtime.busy.of_run[run] < self._runtime.run_slots

    def _others_at_work(self) -> int:
        return sum(not cell.waits_turn for cell in self._runtime.busy.values())

    # -- partitions ------------------------------------------------------------------------------------------------

    def mind_gap(self, lease: Lease) -> None:
        """Messages of a partition are missing: hold back what has an order to keep, until `close_gap`."""
        self._behind.setdefault(lease.place, [])
        self._gaps[lease.place] += 1

    def close_gap(self, lease: Lease) -> None:
        """What was missing has been delivered; if that was the last of several gaps, go on."""
        place = lease.place
        self._gaps[place] -= 1
        if self._gaps[place] > 0 or place not in self._behind:
            return
        for delivery in self._behind.pop(place):
            if delivery.lease.epoch == lease.epoch:
                self.let_in(delivery)
        self._runtime.on_capacity()

    def drain(self, lease: Lease) -> None:
        """A partition is given away: nothing begins there any more, and what waits is on the bus for its next owner."""
        self._draining.add(lease.place)
        self.admission.drop(lambda each: each.lease.place == lease.place)

    def forget(self, lease: Lease) -> None:
        """A partition is not this process's any more."""
        self.drain(lease)
        self._draining.discard(lease.place)
        self._behind.pop(lease.place, None)
        self._gaps.pop(lease.place, None)


def _needs_no_slot(cell: "Cell", message: Message) -> bool:
    """Whether a message for an actor in memory gives it nothing to do for which it doesn't hold a slot already: it is
    at work, or the message only joins its queue, or nobody waits for it.
    """
    opens = message.kind in OPENS_TASK
    return cell.busy or (opens and cell.work is not None) or (not opens and cell.work is None)
