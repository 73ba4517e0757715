"""Bringing back what a lost process, or a forgetful Redis, left behind: from the projections, which hold it all.

    takeover     a partition is newly owned: what was lost comes from the mailbox, then the bus is read, and the
                 tasks that were at work go on
    reconcile    again and again: near timers, open messages that are neither on the bus nor here, tasks at work that
                 nobody runs

Only the owner of a partition does either. What is done once too often is harmless: a message is handled once by the
log's own rule.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import asyncpg

from actors.runtime import Runtime
from actors.timers import HORIZON
from eventstore.database import UNAVAILABLE, reason_of
from projections import WORKING, mailbox, tasks, timers
from projections.mailbox import OpenMessage
from projections.runner import Runner
from protocols.errors import ProjectionsBehind, RedisUnavailable, StoreUnavailable
from protocols.names import actor_stream
from protocols.ports import Consumer, Delivery, Lease, Route

log = logging.getLogger("callboard.actors")

# A message younger than this may still be on its way to the bus.
IN_TRANSIT: Final = timedelta(seconds=2)
FORGET_FOR_S: Final = 20.0  # so long others may go on to publish to the partitions of a former generation
MAX_PARTITIONS: Final = 256
GENERATIONS: Final = 4  # counts that may have been changed again before anybody took a partition
PAGE: Final = 500
CAPACITY_POLL_S: Final = 0.01
NOT_NOW: Final[tuple[type[Exception], ...]] = (ProjectionsBehind, *UNAVAILABLE)


class Recovery:
    """Recovers the partitions of one process."""

    def __init__(self, pool: asyncpg.Pool, runner: Runner, runtime: Runtime, consumer: Consumer) -> None:
        self._pool = pool
        self._runner = runner
        self._runtime = runtime
        self._consumer = consumer
        self._former: dict[str, tuple[int, float]] = {}  # forget what is before this generation, until then

    async def take_over(self, lease: Lease) -> None:
        """Begin to serve a partition whose epoch has just been raised in this process's name."""
        await self._runner.wait_until(await self._runtime.store.head(), of=WORKING)
        route = self._runtime.directory.route(lease.role)
        if route is None or route.generation != lease.generation:
            await self._runtime.directory.refresh()
        if lease.generation > 1 and lease.partition == 0:
            self._former[lease.role] = lease.generation, self._runtime.clock.monotonic() + FORGET_FOR_S
        # Counting is not enough where there is an order to keep: entries of handled messages may still be on the bus.
        ordered = await mailbox.has_ordered(self._pool, lease.role, lease.partitions, lease.partition)
        await self._feed(lease.role, [lease], in_transit=None, missing=ordered)
        await self._consumer.take(lease)
        await self._activate(lease.role, [lease])

    async def close_gap(self, lease: Lease) -> None:
        """Deliver what the bus lost of a partition; what came behind it waits for that."""
        await self._runner.wait_until(await self._runtime.store.head(), of=WORKING)
        await self._feed(lease.role, [lease], in_transit=None, missing=True)
        self._runtime.gate.close_gap(lease)

    async def resend(self, stream: str) -> None:
        """Publish what an actor sent to others that take their messages in order, before it sends anything new: a
        process that was lost, or did not hear that it was written, may not have got so far. Raises StoreUnavailable.
        """
        try:
            await self._runner.wait_until(await self._runtime.store.head(), of=WORKING)
            rows = await mailbox.open_from(self._pool, stream)
        except NOT_NOW as error:
            raise StoreUnavailable(reason_of(error)) from error
        self._runtime.bus.publish([await self._runtime.store.message(row.id) for row in rows], again=True)

    async def reconcile(self, leases: Iterable[Lease]) -> None:
        """Find what was lost on partitions that are served already."""
        by_role: dict[str, list[Lease]] = {}
        for lease in leases:
            route = self._runtime.directory.route(lease.role)
            if route is not None and route.generation == lease.generation:  # else it is about to be handed over
                by_role.setdefault(lease.role, []).append(lease)
        away = self._runtime.bus.away
        for role, owned in by_role.items():
            await self._near_timers(role, owned)
            await self._feed(role, owned, in_transit=None if away else IN_TRANSIT)
            await self._activate(role, owned)
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

    async def _feed(
        self, role: str, leases: Sequence[Lease], *, in_transit: timedelta | None, missing: bool = False
    ) -> None:
        """Deliver the open messages that the bus doesn't have, in the log's order, but for those that are so young
        that they may be on their way. Whether there are any is counted first, unless some are known to be `missing`.
        """
        there = {lease.partition: lease for lease in leases} if missing else await self._short(role, leases)
        if not there:
            return
        count = leases[0].partitions
        latest = None if in_transit is None else self._runtime.clock.now() - in_transit
        lost = 0
        last_lost: dict[str, tuple[int, int]] = {}  # by the keys of actors that take their messages in order
        async for row in self._lost(role, count, list(there)):
            if latest is not None and row.opened_at > latest:
                continue
            if self._runtime.holds(row.id, actor_stream(role, row.key)):
                continue
            lost += 1
            if row.key == row.task:
                await self._deliver(row, there[row.key_hash % count])
            else:
                last_lost[row.key] = row.position, row.place
        for key, upto in last_lost.items():  # with what is on the bus already, and was sent before
            for row in await mailbox.open_to(self._pool, role, key, upto):
                if not self._runtime.holds(row.id, actor_stream(role, key)):
                    await self._deliver(row, there[row.key_hash % count])
        if lost:
            log.info("%s: %d messages came from the log, which the bus did not have", role, lost)

    async def _lost(self, role: str, count: int, numbers: Sequence[int]) -> AsyncIterator[OpenMessage]:
        """The open messages of some partitions that are not on the bus."""
        on_bus: set[str] = set()
        for partition in numbers:
            on_bus |= await self._on_bus(role, partition)
        after = (0, 0)
        while page := await mailbox.open_messages(self._pool, role, count, numbers, after=after, limit=PAGE):
            for row in page:
                if row.id not in on_bus:
                    yield row
            after = (page[-1].position, page[-1].place)

    async def _short(self, role: str, leases: Sequence[Lease]) -> Mapping[int, Lease]:
        """The partitions on which more messages are open than the bus has."""
        opened = await mailbox.open_counts(self._pool, role, leases[0].partitions)
        if not any(opened.get(lease.partition) for lease in leases):
            return {}
        try:
            backlog = await self._runtime.bus.backlog(role)
        except RedisUnavailable:
            backlog = {}
        return {p.partition: p for p in leases if opened.get(p.partition, 0) > backlog.get(p.partition, 0)}

    async def _on_bus(self, role: str, partition: int) -> set[str]:
        try:
            return await self._runtime.bus.waiting(role, partition)
        except RedisUnavailable:
            return set()

    async def _deliver(self, row: OpenMessage, lease: Lease) -> None:
        while not self._runtime.gate.capacity():
            await self._runtime.clock.sleep(CAPACITY_POLL_S)
        if self._runtime.owned.get(lease.place) == lease:
            whole = await self._runtime.store.message(row.id)
            self._runtime.gate.let_in(Delivery(whole, lease, entry="", fresh=False))

    async def _near_timers(self, role: str, leases: Sequence[Lease]) -> None:
        numbers = [lease.partition for lease in leases]
        before = self._runtime.clock.now() + HORIZON
        for row in await timers.due(self._pool, role, leases[0].partitions, numbers, before):
            stream = actor_stream(role, row.key)
            if not self._runtime.holds(row.id, stream):
                self._runtime.timers.add([await self._runtime.store.message(row.id)])

    async def _activate(self, role: str, leases: Sequence[Lease]) -> None:
        """Go on with the tasks that are at work and that nothing would wake."""
        count = leases[0].partitions
        by_number = {lease.partition: lease for lease in leases}
        for row in await tasks.at_work(self._pool, role, count, list(by_number)):
            stream = actor_stream(role, row.key)
            if not self._runtime.hosts(stream):
                self._runtime.activate(stream, by_number[row.key_hash % count])
