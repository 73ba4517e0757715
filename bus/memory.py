"""The bus in memory: one process, several consumers, the same contract."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from anyio.abc import TaskGroup

from callboard.bus.link import owned_tasks
from callboard.bus.live import Pieces
from callboard.protocols.errors import Busy, RedisUnavailable
from callboard.protocols.messages import Message, decode_message, encode_message
from callboard.protocols.names import partition_of
from callboard.protocols.ports import Delivery, Gap, Lease, Route, RouteLookup, Tenure, Undecodable

log = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
GAP = b"gap"  # the content of an entry that marks a place before which messages may be missing

Place = tuple[str, int, int]  # role, generation, partition


@dataclass(slots=True)
class _Stream:
    """The entries of a partition, by number, and how far its one reader has come."""

    entries: dict[int, tuple[bytes, bool]] = field(default_factory=dict)  # content, and whether it was sent again
    unread: deque[int] = field(default_factory=deque)
    newest: int = 0
    misses: bool = False  # messages that could not be written, and there is no mark of it yet
    epoch: int = 0
    reader: "MemoryConsumer | None" = None
    seen_up_to: int = 0  # somebody may have seen the entries up to here


class MemoryBus:
    """See `callboard.protocols.ports.Bus`. While it is `full` it takes no messages, and while it is `away` it does
    nothing.
    """

    def __init__(self, routes: RouteLookup) -> None:
        self.full = False
        self._away = False
        self._routes = routes
        self._streams: dict[Place, _Stream] = {}
        self._watchers: dict[str, list[Pieces]] = {}  # by run

    @property
    def away(self) -> bool:
        return self._away

    @away.setter
    def away(self, away: bool) -> None:
        self._away = away
        for stream in self._streams.values():
            if stream.reader is not None:
                stream.reader.wake()

    def publish(self, messages: Iterable[Message], *, again: bool = False) -> None:
        for message in messages:
            route = self._routes(message.role)
            if route is None:
                log.warning("message %s: its role is unknown", message.id)
                continue
            partition = partition_of(message.key, route.partitions)
            stream = self._stream(route, partition)
            if self.away or self.full:
                stream.misses = True
                continue
            if stream.misses:
                stream.misses = False
                self.add(route, partition, GAP)
            self.add(route, partition, encode_message(message), again=again)

    def add(self, route: Route, partition: int, content: bytes, *, again: bool = False) -> None:
        """Put any bytes on a partition."""
        stream = self._stream(route, partition)
        stream.newest += 1
        stream.entries[stream.newest] = content, again
        stream.unread.append(stream.newest)
        if stream.reader is not None:
            stream.reader.wake()

    async def flush(self) -> None:
        """Nothing is ever queued."""

    async def check_room(self) -> None:
        if self.full and not self.away:
            raise Busy(RETRY_AFTER_S)

    def consumer(
        self,
        process: str,
        deliver: Callable[[Delivery], None],
        undecodable: Callable[[Undecodable], None],
        capacity: Callable[[], int],
        gap: Callable[[Gap], None] = lambda _: None,
    ) -> "MemoryConsumer":
        return MemoryConsumer(self, process, deliver, undecodable, capacity, gap)

    async def backlog(self, role: str) -> dict[int, int]:
        """Raises RedisUnavailable."""
        route = self._there(role)
        if route is None:
            return {}
        return {partition: len(self._stream(route, partition).entries) for partition in range(route.partitions)}

    async def waiting(self, role: str, partition: int) -> list[str]:
        """Raises RedisUnavailable."""
        route = self._there(role)
        if route is None:
            return []
        contents = [_decoded(content) for content, _ in self._stream(route, partition).entries.values()]
        return [message.id for message in contents if isinstance(message, Message) and message.id]

    async def forget(self, route: Route) -> None:
        """Raises RedisUnavailable."""
        self._there(route.role)
        for partition in range(route.partitions):
            self._lose(self._stream(route, partition))

    def show(self, run: str, piece: bytes) -> None:
        if not self.away:
            for pieces in self._watchers.get(run, ()):
                pieces.put(piece)

    @asynccontextmanager
    async def watch(self, run: str) -> AsyncIterator[AsyncIterator[bytes]]:
        watchers = self._watchers.setdefault(run, [])
        pieces = Pieces()
        watchers.append(pieces)
        try:
            yield pieces
        finally:
            watchers.remove(pieces)
            if not watchers:
                self._watchers.pop(run, None)

    def lose(self) -> None:
        """Lose everything, as FLUSHALL does. Consumers go on with what is published afterwards."""
        for stream in self._streams.values():
            self._lose(stream)

    @staticmethod
    def _lose(stream: _Stream) -> None:
        stream.entries.clear()
        stream.unread.clear()
        stream.seen_up_to = stream.newest
        if stream.reader is None:
            stream.epoch = 0
        else:
            stream.reader.forgotten += 1
            stream.reader.missing(stream)

    def _there(self, role: str) -> Route | None:
        """The role's newest route; raises RedisUnavailable."""
        if self.away:
            raise RedisUnavailable("memory", "it is away")
        return self._routes(role)

    def _stream(self, of: Route | Lease, partition: int) -> _Stream:
        return self._streams.setdefault((of.role, of.generation, partition), _Stream())


