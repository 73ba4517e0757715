"""Whether all is at rest, and whether what is left in Redis and in the projections is what should be left."""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import anyio
import asyncpg
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from callboard import projections
from callboard.bootstrap import Stack
from callboard.eventstore.database import UNAVAILABLE
from callboard.eventstore.store import PostgresEventStore
from callboard.projections.runner import Runner
from callboard.protocols.errors import RedisUnavailable, StoreUnavailable
from tests.conftest import DEADLINE_S

GONE: Final = (StoreUnavailable, RedisUnavailable, *UNAVAILABLE, asyncpg.UndefinedTableError)
REFOLD: Final = "refold"  # a schema
OPEN: Final = "select (select count(*) from tasks where ended_at is null), (select count(*) from mailbox)"


async def becomes(condition: Callable[[], Awaitable[bool]], within_s: float = DEADLINE_S) -> None:
    """Return when the condition holds; a server that is away makes it not hold. Fails after the deadline."""
    with anyio.fail_after(within_s):
        while True:
            try:
                if await condition():
                    return
            except GONE:
                pass
            await anyio.sleep(0.03)


async def owned(stack: Stack, roles: Collection[str]) -> bool:
    """Whether the roles are known, and each one's partitions are shared by all the processes that serve it; where there
    are fewer partitions than processes, each by another.
    """
    await stack.directory.refresh()
    states = [it for it in await stack.leases.partitions() if it.role in roles]
    places = [(it.role, it.partition) for it in states]
    members = {(it.role, it.process) for it in await stack.leases.members() if it.role in roles}
    owners = {(it.role, it.owner) for it in states if it.owner and (it.expires_in_s or 0) > 0}
    counts, serving, sharing = (Counter(it[0] for it in found) for found in (places, members, owners))
    return (
        all(it.owner for it in states)
        and owners <= members
        and all(sharing[role] == min(counts[role], serving[role]) > 0 for role in roles)
    )


async def quiet(stack: Stack) -> bool:
    """Whether the projections have all, every task has ended, no message is open, and none is on the bus."""
    await stack.directory.refresh()
    if not await stack.runner.reached(await stack.store.head()):
        return False
    if any(await stack.store.pool.fetchrow(OPEN)):
        return False
    return not any([any((await stack.bus.backlog(role)).values()) for role in stack.directory.roles])


async def check_bus(redis: Redis, namespace: str) -> None:
    """Every stream is empty, has one group at most, and nothing is pending."""
    async for key in redis.scan_iter(f"cb:{{{namespace}:*", count=1000, _type="stream"):
        assert await redis.xlen(key) == 0, key
        try:
            groups = await redis.xinfo_groups(key)
        except ResponseError:  # it is gone by now
            continue
        assert len(groups) <= 1, (key, groups)
        assert not any(group["pending"] for group in groups), (key, groups)


async def nothing_is_left(redis: Redis, namespace: str) -> bool:
    """Whether `check_bus` has nothing to say."""
    try:
        await check_bus(redis, namespace)
    except AssertionError:
        return False
    return True


async def check_projections(database_url: str, store: PostgresEventStore) -> None:
    """The tables hold, row by row, what a fold of the whole log into empty ones gives."""
    await store.pool.execute(f"create schema {REFOLD}")
    async with asyncpg.create_pool(database_url, min_size=0, server_settings={"search_path": REFOLD}) as pool:
        await Runner(pool, store, projections.ALL, "refold").catch_up()
    for projection in projections.ALL:
        for table in projection.tables:
            differ = await store.pool.fetchval(
                f"""
                select count(*) from (
                    (table public.{table} except table {REFOLD}.{table})
                    union all (table {REFOLD}.{table} except table public.{table})
                ) as differing
                """
            )
            counts = await store.pool.fetchrow(
                f"select (select count(*) from public.{table}), (select count(*) from {REFOLD}.{table})"
            )
            assert differ == 0, f"{table}: {differ} rows differ from a fold from zero"
            assert counts[0] == counts[1], f"{table}: {counts[0]} rows, and {counts[1]} after a fold from zero"
