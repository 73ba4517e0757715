"""Processes that were started with different CALLBOARD_LEASE_S."""

import asyncio

import anyio
import pytest
from msgspec.structs import replace

from callboard import Context
from callboard.bootstrap import warn_of_other_leases
from tests.actor_kit import actor
from tests.conftest import DEADLINE_S
from tests.host_kit import Stage, becomes, stage


async def double(number: int, ctx: Context) -> int:
    return 2 * number


async def work(it: Stage) -> None:
    with anyio.fail_after(DEADLINE_S):
        done = await asyncio.gather(*(it.client.call("worker", number) for number in range(8)))
    assert done == [2 * number for number in range(8)]


async def test_a_longer_lease_is_warned_of_and_the_shorter_one_s_partitions_are_taken_over_soon(
    database_url: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage(database_url, redis_url, actor("worker", double), lease_s=100.0) as it:
        long = await it.host("long")
        await work(it)
        await warn_of_other_leases(it.stack.leases, 100.0)
        assert "CALLBOARD_LEASE_S" not in caplog.text
        await warn_of_other_leases(it.stack.leases, 5.0)
        assert f"{long.stack.process} has a lease of at least" in caplog.text

        it._settings = replace(it._settings, lease_s=2.0)
        short = await it.host("short")

        async def shared() -> bool:
            return short.owned() > 0

        async def taken_over() -> bool:
            return long.owned() == 4

        await becomes(shared)
        await work(it)
        await short.abandon()
        await work(it)
        await becomes(taken_over)
