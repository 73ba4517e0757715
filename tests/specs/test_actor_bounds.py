"""What ends circles of roles that ask each other, or hand a task over, and what one run may have in all."""

from typing import Any

import pytest

from callboard import Actor, Caps, Context
from callboard.actors.task.bounds import RunTasks
from callboard.protocols import events as e
from callboard.protocols.errors import BadOption, TaskCanceled, TaskFailed, TooDeep, TooManyHandoffs, TooManyTasks
from callboard.testing import spec
from tests.actor_kit import Echo, actor, bodies, worker


async def test_a_task_is_handed_over_so_often_and_then_fails() -> None:
    async def ping(ctx: Context) -> Any:
        return await ctx.handoff("pong", None)

    async def pong(ctx: Context) -> Any:
        return await ctx.handoff("ping", None)

    async with spec(actor("ping", ping), actor("pong", pong)) as play:
        sent = await play.when("ping", None)
        assert play.types().count("task.handed_off") == 100
        with pytest.raises(TaskFailed, match="handed over 100 times"):
            await play.result(sent)
        [failed] = bodies(play.log, e.TaskFailed)
        assert failed.error.type == TooManyHandoffs.__name__


async def test_the_asker_of_a_task_that_is_handed_over_in_a_circle_gets_the_error() -> None:
    async def ping(ctx: Context) -> Any:
        return await ctx.handoff("ping", None)

    async with spec(worker(lambda ctx: ctx.ask("ping", None)), actor("ping", ping, caps=Caps(handoffs=3))) as play:
        sent = await play.when("worker", None)
        with pytest.raises(TaskFailed, match="handed over 3 times"):
            await play.result(sent)


async def test_a_role_that_asks_itself_comes_to_an_end() -> None:
    async def again(ctx: Context) -> Any:
        return await ctx.ask("worker", None)

    async with spec(worker(again)) as play:
        sent = await play.when("worker", None)
        assert play.types().count("question.asked") == 100
        with pytest.raises(TaskFailed, match="100 tasks below the first"):
            await play.result(sent)


async def test_roles_that_tell_each_other_come_to_an_end() -> None:
    async def again(ctx: Context) -> None:
        await ctx.tell("worker", None)

    async with spec(worker(again, caps=Caps(depth=5))) as play:
        await play.when("worker", None)
        assert play.types().count("message.sent") == 5
        [failed] = bodies(play.log, e.TaskFailed)
        assert failed.error.type == TooDeep.__name__


async def test_a_task_may_ask_for_so_many_others_also_when_it_is_taken_up_again() -> None:
    async def todo(ctx: Context) -> Any:
        for number in range(3):
            await ctx.ask("echo", number)
        await ctx.receive("feedback")
        return await ctx.ask("echo", 4)

    async with spec(worker(todo, caps=Caps(tasks=3)), Echo) as play:
        sent = await play.when("worker", None)
        await play.crash()
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        with pytest.raises(TaskFailed, match="its limit of 3 tasks"):
            await play.result(sent)


async def test_a_handler_may_do_without_what_is_too_deep() -> None:
    async def todo(ctx: Context) -> str:
        try:
            return str(await ctx.ask("worker", None))
        except TooDeep:
            return "deep enough"

    async with spec(worker(todo, caps=Caps(depth=3))) as play:
        assert await play.result(await play.when("worker", None)) == "deep enough"


async def test_a_run_has_so_many_tasks_and_no_more() -> None:
    async def tree(ctx: Context) -> Any:
        await ctx.gather(*(ctx.ask("worker", None, name=f"ask-{n}") for n in range(2)))

    async with spec(worker(tree)) as play:
        play.runtime.services.run_tasks = RunTasks(20)
        sent = await play.when("worker", None)
        assert len(bodies(play.log, e.QuestionAsked)) == 19
        assert TooManyTasks.__name__ in {body.error.type for body in bodies(play.log, e.TaskFailed)}
        assert play.types(sent.actor)[-1] in ("task.failed", "message.discarded")


def test_the_tasks_of_a_run_are_those_of_all_processes() -> None:
    here = RunTasks(10)
    here.open("r", 4)
    assert here.to_count() == ["r"]
    assert here.to_count() == []
    here.counted("r", 9)
    here.check("r", 1)
    with pytest.raises(TooManyTasks):
        here.check("r", 2)
    here.counted("r", 3)  # a count that lags behind
    with pytest.raises(TooManyTasks):
        here.check("r", 2)
    here.check("another", 9)


@pytest.mark.parametrize("bound", ["tasks", "depth", "handoffs"])
def test_a_bound_is_a_whole_number_or_none(bound: str) -> None:
    for allowed in (None, 1):
        assert getattr(Caps(**{bound: allowed}), bound) is allowed
    with pytest.raises(BadOption, match=bound):
        Caps(**{bound: 0})


# -- messages that nobody would get -------------------------------------------------------------------------------


