"""A task that is cancelled: nothing new begins, and what it declared for that case is done, once."""

import asyncio
import contextlib
from typing import Any

import pytest

from callboard import Context, TimeLimits
from callboard.actors.models.call import Call, Rates
from callboard.actors.process.guards import Guards
from callboard.protocols import events as e
from callboard.protocols.errors import TaskCanceled
from callboard.testing import event, spec
from tests.actor_kit import Echo, actor, bodies, double, worker


class Ledger:
    """Keeps what was done and undone."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def book(self, what: str) -> str:
        self.entries.append(what)
        return f"booked {what}"

    def undo(self, what: str) -> None:
        self.entries.append(f"undo {what}")


async def hang() -> None:
    await asyncio.Event().wait()


async def test_what_was_declared_is_undone_the_last_first() -> None:
    ledger = Ledger()

    async def todo(ctx: Context) -> None:
        for what in ("car", "hotel"):
            await ctx.step(ledger.book, what)
            ctx.on_cancel(ledger.undo, what)
        await ctx.receive("feedback")
        await ctx.step(ledger.book, "never")

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        play.then("task.started", "step.completed", "step.completed", "wait.started")
        await play.cancel(sent, "too dear")
        play.then(
            event("task.cancel_requested", reason="too dear", state="thinking"),
            event("step.completed", step="cancel/on_cancel:undo#1"),
            event("step.completed", step="cancel/on_cancel:undo#0"),
            event("task.canceled", reason="too dear", state="canceled"),
            of="worker",
        )
        with pytest.raises(TaskCanceled, match="too dear"):
            await play.result(sent)
    assert ledger.entries == ["car", "hotel", "undo hotel", "undo car"]


async def test_a_finally_may_use_the_context() -> None:
    ledger = Ledger()

    async def todo(ctx: Context) -> None:
        try:
            await ctx.step(ledger.book, "car")
            await ctx.step(hang)
        finally:
            await ctx.step(ledger.undo, "car")
            await ctx.gather(ctx.step(ledger.undo, "a"), ctx.step(ledger.undo, "b"))
            await ctx.ask("echo", "undone")

    async with spec(worker(todo), Echo) as play:
        sent = await play.send("worker", None)
        await play.until("step.completed")
        await play.cancel(sent)
        assert play.types("worker")[-1] == "task.canceled"
        assert play.types("echo")[-1] == "task.completed"
    assert ledger.entries[:2] == ["car", "undo car"]
    assert sorted(ledger.entries[2:]) == ["undo a", "undo b"]


async def test_a_handler_that_was_dropped_from_memory_compensates_too() -> None:
    ledger = Ledger()

    async def todo(ctx: Context) -> None:
        await ctx.step(ledger.book, "car")
        ctx.on_cancel(ledger.undo, "car")
        try:
            await ctx.receive("feedback")
        finally:
            await ctx.step(ledger.undo, "all")

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        assert play.passivate() == 1
        await play.cancel(sent)
        assert play.types("worker")[-1] == "task.canceled"
    assert ledger.entries == ["car", "undo all", "undo car"]


@pytest.mark.parametrize("events", range(4))
async def test_a_crash_at_any_point_of_a_cancellation_undoes_all_once(events: int) -> None:
    ledger = Ledger()

    async def todo(ctx: Context) -> None:
        try:
            await ctx.step(ledger.book, "car")
            ctx.on_cancel(ledger.undo, "car")
            await ctx.gather(ctx.receive("feedback"), ctx.sleep(1000))
            await ctx.step(ledger.book, "never")
        finally:
            await ctx.step(ledger.undo, "all")

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent)
        log = list(play.log)
    whole, ledger.entries = ledger.entries, []
    assert whole == ["car", "undo all", "undo car"]
    requested = next(place for place, it in enumerate(log) if it.type == "task.cancel_requested")
    prefix = log[: requested + 1 + events]
    done = bodies(prefix, e.StepCompleted)
    async with spec(worker(todo)) as play:
        await play.given_log(prefix)
        assert play.types("worker")[-1] == "task.canceled"
        assert play.types("worker").count("task.canceled") == 1
        assert ledger.entries == whole[len(done) :]


async def test_no_new_effect_begins_in_any_branch() -> None:
    ledger = Ledger()

    async def branch(number: int, ctx: Context) -> None:
        try:
            await ctx.step(hang, name=f"hang-{number}")
        except BaseException:
            await ctx.step(ledger.book, f"late {number}", name="late")
            raise
        await ctx.step(ledger.book, "never")

    async def todo(ctx: Context) -> None:
        with contextlib.suppress(BaseException):
            await ctx.gather(branch(1, ctx), branch(2, ctx))
        await ctx.step(ledger.book, "compensation")

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("task.started")
        await play.cancel(sent)
        assert play.types("worker")[-1] == "task.canceled"
        keys = [body.step for body in bodies(play.log, e.StepCompleted)]
        assert all("cancel/" in key for key in keys)
    assert "never" not in ledger.entries


async def test_a_handler_that_returns_when_it_is_cancelled_is_canceled_nevertheless() -> None:
    async def todo(ctx: Context) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await ctx.step(hang)
        return "I did it"

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("task.started")
        await play.cancel(sent)
        with pytest.raises(TaskCanceled):
            await play.result(sent)


async def test_a_compensation_that_fails_is_recorded_and_the_others_go_on() -> None:
    ledger = Ledger()

    def fail() -> None:
        raise ValueError("no refund")

    async def todo(ctx: Context) -> None:
        ctx.on_cancel(ledger.undo, "car")
        ctx.on_cancel(fail)
        await ctx.receive("feedback")

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent)
        assert play.types("worker")[-3:] == ["step.failed", "step.completed", "task.canceled"]
    assert ledger.entries == ["undo car"]


async def test_compensations_are_not_called_without_a_cancel() -> None:
    ledger = Ledger()

    async def todo(ctx: Context) -> int:
        ctx.on_cancel(ledger.undo, "car")
        return int(await ctx.step(double, 1))

    async with spec(worker(todo)) as play:
        assert await play.result(await play.when("worker", None)) == 2
    assert ledger.entries == []


async def test_a_compensation_that_takes_too_long_is_ended() -> None:
    async def todo(ctx: Context) -> None:
        try:
            await ctx.receive("feedback")
        finally:
            await ctx.step(hang)

    async with spec(worker(todo, limits=TimeLimits(cancel_s=5))) as play:
        sent = await play.when("worker", None)
        await play.send(sent.actor, "stop", kind="cancel", task=sent.task, run=sent.run)
        await play.until("task.cancel_requested")
        guards = Guards(None, play.runtime)
        play.clock.advance(4)
        guards.end_overdue()
        assert play.types("worker")[-1] == "task.cancel_requested"
        play.clock.advance(2)
        guards.end_overdue()
        await play.quiet()
        assert play.types("worker")[-1] == "task.canceled"


async def test_a_second_cancel_changes_nothing() -> None:
    async def todo(ctx: Context) -> None:
        try:
            await ctx.receive("feedback")
        finally:
            await ctx.sleep(5)

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        await play.send(sent.actor, "one", kind="cancel", task=sent.task, run=sent.run)
        await play.until("timer.set")
        await play.send(sent.actor, "two", kind="cancel", task=sent.task, run=sent.run)
        await play.until("message.discarded")
        play.clock.advance(5)
        await play.quiet()
        [canceled] = bodies(play.log, e.TaskCanceled)
        assert canceled.reason == "one"


async def test_a_task_that_is_queued_is_canceled_at_once() -> None:
    async def todo(ctx: Context) -> Any:
        return (await ctx.receive("feedback")).content

    asker = worker(lambda ctx: ctx.ask("clerk/dave", 2))
    async with spec(asker, actor("clerk", todo)) as play:
        first = await play.when("clerk/dave", 1)
        second = await play.when("worker", None)
        [asked] = bodies(play.log, e.QuestionAsked)
        await play.when("clerk/dave", "no", kind="cancel", task=asked.task, run=second.run)
        assert play.types("clerk")[-2:] == ["task.canceled", "message.discarded"]
        with pytest.raises(Exception, match="canceled"):
            await play.result(second)
        await play.when("clerk/dave", "go", kind="feedback", task=first.task, run=first.run)
        assert await play.result(first) == "go"


async def test_a_task_that_waits_for_a_slot_is_canceled_without_having_run() -> None:
    begun = []

    async def todo(number: int, ctx: Context) -> None:
        begun.append(number)
        await ctx.step(hang)

    async with spec(actor("clerk", todo), slots=1) as play:
        await play.send("clerk", 1)
        await play.until("task.started")
        second = await play.send("clerk", 2)
        await asyncio.sleep(0)
        await play.send(second.actor, "no", kind="cancel", task=second.task, run=second.run)
        await play.until("task.canceled")
    assert begun == [1]


async def test_a_model_call_that_is_under_way_is_cancelled() -> None:
    calls = []

    class Slow:
        """A gateway whose models never answer."""

        def chain(self, models: Any) -> Any:
            return tuple(models)

        def worst_case(self, *_: Any) -> None:
            return None

        def rates(self, _model: str) -> Rates:
            return Rates()

        async def complete(self, call: Call, *_: Any) -> Any:
            calls.append(call.model)
            try:
                await hang()
            finally:
                calls.append("cancelled")

    async with spec(worker(lambda ctx: ctx.model("hm"), model=["a", "b"])) as play:
        play.runtime.services.gateway = Slow()  # type: ignore[assignment]
        sent = await play.send("worker", None)
        await play.until("model.requested")
        for _ in range(5):
            await asyncio.sleep(0)
        await play.cancel(sent)
        assert play.types("worker")[-1] == "task.canceled"
    assert calls == ["a", "cancelled"], "and the next of the chain is not asked"
