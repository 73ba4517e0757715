"""Actors that ask, answer, hand off, tell and cancel each other."""

import asyncio
from typing import Any

import pytest

from callboard import Actor, Context, Handoff, Struct
from callboard.protocols import events as e
from callboard.protocols.errors import BadName, StepInputChanged, TaskCanceled, TaskFailed, UnknownRole, UnknownTopic
from callboard.protocols.ports import Delivery
from callboard.testing import event, spec
from tests.actor_kit import Echo, actor, bodies, log_of, result_of, up_to, worker


class Review(Struct):
    notes: str


async def ask_echo(ctx: Context) -> Any:
    return await ctx.ask("echo", {"a": 1})


async def wait_for_ever(ctx: Context) -> Any:
    return (await ctx.receive("feedback")).content


Waiter = actor("waiter", wait_for_ever)


def failing(error: Exception) -> type[Actor]:
    async def handle(ctx: Context) -> None:
        raise error

    return actor("failing", handle)


# -- ask and answer --------------------------------------------------------------------------------------------------


async def test_an_answer_comes_as_the_type_that_was_asked_for() -> None:
    async def reviewer(ctx: Context) -> Review:
        return Review("fine")

    async def todo(ctx: Context) -> bool:
        return await ctx.ask("reviewer", None, returns=Review) == Review("fine")

    assert await result_of(todo, None, actor("reviewer", reviewer)) is True


async def test_a_question_may_go_to_a_named_actor() -> None:
    async def who(ctx: Context) -> str:
        return ctx.actor

    async def todo(ctx: Context) -> list[str]:
        return [await ctx.ask("who", None, key="dave"), await ctx.ask("who/anna", None)]

    assert await result_of(todo, None, actor("who", who)) == ["who/dave", "who/anna"]


async def test_an_unknown_role_is_named_together_with_the_known_ones() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.ask("nobody", 1)
        except UnknownRole as error:
            return f"{error.role} {error.known}"
        return ""

    assert await result_of(todo) == "nobody worker"


async def test_a_topic_can_not_be_asked() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.ask("topic/news", 1)

    with pytest.raises(TaskFailed, match="BadName"):
        await result_of(todo)


async def test_an_answer_comes_back_to_an_actor_that_was_dropped_from_memory() -> None:
    async with spec(worker(lambda ctx: ctx.ask("waiter", None)), Waiter) as play:
        sent = await play.when("worker", None)
        assert play.passivate() == 2
        (asked,) = bodies(play.log, e.QuestionAsked)
        await play.when(asked.to, "go on", kind="feedback", task=asked.task)
        assert await play.result(sent) == "go on"


async def test_a_late_answer_is_discarded() -> None:
    async with spec(worker(ask_echo), Echo) as play:
        sent = await play.when("worker", None)
        late = await play.when(sent.actor, "late", kind="reply", task=sent.task, step="ask:echo#0")
        play.then(event("message.discarded", kind="reply", reason="its task has ended", handles=True))
        assert play.log[-1].meta.handles == late.message


async def test_an_answer_to_a_step_that_has_one_is_discarded() -> None:
    async def todo(ctx: Context) -> Any:
        await ctx.ask("echo", 1)
        return (await ctx.receive("feedback")).content

    async with spec(worker(todo), Echo) as play:
        sent = await play.when("worker", None)
        await play.when(sent.actor, "again", kind="reply", task=sent.task, step="ask:echo#0")
        play.then(event("message.discarded", reason="nothing waits for it any more"))
        await play.when(sent.actor, "again", kind="reply", task=sent.task, step="no such step")
        play.then(event("message.discarded", reason="nothing waits for it any more"))
        await play.when(sent.actor, "fine", kind="feedback", task=sent.task)
        assert await play.result(sent) == "fine"


async def test_an_answer_that_comes_twice_is_handled_once() -> None:
    async def todo(ctx: Context) -> Any:
        await ctx.ask("echo", 1)
        return (await ctx.receive("feedback")).content

    async with spec(worker(todo), Echo) as play:
        await play.when("worker", None)
        before = len(play.log)
        (reply,) = [m for it in play.log for m in it.meta.sends if m.kind == "reply"]
        echo = next(it for it in play.log if it.meta.sends and it.meta.sends[0].kind == "reply")
        play.bus.publish([await play.store.message(f"{echo.stream}@{echo.version}.0")], again=True)
        await play.quiet()
        assert len(play.log) == before
        assert await play.bus.backlog("worker") == {0: 0}
        assert reply.step == "ask:echo#0"


async def test_a_task_that_comes_twice_is_done_once() -> None:
    async with spec(Echo) as play:
        sent = await play.when("echo", 1)
        before = len(play.log)
        await play.again(sent)
        assert len(play.log) == before
        assert await play.bus.backlog("echo") == {0: 0}


async def test_a_recorded_question_is_not_asked_again() -> None:
    log = await log_of(ask_echo, None, Echo)
    async with spec(worker(ask_echo), Echo) as play:
        await play.given_log(up_to(log, "question.asked"))
        assert play.types("worker")[-2:] == ["question.answered", "task.completed"]
        assert len(bodies(play.log, e.QuestionAsked)) == 1


