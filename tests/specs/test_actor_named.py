"""Named actors: one task at a time, in order, a queue behind, and a state machine that lasts."""

import asyncio
from typing import Any, ClassVar

import pytest

from callboard import Actor, Context
from callboard.protocols import events as e
from callboard.protocols.errors import IllegalTrigger, TaskFailed
from callboard.testing import event, spec
from tests.actor_kit import SlowStore, actor, bodies, double, worker


class Draft(Actor):
    """Moves a draft through its states."""

    states = ("draft", "review", "done")
    transitions = (
        {"trigger": "submit", "source": "draft", "dest": "review"},
        {"trigger": "reject", "source": "review", "dest": "draft"},
        {"trigger": "accept", "source": "review", "dest": "done"},
        {"trigger": "reset", "source": "*", "dest": "draft"},
    )

    async def handle(self, triggers: list[str], ctx: Context) -> list[str | None]:
        seen = [ctx.state]
        for trigger in triggers:
            seen.append(await ctx.trigger(trigger))
            await ctx.step(double, 1)
        return seen


# -- order -----------------------------------------------------------------------------------------------------------


async def test_a_named_actor_works_at_one_task_at_a_time_in_order() -> None:
    at_work: list[Any] = []

    async def todo(number: int, ctx: Context) -> int:
        at_work.append(("in", number))
        await ctx.step(asyncio.sleep, 0, name="pause")
        at_work.append(("out", number))
        return number

    async with spec(actor("clerk", todo)) as play:
        sent = [await play.send("clerk/dave", number) for number in range(5)]
        await play.quiet()
        assert [await play.result(it) for it in sent] == list(range(5))
    assert at_work == [(way, number) for number in range(5) for way in ("in", "out")]


async def test_unnamed_tasks_work_side_by_side() -> None:
    meet = asyncio.Barrier(3)

    async def todo(ctx: Context) -> None:
        await ctx.step(meet.wait, name="meet")

    async with spec(worker(todo)) as play:
        for _ in range(3):
            await play.send("worker", None)
        await play.quiet()
        assert play.types().count("task.completed") == 3


async def test_a_queue_behind_a_busy_actor_takes_no_slot() -> None:
    async def todo(ctx: Context) -> Any:
        return (await ctx.receive("feedback")).content

    async with spec(actor("clerk", todo), worker(lambda ctx: ctx.step(double, 2)), slots=2) as play:
        first = await play.when("clerk/dave", None)
        for _ in range(10):
            await play.when("clerk/dave", None)
        assert play.runtime.gate.free == 2
        assert await play.result(await play.when("worker", None)) == 4
        await play.when("clerk/dave", "fine", kind="feedback", task=first.task)
        assert await play.result(first) == "fine"


async def test_the_bodies_of_queued_tasks_are_not_kept_in_memory() -> None:
    async def todo(payload: str, ctx: Context) -> int:
        await ctx.receive("feedback")
        return len(payload)

    async with spec(actor("clerk", todo)) as play:
        sent = [await play.when("clerk/dave", "x" * 5000) for _ in range(3)]
        held = play.runtime._cells["clerk/dave"]._held.values()
        assert [it.message.parts for it in held] == [None, None]
        for it in sent:
            await play.when("clerk/dave", 1, kind="feedback", task=it.task)
        assert [await play.result(it) for it in sent] == [5000] * 3


async def test_a_queue_outlives_a_crash_and_a_bus_that_forgets() -> None:
    async def todo(number: int, ctx: Context) -> int:
        await ctx.receive("feedback")
        return number

    for bus_too in (False, True):
        async with spec(actor("clerk", todo)) as play:
            sent = [await play.when("clerk/dave", number) for number in range(4)]
            for it in sent:
                await play.crash(bus_too=bus_too)
                await play.when("clerk/dave", "go", kind="feedback", task=it.task)
            assert [await play.result(it) for it in sent] == list(range(4))
            starts = [it.meta.task for it in play.log if it.type == "task.started"]
            assert starts == [it.task for it in sent]


async def test_a_failed_task_does_not_keep_the_next_one() -> None:
    async def todo(number: int, ctx: Context) -> float:
        return 1 / number

    async with spec(actor("clerk", todo)) as play:
        sent = [await play.send("clerk/dave", number) for number in (0, 1)]
        with pytest.raises(TaskFailed, match="ZeroDivisionError"):
            await play.result(sent[0])
        assert await play.result(sent[1]) == 1.0


@pytest.mark.parametrize("turns", range(8))
async def test_a_branch_of_gather_leaves_no_trace_in_the_next_task(turns: int) -> None:
    class Store(SlowStore):
        TURNS = turns

    async def todo(ctx: Context) -> None:
        await ctx.gather(ctx.step(double, 1), ctx.step(double, 2))

    async def further(ctx: Context) -> None:
        await ctx.step(double, 3)

    async def either(first: bool, ctx: Context) -> None:
        await (todo if first else further)(ctx)

    async with spec(actor("clerk", either), store=Store) as play:
        for first in (True, False):
            await play.send("clerk/dave", first)
        await play.quiet()
        keys = [body.step for body in bodies(play.log, e.StepCompleted)]
        assert sorted(keys) == ["double#0", "gather#0[0]/double#0", "gather#0[1]/double#0"]


async def test_a_named_actor_that_asks_itself_is_freed_by_a_time_limit() -> None:
    async def todo(deep: bool, ctx: Context) -> Any:
        return await ctx.ask(ctx.actor, False, timeout_s=30) if deep else "reached"

    async with spec(actor("clerk", todo)) as play:
        sent = await play.when("clerk/dave", True)
        await play.advance(31)
        with pytest.raises(TaskFailed):
            await play.result(sent)


