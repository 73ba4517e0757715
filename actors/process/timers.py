"""Messages with a due time: kept in a heap while they are near, and delivered when they are due."""

import heapq
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Final

import anyio

from callboard.protocols.messages import Message
from callboard.protocols.ports import Clock

log = logging.getLogger("callboard.actors")

# What is due later than this stays in the log, where the scan of the timers projection finds it in time.
HORIZON: Final = timedelta(seconds=10)


class Timers:
    """The near timers of one process. `run` delivers each once, when it is due by the clock."""

    def __init__(self, clock: Clock, deliver: Callable[[Message], None]) -> None:
        self._clock = clock
        self._deliver = deliver
        self._heap: list[tuple[float, str, Message]] = []
        self._known: set[str] = set()
        self._added = anyio.Event()

    def __repr__(self) -> str:
        return f"Timers({len(self._heap)} near)"

    def holds(self, message: str) -> bool:
        """Whether a timer is in the heap."""
        return message in self._known

    def add(self, messages: Iterable[Message]) -> None:
        """Take those that are due soon; one that is here already is not taken twice."""
        latest = self._clock.now() + HORIZON
        for message in messages:
            if message.due_at is not None and message.due_at <= latest and message.id not in self._known:
                self._known.add(message.id)
                heapq.heappush(self._heap, (message.due_at.timestamp(), message.id, message))
                self._added.set()

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        while True:
            self._added = anyio.Event()
            self._fire()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    if self._heap:
                        group.start_soon(self._sleep_until_next, scope)
                    await self._added.wait()
                    group.cancel_scope.cancel()

    async def _sleep_until_next(self, scope: anyio.CancelScope) -> None:
        await self._clock.sleep(max(0.0, self._heap[0][0] - self._clock.now().timestamp()))
        scope.cancel()

    def _fire(self) -> None:
        now = self._clock.now().timestamp()
        while self._heap and self._heap[0][0] <= now:
            _, message_id, message = heapq.heappop(self._heap)
            self._known.discard(message_id)
            self._deliver(message)
