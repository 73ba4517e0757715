"""A process whose event loop is blocked keeps its leases, until its handler's role allows it no longer."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from callboard import Actor, Context, TimeLimits
from callboard.actors.process.ending import Ending
from callboard.actors.process.lifeline import Aside, Lifeline
from callboard.actors.process.runtime import Runtime
from callboard.actors.process.watch import Block, Look
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.protocols import events as e
from callboard.protocols.errors import DatabaseUnavailable, StoreUnavailable
from callboard.protocols.ports import Route, SystemClock
from callboard.testing import Play, spec
from tests.actor_kit import worker

PLACE = "crunch (worker.py:7)"


class EndedError(Exception):
    """The process was ended."""


class FakeEnding(Ending):
    """Ends nothing."""

    def at_once(self, reason: str) -> None:
        raise EndedError(reason)


class NoLeases(MemoryLeases):
    """The server doesn't answer."""

    async def renew(self, process: str, *, lease_s: float) -> None:
        raise StoreUnavailable("gone")


class SwiftClock(SystemClock):
    """Each look at it takes a tenth of a second."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        self.seconds += 0.1
        return self.seconds


class Bench:
    """A lifeline for a process that plays a role, and what it did."""

    def __init__(self, play: Play, leases: MemoryLeases) -> None:
        self.play = play
        self.leases = leases
        self.renewed: list[float] = []
        self.opened = 0
        self.reachable = True
        self.lifeline = self.of(FakeEnding())

    def of(self, ending: Ending | None) -> Lifeline:
        runtime: Runtime = self.play.runtime
        return Lifeline(runtime, self._aside, lease_s=3.0, renewed=self.renewed.append, ending=ending)

    @asynccontextmanager
    async def _aside(self) -> AsyncIterator[Aside]:
        self.opened += 1
        if not self.reachable:
            raise DatabaseUnavailable("postgresql://", "gone")
        yield Aside(self.play.store, self.leases)

    async def owners(self) -> list[str | None]:
        return [it.owner for it in await self.leases.partitions()]

    @property
    def name(self) -> str:
        """Of the asyncio task in which the worker runs."""
        (cell,) = self.play.runtime.cells()
        assert cell.work is not None
        assert cell.work.handler is not None
        return cell.work.handler.get_name()


@asynccontextmanager
async def bench(role: type[Actor] | None = None, leases: MemoryLeases | None = None) -> AsyncIterator[Bench]:
    async def todo(ctx: Context) -> None:
        await ctx.receive("decision")

    leases = leases or MemoryLeases()
    async with spec(role or worker(todo, limits=TimeLimits(blocking_s=10.0))) as play:
        play.runtime.clock = SwiftClock()
        await leases.register(Route("worker", 2))
        await leases.heartbeat(play.runtime.process, ["worker"], lease_s=3.0)
        await play.when("worker", None)
        yield Bench(play, leases)


def blocks(task: str, *seconds: float) -> Look:
    """The loop is blocked for so long at each look, and turns after the last one."""
    left = list(seconds)
    return lambda: Block(left.pop(0), task, PLACE) if left else None


async def test_the_leases_are_renewed_three_times_a_lease_over_one_connection() -> None:
    async with bench() as it:
        await it.lifeline.hold(blocks(it.name, *[1.0] * 25))
        assert it.opened == 1
        assert len(it.renewed) >= 2
        assert all(later - sooner >= 1.0 for sooner, later in zip(it.renewed, it.renewed[1:], strict=False))
        assert await it.owners() == [it.play.runtime.process] * 2
        assert e.TaskStalled.TYPE not in it.play.types()


async def test_beyond_the_limit_the_culprit_is_recorded_and_all_is_handed_over() -> None:
    async with bench() as it:
        task = it.play.log[-1].meta.task
        with pytest.raises(
            EndedError, match=rf"{task}> has blocked the event loop for 10.5 s, in crunch .*blocking_s=10"
        ):
            await it.lifeline.hold(blocks(it.name, 9.9, 10.5))
        (stalled,) = [body for body in it.play.bodies("worker") if isinstance(body, e.TaskStalled)]
        assert (stalled.process, stalled.seconds, stalled.place) == (it.play.runtime.process, 10.5, PLACE)
        assert await it.owners() == [None, None]
        assert await it.leases.members() == []


async def test_beyond_the_limit_of_what_is_no_task_the_process_ends_as_in_a_crash() -> None:
    async with bench() as it:
        with pytest.raises(EndedError, match="something has blocked"):
            await it.lifeline.hold(blocks("", 1.0, 10.5))
        assert await it.owners() == [it.play.runtime.process] * 2
        assert e.TaskStalled.TYPE not in it.play.types()


async def test_a_role_without_a_limit_may_block_for_ever() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.receive("decision")

    async with bench(worker(todo, limits=TimeLimits(blocking_s=None))) as it:
        await it.lifeline.hold(blocks(it.name, 1e6, 1e6))
        await it.lifeline.hold(blocks("", 1e6, 1e6))
        assert await it.owners() == [it.play.runtime.process] * 2


async def test_a_process_that_is_somebody_elses_is_not_ended() -> None:
    async with bench() as it:
        await it.of(None).hold(blocks(it.name, 1e6, 1e6))
        assert len(it.renewed) == 1


async def test_a_log_that_is_gone_is_tried_again_until_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    async with bench() as it:
        it.reachable = False
        with caplog.at_level(logging.WARNING), pytest.raises(EndedError, match="has blocked the event loop"):
            await it.lifeline.hold(blocks(it.name, 1.0, 2.0, 11.0))
        assert it.opened == 3
        assert "could not renew its leases: PostgreSQL at postgresql:// can't be reached: gone" in caplog.text


async def test_a_renewal_that_fails_is_told_and_moves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(leases=NoLeases()) as it:
        with caplog.at_level(logging.WARNING):
            await it.lifeline.hold(blocks(it.name, 1.0, 1.0))
        assert it.renewed == []
        assert "could not renew its leases" in caplog.text


@pytest.mark.parametrize(("stalls", "end"), [(2, "task.completed"), (3, "message.dead_lettered")])
async def test_a_stall_counts_like_the_loss_of_a_process(stalls: int, end: str) -> None:
    async def todo(_: Context) -> str:
        return "done"

    async with spec(worker(todo)) as play:
        stalled = [e.TaskStalled(process=f"p{n}", seconds=11.0, place=PLACE) for n in range(stalls)]
        await play.given("worker", None, *stalled)  # and then its process was lost
        await play.quiet(within_s=30)
        assert play.types("worker")[-1] == end


async def test_a_branch_of_a_handler_is_its_task() -> None:
    names: list[str] = []

    async def branch() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    async def todo(ctx: Context) -> None:
        await ctx.gather(branch(), branch())
        await ctx.receive("decision")

    async with bench(worker(todo, limits=TimeLimits(blocking_s=10.0))) as it:
        assert names == [it.name] * 2
        with pytest.raises(EndedError, match=it.name):
            await it.lifeline.hold(blocks(names[0], 1.0, 10.5))
