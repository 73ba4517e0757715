"""The bus in memory: one process, several consumers, the same contract."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from anyio.abc import TaskGroup

from bus.link import owned_tasks
from protocols.errors import UnknownRole
from protocols.messages import Message, decode_message, encode_message
from protocols.names import partition_of
from protocols.ports import Delivery, Lease, RouteLookup, Undecodable

log = logging.getLogger(__name__)

Place = tuple[str, int, int]  # role, generation, partition


@dataclass(slots=True)
class _Stream:
    """The entries of a partition, by number, and how far its one reader has come."""

    entries: dict[int, tuple[bytes, bool]] = field(default_factory=dict)  # content, and whether it was sent again
    unread: deque[int] = field(default_factory=deque)
    newest: int = 0
    epoch: int = 0
    reader: "MemoryConsumer | None" = None
    seen_up_to: int = 0  # somebody may have seen the entries up to here


class MemoryBus:
    """See `protocols.ports.Bus`."""

    def __init__(self, routes: RouteLookup) -> None:
        self._routes = routes
        self._streams: dict[Place, _Stream] = {}

    def publish(self, messages: Iterable[Message], *, again: bool = False) -> None:
        for message in messages:
            route = self._routes(message.role)
            if route is None:
                log.warning("message %s: its role is unknown", message.id)
                continue
            self.add(message.role, partition_of(message.key, route.partitions), encode_message(message), again=again)

    def add(self, role: str, partition: int, content: bytes, *, again: bool = False) -> None:
        """Put any bytes on a partition of a known role."""
        stream = self._stream(role, partition)
        stream.newest += 1
        stream.entries[stream.newest] = content, again
        stream.unread.append(stream.newest)
        if stream.reader is not None:
            stream.reader.wake()

    async def flush(self) -> None:
        """Nothing is ever queued."""

    def consumer(
        self,
        process: str,
        deliver: Callable[[Delivery], None],
        undecodable: Callable[[Undecodable], None],
        capacity: Callable[[], int],
    ) -> "MemoryConsumer":
        return MemoryConsumer(self, process, deliver, undecodable, capacity)

    async def backlog(self, role: str) -> dict[int, int]:
        route = self._routes(role)
        count = route.partitions if route is not None else 0
        return {partition: len(self._stream(role, partition).entries) for partition in range(count)}

    async def waiting(self, role: str, partition: int) -> set[str]:
        if self._routes(role) is None:
            return set()
        found = set()
        for content, _ in self._stream(role, partition).entries.values():
            try:
                found.add(decode_message(content).id)
            except (ValueError, RecursionError):
                continue
        return found - {""}

    def forget(self) -> None:
        """Lose everything, as FLUSHALL does. Consumers go on with what is published afterwards."""
        for stream in self._streams.values():
            stream.entries.clear()
            stream.unread.clear()
            stream.seen_up_to = stream.newest
            if stream.reader is None:
                stream.epoch = 0
            else:
                stream.reader.forgotten += 1

    def _stream(self, role: str, partition: int) -> _Stream:
        route = self._routes(role)
        if route is None:
            raise UnknownRole(role, "none by that name")
        return self._streams.setdefault((role, route.generation, partition), _Stream())


class MemoryConsumer:
    """See `protocols.ports.Consumer`."""

    def __init__(
        self,
        bus: MemoryBus,
        process: str,
        deliver: Callable[[Delivery], None],
        undecodable: Callable[[Undecodable], None],
        capacity: Callable[[], int],
    ) -> None:
        self.forgotten = 0
        self._bus = bus
        self._process = process
        self._deliver = deliver
        self._undecodable = undecodable
        self._capacity = capacity
        self._taken: dict[tuple[str, int], tuple[Lease, _Stream]] = {}  # the last lease of each, dropped or not
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
        for lease, _ in self._taken.values():
            await self.drop(lease)

    async def take(self, lease: Lease) -> None:
        stream = self._bus._stream(lease.role, lease.partition)
        if stream.epoch > lease.epoch or (stream.epoch == lease.epoch and stream.reader is self):
            return
        self._taken[lease.role, lease.partition] = lease, stream
        stream.epoch = lease.epoch
        stream.reader = self
        stream.unread = deque(stream.entries)
        stream.seen_up_to = stream.newest
        self.wake()

    async def drop(self, lease: Lease) -> None:
        stream = self._current(lease)
        if stream is not None and stream.reader is self:
            stream.reader = None

    def settle(self, delivery: Delivery | Undecodable) -> None:
        stream = self._current(delivery.lease)
        if stream is not None and stream.epoch == delivery.lease.epoch:
            stream.entries.pop(int(delivery.entry), None)

    def wake(self) -> None:
        self._wake.set()

    def _current(self, lease: Lease) -> _Stream | None:
        """The stream of a lease, if it is the last one taken here."""
        taken, stream = self._taken.get((lease.role, lease.partition), (None, None))
        return stream if taken is not None and taken.epoch == lease.epoch else None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for lease, stream in list(self._taken.values()):
                while stream.reader is self and stream.unread and self._capacity() > 0:
                    self._hand_over(lease, stream, stream.unread.popleft())

    def _hand_over(self, lease: Lease, stream: _Stream, number: int) -> None:
        content, again = stream.entries[number]
        try:
            message = decode_message(content)
        except (ValueError, RecursionError) as error:
            self._undecodable(Undecodable(lease.role, lease, str(number), content, str(error)))
        else:
            fresh = not again and number > stream.seen_up_to
            self._deliver(Delivery(message, lease, str(number), fresh))

    def __repr__(self) -> str:
        reading = [stream for _, stream in self._taken.values() if stream.reader is self]
        in_flight = sum(len(stream.entries) - len(stream.unread) for stream in reading)
        return f"<MemoryConsumer partitions={len(reading)} in_flight={in_flight} forgotten={self.forgotten}>"
