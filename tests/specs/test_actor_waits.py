"""Waiting: timers, messages for the task at work, deadlines, and actors that are dropped from memory meanwhile."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from callboard import Actor, Context
from callboard.actors.roles.definition import Definition
from callboard.protocols import events as e
from callboard.protocols.errors import Detached, TaskFailed
from callboard.testing import event, spec
from tests.actor_kit import Echo, actor, bodies, log_of, up_to, worker


async def nap(ctx: Context) -> str:
    await ctx.sleep(60)
    return "awake"


async def hear(kind: Any, ctx: Context) -> Any:
    received = await ctx.receive(kind, note="the editor's word")
    return [received.kind, received.sender.partition("/")[0], received.content]


# -- sleep -----------------------------------------------------------------------------------------------------------


async def test_a_sleep_is_a_timer_in_the_log() -> None:
    async with spec(worker(nap)) as play:
        sent = await play.when("worker", None)
        play.then("task.started", event("timer.set", step="sleep#0", state="blocked"))
        assert bodies(play.log, e.TimerSet)[0].due_at == play.clock.now() + timedelta(seconds=60)
        await play.advance(59.9)
        play.then()
        await play.advance(0.1)
        play.then(event("timer.fired", handles=True, state="thinking"), event("task.completed", result="awake"))
        assert await play.result(sent) == "awake"


async def test_time_goes_on_while_nothing_runs() -> None:
    log = await log_of(nap)
    async with spec(worker(nap)) as play:
        play.clock.advance(3600)
        await play.given_log(log)
        assert play.types("worker")[-2:] == ["timer.fired", "task.completed"]


async def test_a_timer_outlives_a_crash_and_a_bus_that_forgets() -> None:
    async with spec(worker(nap)) as play:
        sent = await play.when("worker", None)
        await play.advance(30)
        await play.crash(bus_too=True)
        await play.advance(29)
        assert play.types("worker") == ["task.started", "timer.set"]
        await play.advance(1)
        assert await play.result(sent) == "awake"
        assert play.types("worker") == ["task.started", "timer.set", "timer.fired", "task.completed"]


async def test_sleeps_in_a_row_each_take_their_time() -> None:
    async def todo(ctx: Context) -> list[float]:
        begun = await ctx.step(lambda: play.clock.monotonic(), name="begun")
        for _ in range(3):
            await ctx.sleep(20)
        return [begun, await ctx.step(lambda: play.clock.monotonic(), name="ended")]

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.advance(100)
        assert await play.result(sent) == [0, 60]


async def test_sleeps_side_by_side_take_the_longest_ones_time() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.gather(*(ctx.sleep(seconds) for seconds in (30, 10, 20)))

    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        await play.advance(29)
        assert "task.completed" not in play.types()
        await play.advance(1)
        assert "task.completed" in play.types()


# -- receive ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("feedback", "waiting_input"),
        ("context-share", "waiting_input"),
        ("artifact", "waiting_input"),
        ("decision", "waiting_review"),
    ],
)
async def test_a_task_waits_for_a_message_of_a_kind(kind: Any, state: str) -> None:
    async with spec(worker(hear)) as play:
        sent = await play.when("worker", kind)
        play.then("task.started", event("wait.started", kind=kind, note="the editor's word", state=state))
        await play.when(sent.actor, {"fine": True}, kind=kind, task=sent.task)
        play.then(
            event("message.received", kind=kind, step=f"receive:{kind}#0", handles=True, state="thinking"),
            event("task.completed", result=[kind, "run", {"fine": True}]),
        )


async def test_a_message_that_came_before_anybody_waited_is_not_lost() -> None:
    async def todo(ctx: Context) -> list[Any]:
        await ctx.ask("slow", None)
        return [(await ctx.receive("feedback")).content, (await ctx.receive("feedback")).content]

    async with spec(worker(todo), actor("slow", nap)) as play:
        sent = await play.when("worker", None)
        await play.when(sent.actor, "early", kind="feedback", task=sent.task)
        play.then(event("message.received", step=None))
        await play.advance(60)
        await play.when(sent.actor, "late", kind="feedback", task=sent.task)
        assert await play.result(sent) == ["early", "late"]


async def test_a_message_of_another_kind_does_not_end_the_wait() -> None:
    async with spec(worker(hear)) as play:
        sent = await play.when("worker", "decision")
        await play.when(sent.actor, "hm", kind="feedback", task=sent.task)
        play.then(event("message.received", step=None))
        await play.when(sent.actor, "yes", kind="decision", task=sent.task)
        assert (await play.result(sent))[2] == "yes"


async def test_a_decision_may_name_the_step_that_waits_for_it() -> None:
    async with spec(worker(hear)) as play:
        sent = await play.when("worker", "decision")
        await play.when(sent.actor, "yes", kind="decision", task=sent.task, step="receive:decision#0")
        assert (await play.result(sent))[2] == "yes"


async def test_branches_that_receive_each_get_a_message() -> None:
    async def todo(ctx: Context) -> list[Any]:
        received = await ctx.gather(*(ctx.receive("feedback") for _ in range(3)))
        return [it.content for it in received]

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        for number in range(3):
            await play.when(sent.actor, number, kind="feedback", task=sent.task)
            await play.crash()
        assert await play.result(sent) == [0, 1, 2]


async def test_what_was_received_comes_back_after_a_crash() -> None:
    async def todo(ctx: Context) -> list[Any]:
        first = (await ctx.receive("feedback")).content
        return [first, (await ctx.receive("feedback")).content]

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.when(sent.actor, "x" * 20_000, kind="feedback", task=sent.task)
        await play.crash(bus_too=True)
        await play.when(sent.actor, "two", kind="feedback", task=sent.task)
        assert await play.result(sent) == ["x" * 20_000, "two"]


# -- deadlines -------------------------------------------------------------------------------------------------------


async def test_a_task_that_misses_its_deadline_fails() -> None:
    async with spec(worker(nap)) as play:
        sent = await play.when("worker", None, deadline=play.clock.now() + timedelta(seconds=10))
        await play.advance(10)
        play.then("task.started", "timer.set", event("task.failed", state="failed", handles=True))
        with pytest.raises(TaskFailed, match=r"DeadlineExceeded: worker<.*did not end before its deadline"):
            await play.result(sent)


async def test_a_deadline_finds_a_task_that_is_not_in_memory() -> None:
    async with spec(worker(nap)) as play:
        sent = await play.when("worker", None, deadline=play.clock.now() + timedelta(seconds=40))
        await play.crash()
        assert repr(play.runtime).startswith("Runtime(test-2: 0 actors")
        await play.advance(40)
        with pytest.raises(TaskFailed, match="DeadlineExceeded"):
            await play.result(sent)


async def test_a_deadline_ends_a_step_that_runs() -> None:
    running = asyncio.Event()

    async def forever() -> None:
        running.set()
        await asyncio.Event().wait()

    async with spec(worker(lambda ctx: ctx.step(forever))) as play:
        sent = await play.send("worker", None, deadline=play.clock.now() + timedelta(seconds=5))
        await running.wait()
        play.clock.advance(5)
        with pytest.raises(TaskFailed, match="DeadlineExceeded"):
            await play.result(sent)


async def test_a_deadline_of_a_task_that_has_ended_is_discarded() -> None:
    async with spec(Echo) as play:
        sent = await play.when("echo", 1, deadline=play.clock.now() + timedelta(seconds=5))
        await play.advance(6)
        play.then("task.started", "task.completed", event("message.discarded", kind="timer"))
        assert await play.result(sent) == 1


async def test_a_question_with_a_time_limit_fails_in_time() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.ask("slow", None, timeout_s=30)
        except TaskFailed as error:
            return error.type
        return ""

    async with spec(worker(todo), actor("slow", nap)) as play:
        sent = await play.when("worker", None)
        await play.advance(30)
        assert await play.result(sent) == "DeadlineExceeded"


async def test_a_question_with_a_time_limit_fails_in_time_even_if_nobody_serves_the_role() -> None:
    async def todo(ctx: Context) -> list[str]:
        try:
            await ctx.ask("absent", None, timeout_s=30)
        except TaskFailed as error:
            return [error.type, error.actor.partition("/")[0]]
        return []

    async with spec(worker(todo)) as play:
        await play.directory.register(Definition(actor("absent", nap)), 1)
        sent = await play.when("worker", None)
        await play.advance(30)
        assert await play.result(sent) == ["DeadlineExceeded", "absent"]


async def test_a_time_limit_that_was_kept_leaves_nothing_behind() -> None:
    async def todo(ctx: Context) -> Any:
        return await ctx.ask("echo", 1, timeout_s=30)

    async with spec(worker(todo), Echo) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == 1
        await play.advance(31)
        play.then("task.started", "question.asked", "question.answered", "task.completed", "message.discarded")
        assert not list(play._open())


async def test_a_question_has_no_longer_than_its_asker() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.ask("slow", None, timeout_s=30)

    async with spec(worker(todo), actor("slow", nap)) as play:
        deadline = play.clock.now() + timedelta(seconds=20)
        await play.when("worker", None, deadline=deadline)
        assert {m.deadline for it in play.log for m in it.meta.sends if m.kind == "assign"} == {deadline}


# -- passivation -----------------------------------------------------------------------------------------------------


async def test_an_actor_that_waits_is_dropped_and_comes_back_by_its_message() -> None:
    runs = []

    async def todo(ctx: Context) -> Any:
        runs.append(ctx.attempt)
        await ctx.step(lambda: 1, name="one")
        return (await ctx.receive("feedback")).content

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        assert play.passivate() == 1
        assert "0 actors" in repr(play.runtime)
        await play.when(sent.actor, "back", kind="feedback", task=sent.task)
        assert await play.result(sent) == "back"
        assert runs == [1, 1]
        assert "task.resumed" not in play.types()


async def test_actors_are_dropped_after_a_while() -> None:
    async with spec(worker(hear), Echo) as play:
        await play.when("worker", "feedback")
        await play.when("echo/dave", 1)
        assert "2 actors" in repr(play.runtime)
        await play.advance(30)
        assert "2 actors" in repr(play.runtime)
        await play.advance(31)
        assert "0 actors" in repr(play.runtime)


async def test_an_actor_of_one_task_is_dropped_when_the_task_ends() -> None:
    async with spec(Echo) as play:
        await play.when("echo", 1)
        assert "0 actors" in repr(play.runtime)


async def test_a_late_message_does_not_keep_others_in_memory() -> None:
    async with spec(Echo) as play:
        first = await play.when("echo/ada", 1)
        await play.when("echo/bob", 1)
        await play.advance(50)
        await play.when("echo/ada", "late", kind="feedback", task=first.task)
        await play.advance(15)
        assert "1 actors" in repr(play.runtime)


async def test_a_context_can_not_be_used_after_its_actor_was_dropped() -> None:
    seen: list[Any] = []

    async def todo(ctx: Context) -> Any:
        try:
            return (await ctx.receive("feedback")).content
        finally:
            for call in (lambda: ctx.step(lambda: 1, name="late"), lambda: ctx.tell("worker", 1), lambda: ctx.sleep(1)):
                try:
                    await call()
                except Detached as error:
                    seen.append(error.task)

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        play.passivate()
        await play.quiet()
        assert seen == [sent.task] * 3
        play.then("task.started", "wait.started")
        await play.when(sent.actor, 1, kind="feedback", task=sent.task)
        assert play.types("worker")[:4] == ["task.started", "wait.started", "message.received", "step.completed"]


async def test_a_handler_that_asks_in_its_finally_ends_well() -> None:
    class Tidy(Actor):
        async def handle(self, payload: Any, ctx: Context) -> str:
            try:
                return str(await ctx.ask("echo", "work"))
            finally:
                await ctx.ask("echo", "tidy up")

    async with spec(Tidy, Echo) as play:
        sent = await play.when("tidy", None)
        assert await play.result(sent) == "work"


async def test_an_actor_that_is_dropped_while_it_waits_for_several_keeps_their_order() -> None:
    async def todo(ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.ask("slow", 1), ctx.ask("echo", 2), ctx.sleep(30))

    async with spec(worker(todo), actor("slow", nap), Echo) as play:
        sent = await play.when("worker", None)
        play.passivate()
        await play.advance(30)
        play.passivate()
        await play.advance(30)
        assert await play.result(sent) == ["awake", 2, None]


async def test_given_a_past_a_task_goes_on_behind_it() -> None:
    async def todo(ctx: Context) -> list[Any]:
        return [await ctx.step(lambda: 1, name="one"), await ctx.step(lambda: 2, name="two")]

    async with spec(worker(todo)) as play:
        past = e.StepCompleted(step="one#0", fingerprint="", result=e.Stored(inline=e.Raw(b'"recorded"')))
        sent = await play.given("worker", None, past)
        play.then("task.resumed", "step.completed", event("task.completed", result=["recorded", 2]))
        assert await play.result(sent) == ["recorded", 2]


def test_the_beginning_of_a_log_ends_with_the_event() -> None:
    with pytest.raises(StopIteration):
        up_to([], "task.started")
