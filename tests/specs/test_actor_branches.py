"""A handler whose branches wait and go on side by side, in a process that is lost or an actor that is dropped; and
messages that go past the bus.
"""

import asyncio
from collections.abc import Awaitable, Callable

from callboard import Actor, Context
from callboard.protocols import events as e
from callboard.protocols.states import RUNNING, WAITING
from callboard.testing import spec
from tests.actor_kit import Echo, worker


class Once:
    """A function that is lost with its process the first time, and gives a result the second."""

    def __init__(self) -> None:
        self.calls = 0
        self.running = asyncio.Event()

    async def __call__(self) -> str:
        self.calls += 1
        self.running.set()
        if self.calls == 1:
            await asyncio.Event().wait()
        return "done"


async def goes_on_after_a_crash(branch: Callable[[Context, Once], Awaitable[str]]) -> None:
    """A branch is lost in the middle of a step, while another waits for a person; the branch must go on first."""
    once = Once()

    async def todo(ctx: Context) -> list[object]:
        return await ctx.gather(branch(ctx, once), ctx.receive("decision", returns=str))

    async with spec(worker(todo), Echo) as play:
        sent = await play.send("worker", None)
        await once.running.wait()
        await play.crash()
        assert once.calls == 2
        done = [body.step for body in play.bodies("worker") if isinstance(body, e.StepCompleted)]
        assert done.count("gather#0[0]/once#0") == 1
        await play.when(sent.actor, "yes", kind="decision", task=sent.task, run=sent.run)
        result, received = await play.result(sent)
        assert (result, received["content"]) == ("done", "yes")


async def test_a_branch_that_had_its_answer_goes_on_after_a_crash_while_another_waits() -> None:
    async def branch(ctx: Context, once: Once) -> str:
        await ctx.ask("echo", 1)
        return str(await ctx.step(once, name="once"))

    await goes_on_after_a_crash(branch)


async def test_a_step_without_a_request_in_the_log_goes_on_after_a_crash_while_another_branch_waits() -> None:
    async def branch(ctx: Context, once: Once) -> str:
        await ctx.step(asyncio.sleep, 0)  # let the other branch begin to wait
        return str(await ctx.step(once, name="once"))

    await goes_on_after_a_crash(branch)


async def partly_waiting(ctx: Context) -> list[object]:
    return await ctx.gather(ctx.ask("echo", 1), ctx.receive("decision"))


async def test_an_actor_of_which_one_branch_has_ended_is_dropped_as_one_that_waits() -> None:
    async with spec(worker(partly_waiting), Echo) as play:
        sent = await play.when("worker", None)
        play.passivate()
        await play.quiet()
        assert not play.runtime.hosts(sent.actor)
        assert play.log[-1].type == e.TaskStateChanged.TYPE
        assert play.log[-1].meta.state is not None
        assert play.log[-1].meta.state.dest in WAITING


async def test_a_task_that_was_dropped_while_it_waits_is_not_resumed_by_a_takeover() -> None:
    async with spec(worker(partly_waiting), Echo) as play:
        sent = await play.when("worker", None)
        play.passivate()
        await play.crash()
        assert "task.resumed" not in play.types()
        await play.when(sent.actor, "yes", kind="decision", task=sent.task, run=sent.run)
        assert (await play.result(sent))[0] == 1


async def test_a_task_that_goes_on_is_in_a_state_that_runs() -> None:
    states: list[str] = []

    async def todo(ctx: Context) -> None:
        async def look() -> None:
            states.append(next(event.meta.state.dest for event in reversed(play.log) if event.meta.state))

        await ctx.gather(ctx.receive("decision"), ctx.step(look))

    async with spec(worker(todo)) as play:
        await play.when("worker", None)
    assert states
    assert set(states) <= set(RUNNING)


class Named(Actor):
    """Has one actor, which keeps what it is told."""

    told: list[int]

    async def handle(self, payload: int, ctx: Context) -> None:
        self.told.append(payload)


async def test_a_question_to_a_fresh_actor_and_its_answer_go_past_the_bus() -> None:
    async with spec(worker(lambda ctx: ctx.ask("echo", "hello")), Echo) as play:
        sent = await play.send("worker", None)
        published = await play.bus.waiting("echo", 0)
        assert await play.result(sent) == "hello"
        assert published == []
        assert play.types("echo") == ["task.started", "task.completed"]


async def test_a_question_that_went_past_the_bus_is_not_lost_with_its_process() -> None:
    once = Once()

    class Slow(Actor):
        async def handle(self, payload: str, ctx: Context) -> str:
            await once()
            return payload

    async with spec(worker(lambda ctx: ctx.ask("slow", "hello")), Slow) as play:
        sent = await play.send("worker", None)
        await once.running.wait()
        await play.crash(bus_too=True)
        assert await play.result(sent) == "hello"


async def test_what_is_told_to_a_named_actor_keeps_its_order_over_the_bus() -> None:
    Named.told = []

    async def todo(ctx: Context) -> None:
        for number in range(20):
            await ctx.tell("named/dave", number)

    async with spec(worker(todo), Named, slots=2) as play:
        await play.when("worker", None)
    assert Named.told == list(range(20))
