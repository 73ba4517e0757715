"""The register of roles, and the leases on their partitions, on PostgreSQL. The time is the database's."""

from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import msgspec

from callboard.eventstore.database import fetch
from callboard.eventstore.rules import check_partitions
from callboard.protocols.a2a import AgentCard
from callboard.protocols.errors import UnknownRole, listed
from callboard.protocols.messages import encode_json
from callboard.protocols.ports import Lease, Member, PartitionState, Route

# The count and generation of a role that is known stay; its row comes back as it stands. The partitions are there
# when the role is: both are written by this one statement. (xmax is 0 in a row that is new, not updated.)
_REGISTER = """
    with registered as (
        insert into roles (role, partitions, generation, topics, card, input_schema) values ($1, $2, $3, $4, $5, $6)
        on conflict (role) do update
        set topics = excluded.topics, card = excluded.card, input_schema = excluded.input_schema
        returning partitions, generation, xmax = 0 as is_new
    ), made as (
        insert into partitions (role, partition, generation)
        select $1, n, generation from registered, generate_series(0, registered.partitions - 1) as n where is_new
    )
    select partitions, generation from registered
"""
_ROUTES = "select role, partitions, generation, topics, card, input_schema from roles order by role"
# In the order of the roles: two processes don't wait for each other in a circle.
_HEARTBEAT = """
    select r.role, lease.* from (select role from roles where role = any($2::text[]) order by role) r,
    lateral heartbeat_role($1, r.role, $3, $4) as lease
"""
# Roles are locked first, in order, as a heartbeat does it.
_RENEW = """
    with held as (
        select role from roles
        where role in (select role from members where process = $1 union select role from partitions where owner = $1)
        order by role for update
    ), alive as (
        update members m set expires_at = clock_timestamp() + $2::interval,
            joined_at = case when m.expires_at <= clock_timestamp() then clock_timestamp() else m.joined_at end
        from held where m.role = held.role and m.process = $1
    )
    update partitions p set expires_at = clock_timestamp() + $2::interval
    from held where p.role = held.role and p.owner = $1
"""
_REPARTITION = "select repartition_role($1, $2)"
_MEMBERS = """
    select role, process, extract(epoch from expires_at - clock_timestamp())::float8 as expires_in_s,
           extract(epoch from clock_timestamp() - progressed_at)::float8 as idle_s
    from members where expires_at > clock_timestamp() order by role, process
"""
_RELEASE = """
    update partitions p set owner = null, expires_at = null, clean = true
    from unnest($2::text[], $3::integer[], $4::bigint[]) as given (role, partition, epoch)
    where p.role = given.role and p.partition = given.partition and p.epoch = given.epoch and p.owner = $1
"""
_LEAVE = """
    with gone as (delete from members where process = $1)
    update partitions set owner = null, expires_at = null, clean = true where owner = $1
"""
_PARTITIONS = """
    select role, partition, epoch, owner, extract(epoch from expires_at - clock_timestamp())::float8 as expires_in_s
    from partitions order by role, partition
"""

_card_decoder = msgspec.json.Decoder(AgentCard)


class PostgresLeases:
    """`callboard.protocols.ports.Leases` on the pool of a `PostgresEventStore`. All methods raise StoreUnavailable."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def register(self, route: Route) -> Route:
        """Make a role known; see the port."""
        card = None if route.card is None else encode_json(route.card)
        (row,) = await fetch(
            self._pool,
            _REGISTER,
            *(route.role, route.partitions, route.generation, route.topics, card, route.input_schema),
        )
        return msgspec.structs.replace(route, partitions=row["partitions"], generation=row["generation"])

    async def routes(self) -> dict[str, Route]:
        """All roles; see the port."""
        return {
            row["role"]: Route(
                role=row["role"],
                partitions=row["partitions"],
                generation=row["generation"],
                topics=tuple(row["topics"]),
                card=None if row["card"] is None else _card_decoder.decode(row["card"]),
                input_schema=row["input_schema"],
            )
            for row in await fetch(self._pool, _ROUTES)
        }

    async def heartbeat(self, process: str, roles: Sequence[str], *, lease_s: float, progress: int = 0) -> list[Lease]:
        """Renew, take up to the share, and list; see the port."""
        rows = await fetch(self._pool, _HEARTBEAT, process, roles, timedelta(seconds=lease_s), progress)
        return [Lease(**row) for row in rows]

    async def renew(self, process: str, *, lease_s: float) -> None:
        """Renew only; see the port."""
        await fetch(self._pool, _RENEW, process, timedelta(seconds=lease_s))

    async def repartition(self, role: str, partitions: int) -> Route:
        """Begin a new generation; see the port. Raises also BadOption."""
        check_partitions(partitions)
        await fetch(self._pool, _REPARTITION, role, partitions)
        routes = await self.routes()
        if role not in routes:
            raise UnknownRole(role, listed(list(routes)))
        return routes[role]

    async def members(self) -> list[Member]:
        """The live processes; see the port."""
        return [Member(*row) for row in await fetch(self._pool, _MEMBERS)]

    async def release(self, process: str, leases: Sequence[Lease]) -> None:
        """Give partitions back; see the port."""
        roles = [lease.role for lease in leases]
        numbers = [lease.partition for lease in leases]
        epochs = [lease.epoch for lease in leases]
        await fetch(self._pool, _RELEASE, process, roles, numbers, epochs)

    async def leave(self, process: str) -> None:
        """Give everything back; see the port."""
        await fetch(self._pool, _LEAVE, process)

    async def partitions(self) -> list[PartitionState]:
        """All partitions; see the port."""
        return [PartitionState(*row) for row in await fetch(self._pool, _PARTITIONS)]