class Desk(Actor):
    """A named actor that is done at once."""

    async def handle(self, payload: Any, ctx: Context) -> Any:
        return payload


@pytest.mark.parametrize("kind", ["feedback", "reply", "decision", "cancel", "timer", "assign"])
async def test_what_needs_a_task_can_not_be_told_without_one(kind: Any) -> None:
    async with spec(worker(lambda ctx: ctx.tell("desk", 1, kind=kind)), Desk) as play:
        sent = await play.when("worker", None)
        with pytest.raises(TaskFailed, match="kind"):
            await play.result(sent)
        assert play.types("desk") == []


@pytest.mark.parametrize("kind", ["reply", "cancel", "timer", "assign"])
async def test_only_what_a_task_can_receive_is_told_to_one(kind: Any) -> None:
    async with spec(worker(lambda ctx: ctx.tell("desk/d", 1, kind=kind, task="t")), Desk) as play:
        with pytest.raises(TaskFailed, match="BadOption"):
            await play.result(await play.when("worker", None))


@pytest.mark.parametrize("kind", ["feedback", "reply", "context-share", "artifact"])
async def test_what_has_no_answer_can_not_be_asked(kind: Any) -> None:
    async with spec(worker(lambda ctx: ctx.ask("desk", 1, kind=kind)), Desk) as play:
        with pytest.raises(TaskFailed, match="BadOption"):
            await play.result(await play.when("worker", None))


@pytest.mark.parametrize("kind", ["context-share", "artifact", "feedback"])
async def test_what_is_told_to_a_task_that_has_ended_is_discarded(kind: Any) -> None:
    async with spec(Desk) as play:
        first = await play.when("desk/d", 1)
        await play.when("desk/d", 2)
        await play.when("desk/d", 3, kind=kind, task=first.task, run=first.run)
        assert play.types("desk").count("task.started") == 2
        assert play.types("desk")[-1] == "message.discarded"


async def test_what_an_actor_tells_a_task_that_has_ended_is_discarded() -> None:
    async def teller(ctx: Context) -> None:
        await ctx.tell("desk/d", 3, task=first.task)

    async with spec(Desk, worker(teller)) as play:
        first = await play.when("desk/d", 1)
        await play.when("desk/d", 2)
        await play.when("worker", None)
        assert play.types("desk").count("task.started") == 2
        assert play.types("desk")[-1] == "message.discarded"


# -- a cancel that comes before its task ----------------------------------------------------------------------------


async def lose_the_opening(play: Any, to: str) -> Any:
    """Send a message that does not get through to its actor for now."""
    (sent,) = await play._append(to, 1, key=None, kind="assign")
    return sent


@pytest.mark.parametrize("to", ["desk", "desk/d"])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("crash", [False, True])
async def test_a_cancel_wins_that_comes_before_the_message_that_opens_its_task(
    to: str, before: int, crash: bool
) -> None:
    ran = []

    async def todo(payload: Any, ctx: Context) -> Any:
        ran.append(payload)
        return payload

    async with spec(actor("desk", todo)) as play:
        for _ in range(before):
            await play.when(to, 0)
        sent = await lose_the_opening(play, to)
        await play.cancel(sent, "never mind")
        await play.when("desk/d", 0)  # another task of the actor comes in between
        if crash:
            await play.crash()  # finds the message in the log
        else:
            await play.again(sent)
        with pytest.raises(TaskCanceled, match="never mind"):
            await play.result(sent)
    assert ran == [0] * (before + 1)


async def test_a_task_that_was_canceled_before_it_began_is_not_begun_by_a_message_that_comes_twice() -> None:
    async with spec(Desk) as play:
        sent = await lose_the_opening(play, "desk/d")
        await play.cancel(sent)
        for _ in range(3):
            await play.again(sent)
        assert play.types("desk") == ["task.cancel_requested", "task.canceled"]
        await play.cancel(sent)
        assert play.types("desk")[-1] == "message.discarded"


async def test_the_cancel_of_a_former_task_of_a_named_actor_is_discarded() -> None:
    async with spec(Desk) as play:
        first = await play.when("desk/d", 1)
        await play.when("desk/d", 2)
        await play.cancel(first)
        assert play.types("desk")[-1] == "message.discarded"


async def test_the_asker_of_a_task_that_was_canceled_before_it_began_is_told() -> None:
    async with spec(worker(lambda ctx: ctx.ask("desk/d", 1)), Desk) as play:
        sent = await play.send("worker", None)
        await play.until("task.started")
        play.bus.away = True  # what it asks does not get through
        await play.until("question.asked")
        await play.quiet()
        play.bus.away = False
        [asked] = bodies(play.log, e.QuestionAsked)
        await play.when("desk/d", "no", kind="cancel", task=asked.task, run=sent.run)
        await play.crash()
        with pytest.raises(TaskFailed, match="canceled: no"):
            await play.result(sent)
        assert "task.started" not in play.types("desk")
