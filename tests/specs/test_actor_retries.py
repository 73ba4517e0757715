"""A handler that fails for a while, and is tried again."""

from typing import Any

import pytest

from callboard import Actor, Context, Retry, handler
from callboard.protocols import events as e
from callboard.protocols.errors import ModelFailed, StepFailed, TaskFailed
from callboard.testing import event, spec
from tests.actor_kit import Echo, actor, bodies, double, worker


@pytest.fixture(autouse=True)
def _longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.actors.state.policies.random.uniform", lambda _low, high: high)


THREE = Retry(attempts=3, first_s=10)


class Flaky:
    """Raises so many times, and counts how often it is called, by idempotency key."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.keys: list[str] = []
        self._times = times
        self._error = error or ConnectionResetError("gone")

    def call(self, idempotency_key: str = "") -> str:
        self.keys.append(idempotency_key)
        if len(self.keys) <= self._times:
            raise self._error
        return "done"


async def test_a_transient_error_is_tried_again_in_the_same_task() -> None:
    flaky = Flaky(2)

    async def todo(ctx: Context) -> Any:
        return [await ctx.step(double, 4), await ctx.tool(flaky.call)]

    async with spec(worker(todo, retry=THREE)) as play:
        sent = await play.when("worker", None)
        play.then(
            "task.started",
            "step.completed",
            "tool.requested",
            event("tool.failed", tool="call"),
            event("task.retry_scheduled", step="retry#0", forgets=("call#0",), state="blocked"),
        )
        await play.advance(10)
        play.then(
            event("timer.fired", step="retry#0", state="thinking"),
            "tool.requested",
            "tool.failed",
            event("task.retry_scheduled", step="retry#1", forgets=("call#0",)),
        )
        await play.advance(20)
        play.then("timer.fired", "tool.requested", event("tool.completed", result="done"), "task.completed")
        assert await play.result(sent) == [8, "done"]
    assert len(flaky.keys) == 3
    assert len(set(flaky.keys)) == 1, "each call of one step carries the same key"


async def test_the_last_try_fails_the_task() -> None:
    flaky = Flaky(9)
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=THREE)) as play:
        sent = await play.when("worker", None)
        await play.advance(100)
        with pytest.raises(TaskFailed) as failure:
            await play.result(sent)
        assert failure.value.type == "StepFailed"
        assert len(flaky.keys) == 3
        assert play.types("worker").count("task.retry_scheduled") == 2


async def test_a_permanent_error_fails_the_task_at_once() -> None:
    flaky = Flaky(1, ValueError("no"))
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=THREE)) as play:
        with pytest.raises(TaskFailed):
            await play.result(await play.when("worker", None))
        assert len(flaky.keys) == 1


async def test_without_a_policy_nothing_is_tried_again() -> None:
    flaky = Flaky(1)
    async with spec(worker(lambda ctx: ctx.step(flaky.call))) as play:
        with pytest.raises(TaskFailed):
            await play.result(await play.when("worker", None))
        assert len(flaky.keys) == 1


async def test_a_handler_may_have_a_policy_of_its_own() -> None:
    flaky = Flaky(1)

    class Both(Actor):
        retry = Retry(attempts=1)

        @handler("query", retry=Retry(attempts=2, first_s=1))
        async def question(self, question: str, ctx: Context) -> Any:
            return await ctx.step(flaky.call)

    async with spec(Both) as play:
        sent = await play.when("both", "?", kind="query")
        await play.advance(1)
        assert await play.result(sent) == "done"


async def test_an_error_of_the_handlers_own_code_is_tried_again_without_doing_steps_twice() -> None:
    tries = []

    async def todo(ctx: Context) -> Any:
        result = await ctx.step(double, 21)
        tries.append(ctx.attempt)
        if len(tries) < 2:
            raise TimeoutError
        return result

    async with spec(worker(todo, retry=THREE)) as play:
        sent = await play.when("worker", None)
        await play.advance(10)
        assert await play.result(sent) == 42
        assert play.types("worker").count("step.completed") == 1


async def test_a_failure_that_the_handler_dealt_with_stays_as_it_is() -> None:
    first, second = Flaky(1), Flaky(1)

    async def todo(ctx: Context) -> Any:
        try:
            await ctx.step(first.call, name="first")
        except StepFailed:
            return [await ctx.step(double, 1), await ctx.step(second.call, name="second")]
        raise AssertionError("the first step is recorded as failed")

    async with spec(worker(todo, retry=THREE)) as play:
        sent = await play.when("worker", None)
        play.then(
            *["task.started"],
            "step.failed",
            "step.completed",
            "step.failed",
            event("task.retry_scheduled", forgets=("second#0",)),
        )
        await play.advance(10)
        assert await play.result(sent) == [2, "done"]
    assert len(first.keys) == 1


async def test_a_wrapped_error_leads_to_the_step_that_it_comes_from() -> None:
    flaky = Flaky(1)

    async def todo(ctx: Context) -> Any:
        try:
            return await ctx.step(flaky.call)
        except StepFailed as error:
            raise TimeoutError("in other words") from error

    async with spec(worker(todo, retry=THREE)) as play:
        sent = await play.when("worker", None)
        await play.advance(10)
        assert await play.result(sent) == "done"


async def test_a_question_whose_answer_was_an_error_is_asked_again() -> None:
    flaky = Flaky(1)

    async def other(ctx: Context) -> Any:
        return await ctx.step(flaky.call)

    async def todo(ctx: Context) -> Any:
        return await ctx.ask("other", None)

    retry = Retry(attempts=2, first_s=1, transient=(StepFailed,))
    async with spec(worker(todo, retry=retry), actor("other", other)) as play:
        sent = await play.when("worker", None)
        await play.advance(1)
        assert await play.result(sent) == "done"
        asked = bodies(play.log, e.QuestionAsked)
        assert [it.step for it in asked] == ["ask:other#0", "ask:other#0"]
        assert len({it.task for it in asked}) == 2


async def test_a_model_that_did_not_answer_is_asked_again_and_its_attempts_are_counted_on() -> None:
    answers = [ModelFailed("m", "RateLimitError", "slow down"), "fine"]
    async with spec(worker(lambda ctx: ctx.model("hm"), model="m", retry=THREE), models=answers) as play:
        sent = await play.when("worker", None)
        await play.advance(10)
        await play.result(sent)
        assert [it.attempt for it in bodies(play.log, e.ModelRequested)] == [1, 2]


async def test_a_retry_survives_the_loss_of_its_process() -> None:
    flaky = Flaky(1)
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=THREE)) as play:
        sent = await play.when("worker", None)
        await play.crash(bus_too=True)
        assert len(flaky.keys) == 1, "it waits"
        await play.advance(10)
        assert await play.result(sent) == "done"
        assert "task.resumed" not in play.types(), "a task that waits isn't lost with its process"


async def test_a_task_that_waits_for_its_next_try_may_be_dropped_from_memory() -> None:
    flaky = Flaky(1)
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=THREE)) as play:
        sent = await play.when("worker", None)
        assert play.passivate() == 1
        await play.advance(10)
        assert await play.result(sent) == "done"


async def test_what_failed_is_known_as_transient_after_a_crash_too() -> None:
    """The error is only a name then; the names of its base classes are with it."""
    flaky = Flaky(0)
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=THREE)) as play:
        info = e.ErrorInfo("ConnectionResetError", "gone", bases=("ConnectionError", "OSError"))
        sent = await play.given("worker", None, e.StepFailed(step="call#0", fingerprint="", error=info))
        play.then("task.resumed", event("task.retry_scheduled", forgets=("call#0",)))
        await play.advance(10)
        assert await play.result(sent) == "done"


async def test_an_ordered_actor_pauses_its_mailbox_while_it_waits() -> None:
    flaky = Flaky(1)
    order = []

    async def todo(number: int, ctx: Context) -> None:
        if number == 1:
            await ctx.step(flaky.call)
        order.append(number)

    async with spec(actor("clerk", todo, retry=THREE)) as play:
        for number in (1, 2, 3):
            await play.when("clerk/dave", number)
        assert order == []
        await play.advance(10)
        assert order == [1, 2, 3]


async def test_a_retry_that_would_come_after_the_deadline_is_not_made() -> None:
    flaky = Flaky(1)
    retry = Retry(attempts=9, first_s=1e9, longest_s=1e9)
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=retry)) as play:
        later = play.clock.now().replace(microsecond=1)
        sent = await play.when("worker", None, deadline=later)
        with pytest.raises(TaskFailed):
            await play.result(sent)


async def test_a_cancel_ends_the_wait_for_the_next_try() -> None:
    flaky = Flaky(1)
    async with spec(worker(lambda ctx: ctx.step(flaky.call), retry=THREE), Echo) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent)
        assert play.types("worker")[-2:] == ["task.cancel_requested", "task.canceled"]
        await play.advance(100)
        assert len(flaky.keys) == 1
        assert play.types("worker")[-1] == "message.discarded"  # the timer found nobody
