"""What a budget does to a task: it refuses, makes it wait, or has somebody asked; and what a crash leaves counted."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from callboard import Context
from callboard.actors.models.call import Call, ModelReply
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, entry_of, new_event
from callboard.protocols.errors import CallRefused, TaskFailed
from callboard.protocols.ledger import Budget, Over
from callboard.protocols.money import Money
from callboard.protocols.names import budget_stream
from callboard.protocols.ports import ANY
from callboard.testing import Play, ScriptedModels, event, spec
from tests.actor_kit import SlowStore, bodies, cancel_a_call, worker

HOLD = e.Cost(Decimal("0.05"), "USD", "t")
USAGE = e.Usage(input=1, output=1)


class Priced(ScriptedModels):
    """Each call may cost five cents, and costs what the script says."""

    hold: e.Cost | None = HOLD

    def worst_case(self, _chain: Sequence[str], _call: Call) -> e.Cost | None:
        return self.hold


def costs(amount: str) -> ModelReply:
    return ModelReply(text="ok", model="m", usage=USAGE, cost=e.Cost(Decimal(amount), "USD", "t"))


async def set_budget(
    play: Play, limit: str, over: Over = "refuse", *, scope: Any = "role", target: str = "worker", period: Any = "ever"
) -> Budget:
    budget = Budget(scope, target, period, "USD")
    body = e.BudgetSet(budget=budget, limit=Money(Decimal(limit), "USD"), over=over, by="ann")
    await append(play, budget, body)
    return budget


async def append(play: Play, budget: Budget, body: e.Body) -> None:
    stream = budget_stream(budget.scope, budget.target, budget.period, budget.currency)
    await play.store.append(stream, [new_event(body, e.Meta(run=""), stream)], ANY)


async def ask(ctx: Context) -> str:
    return (await ctx.model("?")).text


async def test_a_call_that_does_not_fit_is_refused_before_it_is_made_and_the_log_says_so() -> None:
    models = Priced([])
    async with spec(worker(ask, model="m"), models=models) as play:
        await set_budget(play, "0.04")
        sent = await play.when("worker", None)
        play.then("task.started", event("model.refused", step="model#0"), "task.failed")
        with pytest.raises(TaskFailed, match=r"CallRefused.*budget of role worker"):
            await play.result(sent)
    assert models.calls == []


async def test_a_refusal_comes_back_as_it_was_when_the_handler_runs_again() -> None:
    async def careful(ctx: Context) -> str:
        try:
            await ctx.model("?")
        except CallRefused as refused:
            await ctx.receive("feedback")
            return refused.type
        return "made"

    models = Priced([])
    async with spec(worker(careful, model="m"), models=models) as play:
        budget = await set_budget(play, "0.04")
        sent = await play.when("worker", None)
        await append(play, budget, e.BudgetRemoved(budget=budget, by="ann"))
        await play.crash()
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == "BudgetExceeded"
    assert models.calls == []


async def test_what_was_reserved_and_not_spent_is_there_for_the_next_call() -> None:
    models = Priced([costs("0.01")] * 6)
    async with spec(worker(ask, model="m"), models=models) as play:
        await set_budget(play, "0.10")
        outcomes = []
        for _ in range(7):
            await play.when("worker", None)
            outcomes.append(play.types("worker")[-1])
    assert outcomes == ["task.completed"] * 6 + ["task.failed"], "5 cents spent, 5 free; then 6 spent"


async def test_calls_side_by_side_can_not_spend_more_than_there_is() -> None:
    models = Priced(lambda _call: costs("0.05"))
    async with spec(worker(ask, model="m"), models=models, slots=200) as play:
        await set_budget(play, "1.00")
        for _ in range(100):
            await play.send("worker", None)
        await play.quiet()
        ended = play.types("worker")
        assert (ended.count("task.completed"), ended.count("task.failed")) == (20, 80)
    assert len(models.calls) == 20


async def test_a_call_may_wait_until_the_budget_has_room_and_holds_no_slot() -> None:
    models = Priced([costs("0.05"), costs("0.05")])
    async with spec(worker(ask, model="m"), models=models) as play:
        budget = await set_budget(play, "0.05", "wait")
        await play.when("worker", None)
        sent = await play.when("worker", None)
        assert play.types("worker")[-1] == "timer.set"
        assert play.runtime.at_rest()
        await play.advance(60)
        assert len(models.calls) == 1
        top_up = e.BudgetToppedUp(budget=budget, target="worker", amount=Money(Decimal("0.05"), "USD"), by="ann")
        await append(play, budget, top_up)
        await play.advance(900)
        assert await play.result(sent) == "ok"
        assert bodies(play.log, e.TimerSet)[0].note.startswith("The budget of role worker")


async def test_a_daily_budget_has_room_again_the_next_day() -> None:
    models = Priced([costs("0.05"), costs("0.05")])
    async with spec(worker(ask, model="m"), models=models) as play:
        await set_budget(play, "0.05", "wait", period="day")
        await play.when("worker", None)
        sent = await play.when("worker", None)
        await play.advance(86_400)
        assert await play.result(sent) == "ok"


@pytest.mark.parametrize(("outcome", "result"), [("approve", "ok"), ("deny", "CallRefused")])
async def test_a_call_may_wait_until_somebody_approves_that_it_goes_beyond(outcome: str, result: str) -> None:
    models = Priced([costs("0.05")])
    async with spec(worker(ask, model="m"), models=models) as play:
        await set_budget(play, "0.04", "ask")
        sent = await play.when("worker", None)
        (request,) = bodies(play.log, e.ApprovalRequested)
        assert request.subject == "budget"
        await play.crash()
        decision = {"outcome": outcome, "by": "ann"} | ({"digest": request.digest} if outcome == "approve" else {})
        await play.when(sent.actor, decision, kind="decision", task=sent.task, run=sent.run, step=request.step)
        if outcome == "approve":
            assert await play.result(sent) == result
            assert bodies(play.log, e.ModelRequested)[0].beyond
        else:
            with pytest.raises(TaskFailed, match=result):
                await play.result(sent)


async def test_a_model_without_a_price_is_refused_where_there_is_a_budget_and_only_there() -> None:
    models = Priced(lambda _call: ModelReply(text="ok", model="m", usage=USAGE, cost=None))
    models.hold = None
    async with spec(worker(ask, model="m"), models=models) as play:
        assert await play.result(await play.when("worker", None)) == "ok"
        await set_budget(play, "10")
        with pytest.raises(TaskFailed, match="without a known price"):
            await play.result(await play.when("worker", None))


async def test_a_crash_in_mid_call_leaves_the_hold_counted_until_somebody_says_what_it_was() -> None:
    models = Priced([costs("0.01"), costs("0.01")])
    async with spec(worker(ask, model="m"), models=models) as play:
        budget = await set_budget(play, "0.10")
        sent = await play.when("worker", None)
        log = list(play.log)
    cut = next(place for place, it in enumerate(log) if it.type == "model.requested")
    async with spec(worker(ask, model="m"), models=Priced([costs("0.01")])) as play:
        for it in log[: cut + 1]:
            await play.store.append(it.stream, [with_entry(it)], ANY)
        ((_, held),) = play.store.ledger.charges.items()
        assert held.state == "held"
        await play.crash()
        assert await play.result(sent) == "ok"
        lost, settled = play.store.ledger.charges.values()
        assert (lost.state, lost.amount, settled.state) == ("lost", Money(Decimal("0.05"), "USD"), "settled")
        (account,) = play.store.ledger.accounts.values()
        assert (account.lost, account.spent) == (Decimal("0.05"), Decimal("0.01"))
        released = e.BudgetReleased(attempt=lost.attempt, amount=Money(Decimal(0), "USD"), by="ann")
        await append(play, budget, released)
        (account,) = play.store.ledger.accounts.values()
        assert (account.lost, account.spent) == (0, Decimal("0.01"))


def with_entry(it: e.Event) -> e.NewEvent:
    """An event to be appended once more, with what it means for the ledger."""
    new = e.NewEvent(type=it.type, data=it.data, meta=it.meta, schema_version=it.schema_version)
    return replace(new, entry=entry_of(body_of(new), it.stream, it.meta))


async def test_a_cancelled_call_gives_no_money_back_that_may_have_been_spent() -> None:
    def never(_call: Call) -> Any:
        raise AssertionError("the call was made")

    async with spec(worker(cancel_a_call, model="m"), models=Priced(never)) as play:
        await set_budget(play, "1")
        await play.when("worker", None)
        held = [charge for charge in play.store.ledger.charges.values() if charge.state == "held"]
        assert held == []


@pytest.mark.parametrize("turns", range(12))
async def test_a_task_that_is_cancelled_while_its_call_is_being_admitted_leaves_nothing_held(turns: int) -> None:
    """Cancelled at any turn of the loop around the commit of the request."""
    async with spec(worker(ask, model="m"), models=Priced([costs("0.05")]), store=SlowStore) as play:
        await set_budget(play, "1")
        sent = await play.send("worker", None)
        for _ in range(turns + 5):
            await asyncio.sleep(0)
        await play.cancel(sent)
        requested = len(bodies(play.log, e.ModelRequested))
        ended = len(bodies(play.log, e.ModelFailed)) + len(bodies(play.log, e.ModelCompleted))
        assert requested == ended
        assert [it.state for it in play.store.ledger.charges.values() if it.state == "held"] == []
