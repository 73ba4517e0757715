"""The partitions of one process: taken, served, fed and given back, by one owner.

    take      a lease is new: what the bus does not have comes from the log (callboard.actors.process.recovery), then
              the bus is read
    gap       the bus lost something: what comes behind that waits until it has come from the log
    settle    an entry's message is in the log: it is taken off the bus
    again     an entry that came, and that nothing here has any more, is delivered once more
    give back a partition is surplus: its tasks come to rest first, then the lease is released
    let go    a lease was lost, or may have been: its tenure ends at once

An entry of the bus ends in one of two ways: it is settled, or its tenure ends, and the next tenure of the partition,
here or elsewhere, gets it again. Until then something in memory has it.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.abc

from callboard.actors.process.recovery import Recovery
from callboard.actors.process.runtime import Runtime
from callboard.eventstore.database import UNAVAILABLE, reason_of
from callboard.protocols.codec import new_event
from callboard.protocols.errors import ProjectionsBehind, RedisUnavailable, StoreUnavailable
from callboard.protocols.events import MessageDeadLettered, Meta
from callboard.protocols.messages import encode_message
from callboard.protocols.names import dead_stream, partition_of
from callboard.protocols.ports import ANY, Bus, Clock, Consumer, Delivery, Gap, Lease, Leases, Tenure, Undecodable

log = logging.getLogger("callboard.actors")

# A server doesn't answer: the event store and the bus say it in our words, the projections' queries in asyncpg's.
GONE: Final[tuple[type[Exception], ...]] = (StoreUnavailable, RedisUnavailable, *UNAVAILABLE)
NOT_YET: Final[tuple[type[Exception], ...]] = (ProjectionsBehind, *GONE)
FIRST_PAUSE_S: Final = 0.1  # before something is tried again; doubled each time, up to a lease


class Ownership:
    """Owns the partitions of one process, and the consumer that reads them.

    `leasing` is held by whoever changes which leases this process has, so that a heartbeat's answer is not older than
    what was given back meanwhile.
    """

    def __init__(
        self,
        runtime: Runtime,
        bus: Bus,
        leases: Leases,
        recovery: Callable[[Consumer], Recovery],
        clock: Clock,
        *,
        lease_s: float,
        grace_s: float,
    ) -> None:
        self.leasing = anyio.Lock()
        self._runtime = runtime
        self._leases = leases
        self._partitions = runtime.partitions
        self._group: anyio.abc.TaskGroup
        self._clock = clock
        self._lease_s = lease_s
        self._grace_s = grace_s
        self._consumer = bus.consumer(
            runtime.process, self._deliver, self._undecodable, runtime.gate.capacity, self._gap
        )
        self._recovery = recovery(self._consumer)
        runtime.on_settle = self._consumer.settle
        runtime.on_capacity = self._consumer.wake
        runtime.resend = self._recovery.resend

    def __repr__(self) -> str:
        return f"Ownership({self._runtime.process}: {self._partitions})"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read, as long as the block lasts; then all tenures end where they are."""
        async with self._consumer, anyio.create_task_group() as self._group:
            try:
                yield
            finally:
                for tenure in self._partitions:
                    self._partitions.end(tenure)
                self._group.cancel_scope.cancel()

    # -- which partitions --------------------------------------------------------------------------------------------

    async def apply(self, leases: Iterable[Lease], *, draining: bool) -> None:
        """Make what is held what the store says is owned. Raises StoreUnavailable. The caller has `leasing`."""
        owned = {lease.place: lease for lease in leases}
        for tenure in self._partitions:
            lease = owned.get(tenure.place)
            if lease is None or not _continues(tenure.lease, lease):
                log.warning("host<%s> lost %s:%d to another process", self._runtime.process, *tenure.place)
                await self.let_go(tenure)
        fresh = [lease for place, lease in owned.items() if self._partitions.at(place) is None]
        if draining:  # what it has is renewed, and nothing taken
            await self._leases.release(self._runtime.process, fresh)
            return
        for lease in fresh:
            self._group.start_soon(self._take, self._partitions.begin(lease))
        for tenure in self._partitions.serving:
            if tenure.place in owned and owned[tenure.place].surplus:
                tenure.leave()
                self._group.start_soon(self._give_back, tenure)

    async def let_go(self, tenure: Tenure) -> None:
        """A partition is another process's now, or may be: nothing of its tenure has an effect any more."""
        self._partitions.end(tenure)
        self._runtime.abandon(tenure)
        await self._consumer.drop(tenure)

    async def let_go_of_all(self) -> None:
        """All partitions may be other processes' now."""
        for tenure in self._partitions:
            await self.let_go(tenure)

    async def _take(self, tenure: Tenure) -> None:
        if await self._until_done(tenure, "take over {}", lambda: self._recovery.take_over(tenure)):
            tenure.serve()

    async def _give_back(self, tenure: Tenure) -> None:
        """Give a partition to a process that has fewer, once its tasks have come to rest."""
        await self._runtime.drain(tenure, grace_s=self._grace_s)
        await self._consumer.drop(tenure)
        async with self.leasing:
            if not tenure.held:
                return
            self._partitions.end(tenure)
            self._runtime.abandon(tenure)
            try:
                await self._leases.release(self._runtime.process, [tenure.lease])
            except StoreUnavailable as error:  # the next heartbeat finds it owned, and another tenure begins
                self._warn("could not hand {} over: {}", tenure, error)

    async def leave(self) -> None:
        """Give all back: let the tasks end or come to wait within the grace period, and stop reading."""
        for tenure in self._partitions:
            tenure.leave()
        await self._runtime.drain(grace_s=self._grace_s)
        for tenure in self._partitions:
            await self._consumer.drop(tenure)

    # -- what comes ------------------------------------------------------------------------------------------------

    def _deliver(self, delivery: Delivery) -> None:
        message, lease = delivery.message, delivery.tenure.lease
        on_its_own = message.key and partition_of(message.key, lease.partitions) == lease.partition
        if message.role == lease.role and on_its_own:
            self._runtime.deliver(delivery)
        else:
            reason = f"it is addressed to {message.to!r}, and was found on {lease.role}:{lease.partition}"
            entry = Undecodable(lease.role, delivery.tenure, delivery.entry, encode_message(message), reason)
            delivery.tenure.entries[delivery.entry] = entry
            self._undecodable(entry)

    def _gap(self, gap: Gap) -> None:
        if gap.tenure.held:
            self._runtime.gate.mind_gap(gap.tenure)
            self._group.start_soon(self._close_gap, gap)

    async def _close_gap(self, gap: Gap) -> None:
        await self._until_done(gap.tenure, "look for what {} lost", lambda: self._recovery.close_gap(gap.tenure))
        if gap.entry:
            self._consumer.settle(gap)

    def _undecodable(self, entry: Undecodable) -> None:
        if entry.tenure.held:
            self._group.start_soon(self._bury, entry)

    async def _bury(self, entry: Undecodable) -> None:
        """Make a dead letter of bytes that are no message; they stay on the bus until that is in the log."""
        body = MessageDeadLettered(to=entry.role, reason=entry.reason, entry=entry.content, at="bus")
        event = new_event(body, Meta(run="", role=entry.role))
        dead, store = dead_stream(entry.role), self._runtime.store
        if await self._until_done(entry.tenure, "record a dead letter of {}", lambda: store.append(dead, [event], ANY)):
            self._consumer.settle(entry)

    async def _until_done(self, tenure: Tenure, what: str, call: Callable[[], Awaitable[object]]) -> bool:
        """Try again until it is done, or the tenure has ended: whether it is done. The pauses grow up to a lease."""
        pause_s = FIRST_PAUSE_S
        while tenure.held:
            try:
                await call()
            except NOT_YET as error:
                self._warn(f"could not {what} yet: {{}}", tenure, error)
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, self._lease_s)
            else:
                return True
        return False

    # -- what got lost -----------------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Find what got lost on the way, on the partitions that are served. Raises one of `GONE`."""
        serving = self._partitions.serving
        for tenure in serving:
            self._deliver_again(tenure)
        await self._recovery.reconcile(serving)

    def _deliver_again(self, tenure: Tenure) -> None:
        """Deliver the entries that came in this tenure, that are not settled, and that nothing here has any more.

        Nothing should lose one; what does must not leave it for as long as this process lives. Only what was missing
        at the last look too counts: between two parts of this process an entry is nobody's for a moment.
        """
        missing = {
            entry for entry, it in tenure.entries.items() if isinstance(it, Delivery) and not self._runtime.has(it)
        }
        again = [entry for entry in tenure.entries if entry in missing and entry in tenure.missing]
        tenure.missing = missing.difference(again)
        for entry in again:
            delivery = tenure.entries.get(entry)
            if isinstance(delivery, Delivery):
                log.warning("%s: message %s is delivered again: it was lost here", tenure, delivery.message.id)
                self._runtime.deliver(Delivery(delivery.message, tenure, entry, fresh=False))

    def _warn(self, text: str, tenure: Tenure, error: BaseException) -> None:
        """Log what this process could not do at a partition."""
        role, number = tenure.place
        log.warning("host<%s> %s", self._runtime.process, text.format(f"{role}:{number}", reason_of(error)))


def _continues(former: Lease, lease: Lease) -> bool:
    """Whether a process has had a partition all the time between two heartbeats."""
    return (former.epoch, former.generation) == (lease.epoch, lease.generation)
