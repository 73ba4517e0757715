"""How far the projections are behind the log, and who runs them."""

from datetime import datetime

from asyncpg import Pool
from msgspec import Struct

from callboard.protocols.ports import EventStore


class ProjectionLag(Struct, frozen=True):
    """How far one projection is behind: in events, and in seconds since the oldest of them was recorded.

    `error`: it is stopped, as it can't take the next event; a rebuild, or the next owner of the lease, tries again.
    """

    name: str
    version: int
    position: int
    events: int
    seconds: float
    error: str | None = None


class Lag(Struct, frozen=True):
    """The log's head, each projection, and the runner that holds the lease (None: nobody does)."""

    head: int
    projections: tuple[ProjectionLag, ...]
    holder: str | None
    epoch: int
    expires_in_s: float | None  # negative: it has expired


async def lag(pool: Pool, store: EventStore) -> Lag:
    """The lag of all projections, by name; `Runner.prepare` must have been called once."""
    head = await store.head()
    records = await pool.fetch("select name, version, position, error from projections order by name")
    owner, epoch, expires_in_s, now = await pool.fetchrow(
        """
        select owner, epoch, extract(epoch from expires_at - clock_timestamp())::double precision, clock_timestamp()
        from projection_lease
        """
    )
    ages = {position: await _age_s(store, position, now) for position in {r["position"] for r in records}}
    return Lag(
        head=head,
        projections=tuple(
            ProjectionLag(name, version, position, max(0, head - position), ages[position], error)
            for name, version, position, error in records
        ),
        holder=owner,
        epoch=epoch,
        expires_in_s=expires_in_s,
    )


async def _age_s(store: EventStore, position: int, now: datetime) -> float:
    """How long ago the first event behind a position was recorded; 0 if there is none."""
    async for page in store.read_all(after=position, page=1):
        return max(0.0, (now - page[0].recorded_at).total_seconds())
    return 0.0
