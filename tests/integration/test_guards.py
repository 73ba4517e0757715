"""Tasks that would wait for ever: found in the log, wherever they wait, and ended with an error that says why."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

import callboard.actors.process.guards
import callboard.actors.process.host
from callboard import Context, TimeLimits
from callboard.actors.outside.budgets import warn_of_budgets
from callboard.actors.task.bounds import RunTasks
from callboard.eventstore import PostgresLedger
from callboard.projections import tasks
from callboard.protocols.errors import TaskFailed, TooManyTasks
from callboard.protocols.events import BudgetWarned
from callboard.protocols.ledger import Budget
from tests.actor_kit import Echo, actor, worker
from tests.conftest import DEADLINE_S
from tests.host_kit import Stage, becomes, stage
from tests.ledger_kit import Caller, Treasurer

StageOf = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage_of(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> StageOf:
    monkeypatch.setattr(callboard.actors.process.guards, "QUIET_S", 0.2)
    monkeypatch.setattr(callboard.actors.process.host, "GUARD_EVERY_S", 0.1)
    monkeypatch.setattr(callboard.actors.process.host, "LOOK_EVERY_S", 0.2)
    return lambda *roles, **options: stage(database_url, redis_url, *roles, **options)


async def follow(route: list[str], ctx: Context) -> str:
    """Ask the next on the route, and give what came of it."""
    if not route:
        return "end"
    first, *further = route
    return f"{ctx.actor} {await ctx.ask(first, further)}"


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize(
    ("start", "route"),
    [
        ("ann/a", ["ann/a"]),
        ("ann/a", ["bob/b", "ann/a"]),
        ("ann/a", ["bob/b", "cat/c", "ann/a"]),
        ("worker", ["ann/a", "bob/b", "ann/a"]),  # the cycle is not where it began
    ],
)
async def test_a_wait_for_cycle_ends_with_an_error_that_names_it(
    stage_of: StageOf, start: str, route: list[str], hosts: int
) -> None:
    roles = [actor(role, follow) for role in ("ann", "bob", "cat", "worker")]
    async with stage_of(*roles, partitions=4) as it:
        for name in ("a", "b")[:hosts]:
            await it.host(name)
        with anyio.fail_after(DEADLINE_S), pytest.raises(TaskFailed) as failure:
            await it.client.call(start, route)
        words = failure.value.message
        assert "These wait for each other" in words
        for name in set(route):
            assert name in words
        assert len(re.findall("-> ", words)) == len(set(route))
        assert sum(type_ == "task.failed" for type_ in [each.type for each in await it.log()]) == len(route) + 1


async def test_two_runs_that_wait_for_each_other_are_parted(stage_of: StageOf) -> None:
    """Neither is below the other: ann asks bob while bob asks ann."""

    async def todo(other: str, ctx: Context) -> Any:
        if other:
            await ctx.sleep(0.3)
            return await ctx.ask(other, "")
        return "answered"

    async with stage_of(actor("ann", todo), actor("bob", todo)) as it:
        await it.host("a")
        (first,) = await it.client.send("ann/a", "bob/b")
        (second,) = await it.client.send("bob/b", "ann/a")
        outcomes = []
        with anyio.fail_after(DEADLINE_S):
            for sent in (first, second):
                try:
                    outcomes.append(await it.client.wait(sent))
                except TaskFailed as error:
                    outcomes.append(error.type)
        assert sorted(outcomes) == ["TaskFailed", "answered"]


async def test_a_queue_that_moves_on_is_no_cycle(stage_of: StageOf) -> None:
    async def slow(payload: str, ctx: Context) -> str:
        return str(await ctx.ask("echo", payload)) + str(await ctx.sleep(0.4))

    async with stage_of(actor("clerk", slow), worker(lambda ctx: ctx.ask("clerk/dave", "x")), Echo) as it:
        await it.host("a")
        sent = [(await it.client.send("worker", None))[0] for _ in range(4)]
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent] == ["xNone"] * 4


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_task_that_is_blocked_for_too_long_fails(stage_of: StageOf, dropped: bool) -> None:
    async def never(ctx: Context) -> None:
        await ctx.receive("feedback")

    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(2)
        return "slept"

    limits = TimeLimits(blocked_s=0.8)
    asker = worker(lambda ctx: ctx.ask("never", None), limits=limits)
    options = {"passivate_after_s": 0} if dropped else {}
    async with stage_of(asker, actor("never", never), actor("sleeper", sleeper, limits=limits), **options) as it:
        await it.host("a")
        (slept,) = await it.client.send("sleeper", None)
        with anyio.fail_after(DEADLINE_S):
            with pytest.raises(TaskFailed, match=r"was blocked for more than 0\.8 s"):
                await it.client.call("worker", None)
            assert await it.client.wait(slept) == "slept", "who sleeps is not blocked: that has an end"
        await it.reach("never", "task.canceled")  # nobody waits for it any more


async def test_hosts_warn_once_of_a_budget_that_is_nearly_used_up(stage_of: StageOf) -> None:
    budget = Budget("role", "writer", "day", "USD")

    async def warnings() -> int:
        return len([each for each in await it.types("budget") if each == BudgetWarned.TYPE])

    async def warned() -> bool:
        return await warnings() > 0

    async with stage_of(actor("worker", follow)) as it:
        for name in ("a", "b"):
            await it.host(name)
        await Treasurer(it.stack.store).set(budget, "1")
        caller = Caller(it.stack.store)
        await caller.hold("0.9")
        await becomes(warned)
        await caller.hold("0.1")
        assert await warn_of_budgets(it.stack.store, PostgresLedger(it.stack.store.pool)) == []
        assert await warnings() == 1


async def test_the_tasks_of_a_run_are_counted_over_all_processes(stage_of: StageOf) -> None:
    async with stage_of(worker(lambda ctx: ctx.gather(*(ctx.ask("echo", n) for n in range(4)))), Echo) as it:
        host = (await it.host("a")).host
        (sent,) = await it.client.send("worker", None)
        with anyio.fail_after(DEADLINE_S):
            await it.client.wait(sent)
        pool = it.stack.store.pool

        async def all_counted() -> bool:
            return await tasks.count_by_run(pool, [sent.run, "none"]) == {sent.run: 5}

        await becomes(all_counted)
        bound = host.runtime.services.run_tasks = RunTasks(6)
        bound.open(sent.run, 1)  # as if this process had opened one of them, and others the rest

        async def full() -> bool:
            try:
                bound.check(sent.run, 2)
            except TooManyTasks:
                return True
            return False

        assert not await full()
        await becomes(full)