async def test_another_question_at_the_same_place_fails_the_task() -> None:
    log = await log_of(ask_echo, None, Echo)

    async def other(ctx: Context) -> Any:
        return await ctx.ask("echo", {"a": 2})

    async with spec(worker(other), Echo) as play:
        await play.given_log(up_to(log, "question.answered"))
        (failed,) = bodies(play.log, e.TaskFailed)
        assert failed.error.type == StepInputChanged.__name__


async def test_questions_side_by_side_are_answered_in_their_order() -> None:
    async def todo(ctx: Context) -> list[int]:
        return await ctx.gather(*(ctx.ask("echo", n) for n in range(10)), limit=3)

    assert await result_of(todo, None, Echo) == list(range(10))


async def test_a_failed_question_of_gather_is_raised_as_it_is() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.gather(ctx.ask("echo", 1), ctx.ask("failing", 2))
        except TaskFailed as error:
            return error.message
        return ""

    assert await result_of(todo, None, Echo, failing(ValueError("no"))) == "no"


async def test_large_questions_and_answers_go_by_reference() -> None:
    async def todo(ctx: Context) -> int:
        return len(await ctx.ask("echo", "x" * 20_000))

    async with spec(worker(todo), Echo) as play:
        await play.when("worker", None)
        (answered,) = bodies(play.log, e.QuestionAnswered)
        assert answered.result.message is not None
        assert play.log[-1].data == b'{"result":20000}'


async def test_what_is_large_goes_by_reference_also_if_it_comes_whole() -> None:
    async with spec(Waiter) as play:
        sent = await play.when("waiter", None)
        late = await play.send(sent.actor, "x" * 20_000, kind="feedback", task=sent.task)
        play.bus.lose()
        (tenure,) = play.runtime.partitions
        play.runtime.deliver(Delivery(await play.store.message(late.message), tenure, "", fresh=False))
        await play.quiet()
        (received,) = bodies(play.log, e.MessageReceived)
        assert received.content == e.Stored(message=late.message)
        assert await play.result(sent) == "x" * 20_000


# -- handoff ---------------------------------------------------------------------------------------------------------


async def test_who_asked_first_gets_the_answer_of_the_last_holder() -> None:
    async def desk(ctx: Context) -> Handoff:
        return await ctx.handoff("clerk", "take it")

    async def clerk(payload: str, ctx: Context) -> Handoff:
        return await ctx.handoff("expert", f"{payload} please")

    async def expert(payload: str, ctx: Context) -> str:
        return f"{payload}: done, {ctx.kind}"

    async with spec(
        worker(lambda ctx: ctx.ask("desk", None)), actor("desk", desk), actor("clerk", clerk), actor("expert", expert)
    ) as play:
        sent = await play.when("worker", None)
        play.then(
            "task.started",
            event("question.asked", step="ask:desk#0"),
            event("question.answered", result="take it please: done, handoff"),
            "task.completed",
        )
        assert await play.result(sent) == "take it please: done, handoff"
        play_of = [it for it in play.log if it.type == "task.handed_off"]
        assert [it.stream.partition("/")[0] for it in play_of] == ["desk", "clerk"]
        assert [m.kind for it in play_of for m in it.meta.sends] == ["handoff", "handoff"]
        (question,) = [it for it in play.log if it.type == "question.asked"]
        (reply,) = [m for it in play.log for m in it.meta.sends if m.kind == "reply"]
        assert reply.correlation == f"{question.stream}@{question.version}.0"


async def test_a_result_from_outside_follows_a_handoff() -> None:
    async def desk(ctx: Context) -> Handoff:
        return await ctx.handoff("echo", "here")

    async with spec(actor("desk", desk), Echo) as play:
        assert await play.result(await play.when("desk", None)) == "here"


async def test_a_failed_handoff_reaches_who_asked_first() -> None:
    async def desk(ctx: Context) -> Handoff:
        return await ctx.handoff("failing", "here")

    async def todo(ctx: Context) -> str:
        try:
            return str(await ctx.ask("desk", None))
        except TaskFailed as error:
            return error.message

    assert await result_of(todo, None, actor("desk", desk), failing(ValueError("no"))) == "no"


async def test_a_handoff_to_nobody_fails_the_task() -> None:
    async def desk(ctx: Context) -> Handoff:
        return await ctx.handoff("nobody", None)

    with pytest.raises(TaskFailed, match="UnknownRole"):
        await result_of(desk)


async def test_a_cancel_follows_a_handoff() -> None:
    async def desk(ctx: Context) -> Handoff:
        return await ctx.handoff("waiter", None)

    async with spec(worker(lambda ctx: ctx.ask("desk", None)), actor("desk", desk), Waiter) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent)
        assert play.types("waiter")[-1] == "task.canceled"


# -- tell ------------------------------------------------------------------------------------------------------------