# -- slots -----------------------------------------------------------------------------------------------------------


async def test_no_more_tasks_than_slots_are_at_work() -> None:
    at_once = [0, 0]  # now, and the most

    async def work() -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        for _ in range(10):
            await asyncio.sleep(0)
        at_once[0] -= 1

    async with spec(worker(lambda ctx: ctx.step(work)), slots=3) as play:
        for _ in range(20):
            await play.send("worker", None)
        await play.quiet()
        assert play.types().count("task.completed") == 20
    assert at_once == [0, 3]


async def test_tasks_that_have_waited_hold_slots_again() -> None:
    at_once = [0, 0]  # now, and the most

    async def work() -> None:
        at_once[0] += 1
        at_once[1] = max(at_once)
        for _ in range(10):
            await asyncio.sleep(0)
        at_once[0] -= 1

    async def todo(ctx: Context) -> None:
        await ctx.receive("feedback")
        await ctx.step(work)

    async with spec(worker(todo), slots=3) as play:
        waiting = [await play.when("worker", None) for _ in range(20)]
        for sent in waiting:
            await play.send(sent.actor, None, kind="feedback", task=sent.task)
        await play.quiet()
        assert play.types().count("task.completed") == 20
    assert at_once == [0, 3]


async def test_tasks_that_wait_hold_no_slot() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.receive("feedback")

    async with spec(worker(todo), slots=1) as play:
        for _ in range(5):
            await play.when("worker", None)
        assert play.types().count("wait.started") == 5
        assert play.runtime.gate.free == 1


async def test_one_slot_is_enough_for_actors_that_ask_each_other() -> None:
    async def todo(depth: int, ctx: Context) -> int:
        return 1 + int(await ctx.ask("worker", depth - 1)) if depth else 0

    async with spec(worker(todo), slots=1) as play:
        assert await play.result(await play.when("worker", 5)) == 5


# -- the role's own machine ------------------------------------------------------------------------------------------


async def test_a_trigger_is_one_event_with_its_change() -> None:
    async with spec(Draft) as play:
        sent = await play.when("draft", ["submit"])
        play.then(
            event("task.started", role_state="draft"),
            event("state.changed", to="review", state="review"),
            "step.completed",
            event("task.completed", state="completed"),
        )
        assert await play.result(sent) == ["draft", "review"]


async def test_an_illegal_trigger_names_the_state_and_what_is_allowed() -> None:
    class Careful(Draft):
        role: ClassVar[str] = "draft"

        async def handle(self, triggers: list[str], ctx: Context) -> list[str | None]:
            try:
                await ctx.trigger(triggers[0])
            except IllegalTrigger as error:
                return [error.trigger, error.state, error.allowed]
            return []

    async with spec(Careful) as play:
        assert await play.result(await play.when("draft", ["accept"])) == ["accept", "draft", "reset, submit"]


async def test_the_state_lasts_over_the_tasks_of_a_named_actor() -> None:
    async with spec(Draft) as play:
        assert await play.result(await play.when("draft/one", ["submit"])) == ["draft", "review"]
        play.runtime.passivate(older_than_s=0)
        assert await play.result(await play.when("draft/one", ["accept"])) == ["review", "done"]
        assert await play.result(await play.when("draft/two", [])) == ["draft"]


async def test_the_state_lasts_over_a_crash() -> None:
    async with spec(Draft) as play:
        await play.when("draft/one", ["submit", "reject", "submit"])
        await play.crash(bus_too=True)
        assert await play.result(await play.when("draft/one", [])) == ["review"]


async def test_a_recorded_change_is_not_made_again() -> None:
    async with spec(Draft) as play:
        await play.when("draft", ["submit", "reject", "submit"])
        log = list(play.log)
    for length in range(2, len(log)):
        async with spec(Draft) as play:
            await play.given_log(log[:length])
            assert play.log[-1].data == b'{"result":["draft","review","draft","review"]}'
            assert [body.to for body in bodies(play.log, e.StateChanged)] == ["review", "draft", "review"]


async def test_a_trigger_of_a_role_without_states_is_illegal() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.trigger("submit")

    async with spec(worker(todo)) as play:
        with pytest.raises(TaskFailed, match="IllegalTrigger"):
            await play.result(await play.when("worker", None))


async def test_a_trigger_that_was_illegal_is_illegal_again_when_the_handler_runs_again() -> None:
    class Tries(Draft):
        async def handle(self, triggers: list[str], ctx: Context) -> list[str | None]:
            try:
                await ctx.trigger("reject")
            except IllegalTrigger:
                await ctx.trigger("submit")
            await ctx.receive("feedback")
            return [ctx.state]

    async with spec(Tries) as play:
        sent = await play.when("tries", [])
        await play.crash()
        await play.when(sent.actor, 1, kind="feedback", task=sent.task)
        assert await play.result(sent) == ["review"]


async def test_the_lifecycle_goes_on_beside_the_roles_machine() -> None:
    class Both(Draft):
        async def handle(self, triggers: list[str], ctx: Context) -> list[str | None]:
            await ctx.trigger("submit")
            await ctx.tool(double, number=1)
            return [ctx.state]

    async with spec(Both) as play:
        assert await play.result(await play.when("both", [])) == ["review"]
        states = [it.meta.state.dest for it in play.log if it.meta.state]
        assert states == ["thinking", "review", "executing", "thinking", "completed"]
