"""What the tests of the bus share: messages, and a process that owns partitions."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from uuid import uuid4

import anyio

from callboard.protocols.errors import Busy
from callboard.protocols.messages import Message, part_of
from callboard.protocols.names import partition_of
from callboard.protocols.ports import Bus, Consumer, Delivery, Gap, Lease, Tenure, Undecodable
from tests.conftest import DEADLINE_S

_numbers = count(1)


def message(key: str = "k", *, role: str = "writer", text: str = "hello") -> Message:
    """A message with an id of its own; ids rise in the order of creation."""
    return Message(
        kind="assign",
        to=f"{role}/{key}",
        sender="run/r",
        run="r",
        task="t",
        id=f"run/r@{next(_numbers)}.0",
        parts=(part_of(text),),
    )


def key_on(partition: int, partitions: int, number: int = 0) -> str:
    """A key whose messages go to this partition."""
    keys = (f"k{index}" for index in count())
    on_it = (key for key in keys if partition_of(key, partitions) == partition)
    return next(key for index, key in enumerate(on_it) if index == number)


async def eventually(condition: Callable[[], bool], within_s: float = DEADLINE_S) -> None:
    """Return when the condition holds; fails after the deadline."""
    with anyio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - what it waits for tells nobody
            await anyio.sleep(0.001)


async def backlog(bus: Bus, role: str = "writer") -> int:
    """The unsettled entries of a role."""
    return sum((await bus.backlog(role)).values())


async def backlog_becomes(bus: Bus, expected: int) -> None:
    """Return when the role has so many unsettled entries; fails after the deadline."""
    with anyio.fail_after(DEADLINE_S):
        while await backlog(bus) != expected:  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def waiting_becomes(bus: Bus, expected: set[str]) -> None:
    """Return when these messages are what is unsettled on the role's partition 0; fails after the deadline."""
    with anyio.fail_after(DEADLINE_S):
        while set(await bus.waiting("writer", 0)) != expected:  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def room_becomes(bus: Bus) -> None:
    """Return when the bus takes messages; fails after the deadline."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                await bus.check_room()
            except Busy:
                await anyio.sleep(0.01)
            else:
                return


class Owner:
    """A process that notes what is delivered to it; `settles` at once what it is told to."""

    def __init__(self, bus: Bus, *, slots: int = 1000, settles: Callable[[Delivery], bool] = lambda _: False) -> None:
        self.tenures: dict[Lease, Tenure] = {}  # the last of each lease
        self.deliveries: list[Delivery] = []
        self.undecodable: list[Undecodable] = []
        self.seen: list[str] = []  # the ids of what was delivered, and "gap" for each gap, in order
        self.slots = slots  # free for deliveries
        self._settles = settles
        self.process = f"process-{uuid4().hex}"
        self.consumer: Consumer = bus.consumer(
            self.process, self._deliver, self.undecodable.append, lambda: self.slots, self._gap
        )

    @property
    def ids(self) -> list[str]:
        return [delivery.message.id for delivery in self.deliveries]

    def _deliver(self, delivery: Delivery) -> None:
        assert self.slots > 0, "delivered without capacity"
        self.deliveries.append(delivery)
        self.seen.append(delivery.message.id)
        self.slots -= 1
        if self._settles(delivery):
            self.settle(delivery)

    def _gap(self, gap: Gap) -> None:
        self.seen.append("gap")
        if gap.entry:
            self.consumer.settle(gap)

    async def take(self, lease: Lease) -> None:
        """Take a partition, in a tenure of its own."""
        tenure = self.tenures[lease] = Tenure(lease)
        await self.consumer.take(tenure)

    async def drop(self, lease: Lease) -> None:
        """Stop reading a partition that was taken with this lease."""
        await self.consumer.drop(self.tenures[lease])

    def settle(self, *deliveries: Delivery | Undecodable) -> None:
        for delivery in deliveries:
            self.consumer.settle(delivery)
            self.slots += 1
        self.consumer.wake()

    async def has(self, number: int) -> None:
        """Return when so many messages were delivered."""
        await eventually(lambda: len(self.deliveries) >= number)


@asynccontextmanager
async def owner(
    bus: Bus, *leases: Lease, slots: int = 1000, settles: Callable[[Delivery], bool] = lambda _: False
) -> AsyncIterator[Owner]:
    """An Owner that has taken these leases."""
    it = Owner(bus, slots=slots, settles=settles)
    async with it.consumer:
        for lease in leases:
            await it.take(lease)
        yield it


def always(_: Delivery) -> bool:
    """For `settles`: everything."""
    return True
