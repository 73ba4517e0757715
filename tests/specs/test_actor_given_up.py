"""Steps that a handler goes on without, because their branch timed out or another one failed: none stays open."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from callboard import Actor, Context, Retry
from callboard.actors.models.call import Call
from callboard.actors.state.fold import TaskFold, fold
from callboard.actors.state.waits import StepState
from callboard.actors.task.function_calls import BREAKER
from callboard.actors.tools.policy import ToolPolicy
from callboard.protocols import events as e
from callboard.protocols.errors import StepFailed, TaskFailed
from callboard.protocols.states import WAITING
from callboard.testing import Play, ScriptedModels, event, spec
from tests.actor_kit import SlowStore, actor, bodies, double, worker

Branch = Callable[[Context], Awaitable[Any]]


async def hang() -> str:
    await asyncio.Event().wait()
    return ""


async def hear(ctx: Context) -> Any:
    return (await ctx.receive("feedback")).content


class HangingModels(ScriptedModels):
    """Never answers."""

    async def complete(self, call: Call, live: Any = None) -> Any:
        self.calls.append(call)
        await asyncio.Event().wait()


def danger(what: str) -> str:
    """Does something that a person has to approve."""
    return what


BRANCHES: dict[str, Branch] = {
    "step": lambda ctx: ctx.step(hang),
    "tool": lambda ctx: ctx.tool(hang),
    "model": lambda ctx: ctx.model("?"),
    "question": lambda ctx: ctx.ask("listener", 1),
    "timer": lambda ctx: ctx.sleep(1000),
    "wait": lambda ctx: ctx.receive("decision"),
}


TURNS = 300  # of the event loop, that a timeout takes which never sees its step begin: the step was given up before


def expire(limit: asyncio.Timeout, ctx: Context, turns: int = TURNS) -> None:
    """Let a timeout be over as soon as the handler waits for a step, or has one in flight."""
    work = ctx._live
    if turns and work is not None and not work.ended and not (work.effects or work.waiters):
        asyncio.get_running_loop().call_soon(expire, limit, ctx, turns - 1)
    elif not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


async def timed_out(ctx: Context, branch: Branch) -> None:
    try:
        async with asyncio.timeout(None) as limit:
            expire(limit, ctx)
            await branch(ctx)
    except TimeoutError:
        return
    raise AssertionError("it did not time out")


async def beside_a_failure(ctx: Context, branch: Branch) -> None:
    async def fail() -> None:
        for _ in range(30):
            await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await ctx.gather(branch(ctx), fail())


async def in_a_task_group(ctx: Context, branch: Branch) -> None:
    async def fail() -> None:
        for _ in range(30):
            await asyncio.sleep(0)
        raise ValueError("no")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch(ctx))  # type: ignore[arg-type]
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await both()


def task_in_log(play: Play, stream: str) -> TaskFold:
    current = fold([it for it in play.log if it.stream == stream]).current
    assert current is not None
    return current


def steps_of(task: TaskFold) -> dict[str, StepState]:
    return {key: step.state for key, step in task.steps.items()}


@pytest.mark.parametrize("way", [timed_out, beside_a_failure, in_a_task_group])
@pytest.mark.parametrize("form", BRANCHES)
async def test_a_step_whose_branch_is_cancelled_is_given_up(form: str, way: Callable[..., Awaitable[None]]) -> None:
    async def todo(ctx: Context) -> Any:
        await way(ctx, BRANCHES[form])
        return await hear(ctx)

    async with spec(worker(todo), actor("listener", hear), models=HangingModels()) as play:
        sent = await play.send("worker", None)
        await play.until("step.given_up")
        await play.quiet()
        task = task_in_log(play, sent.actor)
        assert [key for key, step in task.steps.items() if step.open] == ["receive:feedback#0"]
        assert [key for key, state in steps_of(task).items() if state is StepState.GIVEN_UP] != []
        cell = play.runtime.cell(sent.actor)
        assert cell is not None
        assert cell.fold is not None
        assert cell.fold.current is not None
        assert steps_of(cell.fold.current) == steps_of(task)
        written = len(play.log)
        for _ in range(5):
            await play.crash()
            play.passivate()
            await play.quiet()
        assert len(play.log) <= written + 2  # at most once: that it only waits
        assert "task.resumed" not in play.types("worker")[-3:]
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == "go"
        if form == "question":
            assert play.types("listener")[-1] == "task.canceled"


async def test_what_a_question_asked_for_is_told_to_stop_and_its_late_answer_is_discarded() -> None:
    done = asyncio.Event()

    async def slow(ctx: Context) -> str:
        try:
            await ctx.step(hang)
        finally:
            await done.wait()
        return ""

    async def todo(ctx: Context) -> Any:
        await timed_out(ctx, lambda ctx: ctx.ask("slow", 1))
        return await hear(ctx)

    async with spec(worker(todo), actor("slow", slow)) as play:
        sent = await play.send("worker", None)
        await play.until("task.cancel_requested")
        [given_up] = [it for it in play.log if it.type == e.StepGivenUp.TYPE]
        assert [(it.kind, it.role) for it in given_up.meta.sends] == [("cancel", "slow")]
        done.set()
        await play.until("message.discarded")
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == "go"
        assert play.types("worker").count("question.asked") == 1


async def test_a_receive_that_timed_out_takes_no_message() -> None:
    async def todo(ctx: Context) -> list[Any]:
        for _ in range(3):
            await timed_out(ctx, hear)
        return [await hear(ctx), await hear(ctx)]

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("step.given_up", 3)
        await play.when(sent.actor, 1, kind="feedback", task=sent.task, run=sent.run)
        await play.crash()
        await play.when(sent.actor, 2, kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == [1, 2]


async def test_a_handler_goes_the_same_way_again_at_a_step_that_it_gave_up() -> None:
    calls = []

    async def quick_the_second_time() -> str:
        calls.append(1)
        return await hang() if len(calls) == 1 else "quick"

    async def todo(ctx: Context) -> list[Any]:
        try:
            async with asyncio.timeout(None) as limit:
                expire(limit, ctx)
                first = await ctx.tool(quick_the_second_time)
        except TimeoutError:
            first = "late"
        return [first, await ctx.step(double, 4, name=f"after-{first}"), await hear(ctx)]

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("wait.started")
        await play.crash()
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == ["late", 8, "go"]
    assert len(calls) == 1


async def test_the_next_try_of_a_handler_does_what_was_given_up_anew() -> None:
    tries = []

    async def todo(ctx: Context) -> Any:
        async def flaky() -> None:
            tries.append(1)
            if len(tries) == 1:
                for _ in range(30):
                    await asyncio.sleep(0)
                raise ConnectionError("down")

        return (await ctx.gather(ctx.ask("listener", 1), ctx.step(flaky)))[0]

    async with spec(worker(todo, retry=Retry(attempts=3)), actor("listener", hear)) as play:
        sent = await play.when("worker", None)
        await play.advance(60)
        first, second = bodies(play.log, e.QuestionAsked)
        assert first.task != second.task
        await play.when(second.to, "hello", kind="feedback", task=second.task, run=sent.run)
        assert await play.result(sent) == "hello"
        assert play.types(first.to)[-1] == "task.canceled"


@pytest.mark.parametrize("turns", range(8))
async def test_a_model_call_that_is_cancelled_while_it_is_reserved_is_the_same_in_memory_and_in_the_log(
    turns: int,
) -> None:
    async def todo(ctx: Context) -> Any:
        async def fail() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await ctx.gather(ctx.model("?"), fail())
        return await hear(ctx)

    async with spec(worker(todo), models=HangingModels(), store=SlowStore) as play:
        sent = await play.send("worker", None)
        await play.until("wait.started")
        await play.quiet()
        cell = play.runtime.cell(sent.actor)
        assert cell is not None
        assert cell.fold is not None
        assert cell.fold.current is not None
        there = task_in_log(play, sent.actor)
        assert steps_of(cell.fold.current) == steps_of(there)
        assert cell.fold.current.open == there.open
        assert cell.fold.state == fold([it for it in play.log if it.stream == sent.actor]).state
        assert not there.open_steps("model")


async def test_an_approval_that_nobody_waits_for_any_more_is_no_longer_listed() -> None:
    no_longer = asyncio.Event()

    class Careful(Actor):
        tools = (danger,)

        async def handle(self, payload: Any, ctx: Context) -> Any:
            asking = asyncio.create_task(ctx.run_tools("?"))
            await no_longer.wait()
            asking.cancel()
            return await hear(ctx)

    policies = [ToolPolicy(tool="danger", action="approve")]
    models = [[("danger", {"what": "it"})]]
    async with spec(Careful, models=models, tool_policies=policies) as play:
        sent = await play.send("careful", None)
        await play.until("approval.requested")
        no_longer.set()
        await play.until("wait.started")
        await play.quiet()
        task = task_in_log(play, sent.actor)
        assert [step.form for _, step in task.open_steps("review", "wait")] == ["wait"]


async def test_a_probe_of_a_circuit_breaker_that_is_given_up_leaves_the_next_call_its_turn() -> None:
    calls: list[str] = []

    async def flaky(how: str) -> str:
        calls.append(how)
        if how == "fail":
            raise ConnectionError("down")
        return await hang() if how == "hang" else how

    async def todo(ctx: Context) -> Any:
        for _ in range(BREAKER.threshold):
            with pytest.raises(StepFailed):
                await ctx.tool(flaky, how="fail")
        await ctx.sleep(BREAKER.open_s + 1)
        await timed_out(ctx, lambda ctx: ctx.tool(flaky, how="hang"))
        await ctx.step(double, 1)  # meanwhile the breaker is told
        return await ctx.tool(flaky, how="well")

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.advance(BREAKER.open_s + 2)
        assert await play.result(sent) == "well"


# -- what a task leaves behind at its end ---------------------------------------------------------------------------


async def asks_and(ctx: Context, then: Callable[[], Awaitable[Any]]) -> Any:
    """A handler that leaves a question behind in an asyncio task of its own."""
    asking = asyncio.create_task(ctx.ask("listener", 1))
    for _ in range(30):
        await asyncio.sleep(0)
    result = await then()
    assert not asking.done()
    return result


async def nothing() -> str:
    return "done"


async def fail_of_an_error() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("then", [nothing, fail_of_an_error])
async def test_the_end_of_a_task_ends_what_it_has_asked_for(then: Callable[[], Awaitable[Any]]) -> None:
    async with spec(worker(lambda ctx: asks_and(ctx, then)), actor("listener", hear)) as play:
        sent = await play.when("worker", None)
        [end] = [it for it in play.log if it.stream == sent.actor and it.type in e.ENDS_TASK]
        assert end.type == ("task.completed" if then is nothing else "task.failed")
        assert [it.kind for it in end.meta.sends] == ["cancel"]
        assert play.types("listener")[-1] == "task.canceled"


async def test_a_deadline_ends_what_a_task_has_asked_for_and_all_below_it() -> None:
    async def below(ctx: Context) -> Any:
        return await ctx.ask("listener", 1)

    async with spec(worker(lambda ctx: ctx.ask("below", 1)), actor("below", below), actor("listener", hear)) as play:
        sent = await play.when("worker", None)
        cell = play.runtime.cell(sent.actor)
        assert cell is not None
        assert cell.work is not None
        cell.work.fail(TimeoutError("it took too long"))
        await play.quiet()
        assert "task.canceled" in play.types("below")
        assert "task.canceled" in play.types("listener")
        with pytest.raises(TaskFailed, match="too long"):
            await play.result(sent)


async def test_a_question_is_told_to_stop_once() -> None:
    async with spec(worker(lambda ctx: ctx.ask("listener", 1)), actor("listener", hear)) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent)
        sends = [it.kind for event in play.log if event.stream == sent.actor for it in event.meta.sends]
        assert sends.count("cancel") == 1


# -- branches that go on ---------------------------------------------------------------------------------------------


async def by_gather(ctx: Context, one: Any, other: Any) -> Any:
    return await ctx.gather(one, other)


async def by_asyncio_gather(_ctx: Context, one: Any, other: Any) -> Any:
    return await asyncio.gather(one, other)


async def by_task_group(_ctx: Context, one: Any, other: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        first, second = group.create_task(one), group.create_task(other)
    return [first.result(), second.result()]


async def by_a_task_of_its_own(_ctx: Context, one: Any, other: Any) -> Any:
    second = asyncio.create_task(other)
    return [await one, await second]


async def by_wait(_ctx: Context, one: Any, other: Any) -> Any:
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    await asyncio.wait(tasks)
    return [task.result() for task in tasks]


@pytest.mark.parametrize("side_by_side", [by_gather, by_asyncio_gather, by_task_group, by_a_task_of_its_own, by_wait])
async def test_a_task_one_branch_of_which_goes_on_is_not_dropped_and_is_resumed_after_a_crash(
    side_by_side: Callable[..., Awaitable[Any]],
) -> None:
    gate = asyncio.Event()

    async def goes_on(ctx: Context) -> int:
        await gate.wait()  # no step: the log knows nothing of it
        return int(await ctx.step(double, 2))

    async def todo(ctx: Context) -> Any:
        return await side_by_side(ctx, hear(ctx), goes_on(ctx))

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("wait.started")
        for _ in range(20):
            await asyncio.sleep(0)
        assert play.passivate() == 0
        actor_in_log = fold([it for it in play.log if it.stream == sent.actor])
        assert actor_in_log.state not in WAITING
        await play.kill()
        await play.restart(wait=False)
        await play.until("task.resumed")
        gate.set()
        await play.until("step.completed")
        await play.quiet()
        play.passivate()  # now all that is left only waits
        await play.quiet()
        assert not play.runtime.hosts(sent.actor)
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == ["go", 4]


@pytest.mark.parametrize("side_by_side", [by_gather, by_asyncio_gather, by_task_group, by_a_task_of_its_own, by_wait])
async def test_a_task_all_branches_of_which_wait_holds_no_slot(side_by_side: Callable[..., Awaitable[Any]]) -> None:
    async def todo(ctx: Context) -> Any:
        return await side_by_side(ctx, hear(ctx), ctx.sleep(1000))

    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        assert not play.runtime.busy
        assert play.passivate() == 1


async def test_an_asyncio_task_that_a_library_creates_in_an_effect_is_no_branch() -> None:
    created = []

    async def library() -> str:
        created.append(asyncio.create_task(asyncio.Event().wait()))
        return "ok"

    async def todo(ctx: Context) -> Any:
        await ctx.step(library)
        return await hear(ctx)

    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        assert play.passivate() == 1
        play.then("task.started", "step.completed", event("wait.started", state="waiting_input"))
    assert not created[0].done()
    created[0].cancel()


async def test_a_branch_that_begins_to_wait_for_the_others_last_holds_no_slot() -> None:
    async def todo(ctx: Context) -> Any:
        hearing = asyncio.create_task(hear(ctx))
        for _ in range(100):
            await asyncio.sleep(0)
        return await hearing

    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        assert not play.runtime.busy


@pytest.mark.parametrize("number", [50, 300])
async def test_a_gather_of_many_steps_that_wait_holds_no_slot(number: int) -> None:
    async with spec(worker(lambda ctx: ctx.gather(*(ctx.sleep(5) for _ in range(number))))) as play:
        await play.when("worker", None)
        assert not play.runtime.busy
