"""Bringing back what a lost process, or a forgetful Redis, left behind: from the projections, which hold it all.

    takeover     a partition is newly owned: what was lost comes from the mailbox, then the bus is read, and the
                 tasks that were at work go on
    reconcile    again and again: near timers, open messages that are neither on the bus nor here, tasks at work that
                 nobody runs

Only the owner of a partition does either. What is done once too often is harmless: a message is handled once by the
log's own rule.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import asyncpg

from actors.runtime import Runtime
from actors.timers import HORIZON
from projections import WORKING, mailbox, tasks, timers
from projections.runner import Runner
from protocols.errors import RedisUnavailable
from protocols.names import actor_stream
from protocols.ports import Consumer, Delivery, Lease

log = logging.getLogger("callboard.actors")

# A message younger than this may still be on its way to the bus.
IN_TRANSIT: Final = timedelta(seconds=2)
PAGE: Final = 500
CAPACITY_POLL_S: Final = 0.01


class Recovery:
    """Recovers the partitions of one process."""

    def __init__(self, pool: asyncpg.Pool, runner: Runner, runtime: Runtime, consumer: Consumer) -> None:
        self._pool = pool
        self._runner = runner
        self._runtime = runtime
        self._consumer = consumer

    async def take_over(self, lease: Lease) -> None:
        """Begin to serve a partition whose epoch has just been raised in this process's name."""
        await self._runner.wait_until(await self._runtime.store.head(), of=WORKING)
        await self._feed(lease.role, [lease], in_transit=timedelta())
        await self._consumer.take(lease)
        await self._activate(lease.role, [lease])

    async def reconcile(self, leases: Iterable[Lease]) -> None:
        """Find what was lost on partitions that are served already."""
        by_role: dict[str, list[Lease]] = {}
        for lease in leases:
            by_role.setdefault(lease.role, []).append(lease)
        for role, owned in by_role.items():
            await self._near_timers(role, owned)
            await self._feed(role, owned, in_transit=IN_TRANSIT)
            await self._activate(role, owned)

    async def _feed(self, role: str, leases: Sequence[Lease], *, in_transit: timedelta) -> None:
        """Deliver the open messages that the bus doesn't have, in the log's order."""
        count = self._partitions(role)
        short = await self._short(role, leases, count)
        if not short:
            return
        on_bus: set[str] = set()
        for partition in short:
            on_bus |= await self._on_bus(role, partition)
        latest = self._runtime.clock.now() - in_transit
        after = (0, 0)
        lost = 0
        while page := await mailbox.open_messages(self._pool, role, count, list(short), after=after, limit=PAGE):
            for row in page:
                if row.opened_at > latest or row.id in on_bus:
                    continue
                stream = actor_stream(role, row.key)
                if not self._runtime.holds(row.id, stream):
                    lost += 1
                    await self._deliver(row.id, short[row.key_hash % count])
            after = (page[-1].position, page[-1].place)
        if lost:
            log.info("%s: %d messages came from the log, which the bus did not have", role, lost)

    async def _short(self, role: str, leases: Sequence[Lease], count: int) -> Mapping[int, Lease]:
        """The partitions on which more messages are open than the bus has."""
        opened = await mailbox.open_counts(self._pool, role, count)
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

    async def _deliver(self, message: str, lease: Lease) -> None:
        while not self._runtime.capacity():
            await self._runtime.clock.sleep(CAPACITY_POLL_S)
        if self._runtime.owned.get((lease.role, lease.partition)) == lease:
            whole = await self._runtime.store.message(message)
            self._runtime.deliver(Delivery(whole, lease, entry="", fresh=False))

    async def _near_timers(self, role: str, leases: Sequence[Lease]) -> None:
        numbers = [lease.partition for lease in leases]
        before = self._runtime.clock.now() + HORIZON
        for row in await timers.due(self._pool, role, self._partitions(role), numbers, before):
            stream = actor_stream(role, row.key)
            if not self._runtime.holds(row.id, stream):
                self._runtime.timers.add([await self._runtime.store.message(row.id)])

    async def _activate(self, role: str, leases: Sequence[Lease]) -> None:
        """Go on with the tasks that are at work and that nothing would wake."""
        count = self._partitions(role)
        by_number = {lease.partition: lease for lease in leases}
        for row in await tasks.at_work(self._pool, role, count, list(by_number)):
            stream = actor_stream(role, row.key)
            if not self._runtime.hosts(stream):
                self._runtime.activate(stream, by_number[row.key_hash % count])

    def _partitions(self, role: str) -> int:
        route = self._runtime.directory.route(role)
        assert route is not None, "a role is registered before it is served"
        return route.partitions
