"""How long a task may think, execute, and take in all."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from callboard import Context, TimeLimits
from callboard.actors.process.guards import Guards
from callboard.protocols import events as e
from callboard.protocols.errors import TaskFailed
from callboard.testing import event, spec
from callboard.testing.play import Play
from tests.actor_kit import actor, bodies, double, worker


async def begun(play: Play, type_: str = "task.started") -> None:
    """Return when the task is at work, and knows that it is recorded."""
    await play.until(type_)
    for _ in range(5):
        await asyncio.sleep(0)


async def hang(*_: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("todo", "state", "limit_s"),
    [(hang, "thinking", 300), (lambda ctx: ctx.tool(hang), "executing", 600)],
)
async def test_a_task_that_records_nothing_for_too_long_fails(todo: Any, state: str, limit_s: int) -> None:
    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await begun(play, "tool.requested" if state == "executing" else "task.started")
        guards = Guards(None, play.runtime)
        play.clock.advance(limit_s - 1)
        guards.end_overdue()
        assert "task.failed" not in play.types()
        play.clock.advance(2)
        guards.end_overdue()
        with pytest.raises(TaskFailed) as failure:
            await play.result(sent)
        assert failure.value.type == "TimeLimitExceeded"
        assert f"was {state} for more than {limit_s} s" in failure.value.message


async def test_a_role_sets_its_own_limits() -> None:
    async with spec(worker(hang, limits=TimeLimits(thinking_s=5))) as play:
        await play.send("worker", None)
        await begun(play)
        play.clock.advance(6)
        Guards(None, play.runtime).end_overdue()
        await play.until("task.failed")


async def test_without_a_limit_a_task_may_think_for_ever() -> None:
    async with spec(worker(hang, limits=TimeLimits(thinking_s=None))) as play:
        await play.send("worker", None)
        await begun(play)
        play.clock.advance(10**9)
        Guards(None, play.runtime).end_overdue()
        await asyncio.sleep(0)
        assert "task.failed" not in play.types()


async def test_whatever_is_recorded_begins_the_time_anew() -> None:
    go_on = asyncio.Event()

    async def todo(ctx: Context) -> None:
        await go_on.wait()
        await ctx.step(double, 1)
        await hang()

    async with spec(worker(todo)) as play:
        await play.send("worker", None)
        await begun(play)
        guards = Guards(None, play.runtime)
        play.clock.advance(299)
        go_on.set()
        await play.until("step.completed")
        play.clock.advance(299)
        guards.end_overdue()
        await asyncio.sleep(0)
        assert "task.failed" not in play.types()


async def test_a_whole_task_may_take_so_long() -> None:
    async with spec(worker(lambda ctx: ctx.sleep(100), limits=TimeLimits(task_s=50))) as play:
        sent = await play.when("worker", None)
        play.then(event("task.started", deadline=play.clock.now() + timedelta(seconds=50)), "timer.set")
        await play.advance(49)
        play.then()
        await play.advance(1)
        with pytest.raises(TaskFailed, match="did not end before its deadline"):
            await play.result(sent)


async def test_a_whole_run_may_take_so_long_whoever_works_for_it() -> None:
    below = actor("below", lambda ctx: ctx.sleep(100))
    above = worker(lambda ctx: ctx.ask("below", None), limits=TimeLimits(run_s=50))
    async with spec(above, below) as play:
        await play.when("worker", None)
        deadline = play.clock.now() + timedelta(seconds=50)
        assert [it.deadline for it in bodies(play.log, e.TaskStarted)] == [deadline, deadline]
        await play.advance(50)
        assert play.types().count("task.failed") == 2


async def test_the_limit_of_a_run_is_not_that_of_a_task_below_it() -> None:
    below = actor("below", lambda ctx: ctx.sleep(100), limits=TimeLimits(run_s=50))
    async with spec(worker(lambda ctx: ctx.ask("below", None)), below) as play:
        sent = await play.when("worker", None)
        await play.advance(100)
        await play.result(sent)


async def test_a_deadline_shortens_along_the_way_and_never_grows() -> None:
    last = actor("last", lambda ctx: ctx.sleep(1), limits=TimeLimits(task_s=1000))
    middle = actor("middle", lambda ctx: ctx.ask("last", None), limits=TimeLimits(task_s=20))
    async with spec(worker(lambda ctx: ctx.ask("middle", None, timeout_s=500)), middle, last) as play:
        deadline = play.clock.now() + timedelta(seconds=100)
        await play.when("worker", None, deadline=deadline)
        assert [it.deadline for it in bodies(play.log, e.TaskStarted)] == [
            deadline,
            play.clock.now() + timedelta(seconds=20),
            play.clock.now() + timedelta(seconds=20),
        ]


async def test_a_resumed_task_keeps_its_deadline() -> None:
    async with spec(worker(lambda ctx: ctx.sleep(100), limits=TimeLimits(task_s=50))) as play:
        sent = await play.when("worker", None)
        await play.advance(30)
        await play.crash(bus_too=True)
        await play.advance(20)
        with pytest.raises(TaskFailed, match="did not end before its deadline"):
            await play.result(sent)
