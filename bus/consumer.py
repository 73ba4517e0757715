"""The consumer on Redis: the partitions that one process owns, spread over its readers."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio
from anyio.abc import TaskGroup

from callboard.bus.keys import DEFAULT_PREFIX, stream_key
from callboard.bus.link import Link, owned_tasks
from callboard.bus.reader import MAX_STREAMS, Intake, Partition, Reader
from callboard.bus.writer import Writer
from callboard.protocols.ports import Delivery, Gap, Lease, Tenure, Undecodable

LAST_SETTLEMENTS_S = 0.5

Place = tuple[str, int, int]  # role, generation, partition


class RedisConsumer:
    """See `callboard.protocols.ports.Consumer`. `group` names the process's incarnation, and its consumer group."""

    def __init__(
        self,
        group: str,
        namespace: str,
        intake: Intake,
        writer: Writer,
        commands: Link,
        connect: Callable[[], Link],
        *,
        prefix: str = DEFAULT_PREFIX,
    ) -> None:
        self._group = group
        self._namespace = namespace
        self._intake = intake
        self._writer = writer
        self._commands = commands
        self._connect = connect
        self._prefix = prefix
        self._taken: dict[Place, tuple[Partition, Reader]] = {}  # the last tenure of each, dropped or not
        self._readers: list[Reader] = []
        self._owned: AbstractAsyncContextManager[TaskGroup] | None = None
        self._tasks: TaskGroup | None = None

    @property
    def forgotten(self) -> int:
        """How often the bus lost a partition while it was read here."""
        return self._intake.forgotten

    async def __aenter__(self) -> "RedisConsumer":
        self._owned = owned_tasks()
        self._tasks = await self._owned.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._owned is not None
        with anyio.move_on_after(LAST_SETTLEMENTS_S, shield=True):
            await self._writer.settled()
        await self._owned.__aexit__(*exc)  # type: ignore[arg-type]

    async def take(self, tenure: Tenure) -> None:
        """Begin to read a partition. Without Redis it returns too: the partition is claimed when Redis is back."""
        if not tenure.held:
            return
        place = place_of(tenure.lease)
        former, reader = self._taken.get(place, (None, None))
        if former is not None:
            if former.tenure is tenure or former.tenure.lease.epoch > tenure.lease.epoch:
                return
            self._stop(former)
        partition = Partition(tenure, stream_key(self._namespace, tenure.lease, tenure.lease.partition, self._prefix))
        if reader is None:  # else the same as before: one connection sees the partition's claims and reads in order
            reader = self._reader()
        self._taken[place] = partition, reader
        self._intake.streams += 1
        await reader.attach(partition)

    def reads(self, tenure: Tenure) -> bool:
        """Whether a partition is claimed and read; not known to be while Redis is away, or refuses the reads."""
        partition = self._current(tenure)
        if partition is None or not (partition.reading and partition.claimed):
            return False
        return partition.stream not in self._commands.reach.unreadable

    async def drop(self, tenure: Tenure) -> None:
        """Stop reading a partition. What was delivered may still be settled until somebody takes the partition."""
        partition = self._current(tenure)
        if partition is not None:
            self._stop(partition)

    def settle(self, delivery: Delivery | Undecodable | Gap) -> None:
        """Queue the settlement of an entry; nothing happens in a tenure that is not the last one taken here."""
        partition = self._current(delivery.tenure)
        if partition is not None and delivery.tenure.entries.pop(delivery.entry, None) is not None:
            self._writer.settle(partition.stream, self._group, delivery.entry)

    def _current(self, tenure: Tenure) -> Partition | None:
        """The partition of a tenure, if it is the last one that was taken here."""
        partition, _ = self._taken.get(place_of(tenure.lease), (None, None))
        return partition if partition is not None and partition.tenure is tenure else None

    def wake(self) -> None:
        """Capacity came free: go on reading."""
        for reader in self._readers:
            reader.wake()

    def _reader(self) -> Reader:
        """A reader that can read one partition more."""
        for reader in self._readers:
            if reader.streams < MAX_STREAMS:
                return reader
        assert self._tasks is not None, "take() is called inside `async with consumer`"
        reader = Reader(self._connect(), self._commands, self._group, self._intake)
        self._readers.append(reader)
        self._tasks.start_soon(reader.run)
        return reader

    def _stop(self, partition: Partition) -> None:
        if partition.reading:
            self._intake.streams -= 1
            _, reader = self._taken[place_of(partition.tenure.lease)]
            reader.detach(partition)

    def __repr__(self) -> str:
        reading = [partition for partition, _ in self._taken.values() if partition.reading]
        in_flight = sum(len(partition.tenure.entries) for partition in reading)
        held = sum(reader.held for reader in self._readers)
        return f"<RedisConsumer partitions={len(reading)} in_flight={in_flight} forgotten={self.forgotten} held={held}>"


def place_of(lease: Lease) -> Place:
    """What a lease is of, whatever its epoch."""
    return lease.role, lease.generation, lease.partition
