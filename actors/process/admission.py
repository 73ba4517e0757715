"""Which waiting task starts next, when a slot comes free.

Messages that open tasks are taken off the bus far ahead of the slots, and wait here. They are let in

    first         tasks that go on: what they waited for has come
    by role       in turn, each up to its `max_at_work`
    by priority   in shares: of 21 that start, 16 are high, 4 normal and 1 low, as far as there are some of each
    by run        in turn, each with at most `run_slots` at work, so that a run of 100,000 tasks leaves slots to others

What is for one actor stays in order: it is let in together, with the first message's priority and run.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from callboard.protocols.messages import Priority
from callboard.protocols.ports import Delivery

SHARES: Final[Mapping[Priority, int]] = {"high": 16, "normal": 4, "low": 1}
WHOLE: Final = 1000  # so many messages are kept whole; of those that wait behind them only the envelope


class Admission:
    """The waiting tasks of one process. `may` asks whether one more of a role may start, `room` the same of a run."""

    def __init__(self, may: Callable[[str], bool], room: Callable[[str], bool]) -> None:
        self._may = may
        self._room = room
        self._actors: dict[str, list[Delivery]] = {}  # by stream, in the order in which they came
        self.woken: dict[str, None] = {}  # those of actors whose task goes on, in order
        self._lines: dict[str, Line] = {}  # by role, the one whose turn it is first
        self.waiting = 0  # messages

    def __repr__(self) -> str:
        return f"Admission({self.waiting} messages wait, for {len(self._actors)} actors)"

    def __contains__(self, stream: str) -> bool:
        return stream in self._actors

    def holds(self, stream: str, message: str) -> bool:
        """Whether a message waits here."""
        return any(each.message.id == message for each in self._actors.get(stream, ()))

    def offer(self, delivery: Delivery, *, woken: bool = False) -> Delivery | None:
        """A message that has to wait for its turn. Gives a delivery whose entry is to be settled: where the message
        waits here already, the later of the two.
        """
        message = delivery.message
        waiting = self._actors.get(message.to)
        if waiting is None:
            self._actors[message.to] = [delivery if woken else self._slim(delivery)]
            if woken:
                self.woken[message.to] = None
            else:
                self._lines.setdefault(message.role, Line()).add(message.priority, message.run, message.to)
            self.waiting += 1
            return None
        for place, each in enumerate(waiting):
            if each.message.id == message.id:
                if not each.entry:
                    waiting[place] = replace(each, entry=delivery.entry)
                return delivery if delivery.entry and each.entry not in ("", delivery.entry) else None
        waiting.append(self._slim(delivery))
        self.waiting += 1
        return None

    def next(self) -> list[Delivery] | None:
        """What is let in now, for one actor; None if nothing may be."""
        if self.woken:
            return self._take(next(iter(self.woken)))
        for role, line in list(self._lines.items()):
            if not self._may(role):
                continue
            stream = line.next(self._room)
            if stream is not None:
                self._lines[role] = self._lines.pop(role)  # its turn is over
                return self._take(stream)
        return None

    def pull(self, stream: str) -> list[Delivery]:
        """Take out what waits for one actor, out of turn."""
        if stream not in self.woken:
            first = self._actors[stream][0].message
            self._lines[first.role].remove(first.priority, first.run, stream)
        return self._take(stream)

    def drop(self, belongs: Callable[[Delivery], bool]) -> None:
        """Forget what waits for some actors: others own them now."""
        for stream in [stream for stream, waiting in self._actors.items() if belongs(waiting[0])]:
            self.pull(stream)

    def _take(self, stream: str) -> list[Delivery]:
        self.woken.pop(stream, None)
        taken = self._actors.pop(stream)
        self.waiting -= len(taken)
        return taken

    def _slim(self, delivery: Delivery) -> Delivery:
        """Far behind, a message's parts are read from the log again when its turn comes."""
        if self.waiting < WHOLE:
            return delivery
        return replace(delivery, message=replace(delivery.message, parts=None))


class Line:
    """What waits for one role."""

    def __init__(self) -> None:
        self._runs: dict[Priority, dict[str, deque[str]]] = {priority: {} for priority in SHARES}
        self._used: Counter[Priority] = Counter()  # in units of work: a low task takes more than a high one

    def add(self, priority: Priority, run: str, stream: str) -> None:
        """The actor `stream` has something to do."""
        runs = self._runs[priority]
        if not runs:  # who was idle has saved nothing up
            busy = [self._used[other] for other in SHARES if self._runs[other]]
            self._used[priority] = max(self._used[priority], min(busy, default=0))
        runs.setdefault(run, deque()).append(stream)

    def next(self, room: Callable[[str], bool]) -> str | None:
        """The next actor; None if none may start. `room` asks whether one more task of a run may."""
        for priority in sorted(SHARES, key=lambda each: self._used[each]):
            runs = self._runs[priority]
            run = next((run for run in runs if room(run)), None)
            if run is not None:
                self._used[priority] += SHARES["high"] // SHARES[priority]
                streams = runs.pop(run)
                stream = streams.popleft()
                if streams:
                    runs[run] = streams  # its turn is over: to the end
                return stream
        return None

    def remove(self, priority: Priority, run: str, stream: str) -> None:
        """The actor `stream` waits no more."""
        runs = self._runs[priority]
        runs[run].remove(stream)
        if not runs[run]:
            del runs[run]