class MemoryConsumer:
    """See `callboard.protocols.ports.Consumer`."""

    def __init__(
        self,
        bus: MemoryBus,
        process: str,
        deliver: Callable[[Delivery], None],
        undecodable: Callable[[Undecodable], None],
        capacity: Callable[[], int],
        gap: Callable[[Gap], None],
    ) -> None:
        self.forgotten = 0
        self._bus = bus
        self._process = process
        self._deliver = deliver
        self._undecodable = undecodable
        self._capacity = capacity
        self._gap = gap
        self._taken: dict[Place, tuple[Tenure, _Stream]] = {}  # the last tenure of each, dropped or not
        self._wake = asyncio.Event()
        self._owned: AbstractAsyncContextManager[TaskGroup] | None = None

    async def __aenter__(self) -> "MemoryConsumer":
        self._owned = owned_tasks()
        tasks = await self._owned.__aenter__()
        tasks.start_soon(self._run)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._owned is not None
        await self._owned.__aexit__(*exc)  # type: ignore[arg-type]
        for tenure, _ in self._taken.values():
            await self.drop(tenure)

    async def take(self, tenure: Tenure) -> None:
        lease = tenure.lease
        place = (lease.role, lease.generation, lease.partition)
        stream = self._bus._stream(lease, lease.partition)
        former, _ = self._taken.get(place, (None, None))
        if not tenure.held or tenure is former or stream.epoch > lease.epoch:
            return
        self._taken[place] = tenure, stream
        stream.epoch = lease.epoch
        stream.reader = self
        stream.unread = deque(stream.entries)
        stream.seen_up_to = stream.newest
        self.wake()

    def reads(self, tenure: Tenure) -> bool:
        stream = self._current(tenure)
        return stream is not None and stream.reader is self and not self._bus.away

    async def drop(self, tenure: Tenure) -> None:
        stream = self._current(tenure)
        if stream is not None and stream.reader is self:
            stream.reader = None

    def missing(self, stream: _Stream) -> None:
        """Messages of a stream that is read here may be missing."""
        for tenure, each in self._taken.values():
            if each is stream:
                self._gap(Gap(tenure))

    def settle(self, delivery: Delivery | Undecodable | Gap) -> None:
        tenure = delivery.tenure
        stream = self._current(tenure)
        settled = stream is not None and tenure.entries.pop(delivery.entry, None) is not None
        if stream is not None and settled and stream.epoch == tenure.lease.epoch:
            stream.entries.pop(int(delivery.entry), None)

    def wake(self) -> None:
        self._wake.set()

    def _current(self, tenure: Tenure) -> _Stream | None:
        """The stream of a tenure, if it is the last one that was taken here."""
        lease = tenure.lease
        taken, stream = self._taken.get((lease.role, lease.generation, lease.partition), (None, None))
        return stream if taken is tenure else None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for tenure, stream in list(self._taken.values()):
                while not self._bus.away and stream.reader is self and stream.unread and self._capacity() > 0:
                    self._hand_over(tenure, stream, stream.unread.popleft())

    def _hand_over(self, tenure: Tenure, stream: _Stream, number: int) -> None:
        content, again = stream.entries[number]
        name = str(number)
        if content == GAP:
            gap = tenure.entries[name] = Gap(tenure, name)
            self._gap(gap)
            return
        message = _decoded(content)
        if isinstance(message, str):
            unread = tenure.entries[name] = Undecodable(tenure.lease.role, tenure, name, content, message)
            self._undecodable(unread)
        else:
            fresh = not again and number > stream.seen_up_to
            delivery = tenure.entries[name] = Delivery(message, tenure, name, fresh)
            self._deliver(delivery)

    def __repr__(self) -> str:
        reading = [stream for _, stream in self._taken.values() if stream.reader is self]
        in_flight = sum(len(stream.entries) - len(stream.unread) for stream in reading)
        return f"<MemoryConsumer partitions={len(reading)} in_flight={in_flight} forgotten={self.forgotten}>"


def _decoded(content: bytes) -> Message | str:
    """The message, or why it is none."""
    try:
        return decode_message(content)
    except (ValueError, RecursionError) as error:
        return str(error)
