"""A host whose event loop was blocked: it keeps what it owns, and if it could not, nobody is to blame."""

import time
from typing import Any

import anyio
import pytest

from callboard import Actor, Context, TimeLimits
from callboard.actors.process.lifeline import Lifeline
from callboard.actors.process.watch import Look
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from tests.host_kit import SHORT_LEASE_S, Stage, stage

BLOCKS_FOR_S = 2.5 * SHORT_LEASE_S
starts: list[str] = []
begun, go_on = anyio.Event(), anyio.Event()


class Blocker(Actor):
    """Blocks the event loop of its process when it is started first."""

    async def handle(self, name: str, ctx: Context) -> str:
        await ctx.step(lambda: name, name="before")
        starts.append(name)
        if len(starts) == 1:
            time.sleep(BLOCKS_FOR_S)  # noqa: ASYNC251 - this is the offence
        return await ctx.step(lambda: name, name="after")


@pytest.fixture(autouse=True)
def _none_started() -> None:
    starts.clear()


async def reasons(on: Stage) -> list[str]:
    """Why tasks were resumed."""
    return [it.reason for it in map(body_of, await on.log()) if isinstance(it, e.TaskResumed)]


async def test_it_keeps_its_leases_and_goes_on(database_url: str, redis_url: str) -> None:
    async with stage(database_url, redis_url, Blocker, lease_s=SHORT_LEASE_S) as it:
        await it.host("a")
        owners = await it.database("select owner, epoch from partitions order by partition")
        (sent,) = await it.client.send("blocker", "x")
        await it.client.wait(sent)
        assert starts == ["x"]
        assert await reasons(it) == []
        assert await it.database("select owner, epoch from partitions order by partition") == owners


class Patient(Actor):
    """Does something that takes a while, but not too long."""

    limits = TimeLimits(thinking_s=3.6 * BLOCKS_FOR_S)

    async def handle(self, name: str, ctx: Context) -> str:
        begun.set()
        await go_on.wait()
        return name


async def test_the_time_that_a_neighbour_blocks_is_not_counted(database_url: str, redis_url: str) -> None:
    async with stage(database_url, redis_url, Blocker, Patient, lease_s=SHORT_LEASE_S) as it:
        await it.host("a")
        (patient,) = await it.client.send("patient", "y")
        await begun.wait()
        for _ in range(4):
            starts.clear()
            (sent,) = await it.client.send("blocker", "x")
            await it.client.wait(sent)
        go_on.set()
        assert await it.client.wait(patient) == "y"


async def test_one_whose_lease_ran_out_begins_anew_and_blames_nobody(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stopped(self: Any, look: Look) -> None:
        """As when the whole process was stopped: the thread that watches did nothing, either."""

    monkeypatch.setattr(Lifeline, "hold", stopped)
    async with stage(database_url, redis_url, Blocker, lease_s=SHORT_LEASE_S) as it:
        await it.host("a")
        (sent,) = await it.client.send("blocker", "x")
        await it.client.wait(sent)
        assert starts == ["x", "x"]
        assert await reasons(it) == ["reloaded"]
