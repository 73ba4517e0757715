"""An actor's pen: how its events get into the log.

What an actor writes is first kept here. It goes to the store when somebody needs it to be durable, or at the latest
when the event loop has nothing better to do, so that an answer and the question that follows from it, or a task's
start and its end, are one append. At most one append of an actor is in flight: an append that is refused can't be
followed by a later one that is accepted.
"""

import asyncio
from collections.abc import Callable, Sequence

from callboard.protocols.errors import NotAdmitted
from callboard.protocols.events import NewEvent
from callboard.protocols.ports import Appended, EventStore

Committed = Callable[[Sequence[NewEvent], Appended], None]
Refused = Callable[[BaseException], None]
Then = Callable[[], None]


class Idle:
    """Flushes journals when the event loop has come round: what was written goes out, even if nobody waits for it."""

    def __init__(self) -> None:
        self._journals: list[Journal] = []

    def add(self, journal: "Journal") -> None:
        """Flush a journal after two turns of the loop: in the first a woken handler runs, which may write more."""
        if not self._journals:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush)
        self._journals.append(journal)

    def _flush(self) -> None:
        journals, self._journals = self._journals, []
        for journal in journals:
            journal.flush()


class Journal:
    """Writes one stream from a known version on.

    `committed` is called for each append that is durable; `refused` once, at the first that is not, after which
    nothing more is written and every `durable` is cancelled.
    """

    __slots__ = (
        "_closed",
        "_committed",
        "_durable",
        "_events",
        "_idle",
        "_in_flight",
        "_refused",
        "_store",
        "_stream",
        "_then",
        "_version",
    )

    def __init__(
        self,
        store: EventStore,
        idle: "Idle",
        stream: str,
        version: int,
        committed: Committed,
        refused: Refused,
    ) -> None:
        self._store = store
        self._idle = idle
        self._stream = stream
        self._version = version
        self._committed = committed
        self._refused = refused
        self._events: list[NewEvent] = []
        self._then: list[Then] = []
        self._durable: asyncio.Future[None] | None = None  # resolved with what is buffered now
        self._in_flight: tuple[list[NewEvent], list[Then], asyncio.Future[None] | None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        in_flight = len(self._in_flight[0]) if self._in_flight else 0
        return f"Journal({self._stream}@{self._version}, {len(self._events)} buffered, {in_flight} in flight)"

    @property
    def clean(self) -> bool:
        """Whether everything that was written is durable."""
        return not self._events and self._in_flight is None

    def write(self, event: NewEvent, then: Then | None = None) -> None:
        """Take an event; `then` is called when it is durable."""
        if self._closed:
            return
        if not self._events:
            self._idle.add(self)
        self._events.append(event)
        if then is not None:
            self._then.append(then)

    def flush(self) -> None:
        """Send what is buffered, unless an append is in flight: then it follows that one."""
        if self._in_flight is not None or not self._events or self._closed:
            return
        self._in_flight = (self._events, self._then, self._durable)
        self._events, self._then, self._durable = [], [], None
        self._store.submit(self._stream, self._in_flight[0], self._version).add_done_callback(self._done)

    async def durable(self) -> None:
        """Return when everything that was written so far is durable. Cancelled if it is refused."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise asyncio.CancelledError
        if self._events:
            if self._durable is None:
                self._durable = loop.create_future()
            waiting = self._durable
            self.flush()
        elif self._in_flight is not None:
            events, then, future = self._in_flight
            waiting = future or loop.create_future()
            self._in_flight = (events, then, waiting)
        else:
            return
        await asyncio.shield(waiting)

    async def rest(self) -> None:
        """Return when all that was written is durable, and nothing else is: the next append may be alone."""
        while not self.clean:  # others may write meanwhile
            await self.durable()
        if self._closed:
            raise asyncio.CancelledError

    def alone(self, event: NewEvent, then: Then) -> "asyncio.Future[None]":
        """Append one event by itself, at `rest`. The future has NotAdmitted if it is not admitted, after which the
        journal goes on as if nothing had been asked; it is cancelled if it is refused for another reason.
        """
        assert self.clean
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._in_flight = ([event], [then], admitted)
        self._store.submit(self._stream, [event], self._version).add_done_callback(self._done)
        return admitted

    def close(self) -> None:
        """Write nothing more. What is in flight may still become durable, but nobody here will be told."""
        self._closed = True
        self._committed = self._refused = _ignore  # no circle through the cell: nothing is left for the collector
        self._events.clear()
        self._then.clear()
        for future in (self._durable, self._in_flight[2] if self._in_flight else None):
            if future is not None:
                future.cancel()

    def _done(self, append: "asyncio.Future[Appended]") -> None:
        assert self._in_flight is not None
        events, then, durable = self._in_flight
        self._in_flight = None
        if self._closed:
            append.cancelled() or append.exception()  # seen, and of no interest any more
            return
        if append.cancelled():  # the store was closed
            if durable is not None:
                durable.cancel()
            self.close()
            return
        error = append.exception()
        if isinstance(error, NotAdmitted):  # it was alone
            assert durable is not None
            durable.set_exception(error)
            self.flush()
            return
        if error is not None:
            if durable is not None:
                durable.cancel()
            refused = self._refused
            self.close()
            refused(error)
            return
        appended = append.result()
        self._version = appended.version
        self._committed(events, appended)
        for call in then:
            call()
        if durable is not None and not durable.done():
            durable.set_result(None)
        self.flush()


def _ignore(*_: object) -> None:
    """Nobody is told."""
