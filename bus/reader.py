"""One blocking read over many partitions: claim, read, decode, deliver."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio
from redis.exceptions import ResponseError

from callboard.bus import scripts
from callboard.bus.keys import GAP
from callboard.bus.link import LINK_ERRORS, Link, Trouble, pack
from callboard.protocols.messages import decode_message
from callboard.protocols.ports import Delivery, Gap, Tenure, Undecodable

log = logging.getLogger(__name__)

MAX_STREAMS = 64  # on one connection: Redis looks at each of them at every read
MAX_READ = 512  # entries in one read: decoding and delivering them takes the loop some milliseconds
BLOCK_MS = 2000
READ_TIMEOUT_S = 10.0
CLAIM_AGAIN_S = 1.0
UNBLOCK_AGAIN_S = 0.02


@dataclass(eq=False, slots=True)
class Partition:
    """A partition as it is read in one tenure. A later tenure is another Partition."""

    tenure: Tenure
    stream: str
    reading: bool = True  # until it is dropped, or lost to a higher epoch
    claimed: bool = False  # as far as is known, its group exists
    tried: asyncio.Event = field(default_factory=asyncio.Event)  # to claim it, or there was no connection
    last: bytes = b""  # the last entry that came here; '' before the first claim
    seen_up_to: tuple[int, int] = (0, 0)  # somebody may have seen the entries up to here

    def claimed_anew(self, newest: bytes) -> None:
        """The group begins at 0: all comes again, and what is there already may have been seen."""
        self.claimed = True
        self.last = b"0-0"
        self.seen_up_to = parse_entry(newest)

    def is_fresh(self, entry: bytes, fields: list[bytes]) -> bool:
        """Whether no process can have seen the entry: not sent again, and behind what was there at the takeover."""
        if self.seen_up_to != (0, 0):
            if parse_entry(entry) <= self.seen_up_to:
                return False
            self.seen_up_to = (0, 0)  # entries come in order
        return len(fields) == 2


@dataclass(eq=False, slots=True)
class Intake:
    """Where all that is read goes, and how much there is to read."""

    deliver: Callable[[Delivery], None]
    undecodable: Callable[[Undecodable], None]
    capacity: Callable[[], int]
    gap: Callable[[Gap], None]
    streams: int = 0  # read by all readers of the process
    forgotten: int = 0  # times that the bus lost a partition


class Reader:
    """Reads up to MAX_STREAMS partitions over a connection of its own.

    Claims and reads alternate on that one connection, so no read can fall between a claim and what follows from it.
    A read is not cancelled while the reader goes on: Redis would count its entries as delivered. CLIENT UNBLOCK ends
    it. If its reply gets lost with the connection, the claim that follows has those entries sent again.
    """

    def __init__(self, link: Link, commands: Link, group: str, intake: Intake) -> None:
        self._link = link
        self._commands = commands
        self._group = group
        self._intake = intake
        self._partitions: dict[bytes, Partition] = {}
        self._held: deque[tuple[Partition, bytes, list[bytes]]] = deque()  # read, but there was no capacity
        self._wake = asyncio.Event()
        self._client: int | None = None  # the connection of the last claim
        self._blocked = False
        self._pausing = False
        self._claim_at = 0.0  # not before this time of the loop's clock
        self._away = Trouble("bus reader: Redis is away")
        self._unclaimed = Trouble("bus reader: a partition can't be claimed")

    @property
    def streams(self) -> int:
        """The number of partitions that it reads."""
        return len(self._partitions)

    @property
    def held(self) -> int:
        """The number of entries that wait for capacity."""
        return len(self._held)

    async def attach(self, partition: Partition) -> None:
        """Read this partition too; returns when it was claimed, or when Redis is away."""
        self._partitions[partition.stream.encode()] = partition
        self._claim_at = 0.0
        self._wake.set()
        while not (partition.tried.is_set() or self._pausing):
            await self._unblock()
            with anyio.move_on_after(UNBLOCK_AGAIN_S):  # it may not have been blocked yet
                await partition.tried.wait()

    def detach(self, partition: Partition) -> None:
        """Deliver nothing more from this partition."""
        partition.reading = False
        partition.tried.set()  # nobody waits for its claim any more
        if self._partitions.get(key := partition.stream.encode()) is partition:
            del self._partitions[key]
            self._link.reach.unreadable.discard(partition.stream)

    def wake(self) -> None:
        """Capacity came free."""
        self._wake.set()

    async def run(self) -> None:
        """Read, until cancelled.

        The cancellation may lose the entries of a read, and needs no care: this group is of no use to anybody else,
        and the partition's next owner begins at 0.
        """
        try:
            while True:
                try:
                    await self._turn()
                except LINK_ERRORS as error:
                    self._away.note(error)
                    if isinstance(error, ResponseError):
                        self._link.reach.unreadable.update(it.stream for it in self._partitions.values())
                    await self._sit_out()
        finally:
            await self._link.close()

    async def _turn(self) -> None:
        self._wake.clear()
        if any(not partition.claimed for partition in self._partitions.values()):
            await self._claim()
        self._hand_over()
        readable = {key: partition for key, partition in self._partitions.items() if partition.claimed}
        free = self._intake.capacity()
        if free <= 0 or not readable:
            await self._rest()
            return
        self._receive(readable, await self._read(readable, free))
        self._link.reach.unreadable.difference_update(it.stream for it in readable.values() if it.claimed)
        self._away.over()
        for _ in range(2):  # what was delivered begins, and writes, before the next read is sent
            await asyncio.sleep(0)

    async def _rest(self) -> None:
        """Wait for capacity, for a partition, or for the time to claim again."""
        with anyio.move_on_after(CLAIM_AGAIN_S):
            await self._wake.wait()

    # -- claim

    async def _claim(self) -> None:
        """Claim what isn't claimed; before that, end the read that a former connection may have left in Redis."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._claim_at:
            return
        await self._link.connect()
        leftover, self._client = self._client, self._link.client_id
        retake = False
        if leftover is not None and leftover != self._client:
            (unblocked,) = await self._link.call([pack("CLIENT", "UNBLOCK", str(leftover))])
            retake = isinstance(unblocked, ResponseError)  # not allowed: a group that is made anew ends that read too
        doubtful = [partition for partition in self._partitions.values() if not partition.claimed]
        last = {it: b"" if retake else it.last for it in doubtful}
        calls = [scripts.claim(it.stream, it.tenure.lease.epoch, self._group, last[it]) for it in doubtful]
        replies = await self._link.call(calls)
        for partition, reply in zip(doubtful, replies, strict=True):
            self._claimed(partition, reply)
            partition.tried.set()
        if all(partition.claimed for partition in doubtful if partition.reading):
            self._unclaimed.over()
        else:
            self._claim_at = loop.time() + CLAIM_AGAIN_S

    def _claimed(self, partition: Partition, reply: Any) -> None:
        if not partition.reading:  # dropped meanwhile: what its claim says belongs to nobody
            return
        if isinstance(reply, ResponseError):
            self._unclaimed.note(reply)
            self._link.reach.unreadable.add(partition.stream)
            return
        outcome, newest = reply
        if outcome == b"refused":
            lease = partition.tenure.lease
            log.warning("partition %s:%d: epoch %d is over", lease.role, lease.partition, lease.epoch)
            self._intake.streams -= 1
            self.detach(partition)
            return
        anew = bool(partition.last)  # meanwhile others may have had the same trouble to write here
        if outcome == b"intact":
            partition.claimed = True
        else:
            self._intake.forgotten += anew
            self._held = deque(held for held in self._held if held[0] is not partition)
            partition.claimed_anew(newest)
        if anew:
            self._intake.gap(Gap(partition.tenure))

    async def _sit_out(self) -> None:
        """Redis is away: doubt everything, wait a while, and let nobody wait for a claim meanwhile."""
        self._pausing = True
        for partition in self._partitions.values():
            partition.claimed = False
            partition.tried.set()
        await self._away.pause()
        self._pausing = False

    # -- read

    async def _read(self, readable: dict[bytes, Partition], free: int) -> list[Any]:
        """[[stream, [[entry, fields], ...]], ...]: at most `free` and MAX_READ entries, but at least one a stream.

        COUNT is per stream.
        """
        count = str(max(1, min(free // self._intake.streams, MAX_READ // len(readable))))
        group = self._group
        doubtful = not self._link.reach.unreadable.isdisjoint(it.stream for it in readable.values())
        block = () if doubtful else ("BLOCK", str(BLOCK_MS))  # its reply tells at once whether reading works again
        command = ("XREADGROUP", "GROUP", group, group, "COUNT", count, *block, "STREAMS")
        self._blocked = True
        try:
            (reply,) = await self._link.call([pack(*command, *readable, *[b">"] * len(readable))])
        finally:
            self._blocked = False
        if isinstance(reply, ResponseError):
            if not str(reply).startswith(("NOGROUP", "UNBLOCKED")):
                raise reply
            for partition in readable.values():  # one of them is gone: claiming finds out which
                partition.claimed = False
            return []
        return reply or []

    async def _unblock(self) -> None:
        if self._blocked and self._link.client_id is not None:
            try:
                await self._commands.call([pack("CLIENT", "UNBLOCK", str(self._link.client_id))])
            except LINK_ERRORS as error:
                log.debug("bus reader: no unblocking, the read ends by itself: %s", error)

    def _receive(self, readable: dict[bytes, Partition], streams: Iterable[Any]) -> None:
        for key, entries in streams:
            partition = readable[key]
            partition.last = entries[-1][0]
            self._held.extend((partition, entry, fields) for entry, fields in entries)
        self._hand_over()

    # -- decode and deliver

    def _hand_over(self) -> None:
        held, capacity = self._held, self._intake.capacity
        while held and capacity() > 0:
            partition, entry, fields = held.popleft()
            if partition.reading:
                self._deliver(partition, entry, fields)

    def _deliver(self, partition: Partition, entry: bytes, fields: list[bytes]) -> None:
        """Hand an entry over. From now on the tenure counts it, until it is settled."""
        tenure, name = partition.tenure, entry.decode()
        if fields[0] == GAP.encode():
            gap = tenure.entries[name] = Gap(tenure, name)
            self._intake.gap(gap)
            return
        fresh = partition.is_fresh(entry, fields)
        content = fields[1] if fields[0] == b"m" else b" ".join(fields)
        try:
            message = decode_message(content)
        except (ValueError, RecursionError) as error:  # msgspec's errors and bad UTF-8 are ValueErrors
            unread = tenure.entries[name] = Undecodable(tenure.lease.role, tenure, name, content, str(error))
            self._intake.undecodable(unread)
        else:
            delivery = tenure.entries[name] = Delivery(message, tenure, name, fresh)
            self._intake.deliver(delivery)


def parse_entry(entry: bytes) -> tuple[int, int]:
    """An entry's id as numbers, so that ids can be compared."""
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)
