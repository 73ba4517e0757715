"""Bringing back what a lost process, or a forgetful Redis, left behind: from the projections, which hold it all.

    takeover     a partition is newly owned: what was lost comes from the mailbox, then the bus is read, and the
                 tasks that were at work go on
    reconcile    again and again: near timers, open messages that are neither on the bus nor here, tasks at work that
                 nobody runs

Only the owner of a partition does either. What is done once too often is harmless: a message is handled once by the
log's own rule.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final

from callboard.actors.process.runtime import Runtime
from callboard.actors.process.timers import HORIZON
from callboard.actors.process.working_tables import WorkingTables
from callboard.eventstore.database import UNAVAILABLE, reason_of
from callboard.projections.mailbox import OpenMessage
from callboard.protocols.errors import ProjectionsBehind, RedisUnavailable, StoreUnavailable
from callboard.protocols.names import actor_stream
from callboard.protocols.ports import Consumer, Delivery, Route, Tenure

log = logging.getLogger("callboard.actors")

# A message younger than this may still be on its way to the bus.
IN_TRANSIT: Final = timedelta(seconds=2)
FORGET_FOR_S: Final = 20.0  # so long others may go on to publish to the partitions of a former generation
MAX_PARTITIONS: Final = 256
GENERATIONS: Final = 4  # counts that may have been changed again before anybody took a partition
PAGE: Final = 500
OPEN_FOR_LONG: Final = timedelta(seconds=10)
EXACT_EVERY_S: Final = 15.0  # each message that has been open for long is looked for; and one second more
MESSAGES_A_S: Final = 1000  # for so many on the bus: to list them takes about 5 ms
CAPACITY_POLL_S: Final = 0.01
NOT_NOW: Final[tuple[type[Exception], ...]] = (ProjectionsBehind, *UNAVAILABLE)


class Recovery:
    """Recovers the partitions of one process. Each method asks a tenure after every await whether it is still held."""

    def __init__(self, tables: WorkingTables, runtime: Runtime, consumer: Consumer) -> None:
        self._tables = tables
        self._runtime = runtime
        self._consumer = consumer
        self._former: dict[str, tuple[int, float]] = {}  # forget what is before this generation, until then
        self._exact: dict[str, float] = {}  # by role, when all its messages were looked for one by one

    async def take_over(self, tenure: Tenure) -> None:
        """Begin to serve a partition whose epoch has just been raised in this process's name."""
        lease = tenure.lease
        async with tenure.feeding:
            await self._tables.caught_up(await self._runtime.store.head())
            route = self._runtime.directory.route(lease.role)
            if route is None or route.generation != lease.generation:
                await self._runtime.directory.refresh()
            if lease.generation > 1 and lease.partition == 0:
                self._former[lease.role] = lease.generation, self._runtime.clock.monotonic() + FORGET_FOR_S
            # Counting is not enough here: entries of messages that were handled may still be on the bus.
            await self._feed(lease.role, [tenure], in_transit=None)
            await self._consumer.take(tenure)
            await self._activate(lease.role, [tenure])

    async def close_gap(self, tenure: Tenure) -> None:
        """Deliver what the bus lost of a partition; what came behind it waits for that."""
        async with tenure.feeding:
            await self._tables.caught_up(await self._runtime.store.head())
            await self._feed(tenure.lease.role, [tenure], in_transit=None)
            self._runtime.gate.close_gap(tenure)

    async def resend(self, stream: str) -> None:
        """Publish what an actor sent to others that take their messages in order, before it sends anything new: a
        process that was lost, or did not hear that it was written, may not have got so far. Raises StoreUnavailable.
        """
        try:
            await self._tables.caught_up(await self._runtime.store.head())
            rows = await self._tables.open_from(stream)
        except NOT_NOW as error:
            raise StoreUnavailable(reason_of(error)) from error
        self._runtime.bus.publish([await self._runtime.store.message(row.id) for row in rows], again=True)

    async def reconcile(self, serving: Iterable[Tenure]) -> None:
        """Find what was lost on partitions that are served already."""
        by_role: dict[str, list[Tenure]] = {}
        for tenure in serving:
            route = self._runtime.directory.route(tenure.lease.role)
            if route is not None and route.generation == tenure.lease.generation:  # else it will be handed over
                by_role.setdefault(tenure.lease.role, []).append(tenure)
        away = self._runtime.bus.away
        for role, tenures in by_role.items():
            await self._near_timers(role, tenures)
            await self._feed_short(role, tenures, None if away else IN_TRANSIT)
            await self._activate(role, tenures)
        await self._forget()

    async def _forget(self) -> None:
        """Delete what is on the partitions of former generations: nobody reads it, and the log has it."""
        for role, (generation, until) in list(self._former.items()):
            try:
                for former in range(max(1, generation - GENERATIONS), generation):
                    await self._runtime.bus.forget(Route(role, MAX_PARTITIONS, former))
            except RedisUnavailable:
                continue
            if self._runtime.clock.monotonic() > until:
                del self._former[role]

    async def _feed_short(self, role: str, tenures: Sequence[Tenure], in_transit: timedelta | None) -> None:
        """Feed the partitions on which messages are missing. One that is being fed already is left alone."""
        async with AsyncExitStack() as feeding:
            short = [each for each in await self._short(role, tenures) if each.serving and not each.feeding.locked()]
            for tenure in short:
                await feeding.enter_async_context(tenure.feeding)  # it is free, so nothing happens in between
            if short:
                await self._feed(role, short, in_transit=in_transit)

    async def _feed(self, role: str, tenures: Sequence[Tenure], *, in_transit: timedelta | None) -> None:
        """Deliver the open messages that the bus doesn't have, or has in another order than the log, in the log's
        order; but for those that are so young that they may be on their way. The caller has the tenures' `feeding`.
        """
        there = {tenure.lease.partition: tenure for tenure in tenures}
        count = tenures[0].lease.partitions
        latest = None if in_transit is None else self._runtime.clock.now() - in_transit
        on_bus = {number: Order(await self._on_bus(tenure)) for number, tenure in there.items()}
        lost = 0
        last_lost: dict[str, tuple[int, int]] = {}  # by the keys of actors that take their messages in order
        async for row in self._open(role, tenures):
            fits = on_bus[row.key_hash % count].fits(row)
            if fits or (latest is not None and row.opened_at > latest):
                continue
            if self._runtime.holds(row.id, actor_stream(role, row.key)):
                continue
            lost += 1
            if row.key == row.task:
                await self._deliver(row, there[row.key_hash % count])
            else:
                last_lost[row.key] = row.position, row.place
        for key, upto in last_lost.items():  # with what is on the bus already, and was sent before
            for row in await self._tables.open_to(role, key, upto):
                if not self._runtime.holds(row.id, actor_stream(role, key)):
                    await self._deliver(row, there[row.key_hash % count])
        if lost:
            log.info("%s: %d messages came from the log, which the bus did not have in their place", role, lost)

    async def _open(self, role: str, tenures: Sequence[Tenure]) -> AsyncIterator[OpenMessage]:
        """The open messages of some partitions, in the log's order."""
        count, numbers = tenures[0].lease.partitions, [tenure.lease.partition for tenure in tenures]
        after = (0, 0)
        while page := await self._tables.open_messages(role, count, numbers, after=after, limit=PAGE):
            for row in page:
                yield row
            if not any(tenure.held for tenure in tenures):
                return
            after = (page[-1].position, page[-1].place)

    async def _short(self, role: str, tenures: Sequence[Tenure]) -> list[Tenure]:
        """The partitions on which more messages are open than come over the bus; and from time to time all on which
        some have been open for long: an entry of another message may stand for one that is missing.
        """
        opened = await self._tables.backlog(role, tenures[0].lease.partitions)
        if not any(tenure.lease.partition in opened for tenure in tenures):
            return []
        try:
            on_bus = await self._runtime.bus.backlog(role)
        except RedisUnavailable:
            on_bus = {}
        exact = self._is_time_for_all(role, sum(on_bus.values()))
        latest = self._runtime.clock.now() - OPEN_FOR_LONG
        return [
            tenure
            for tenure in tenures
            if (backlog := opened.get(tenure.lease.partition)) is not None
            and (
                not self._consumer.reads(tenure)
                or backlog.count > on_bus.get(tenure.lease.partition, 0)
                or (exact and backlog.oldest_at <= latest)
            )
        ]

    def _is_time_for_all(self, role: str, on_bus: int) -> bool:
        """Whether it is time to look for all of a role's messages: more seldom, where there are many."""
        now = self._runtime.clock.monotonic()
        if now < self._exact.get(role, 0.0):
            return False
        self._exact[role] = now + EXACT_EVERY_S + on_bus / MESSAGES_A_S
        return True

    async def _on_bus(self, tenure: Tenure) -> Sequence[str]:
        """What is on a partition and comes from there. One that is only being taken will be read."""
        if tenure.serving and not self._consumer.reads(tenure):
            return ()
        try:
            return await self._runtime.bus.waiting(tenure.lease.role, tenure.lease.partition)
        except RedisUnavailable:
            return ()

    async def _deliver(self, row: OpenMessage, tenure: Tenure) -> None:
        while tenure.held and not self._runtime.gate.room:
            await self._runtime.clock.sleep(CAPACITY_POLL_S)
        if tenure.held:
            whole = await self._runtime.store.message(row.id)
            self._runtime.gate.let_in(Delivery(whole, tenure, entry="", fresh=False))  # it asks once more

    async def _near_timers(self, role: str, tenures: Sequence[Tenure]) -> None:
        numbers = [tenure.lease.partition for tenure in tenures]
        before = self._runtime.clock.now() + HORIZON
        for row in await self._tables.timers_due(role, tenures[0].lease.partitions, numbers, before):
            stream = actor_stream(role, row.key)
            if not self._runtime.holds(row.id, stream):
                self._runtime.timers.add([await self._runtime.store.message(row.id)])

    async def _activate(self, role: str, tenures: Sequence[Tenure]) -> None:
        """Go on with the tasks that are at work and that nothing would wake."""
        count = tenures[0].lease.partitions
        by_number = {tenure.lease.partition: tenure for tenure in tenures}
        for row in await self._tables.at_work(role, count, list(by_number)):
            self._runtime.activate(actor_stream(role, row.key), by_number[row.key_hash % count])


class Order:
    """The messages on a partition of the bus, and whether each is there in its place: a sender that publishes again
    what it is not sure of puts it behind what came later.
    """

    def __init__(self, on_bus: Sequence[str]) -> None:
        self._places: dict[str, int] = {}
        for place, message in enumerate(on_bus):
            self._places.setdefault(message, place)  # the first of several counts: the others are settled
        self._last: dict[str, int] = {}  # the place of the last message asked for, by key

    def fits(self, row: OpenMessage) -> bool:
        """Whether a message is there, and behind those to the same actor that were sent before. Asked for in the log's
        order.
        """
        place = self._places.get(row.id)
        if place is None:
            return False
        if row.key == row.task:  # an actor of one task needs no order
            return True
        in_place = place > self._last.get(row.key, -1)
        self._last[row.key] = max(place, self._last.get(row.key, -1))
        return in_place
