"""What keeps a process's leases while its event loop is blocked, and ends it where that goes on for too long.

A handler that calls something that blocks, without awaiting it, keeps everything in its process from running. That is
no reason to take its tasks away: nobody could do them sooner, and should another process try, the log refuses one of
the two. So the leases are renewed meanwhile, by the thread that watches the loop, over connections of its own.

    within the role's `limits.blocking_s`    the leases are renewed; afterwards all goes on as if nothing had happened
    beyond                                   the log is told which task it was (`task.stalled`), which counts as a loss
                                             of that task; everything is handed over, and the process is ended
    beyond, by something that is no task     the process is ended, and what is at work counts as lost, as in a crash
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

from callboard.actors.process.ending import LAST_WORDS_S, Ending
from callboard.actors.process.runtime import Runtime
from callboard.actors.process.watch import BEAT_S, Block, Look
from callboard.actors.task.work import Work
from callboard.eventstore.database import UNAVAILABLE, reason_of
from callboard.protocols.codec import new_event
from callboard.protocols.errors import DatabaseUnavailable, StoreUnavailable
from callboard.protocols.events import Meta, TaskStalled
from callboard.protocols.ports import ANY, EventStore, Leases

log = logging.getLogger("callboard.actors")

BEATS_PER_LEASE: Final = 3
GONE: Final[tuple[type[Exception], ...]] = (StoreUnavailable, DatabaseUnavailable, *UNAVAILABLE)  # also TimeoutError


class Aside(NamedTuple):
    """The log and the leases, over connections of another event loop."""

    store: EventStore
    leases: Leases


OpenAside = Callable[[], AbstractAsyncContextManager[Aside]]


class Lifeline:
    """Holds the leases of one process while its loop is blocked. `renewed` hears of each time that they were renewed:
    what the clock said before. Without an `ending` the process is never ended: it is somebody else's.
    """

    def __init__(
        self,
        runtime: Runtime,
        aside: OpenAside,
        *,
        lease_s: float,
        renewed: Callable[[float], None],
        ending: Ending | None,
    ) -> None:
        self._runtime = runtime
        self._limits = [it.limits.blocking_s for it in runtime.definitions.values()]
        self._aside = aside
        self._lease_s = lease_s
        self._renewed = renewed
        self._ending = ending
        self.over = False  # the process has handed over, or is not to
        if ending is not None:
            ending.before(self._leave)

    async def hold(self, look: Look) -> None:
        """Renew the leases until the loop turns again, or the process is ended."""
        while (block := look()) is not None:
            try:
                async with self._opened() as aside:
                    await self._hold(look, aside)
            except GONE as error:
                log.warning("host<%s> could not renew its leases: %s", self._runtime.process, reason_of(error))
                await self._end_beyond_limit(block, None)
                await asyncio.sleep(BEAT_S)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Aside]:
        async with asyncio.timeout(self._lease_s) as timeout, self._aside() as aside:
            timeout.reschedule(None)
            yield aside

    async def _hold(self, look: Look, aside: Aside) -> None:
        due = self._runtime.clock.monotonic()
        while (block := look()) is not None:
            await self._end_beyond_limit(block, aside)
            now = self._runtime.clock.monotonic()
            if now >= due:
                async with asyncio.timeout(self._lease_s):
                    await aside.leases.renew(self._runtime.process, lease_s=self._lease_s)
                self._renewed(now)
                due = now + self._lease_s / BEATS_PER_LEASE
            await asyncio.sleep(BEAT_S)

    async def _end_beyond_limit(self, block: Block, aside: Aside | None) -> None:
        work = self._at_work(block)
        limits = self._limits if work is None else [work.definition.limits.blocking_s]
        longest_s = None if None in limits else max(it for it in limits if it is not None)
        if self._ending is None or longest_s is None or block.seconds < longest_s:
            return
        if work is not None and aside is not None:
            try:
                async with asyncio.timeout(self._lease_s):
                    await self._tell(work, block, aside)
            except GONE as error:
                log.warning("host<%s> could not hand over: %s", self._runtime.process, reason_of(error))
        who = block.task or "something"
        told = f"{who} has blocked the event loop for {block.seconds:.1f} s, in {block.place}"
        self._ending.at_once(f"{told}: longer than blocking_s={longest_s:g}")

    async def _tell(self, work: Work, block: Block, aside: Aside) -> None:
        """Say in the log which task it was, and hand everything over: that task is counted there, and no other.

        A task whose claim is not in the log can't be counted: whoever takes its message next claims it first.
        """
        if work.claimed:
            message, process = work.message, self._runtime.process
            meta = Meta(run=message.run, task=message.task, role=work.definition.role, tenant=message.tenant)
            body = TaskStalled(process=process, seconds=round(block.seconds, 1), place=block.place)
            await aside.store.append(work.message.to, [new_event(body, meta)], ANY)
        await aside.leases.leave(self._runtime.process)

    def _leave(self) -> None:
        """The process was told to end, and its loop was blocked until now, when it is ended by force: hand over."""

        async def leave() -> None:
            async with asyncio.timeout(LAST_WORDS_S), self._aside() as aside:
                await aside.leases.leave(self._runtime.process)

        if not self.over:
            try:
                asyncio.run(leave())
            except GONE as error:
                log.warning("host<%s> could not hand over: %s", self._runtime.process, reason_of(error))

    def _at_work(self, block: Block) -> Work | None:
        """The task whose handler, or a branch of it, blocks the loop."""
        for cell in list(self._runtime.cells()):
            handler = cell.work.handler if cell.work is not None else None
            if handler is not None and handler.get_name() == block.task:
                return cell.work
        return None
