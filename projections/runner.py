"""The runner: folds the log into all projections, a page in a transaction.

Any number of processes run one; whoever holds the lease works, the others stand by (see
`callboard.projections.checkpoints`). Projections that stand at the same position get the same pages, and each event is
decoded once for all of them. One that is behind, because it is new or was reset, gets pages of its own in turn with the
others, until it has caught up.

One that can't take an event is stopped where it is, and the others go on. It is tried again when it is rebuilt, and by
each runner that begins: by one that knows better, after an upgrade.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Final

import anyio
import asyncpg
import msgspec
from asyncpg import Pool

from callboard.eventstore.database import UNAVAILABLE, reason_of
from callboard.projections import checkpoints
from callboard.projections.base import Fact, Page, Projection, clean, fact_of
from callboard.projections.checkpoints import Fenced, Tenure
from callboard.protocols.errors import (
    BadName,
    CallboardError,
    NotProjected,
    ProjectionsBehind,
    StoreUnavailable,
    UnknownEventType,
    listed,
)
from callboard.protocols.events import Event
from callboard.protocols.ports import Clock, EventStore, SystemClock

log = logging.getLogger(__name__)

PAGE_LIMIT_S: Final = 60.0  # a page that takes longer is given up, and tried again
RELEASE_LIMIT_S: Final = 2.0
POLL_S: Final = 0.02  # how often to look whether another process has folded enough

GONE: Final[tuple[type[Exception], ...]] = (StoreUnavailable, *UNAVAILABLE)

# What an event that doesn't fit may raise, in a fold or in the statements that write its outcome.
REFUSED: Final[tuple[type[Exception], ...]] = (
    msgspec.MsgspecError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
)


class Runner:
    """Keeps projections up to date. `process` names the owner of the lease to people.

    page: the most events in one transaction. pause_s: how long to collect events after a page that was not full.
    lease_s: how soon a standby takes over from a runner that died.
    """

    def __init__(
        self,
        pool: Pool,
        store: EventStore,
        projections: Sequence[Projection],
        process: str,
        *,
        page: int = 2000,
        pause_s: float = 0.05,
        lease_s: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self._pool = pool
        self._store = store
        self._projections = projections
        self._process = process
        self._page = page
        self._pause_s = pause_s
        self._lease_s = lease_s
        self._clock = clock or SystemClock()
        self._tenure: Tenure | None = None

    def __repr__(self) -> str:
        if self._tenure is None:
            return f"<Runner of {self._process}: standing by>"
        at = min(self._tenure.going.values(), default=None)
        stopped = f", {len(self._tenure.stopped)} stopped" if self._tenure.stopped else ""
        return f"<Runner of {self._process}: at {at}{stopped}, epoch {self._tenure.epoch}>"

    async def prepare(self) -> None:
        """Make the projections' tables, if need be; `run` and `catch_up` do it too. Raises SchemaTooNew."""
        await checkpoints.prepare(self._pool, self._projections)

    async def run(self) -> None:
        """Fold the log as it grows, whenever the lease can be had; until cancelled.

        While a server is gone, it waits. Raises SchemaTooNew when a newer Callboard has made the tables anew.
        """
        await self.prepare()
        while True:
            pause_s = self._lease_s / 5
            try:
                async with self._leading() as tenure:
                    if tenure is not None:
                        await self._follow(tenure)
            except Fenced:
                log.warning("projections<%s>: another runner has taken over", self._process)
            except GONE as error:
                log.warning("projections<%s>: waiting for the database: %s", self._process, reason_of(error))
                if isinstance(error, asyncpg.InsufficientResourcesError):
                    pause_s = self._lease_s
            await self._clock.sleep(pause_s)

    async def catch_up(self, *, within_s: float = 30.0) -> None:
        """Return when the projections are where the log's head is now: fold what is missing, unless another runner
        is at it; then wait for that one. Raises ProjectionsBehind, and what `run` raises.
        """
        await self.prepare()
        head = await self._store.head()
        deadline = self._clock.monotonic() + within_s
        while not await self.reached(head):
            try:
                async with self._leading() as tenure:
                    while tenure is not None and min(tenure.going.values(), default=head) < head:
                        await self._round(tenure)
            except Fenced:
                continue
            if tenure is None:
                await self._wait(head, deadline, within_s, self._projections)
            for refusal in tenure.stopped.values() if tenure else ():
                raise refusal

    async def reached(self, position: int, *, of: Sequence[Projection] | None = None) -> bool:
        """Whether some projections (all, if it isn't said) have come to a position."""
        return await checkpoints.reached(self._pool, self._projections if of is None else of, position)

    async def wait_until(
        self, position: int, *, of: Sequence[Projection] | None = None, within_s: float = 30.0
    ) -> None:
        """Return when some projections (all, if it isn't said) have come to a position, whoever runs them.

        Raises ProjectionsBehind; at once, if one of them is stopped.
        """
        deadline = self._clock.monotonic() + within_s
        while not await self.reached(position, of=of):
            await self._wait(position, deadline, within_s, self._projections if of is None else of)

    async def stopped(self, of: Sequence[Projection]) -> dict[str, str]:
        """Which of these projections are stopped, and why, whoever runs them."""
        return await checkpoints.stopped(self._pool, of)

    async def rebuild(self, names: Sequence[str]) -> None:
        """Empty some projections' tables; whoever runs the projections folds them anew. Raises BadName."""
        known = {projection.name: projection for projection in self._projections}
        for name in names:
            if name not in known:
                raise BadName("projection", name, listed(list(known)))
        await self.prepare()
        async with self._pool.acquire() as connection, connection.transaction():
            await checkpoints.reset(connection, [known[name] for name in names])

    # -- holding the lease ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[Tenure | None]:
        """The lease, given back at the end; None if another runner has it."""
        tenure = await checkpoints.take(self._pool, self._projections, self._process, self._lease_s)
        if tenure is None:
            yield None
            return
        log.info("projections<%s>: runs them, epoch %d", self._process, tenure.epoch)
        self._tenure = tenure
        refused = False
        try:
            yield tenure
        except asyncpg.InsufficientResourcesError:
            refused = True  # as any other runner would be: the lease runs out by itself, and nobody hurries
            raise
        finally:
            self._tenure = None
            if not refused:
                with anyio.move_on_after(RELEASE_LIMIT_S, shield=True):
                    await checkpoints.release(self._pool, tenure)

    async def _wait(self, position: int, deadline: float, within_s: float, of: Sequence[Projection]) -> None:
        stopped = await self.stopped(of)
        if stopped or self._clock.monotonic() >= deadline:
            holder = await self._pool.fetchval("select owner from projection_lease")
            reasons = [f"{name!r} is stopped: {error.rstrip('.')}" for name, error in stopped.items()]
            raise ProjectionsBehind(position, within_s, "; ".join([f"{holder or 'nobody'} runs them", *reasons]))
        await self._clock.sleep(POLL_S)

    # -- folding -------------------------------------------------------------------------------------------

    async def _follow(self, tenure: Tenure) -> None:
        while True:
            read = await self._round(tenure)
            if read == 0:
                await checkpoints.renew(self._pool, tenure, self._lease_s)
                with anyio.move_on_after(self._lease_s / 3):
                    if not tenure.going:
                        await anyio.sleep_forever()
                    await _first(self._store.subscribe(after=max(tenure.going.values()), page=1))
            elif read < self._page:
                await self._clock.sleep(self._pause_s)

    async def _round(self, tenure: Tenure) -> int:
        """One page for each group of projections that stand at the same position; gives the largest page's size.

        Those furthest behind come first, and not further than those before them, so that groups merge.
        """
        largest = 0
        going = tenure.going
        places: list[int | None] = [*sorted(set(going.values())), None]
        for position, bound in pairwise(places):
            assert position is not None
            events = await _first(self._store.read_all(after=position, page=self._page))
            group = [each for each in self._projections if going.get(each.name) == position]
            page, unknown = _facts(event for event in events if bound is None or event.position <= bound)
            if page:
                await self._advance(tenure, group, page)
            elif unknown is not None:
                await self._stop(tenure, group, unknown)
            largest = max(largest, len(page))
        return largest

    async def _advance(self, tenure: Tenure, group: Sequence[Projection], page: Page) -> None:
        """Apply a page; if that fails, in halves, down to the event that doesn't fit, which stops its projection."""
        group = [each for each in group if each.name not in tenure.stopped]
        if not group:
            return
        try:
            await self._apply(tenure, group, page)
        except NotProjected as refusal:
            if len(page) == 1:
                await self._stop(tenure, [each for each in group if each.name == refusal.projection], refusal)
                await self._advance(tenure, group, page)
            else:
                middle = len(page) // 2
                await self._advance(tenure, group, page[:middle])
                await self._advance(tenure, group, page[middle:])

    async def _stop(self, tenure: Tenure, group: Sequence[Projection], refusal: CallboardError) -> None:
        """Leave some projections where they are, as long as this tenure lasts."""
        names = [projection.name for projection in group]
        async with self._pool.acquire() as connection, connection.transaction():
            await checkpoints.renew(connection, tenure, self._lease_s)
            await checkpoints.stop(connection, names, clean(str(refusal)))
        tenure.stopped.update(dict.fromkeys(names, refusal))
        log.error("projections<%s>: %s stopped: %s", self._process, ", ".join(names), refusal)

    async def _apply(self, tenure: Tenure, group: Sequence[Projection], page: Page) -> None:
        """Apply a page in one transaction. A cancellation waits for its end, so that nothing is left half open."""
        position = page[-1].event.position
        with anyio.fail_after(PAGE_LIMIT_S, shield=True):
            async with self._pool.acquire() as connection, connection.transaction():
                await checkpoints.renew(connection, tenure, self._lease_s)
                for projection in group:
                    if concerned := projection.of(page):
                        try:
                            await projection.apply(connection, concerned)
                        except REFUSED as error:
                            raise _not_projected(projection, concerned[0].event, error) from error
                await checkpoints.move(connection, group, position)
        for projection in group:
            tenure.positions[projection.name] = position


def _not_projected(projection: Projection, event: Event, error: Exception) -> NotProjected:
    reason = f"{type(error).__name__}: {reason_of(error)}"
    return NotProjected(projection.name, event.stream, event.version, event.type, event.position, reason)


def _facts(events: Iterable[Event]) -> tuple[list[Fact], UnknownEventType | None]:
    """The facts before the first event of an unknown type, and what is said of that one."""
    facts: list[Fact] = []
    for event in events:
        try:
            facts.append(fact_of(event))
        except UnknownEventType as unknown:
            return facts, unknown
    return facts, None


async def _first(pages: AsyncIterator[list[Event]]) -> list[Event]:
    """The first page; empty if there is none."""
    try:
        return await anext(pages, [])
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()
