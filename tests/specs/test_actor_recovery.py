"""A process that dies between any two events, a log that somebody else wrote to, and a store that doesn't answer."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard import Actor, Context, Handoff, tool
from callboard.actors.state.machine import LIFECYCLE_MACHINE
from callboard.eventstore.memory import MemoryEventStore
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, new_event
from callboard.protocols.errors import Conflict, StepFailed, StoreUnavailable, TaskFailed
from callboard.protocols.events import Event, NewEvent
from callboard.protocols.ports import ANY, Appended, ExpectedVersion, Lease
from callboard.testing import ScriptedModels, event, spec
from callboard.testing.play import Play
from tests.actor_kit import Echo, SlowStore, actor, bodies, double, worker

KINDS = ("step", "failing", "tool", "model", "ask", "failing ask", "tell", "sleep", "gather", "artifact", "trigger")
idempotent = tool(idempotent=True)
plans = st.lists(st.sampled_from(KINDS), min_size=1, max_size=5)


class Effects:
    """Counts what functions do, by the step that they are for."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def act(self, name: str) -> str:
        self.count[name] += 1
        return f"did {name}"

    def fail(self, name: str) -> str:
        self.count[name] += 1
        raise ValueError(name)


def planned(effects: Effects) -> type[Actor]:
    """A role whose handler does the steps of the plan that it gets, one after the other."""

    async def failure(call: Awaitable[Any]) -> str:
        try:
            await call
        except (StepFailed, TaskFailed) as error:
            return error.message
        return "none"

    async def all_at_once(name: str, ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.step(effects.act, f"{name}/0"), ctx.ask("echo", name), ctx.sleep(1), limit=2)

    does: dict[str, Callable[[str, Context], Awaitable[Any]]] = {
        "step": lambda name, ctx: ctx.step(effects.act, name),
        "failing": lambda name, ctx: failure(ctx.step(effects.fail, name)),
        "tool": lambda name, ctx: ctx.tool(idempotent(lambda what: effects.act(what)), name="act", what=name),
        "model": lambda name, ctx: ctx.model(name),
        "ask": lambda name, ctx: ctx.ask("echo", name),
        "failing ask": lambda name, ctx: failure(ctx.ask("broken", name)),
        "tell": lambda name, ctx: ctx.tell("echo/hub", name),
        "sleep": lambda name, ctx: ctx.sleep(3),
        "artifact": lambda name, ctx: ctx.artifact(name, name),
        "trigger": lambda name, ctx: ctx.trigger("turn"),
        "gather": all_at_once,
    }

    async def handle(plan: list[str], ctx: Context) -> list[Any]:
        return [ctx.state, *[await does[kind](f"{number} {kind}", ctx) for number, kind in enumerate(plan)], ctx.state]

    turning = {
        "states": ("head", "tail"),
        "transitions": (
            {"trigger": "turn", "source": "head", "dest": "tail"},
            {"trigger": "turn", "source": "tail", "dest": "head"},
        ),
    }
    return actor("planned", handle, **turning)


async def broken(payload: str, ctx: Context) -> None:
    raise ValueError(f"broken by {payload}")


def models() -> ScriptedModels:
    return ScriptedModels(lambda call: f"answer to {call.messages[0]['content']}")


def outcome(log: Sequence[Event]) -> bytes:
    """How the planned task ended."""
    (end,) = [it for it in log if it.stream.startswith("planned/") and it.type in e.ENDS_TASK]
    return end.data


def check_log(log: Sequence[Event]) -> None:
    """The invariants of any log: what was sent is handled once, steps have one outcome, versions have no gaps."""
    handled = Counter(it.meta.handles for it in log if it.meta.handles)
    sent = {f"{it.stream}@{it.version}.{place}" for it in log for place in range(len(it.meta.sends))}
    assert set(handled) == sent
    assert set(handled.values()) <= {1}
    outcomes = Counter(
        (it.meta.task, body_of(it).step)  # type: ignore[attr-defined]
        for it in log
        if it.type
        in ("step.completed", "step.failed", "tool.completed", "model.completed", "question.answered", "timer.fired")
    )
    assert set(outcomes.values()) <= {1}
    assert Counter(it.meta.task for it in log if it.type in e.ENDS_TASK).most_common(1)[0][1] == 1
    versions: Counter[str] = Counter()
    for it in log:
        versions[it.stream] += 1
        assert it.version == versions[it.stream]

    check_states(log)


