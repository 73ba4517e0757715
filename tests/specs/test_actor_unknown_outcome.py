"""A tool whose process was lost in mid-call, and what a person makes of it."""

from typing import Any

import pytest

from callboard import Context, tool
from callboard.protocols import events as e
from callboard.protocols.errors import TaskFailed
from callboard.testing import event, spec
from callboard.testing.play import Play
from tests.actor_kit import bodies, worker

calls: list[str] = []


@pytest.fixture(autouse=True)
def _none_yet() -> None:
    calls.clear()


def transfer(amount: int) -> str:
    calls.append(f"transfer {amount}")
    return "sent"


@tool(idempotent=True)
def look(amount: int) -> str:
    calls.append(f"look {amount}")
    return "seen"


def keyed(amount: int, idempotency_key: str) -> str:
    calls.append(idempotency_key)
    return "paid"


def lost_in(name: str) -> e.ToolRequested:
    """The request of a call in which the process was lost."""
    stored = e.Stored(inline=e.Raw(b'{"amount":5}'))
    return e.ToolRequested(step=f"{name}#0", fingerprint="", tool=name, arguments=stored, idempotency_key="k")


def uses(function: Any) -> Any:
    async def todo(ctx: Context) -> Any:
        return await ctx.tool(function, amount=5)

    return worker(todo)


async def decide(play: Play, sent: Any, **decision: Any) -> None:
    await play.when(
        sent.actor, {"by": "ann", **decision}, kind="decision", task=sent.task, run=sent.run, step="transfer#0"
    )


@pytest.mark.parametrize(("function", "name"), [(look, "look"), (keyed, "keyed")])
async def test_a_tool_that_may_be_called_twice_is_called_again(function: Any, name: str) -> None:
    async with spec(uses(function)) as play:
        sent = await play.given("worker", None, lost_in(name))
        play.then("task.resumed", "tool.completed", "task.completed")
        await play.result(sent)
    assert len(calls) == 1


async def test_any_other_waits_for_a_person() -> None:
    async with spec(uses(transfer)) as play:
        await play.given("worker", None, lost_in("transfer"))
        play.then("task.resumed", event("tool.outcome_unknown", tool="transfer", state="waiting_review"))
        assert calls == []
        await play.crash()
        play.then()  # it waits on, and nothing is written again


async def test_it_happened_and_this_is_the_result() -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"))
        await decide(play, sent, outcome="happened", result="sent on Tuesday")
        [completed] = bodies(play.log, e.ToolCompleted)
        assert completed.resolved_by == "ann"
        assert await play.result(sent) == "sent on Tuesday"
    assert calls == []


async def test_it_is_to_run() -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"))
        await decide(play, sent, outcome="run")
        assert play.types("worker")[-3:] == ["tool.requested", "tool.completed", "task.completed"]
        assert await play.result(sent) == "sent"
    assert calls == ["transfer 5"]


async def test_lost_again_in_the_second_call_it_is_asked_again() -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given(
            "worker", None, lost_in("transfer"), e.ToolOutcomeUnknown(step="transfer#0", tool="transfer")
        )
        await decide(play, sent, outcome="run")
        log = list(play.log)
    requested = max(place for place, it in enumerate(log) if it.type == "tool.requested")
    async with spec(uses(transfer)) as play:
        await play.given_log(log[: requested + 1])
        assert play.types("worker")[-1] == "tool.outcome_unknown"


async def test_one_decision_counts_and_the_second_is_discarded() -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"))
        for result in ("first", "second"):
            await decide(play, sent, outcome="happened", result=result)
        assert await play.result(sent) == "first"
        assert play.types("worker")[-1] == "message.discarded"


@pytest.mark.parametrize(
    "decision", [{"outcome": "maybe"}, {"outcome": "run", "extra": 1}, {}, {"outcome": "run", "by": 5}]
)
async def test_what_is_no_decision_is_discarded_and_the_task_waits_on(decision: Any) -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"))
        await decide(play, sent, **decision)
        play.then(event("message.discarded", kind="decision"))
        await decide(play, sent, outcome="happened", result="done")
        assert await play.result(sent) == "done"


async def test_a_large_result_of_a_decision_comes_through_whole() -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"))
        await decide(play, sent, outcome="happened", result="x" * 100_000)
        assert await play.result(sent) == "x" * 100_000


async def test_a_decision_finds_a_task_that_was_dropped_from_memory() -> None:
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"))
        assert play.passivate() == 1
        await decide(play, sent, outcome="run")
        assert await play.result(sent) == "sent"


async def test_a_failure_that_is_known_is_no_unknown_outcome() -> None:
    failed = e.ToolFailed(step="transfer#0", tool="transfer", error=e.ErrorInfo("ValueError", "no"), duration_ms=1)
    async with spec(uses(transfer)) as play:
        sent = await play.given("worker", None, lost_in("transfer"), failed)
        with pytest.raises(TaskFailed):
            await play.result(sent)
    assert calls == []


async def test_other_branches_go_on_meanwhile() -> None:
    async def todo(ctx: Context) -> Any:
        return await ctx.gather(ctx.tool(transfer, amount=5), ctx.tool(look, amount=1))

    request = lost_in("gather#0[0]/transfer")
    async with spec(worker(todo)) as play:
        sent = await play.given("worker", None, request)
        await play.until("tool.completed")
        assert calls == ["look 1"]
        await play.when(
            sent.actor,
            {"by": "ann", "outcome": "happened", "result": "sent"},
            kind="decision",
            task=sent.task,
            run=sent.run,
            step="gather#0[0]/transfer#0",
        )
        assert await play.result(sent) == ["sent", "seen"]