async def test_what_is_told_to_a_topic_reaches_every_subscriber() -> None:
    heard = []

    async def hear(payload: str, ctx: Context) -> None:
        heard.append((ctx.actor.partition("/")[0], payload, ctx.kind))

    ears = [actor(role, hear, topics=("news",)) for role in ("ada", "bob")]
    async with spec(worker(lambda ctx: ctx.tell("topic/news", "hear hear")), *ears, Echo) as play:
        await play.when("worker", None)
        play.then("task.started", "message.sent", "task.completed")
        assert sorted(heard) == [("ada", "hear hear", "context-share"), ("bob", "hear hear", "context-share")]
        assert play.types("echo") == []


async def test_a_topic_that_nobody_takes_is_an_error() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.tell("topic/nothing", 1)
        except UnknownTopic as error:
            return error.topic
        return ""

    assert await result_of(todo) == "nothing"


async def test_a_task_at_work_can_be_told_something() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.tell("waiter/dave", "go on", kind="feedback", task="0" * 32)

    async with spec(worker(todo), Waiter) as play:
        waiting = await play.when("waiter/dave", None, task="0" * 32)
        await play.when("worker", None)
        assert await play.result(waiting) == "go on"


@pytest.mark.parametrize("kind", ["context-share", "artifact", "feedback"])
async def test_what_is_told_to_a_task_that_has_ended_is_discarded(kind: Any) -> None:
    async with spec(Echo) as play:
        sent = await play.when("echo/dave", 1)
        await play.when("echo/dave", "late", kind=kind, task=sent.task)
        play.then(event("message.discarded", kind=kind))


async def test_a_bad_name_for_a_receiver_is_an_error() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.tell("Not A Role", 1)
        except BadName as error:
            return error.what
        return ""

    assert await result_of(todo) == "role"


# -- cancel ----------------------------------------------------------------------------------------------------------


async def test_a_cancel_ends_the_task_and_what_it_asked_for() -> None:
    async def middle(ctx: Context) -> Any:
        return await ctx.gather(ctx.ask("waiter", 1), ctx.ask("waiter", 2))

    async with spec(worker(lambda ctx: ctx.ask("middle", None)), actor("middle", middle), Waiter) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent, "no money")
        assert play.types("worker")[-2:] == ["task.canceled", "message.discarded"]
        assert play.types("middle").count("task.canceled") == 1
        assert play.types("waiter").count("task.canceled") == 2
        assert {body.reason for body in bodies(play.log, e.TaskCanceled)} == {"no money"}
        with pytest.raises(TaskCanceled, match="no money"):
            await play.result(sent)
        assert all(backlog == {0: 0} for backlog in [await play.bus.backlog(r) for r in ("worker", "middle", "waiter")])


async def test_who_asked_learns_that_the_task_was_canceled() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.ask("waiter", None)
        except TaskCanceled as error:
            return f"canceled: {error.reason}"
        return ""

    async with spec(worker(todo), Waiter) as play:
        sent = await play.when("worker", None)
        (asked,) = bodies(play.log, e.QuestionAsked)
        await play.when(asked.to, "enough", kind="cancel", task=asked.task)
        assert await play.result(sent) == "canceled: enough"


async def test_a_cancel_stops_a_step_that_runs() -> None:
    stopped = []
    running = asyncio.Event()

    async def work() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    async with spec(worker(lambda ctx: ctx.step(work))) as play:
        sent = await play.send("worker", None)
        await running.wait()
        await play.cancel(sent)
        play.then("task.cancel_requested", "task.canceled", of="worker")
    assert stopped == [True]


async def test_a_cancel_of_a_task_that_has_ended_is_discarded() -> None:
    async with spec(Echo) as play:
        sent = await play.when("echo", 1)
        await play.cancel(sent)
        play.then(event("message.discarded", kind="cancel"))


async def test_a_cancel_that_comes_twice_is_handled_once() -> None:
    async with spec(Waiter) as play:
        sent = await play.when("waiter", None)
        canceled = await play.cancel(sent)
        before = len(play.log)
        await play.again(canceled)
        assert len(play.log) == before


async def test_a_cancel_reaches_a_task_that_waits_in_a_queue() -> None:
    async with spec(Waiter) as play:
        first = await play.when("waiter/dave", None)
        second = await play.when("waiter/dave", None)
        third = await play.when("waiter/dave", None)
        await play.cancel(second)
        await play.when("waiter/dave", "one", kind="feedback", task=first.task)
        await play.when("waiter/dave", "three", kind="feedback", task=third.task)
        assert [await play.result(first), await play.result(third)] == ["one", "three"]
        with pytest.raises(TaskCanceled):
            await play.result(second)


async def test_what_comes_for_a_task_in_a_queue_waits_with_it() -> None:
    async with spec(Waiter) as play:
        first = await play.when("waiter/dave", None)
        second = await play.when("waiter/dave", None)
        await play.when("waiter/dave", "two", kind="feedback", task=second.task)
        await play.when("waiter/dave", "one", kind="feedback", task=first.task)
        assert [await play.result(first), await play.result(second)] == ["one", "two"]
        assert not bodies(play.log, e.MessageDiscarded)