def check_states(log: Sequence[Event]) -> None:
    """Each actor's changes of state follow from each other, and the lifecycle allows them."""
    states: dict[str, str] = {}
    for it in log:
        change = it.meta.state
        if change is not None and it.type != e.StateChanged.TYPE:
            assert change.source == states.get(it.stream, "idle")
            assert LIFECYCLE_MACHINE.fire(change.trigger, change.source) == change
            states[it.stream] = change.dest


async def whole(plan: list[str], effects: Effects) -> list[Event]:
    async with spec(planned(effects), Echo, actor("broken", broken), models=models()) as play:
        await play.when("planned", plan)
        await play.advance(60)
        return list(play.log)


async def continued(log: Sequence[Event], effects: Effects) -> list[Event]:
    async with spec(planned(effects), Echo, actor("broken", broken), models=models()) as play:
        await play.given_log(log)
        await play.advance(60)
        return list(play.log)


def done_in(log: Sequence[Event]) -> set[str]:
    """The names of the effects whose outcome is in a log."""
    names = set()
    for it in log:
        body = body_of(it)
        if isinstance(body, e.StepCompleted | e.ToolCompleted):
            names.add(bytes(body.result.inline).decode().strip('"').removeprefix("did "))  # type: ignore[arg-type]
        elif isinstance(body, e.StepFailed):
            names.add(body.error.message)
    return names


@settings(max_examples=25, deadline=None)
@given(plan=plans)
def test_a_crash_between_any_two_events_changes_no_outcome_and_repeats_no_recorded_step(plan: list[str]) -> None:
    async def all_prefixes() -> None:
        log = await whole(plan, Effects())
        check_log(log)
        for length in range(1, len(log)):
            effects = Effects()
            after = await continued(log[:length], effects)
            assert outcome(after) == outcome(log)
            check_log(after)
            recorded = done_in(log[:length])
            assert not recorded & effects.count.keys(), "a recorded step ran again"
            assert recorded | effects.count.keys() == done_in(log)
            assert set(effects.count.values()) <= {1}

    asyncio.run(all_prefixes())


@settings(max_examples=25, deadline=None)
@given(plan=plans, crashes=st.lists(st.integers(1, 60), max_size=3), bus_too=st.booleans(), turns=st.integers(0, 3))
def test_crashes_at_any_turn_of_the_loop_change_no_outcome(
    plan: list[str], crashes: list[int], bus_too: bool, turns: int
) -> None:
    class Store(SlowStore):
        TURNS = turns

    async def crashing() -> None:
        effects = Effects()
        log = await whole(plan, Effects())
        async with spec(planned(effects), Echo, actor("broken", broken), models=models(), store=Store) as play:
            await play.send("planned", plan)
            for after in crashes:
                for _ in range(after):
                    await asyncio.sleep(0)
                await play.kill()
                await play.restart(bus_too=bus_too)
            await play.advance(60)
            assert outcome(play.log) == outcome(log)
            check_log(play.log)
            assert await play.bus.backlog("planned") == {0: 0}
            for name, times in effects.count.items():
                assert times <= 1 + len(crashes), name

    asyncio.run(crashing())


# -- somebody else wrote ---------------------------------------------------------------------------------------------


async def wait_twice(ctx: Context) -> list[Any]:
    return [(await ctx.receive("feedback")).content, (await ctx.receive("feedback")).content]


async def test_a_conflict_means_to_load_and_decide_again() -> None:
    async with spec(worker(wait_twice)) as play:
        sent = await play.when("worker", None)
        foreign = e.TaskProgressed(step="foreign", done=1)
        await play.store.append(sent.actor, [new_event(foreign, e.Meta(run=sent.run, task=sent.task))], ANY)
        await play.when(sent.actor, 1, kind="feedback", task=sent.task)
        await play.when(sent.actor, 2, kind="feedback", task=sent.task)
        assert await play.result(sent) == [1, 2]
        assert play.types("worker").count("message.received") == 2
        assert "task.failed" not in play.types()


async def test_a_former_owner_writes_nothing_behind_a_takeover() -> None:
    release = asyncio.Event()

    async def todo(ctx: Context) -> str:
        await ctx.step(release.wait, name="stall")
        return "done"

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("task.started")
        resumed = e.TaskResumed(process="other", epoch=2, attempt=2, reason="takeover")
        await play.store.append(sent.actor, [new_event(resumed, e.Meta(run=sent.run, task=sent.task))], ANY)
        for tenure in play.runtime.partitions:
            play.runtime.partitions.end(tenure)  # as the host does when the lease is gone
        release.set()
        await play.quiet()
        assert play.types("worker") == ["task.started", "task.resumed"]


