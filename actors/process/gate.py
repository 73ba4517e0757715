"""Which message goes to its actor now, and which waits, and what for.

a gap         messages of a partition are missing on the bus: what has an order to keep comes behind them
a tenure      it is being given away, or has ended: what opens a task stays on the bus, for the next one
a suspect     a task that may kill its process runs alone (callboard.actors.process.quarantine)
no slot       it waits for its turn (callboard.actors.process.admission)
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from callboard.actors.process.admission import Admission
from callboard.actors.process.busy import Busy
from callboard.actors.process.cell import Cell
from callboard.actors.process.quarantine import Quarantine
from callboard.actors.roles.definition import Definition
from callboard.protocols.messages import Message
from callboard.protocols.ports import Clock, Delivery, Tenure


class Actors(Protocol):
    """The actors of one process, and what there is room for."""

    definitions: Mapping[str, Definition]
    busy: Busy
    slots: int  # for tasks at work
    run_slots: int  # of those, for one run's
    ahead: int  # messages that may wait here
    on_capacity: Callable[[], None]  # there is room for more

    def cell(self, stream: str) -> Cell | None:
        """An actor in memory."""

    def hosts(self, stream: str) -> bool:
        """Whether an actor is in memory."""

    def settle(self, delivery: Delivery) -> None:
        """A message is claimed: take it off the bus, if that is where it came from."""


class Gate:
    """The gate of one process. `begin` gives an actor what came for it, in order."""

    def __init__(self, runtime: Actors, begin: Callable[[Sequence[Delivery]], None], clock: Clock) -> None:
        self._runtime = runtime
        self._begin = begin
        self._paused = False
        self._gaps: Counter[Tenure] = Counter()  # where messages are missing
        self._behind: dict[Tenure, list[Delivery]] = {}  # of those, what has to come behind, in order
        self._held_back: dict[str, list[Delivery]] = {}  # by actor, while a suspect runs alone
        self._reloading: dict[str, tuple[Tenure, list[Delivery]]] = {}  # by actor, what is for it
        self._fills = False  # soon
        self.quarantine = Quarantine(clock, self._others_at_work, self.open)
        self.admission = Admission(self._role_has_room, self._run_has_room)

    def __repr__(self) -> str:
        behind = sum(map(len, self._behind.values()))
        return (
            f"Gate({self.admission}, {self.quarantine}, {behind} behind gaps, {len(self._held_back)} actors held back)"
        )

    # -- in ------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """A message came."""
        message = delivery.message
        behind = self._behind.get(delivery.tenure) if self._behind else None
        if behind is not None and message.task != message.key:  # an actor of one task needs no order
            behind.append(delivery)
        else:
            self.let_in(delivery)

    def let_in(self, delivery: Delivery) -> None:
        """A message in its place, whatever is missing. What can't be taken any more is left to the next tenure."""
        message, tenure = delivery.message, delivery.tenure
        if not tenure.serving and self._is_left(message, tenure):
            return
        cell = self._runtime.cell(message.to)
        if message.to in self._reloading:
            self._reloading[message.to][1].append(delivery)
        elif self.quarantine and (message.to in self._held_back or self.quarantine.closed_to(cell)):
            self._held_back.setdefault(message.to, []).append(delivery)
        elif message.to in self.admission:
            self._wait(delivery)
            if message.kind == "cancel":  # let it find its task at work: nothing will come of that
                self._begin(self.admission.pull(message.to))
        elif message.kind == "cancel" or (cell is not None and _needs_no_slot(cell, message)):
            self._begin([delivery])
        elif not message.opens_task:
            if self.admission.woken or self.free <= 0:
                self._wait(delivery, woken=True)
            else:
                self._begin([delivery])
        elif self.admission.waiting or not self._has_room(message):
            self._wait(delivery)
            self.fill()
        else:
            self._begin([delivery])

    def _is_left(self, message: Message, tenure: Tenure) -> bool:
        """Whether a message stays on the bus, or in the log, for the next tenure. Of a partition that is given away
        only actors in memory get what they wait for.
        """
        opens = message.opens_task
        return not tenure.held or (tenure.leaving and (opens or not self._runtime.hosts(message.to)))

    def _wait(self, delivery: Delivery, *, woken: bool = False) -> None:
        twice = self.admission.offer(delivery, woken=woken)
        if twice is not None:
            self._runtime.settle(twice)

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
        held, self._held_back = self._held_back, {}
        for deliveries in held.values():
            for delivery in deliveries:
                self.let_in(delivery)
        self.fill()
        self._runtime.on_capacity()

    async def alone(self, cell: Cell) -> None:
        """Return when nothing but this suspect is at work; what was held back for it goes to it first."""
        await self.quarantine.turn(cell)
        for delivery in self._held_back.pop(cell.stream, []):
            self.let_in(delivery)

    def hold(self, stream: str, tenure: Tenure, held: Sequence[Delivery]) -> None:
        """An actor is about to be loaded again: what it had, and what comes meanwhile, is kept until `release`."""
        waiting = self.admission.pull(stream) if stream in self.admission else []
        _, former = self._reloading.get(stream, (tenure, []))
        self._reloading[stream] = tenure, [*former, *held, *waiting]

    def release(self, stream: str, tenure: Tenure) -> list[Delivery]:
        """What is kept for an actor since `hold`, in order."""
        if stream not in self._reloading or self._reloading[stream][0] is not tenure:
            return []
        return self._reloading.pop(stream)[1]

    def holds(self, stream: str, message: str) -> bool:
        """Whether a message waits for its turn here. One behind a gap doesn't count: it may come another way first."""
        if self.admission.holds(stream, message):
            return True
        elsewhere = self._held_back.get(stream, ())
        if stream in self._reloading:
            elsewhere = (*elsewhere, *self._reloading[stream][1])
        return any(each.message.id == message for each in elsewhere)

    # -- room ----------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more tasks may be at work."""
        return 0 if self._paused or self.quarantine else self._runtime.slots - len(self._runtime.busy)

    def capacity(self) -> int:
        """How many more messages may come off the bus: more than there are free slots, so that none waits unseen."""
        return max(0, self.room - sum(map(len, self._behind.values()))) if self._behind else self.room

    @property
    def room(self) -> int:
        """How many more messages may come from the log. What waits behind a gap takes none of it: it waits for them."""
        return 0 if self._paused or self.quarantine else max(0, self._runtime.ahead - self.admission.waiting)

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

    def mind_gap(self, tenure: Tenure) -> None:
        """Messages of a partition are missing: hold back what has an order to keep, until `close_gap`."""
        self._behind.setdefault(tenure, [])
        self._gaps[tenure] += 1

    def close_gap(self, tenure: Tenure) -> None:
        """What was missing has been delivered; if that was the last of several gaps, go on."""
        if tenure not in self._behind:
            return
        self._gaps[tenure] -= 1
        if self._gaps[tenure] > 0:
            return
        del self._gaps[tenure]
        for delivery in self._behind.pop(tenure):
            self.let_in(delivery)
        self._runtime.on_capacity()

    def has_gap(self, tenure: Tenure) -> bool:
        """Whether messages of a partition are missing."""
        return tenure in self._behind

    def forget_waiting(self, tenure: Tenure) -> None:
        """Nothing begins in a tenure any more: what waits is on the bus, or in the log, for the next one."""
        self.admission.drop(lambda each: each.tenure is tenure)

    def forget(self, tenure: Tenure) -> None:
        """A tenure has ended."""
        self.forget_waiting(tenure)
        self._behind.pop(tenure, None)
        self._gaps.pop(tenure, None)
        for stream in [stream for stream, (of, _) in self._reloading.items() if of is tenure]:
            del self._reloading[stream]


def _needs_no_slot(cell: Cell, message: Message) -> bool:
    """Whether a message for an actor in memory gives it nothing to do for which it doesn't hold a slot already: it is
    at work, or the message only joins its queue, or nobody waits for it.
    """
    opens = message.opens_task
    return cell.busy or (opens and cell.work is not None) or (not opens and cell.work is None)
