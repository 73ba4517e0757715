"""Whether a task runs or waits, and where each of its steps is: memory and log say the same, whatever happens."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard import Context
from callboard.actors.state.fold import TaskFold, fold
from callboard.actors.state.waits import BY_FORM, TRIGGERS, Activity, activity
from callboard.protocols.states import AT_WORK, LIFECYCLE, RUNNING, WAITING
from callboard.testing import Play, spec
from tests.actor_kit import SlowStore, actor, double, worker

Plan = Any  # the name of a leaf, or (the name of a node, the plans below it)

LEAVES = ("ask", "hear", "nap", "step", "tool", "turns", "gate", "fail", "model")
NODES = ("gather", "asyncio.gather", "group", "one after the other")
plans = st.recursive(
    st.sampled_from(LEAVES),
    lambda below: st.tuples(st.sampled_from(NODES), st.lists(below, min_size=1, max_size=3)),
    max_leaves=6,
)
acts = st.lists(st.sampled_from(["feedback", "time", "gate", "passivate", "crash", "turns", "cancel"]), max_size=6)


async def slow(number: int) -> int:
    for _ in range(7):
        await asyncio.sleep(0)
    return number


class Handler:
    """A handler that does what a plan says. "gate" waits for something that is no step: the log knows nothing of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.opened = asyncio.Event()

    async def __call__(self, ctx: Context) -> None:
        await self.do(ctx, self.plan)

    async def do(self, ctx: Context, plan: Plan) -> None:
        if isinstance(plan, str):
            await getattr(self, plan)(ctx)
            return
        node, below = plan
        with contextlib.suppress(Exception):
            if node == "one after the other":
                for each in below:
                    await self.do(ctx, each)
            else:
                await self.side_by_side(ctx, node, [self.do(ctx, each) for each in below])

    async def side_by_side(self, ctx: Context, node: str, branches: list[Any]) -> None:
        if node == "gather":
            await ctx.gather(*branches)
        elif node == "asyncio.gather":
            await asyncio.gather(*branches)
        else:
            async with asyncio.TaskGroup() as group:
                for branch in branches:
                    group.create_task(branch)

    async def ask(self, ctx: Context) -> None:
        await ctx.ask("listener", 1)

    async def hear(self, ctx: Context) -> None:
        await ctx.receive("feedback")

    async def nap(self, ctx: Context) -> None:
        await ctx.sleep(50)

    async def step(self, ctx: Context) -> None:
        await ctx.step(double, 1)

    async def tool(self, ctx: Context) -> None:
        await ctx.tool(slow, number=1)

    async def model(self, ctx: Context) -> None:
        await ctx.model("?")

    async def turns(self, ctx: Context) -> None:
        for _ in range(9):
            await asyncio.sleep(0)

    async def gate(self, ctx: Context) -> None:
        await self.opened.wait()

    async def fail(self, ctx: Context) -> None:
        await self.turns(ctx)
        raise ValueError("no")


async def listen(ctx: Context) -> Any:
    return (await ctx.receive("feedback")).content


def agree(play: Play, stream: str, *, first_run: bool) -> None:
    """Hold memory against the log, where all that was written is in it. A handler that runs again goes along its record
    for some turns, though its task waits: there only the steps are compared.
    """
    cell = play.runtime.cell(stream)
    work = cell.work if cell is not None else None
    if cell is None or work is None or cell.fold is None or not cell.journal.clean or not work.claimed:
        return
    there = fold([it for it in play.log if it.stream == stream])
    assert there.current is not None
    assert cell.fold.current is not None
    assert cell.fold.state == there.state
    assert states(cell.fold.current) == states(there.current)
    if there.state in WAITING and first_run:
        assert work.activity.waits, (there.state, work.activity)
        assert work.activity.value == there.state


def states(task: TaskFold) -> dict[str, Any]:
    return {key: (step.form, step.state) for key, step in task.steps.items()}


async def go(plan: Plan, history: list[str]) -> None:
    handler, done = Handler(plan), [""]

    async def todo(ctx: Context) -> None:
        await handler(ctx)

    async def turns(number: int = 25) -> None:
        for _ in range(number):
            await asyncio.sleep(0)
            agree(play, sent.actor, first_run=not {"passivate", "time", "crash"}.intersection(done))

    acting: dict[str, Callable[[], Awaitable[Any]]] = {
        "feedback": lambda: play.send(sent.actor, "x", kind="feedback", task=sent.task, run=sent.run),
        "time": lambda: _advance(play),
        "gate": lambda: _open(handler),
        "passivate": lambda: _passivate(play),
        "crash": lambda: _crash(play),
        "turns": lambda: turns(5),
        "cancel": lambda: play.send(sent.actor, "x", kind="cancel", task=sent.task, run=sent.run),
    }
    async with spec(worker(todo), actor("listener", listen), models=lambda _call: "yes", store=SlowStore) as play:
        sent = await play.send("worker", None)
        await turns()
        for act in history:
            done.append(act)
            await acting[act]()
            await turns()
        handler.opened.set()
        await turns(100)
        await play.quiet()
        agree(play, sent.actor, first_run=True)
        for _ in range(2):  # first the log is told, then it is dropped
            play.passivate()
            await play.quiet()
        assert not play.runtime.hosts(sent.actor)
        there = fold([it for it in play.log if it.stream == sent.actor])
        assert there.state not in RUNNING
        if there.at_work:
            assert there.current is not None
            assert activity(there.current.open, runs=False).value == there.state


async def _advance(play: Play) -> None:
    play.clock.advance(30)
    play._add_timers()


async def _open(handler: Handler) -> None:
    handler.opened.set()


async def _passivate(play: Play) -> None:
    play.passivate()


async def _crash(play: Play) -> None:
    await play.kill()
    await play.restart(wait=False)


@given(plans, acts)
@settings(max_examples=100, deadline=None)
def test_memory_and_log_agree_over_any_history(plan: Plan, history: list[str]) -> None:
    asyncio.run(go(plan, history))


@given(st.dictionaries(st.sampled_from([form for form, _ in BY_FORM]), st.integers(0, 2)), st.booleans())
def test_a_task_waits_only_if_nothing_of_it_runs(opened: dict[str, int], runs: bool) -> None:
    there = activity(opened, runs=runs)
    waits = any(opened.get(form) for form, it in BY_FORM if it.waits)
    assert there.waits == (waits and not runs)
    assert there.runs != there.waits
    assert activity(opened, runs=runs, ended=True) is Activity.ENDED


@pytest.mark.parametrize("it", TRIGGERS)
def test_each_activity_is_a_lifecycle_state_that_its_trigger_leads_to(it: Activity) -> None:
    assert it.value in AT_WORK
    assert it.runs == (it.value in RUNNING)
    assert (TRIGGERS[it], AT_WORK, it.value) in LIFECYCLE