async def test_a_message_that_another_process_handled_is_settled_and_nothing_runs() -> None:
    ran = []

    async def todo(ctx: Context) -> None:
        ran.append("before any step")

    async with spec(worker(todo)) as play:
        (sent,) = await play._append("worker/dave", None, key=None, kind="assign")
        done = e.MessageDiscarded(kind="assign", reason="by the other")
        meta = e.Meta(run=sent.run, task=sent.task, handles=sent.message)
        await play.store.append("worker/dave", [new_event(done, meta)], ANY)
        await play.again(sent)
        assert ran == []
        assert play.types("worker") == ["message.discarded"]
        assert await play.bus.backlog("worker") == {0: 0}


@pytest.mark.parametrize("turns", range(16))
async def test_a_message_that_comes_while_its_actor_loads_finds_the_task_at_work(turns: int) -> None:
    class SlowReads(MemoryEventStore):
        async def message(self, message: str) -> Any:
            for _ in range(5):
                await asyncio.sleep(0)
            return await super().message(message)

    async with spec(worker(wait_twice), store=SlowReads) as play:
        sent = await play.when("worker/dave", None)
        play.passivate()
        for number in (1, 2):
            await play.send("worker/dave", number, kind="feedback", task=sent.task)
            for _ in range(turns):
                await asyncio.sleep(0)
        another = await play.send("worker/dave", None)
        assert await play.result(sent) == [1, 2]
        assert "message.discarded" not in play.types()
        assert [it.meta.task for it in play.log if it.type == "task.started"] == [sent.task, another.task]


# -- the store doesn't answer ----------------------------------------------------------------------------------------


class Flaky(MemoryEventStore):
    """Does what it is asked, or not, and doesn't tell, while `trouble` says so."""

    trouble: str = ""  # "lost": not written; "unknown": written, and not told; "reads": nothing can be read

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        if self.trouble not in ("lost", "unknown") or stream.startswith("run/"):
            return super().submit(stream, events, expected)
        if self.trouble == "unknown":
            super().submit(stream, events, expected)
        outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        outcome.set_exception(StoreUnavailable("away"))
        return outcome

    async def read_stream(self, stream: str, **bounds: Any) -> Any:
        if self.trouble:
            raise StoreUnavailable("away")
        async for it in super().read_stream(stream, **bounds):
            yield it

    async def get_blobs(self, digests: Sequence[str]) -> dict[str, bytes]:
        if self.trouble == "reads":
            raise StoreUnavailable("away")
        return await super().get_blobs(digests)


async def until_back(play: Play, trouble: str) -> None:
    """Let the store be away for a while."""
    play.store.trouble = trouble  # type: ignore[attr-defined]
    for _ in range(50):
        await asyncio.sleep(0)
    play.store.trouble = ""  # type: ignore[attr-defined]
    play.clock.advance(10)
    await play.quiet()


@pytest.mark.parametrize("trouble", ["lost", "unknown"])
async def test_an_append_whose_outcome_is_not_known_is_found_out(trouble: str) -> None:
    async with spec(worker(wait_twice), store=Flaky) as play:
        sent = await play.when("worker", None)
        for number in (1, 2):
            await play.send(sent.actor, number, kind="feedback", task=sent.task)
            await until_back(play, trouble)
        assert await play.result(sent) == [1, 2]
        check_log(play.log)


@pytest.mark.parametrize("trouble", ["lost", "unknown"])
async def test_a_claim_whose_outcome_is_not_known_is_found_out(trouble: str) -> None:
    async with spec(Echo, store=Flaky) as play:
        sent = await play.send("echo", 1)
        await until_back(play, trouble)
        assert await play.result(sent) == 1
        check_log(play.log)


async def test_a_task_goes_on_when_the_store_is_back() -> None:
    async def todo(ctx: Context) -> int:
        text = await ctx.step(lambda: "x" * 20_000, name="long")
        await ctx.receive("feedback")
        return len(text)

    async with spec(worker(todo), store=Flaky) as play:
        sent = await play.when("worker", None)
        play.passivate()
        await play.send(sent.actor, 1, kind="feedback", task=sent.task)
        await until_back(play, "reads")
        assert await play.result(sent) == 20_000
        assert "task.failed" not in play.types()


# -- odds ------------------------------------------------------------------------------------------------------------


async def test_an_attempt_more_is_counted_after_each_crash() -> None:
    async def todo(ctx: Context) -> int:
        await ctx.step(asyncio.Event().wait, name="stall")
        return ctx.attempt

    async with spec(worker(todo)) as play:
        await play.send("worker", None)
        await play.until("task.started")
        for attempt in (2, 3):
            await play.kill()
            await play.restart(wait=False)
            await play.until("task.resumed", attempt - 1)
            assert bodies(play.log, e.TaskResumed)[-1].attempt == attempt


async def test_a_task_that_waits_is_not_resumed_by_a_crash() -> None:
    async with spec(worker(wait_twice)) as play:
        await play.when("worker", None)
        await play.crash()
        assert "task.resumed" not in play.types()
        assert "0 actors" in repr(play.runtime)


async def test_a_handoff_that_was_recorded_is_not_made_again() -> None:
    async def desk(ctx: Context) -> Handoff:
        await ctx.step(double, 1)
        return await ctx.handoff("echo", "there")

    async with spec(actor("desk", desk), Echo) as play:
        await play.when("desk", None)
        log = list(play.log)
    for length in range(1, len(log)):
        async with spec(actor("desk", desk), Echo) as play:
            await play.given_log(log[:length])
            check_log(play.log)
            assert play.types().count("task.handed_off") == 1
            assert play.types("echo").count("task.completed") == 1


async def test_a_deliverys_second_entry_is_settled_too() -> None:
    async with spec(worker(wait_twice)) as play:
        sent = await play.send("worker", None)
        play.bus.publish([await play.store.message(sent.message)], again=True)
        await play.quiet()
        await play.again(sent)
        assert await play.bus.backlog("worker") == {0: 0}
        play.then("task.started", "wait.started")


def test_a_conflict_says_what_was_expected() -> None:
    assert str(Conflict("s/k", "version 1", 2)) == "Stream 's/k' is at version 2, and the append expected version 1."
    assert event("task.started").type == e.TaskStarted.TYPE


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("trouble", ["lost", "unknown", "reads"])
async def test_named_actors_keep_their_order_when_they_are_loaded_again_and_slots_are_few(
    trouble: str, slots: int
) -> None:
    order: list[str] = []

    async def todo(payload: list[Any], ctx: Context) -> str:
        name = f"{payload[0]} {payload[1]}"
        await ctx.step(asyncio.sleep, 0, name="first")
        if trouble == "lost":  # else the question may be in the log only, and nobody here looks for it there
            await ctx.ask("echo", payload)
        await ctx.step(asyncio.sleep, 0, name="second")
        if name not in order:
            order.append(name)
        return name

    async with spec(actor("clerk", todo), Echo, store=Flaky, slots=slots) as play:
        sent = []
        for number in range(6):
            sent += [await play.send(f"clerk/{key}", [key, number]) for key in ("ann", "bob", "cat")]
            if number in (1, 3):
                await until_back(play, trouble)
        await play.quiet()
        for each in sent:
            await play.result(each)
        check_log(play.log)
        for key in ("ann", "bob", "cat"):
            assert [name for name in order if name.startswith(key)] == [f"{key} {number}" for number in range(6)]


async def test_what_comes_while_an_actor_is_loaded_again_comes_behind_what_it_had() -> None:
    order: list[int] = []
    go_on, confirmed, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def clerk(number: int, ctx: Context) -> None:
        if number == 1:
            await go_on.wait()
        await ctx.step(double, number)
        order.append(number)

    async def hog(_payload: Any, ctx: Context) -> None:
        await freed.wait()

    async def confirm(_: Lease) -> bool:
        await confirmed.wait()
        return True

    async def turns() -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async with spec(actor("clerk", clerk), actor("hog", hog), slots=1) as play:
        play.runtime.confirm = confirm
        first = await play.send("clerk/dave", 1)
        await play.until("task.started")
        await play.send("clerk/dave", 2)  # it waits in the actor's queue
        foreign = e.TaskProgressed(step="foreign", done=1)
        await play.store.append(first.actor, [new_event(foreign, e.Meta(run=first.run, task=first.task))], ANY)
        go_on.set()
        await turns()  # refused; whether the partition is still ours is being asked
        await play.send("hog", None)
        await play.until("task.started", 2)
        await play.send("clerk/dave", 3)
        await turns()
        freed.set()
        await turns()
        confirmed.set()
        await play.quiet()
        check_log(play.log)
    assert list(dict.fromkeys(order)) == [1, 2, 3]
