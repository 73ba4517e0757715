"""Hosts on PostgreSQL and Redis: sharing, handing over, taking over, and what happens when a server forgets or goes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, get_args

import anyio
import pytest

import callboard.actors.process.host
import callboard.actors.process.recovery
import callboard.actors.process.timers
from callboard import Context, Handoff
from callboard.actors.models.gateway import Gateway
from callboard.bus.keys import epoch_key
from callboard.projections import dead_letters
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, sent_messages
from callboard.protocols.errors import TaskCanceled
from callboard.protocols.messages import Kind, Message, encode_message
from tests.actor_kit import Echo, actor, worker
from tests.conftest import DEADLINE_S
from tests.host_kit import SHORT_LEASE_S, Running, Stage, becomes, stage

StageOf = Callable[..., AbstractAsyncContextManager[Stage]]


@pytest.fixture
def stage_of(database_url: str, redis_url: str) -> StageOf:
    return lambda *roles, **options: stage(database_url, redis_url, *roles, **options)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what was lost more often."""
    monkeypatch.setattr(callboard.actors.process.host, "RECONCILE_EVERY_S", 0.2)
    monkeypatch.setattr(callboard.actors.process.recovery, "IN_TRANSIT", timedelta(seconds=0.3))


def handled(log: list[e.Event]) -> Counter[str]:
    return Counter(it.meta.handles for it in log if it.meta.handles)


async def test_every_kind_of_message_is_handled(stage_of: StageOf) -> None:
    async def desk(ctx: Context) -> Handoff:
        await ctx.ask("echo", 1, kind="query")
        await ctx.ask("echo", 2, kind="review-request")
        await ctx.tell("echo", 3)
        await ctx.tell("echo", 4, kind="artifact")
        await ctx.sleep(0.1)
        await ctx.receive("decision")
        return await ctx.handoff("echo", "done")

    async def patient(ctx: Context) -> Any:
        return (await ctx.receive("feedback")).content

    async with stage_of(
        worker(lambda ctx: ctx.ask("desk", None)), actor("desk", desk), actor("patient", patient), Echo
    ) as it:
        await it.host("a")
        (sent,) = await it.client.send("worker", None)
        (waiting,) = await it.client.send("patient", None)
        await it.reach("desk", "wait.started")
        sends = [m for event in await it.log() for m in sent_messages(event)]
        (at_desk,) = [m for m in sends if m.to.startswith("desk/") and m.kind == "assign"]
        await it.client.send(at_desk.to, True, task=at_desk.task, kind="decision", run=sent.run)
        await it.reach("patient", "wait.started")
        await it.client.cancel(waiting.run, waiting.task, waiting.actor, "enough")
        with anyio.fail_after(DEADLINE_S):
            assert await it.client.wait(sent) == "done"
            with pytest.raises(TaskCanceled, match="enough"):
                await it.client.wait(waiting)
        await it.settled()
        log = await it.log()
        messages = {m.id: m.kind for event in log for m in sent_messages(event)}
        await becomes(lambda: has_handled(it, set(messages)))
        assert set(messages.values()) == set(get_args(Kind))


async def has_handled(it: Stage, messages: set[str]) -> bool:
    return set(handled(await it.log())) == messages


async def test_hosts_share_the_partitions_and_hand_them_over(stage_of: StageOf) -> None:
    async def slow(payload: int, ctx: Context) -> int:
        await ctx.step(asyncio.sleep, 0.02, name="nap")
        return payload

    async with stage_of(worker(slow), partitions=8) as it:
        first = await it.host("a")
        await becomes(lambda: owns(first, 8))
        sent = [(await it.client.send("worker", number))[0] for number in range(40)]
        second = await it.host("b")
        await becomes(lambda: owns(first, 4))
        await becomes(lambda: owns(second, 4))
        sent += [(await it.client.send("worker", number))[0] for number in range(40, 80)]
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent] == list(range(80))
        starts = [body for body in map(body_of, await it.log()) if isinstance(body, e.TaskStarted)]
        assert {body.process for body in starts} == {first.stack.process, second.stack.process}
        await first.stop()
        await becomes(lambda: owns(second, 8))
        assert await it.client.call("worker", 1) == 1
        assert "task.resumed" not in await it.types("worker")


async def owns(running: Running, number: int) -> bool:
    return running.owned() == number


async def test_what_a_roles_models_need_is_loaded_before_a_host_takes_part(
    stage_of: StageOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[Any] = []

    async def prepare(_: Gateway, models: Sequence[str]) -> None:
        prepared.append((models, await it.stack.leases.members()))

    monkeypatch.setattr(Gateway, "prepare", prepare)
    async with stage_of(Echo, worker(lambda ctx: ctx.ask("echo", 1), model="fast")) as it:
        await it.host("a")
        assert await it.client.call("worker", None) == 1
    assert prepared == [(("fast",), [])]


async def test_a_lost_hosts_tasks_go_on_elsewhere(stage_of: StageOf) -> None:
    done: Counter[str] = Counter()

    def effect(name: str) -> str:
        done[name] += 1
        return name

    async def todo(payload: int, ctx: Context) -> str:
        await ctx.step(effect, f"{payload} before")
        await ctx.step(
            blocked.wait if ctx.attempt == 1 else asyncio.sleep, *([] if ctx.attempt == 1 else [0]), name="wait"
        )
        return str(await ctx.step(effect, f"{payload} after"))

    blocked = asyncio.Event()
    tolerant = worker(todo, on_changed_input="warn")
    async with stage_of(tolerant, lease_s=SHORT_LEASE_S) as it:
        first = await it.host("a")
        sent = [(await it.client.send("worker", number))[0] for number in range(10)]
        await it.reach("worker", "step.completed", 10)
        second = await it.host("b")
        await first.abandon()
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent] == [f"{number} after" for number in range(10)]
        assert set(done.values()) == {1}
        assert second.owned() == 4


@pytest.mark.usefixtures("quick")
async def test_a_redis_that_forgets_in_the_middle_loses_and_doubles_nothing(stage_of: StageOf) -> None:
    done: Counter[str] = Counter()

    async def effect(name: str) -> None:
        done[name] += 1
        await asyncio.sleep(0.01)

    async def helper(name: str, ctx: Context) -> str:
        await ctx.step(effect, f"helper {name}")
        return name

    async def todo(number: int, ctx: Context) -> int:
        for place in range(3):
            await ctx.step(effect, f"{number}.{place}")
            await ctx.ask("helper", f"{number}.{place}")
        return number

    async with stage_of(worker(todo), actor("helper", helper)) as it:
        await it.host("a")
        await it.host("b")
        sent = [(await it.client.send("worker", number))[0] for number in range(50)]
        for _ in range(3):
            await anyio.sleep(0.15)
            await it.forget()
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent] == list(range(50))
        assert len(done) == 300
        assert set(done.values()) == {1}
        assert set(handled(await it.log()).values()) == {1}
        await it.settled()


@pytest.mark.usefixtures("quick")
async def test_the_timer_of_an_actor_that_was_dropped_comes_from_the_projection(
    stage_of: StageOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callboard.actors.process.timers, "HORIZON", timedelta(seconds=0.3))
    monkeypatch.setattr(callboard.actors.process.recovery, "HORIZON", timedelta(seconds=0.5))

    async def nap(ctx: Context) -> str:
        await ctx.sleep(1.0)
        return "awake"

    async with stage_of(worker(nap), passivate_after_s=0.0) as it:
        running = await it.host("a")
        (sent,) = await it.client.send("worker", None)
        await it.reach("worker", "timer.set")
        await becomes(lambda: in_memory(running, 0))
        assert "Timers(0 near)" in repr(running.host)
        with anyio.fail_after(DEADLINE_S):
            assert await it.client.wait(sent) == "awake"


async def in_memory(running: Running, number: int) -> bool:
    return f" {number} actors" in repr(running.host.runtime)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "malformed"),
        (b"{}", "missing required field"),
        (
            encode_message(Message(kind="assign", to="nobody/x", sender="run/r", run="r", task="x", id="run/r@1.0")),
            "nobody/x",
        ),
        (encode_message(Message(kind="assign", to="echo", sender="run/r", run="r", task="x", id="run/r@1.0")), "echo"),
    ],
)
async def test_what_is_no_message_becomes_a_dead_letter_that_says_why(
    stage_of: StageOf, content: bytes, reason: str
) -> None:
    async with stage_of(Echo, partitions=1) as it:
        await it.host("a")
        await it.stack.directory.refresh()
        async with it.redis() as redis:
            await redis.xadd(it.stream("echo", 0), {"m": content})
        await becomes(lambda: has_dead(it, 1))
        (dead,) = await dead_letters.list_letters(it.stack.store.pool)
        assert reason in dead.reason
        assert dead.role == "echo"
        assert await it.client.call("echo", "still here") == "still here"
        await it.settled()


async def has_dead(it: Stage, number: int) -> bool:
    return len(await dead_letters.list_letters(it.stack.store.pool)) == number


async def test_a_host_that_stops_finishes_what_is_at_work_and_leaves_nothing_behind(stage_of: StageOf) -> None:
    running_steps = anyio.Event()

    async def todo(payload: int, ctx: Context) -> int:
        running_steps.set()
        await ctx.step(asyncio.sleep, 2.5, name="nap")  # three heartbeats
        return payload

    async def patient(ctx: Context) -> Any:
        return (await ctx.receive("feedback")).content

    async with stage_of(worker(todo), actor("patient", patient), lease_s=2.0) as it:
        running = await it.host("a")
        sent = [(await it.client.send("worker", number))[0] for number in range(5)]
        await it.client.send("patient", None)
        await it.reach("worker", "task.started", 5)
        await it.reach("patient", "wait.started")
        await running.stop()
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent] == list(range(5))
        assert "task.resumed" not in await it.types("worker")
        assert "0 actors, 0 busy" in repr(running.host.runtime)
        await it.settled()
        states = await it.stack.leases.partitions()
        assert {state.owner for state in states} == {None}


async def test_a_stalled_former_owner_is_refused(stage_of: StageOf, monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()

    async def todo(ctx: Context) -> str:
        if ctx.attempt == 1:
            await ctx.step(release.wait, name="wait")
            return "by the former owner"
        return "by its successor"

    async with stage_of(worker(todo), partitions=1, lease_s=SHORT_LEASE_S) as it:
        former = await it.host("a")
        (sent,) = await it.client.send("worker", None)
        await it.reach("worker", "task.started")

        async def hang(*_: object, **__: object) -> Any:
            await anyio.sleep_forever()

        monkeypatch.setattr(former.stack.leases, "heartbeat", hang)
        successor = await it.host("b")
        await becomes(lambda: owns(successor, 1))
        with anyio.fail_after(DEADLINE_S):
            assert await it.client.wait(sent) == "by its successor"
        release.set()
        await anyio.sleep(0.2)
        assert await it.types("worker") == ["task.started", "task.resumed", "task.completed"]


async def test_a_host_that_can_not_renew_its_leases_stops_acting(
    stage_of: StageOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage_of(Echo, partitions=2, lease_s=SHORT_LEASE_S) as it:
        running = await it.host("a")
        await becomes(lambda: owns(running, 2))

        async def hang(*_: object, **__: object) -> Any:
            await anyio.sleep_forever()

        with monkeypatch.context() as broken:
            broken.setattr(running.stack.leases, "heartbeat", hang)
            await becomes(lambda: owns(running, 0))
        await becomes(lambda: owns(running, 2))
        assert await it.client.call("echo", 1) == 1


@pytest.mark.usefixtures("quick")
async def test_a_host_outlives_the_loss_of_every_connection_to_the_database(stage_of: StageOf) -> None:
    async def todo(number: int, ctx: Context) -> int:
        for _ in range(5):
            await ctx.step(asyncio.sleep, 0.05, name="nap")
        return number

    async with stage_of(worker(todo)) as it:
        await it.host("a")
        sent = [(await it.client.send("worker", number))[0] for number in range(20)]
        for _ in range(15):
            await anyio.sleep(0.05)
            await it.database(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        with anyio.fail_after(DEADLINE_S):
            for each in sent:
                await becomes(lambda each=each: has_ended(it, each.task))  # type: ignore[misc]
        assert set(handled(await it.log()).values()) == {1}


async def has_ended(it: Stage, task: str) -> bool:
    return any(event.type == "task.completed" and event.meta.task == task for event in await it.log())


async def test_a_named_actor_keeps_its_order_over_a_handover(stage_of: StageOf) -> None:
    order: list[int] = []

    async def todo(number: int, ctx: Context) -> int:
        await ctx.step(lambda: order.append(number), name="note")
        await ctx.step(asyncio.sleep, 0.02, name="nap")
        return number

    async with stage_of(actor("clerk", todo), partitions=2) as it:
        first = await it.host("a")
        sent = [(await it.client.send("clerk/dave", number))[0] for number in range(30)]
        await it.host("b")
        await it.reach("clerk", "task.completed", 5)
        await first.stop()
        with anyio.fail_after(DEADLINE_S):
            assert [await it.client.wait(each) for each in sent] == list(range(30))
    assert order == list(range(30))


async def test_a_suspect_runs_alone_on_a_host_too(stage_of: StageOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.actors.process.quarantine.ALONE_S", 1.0)
    hosts: list[Running] = []
    running: set[str] = set()
    suspects: list[int] = []  # when "later" begins

    async def todo(name: str, ctx: Context) -> str:
        running.add(name)
        if name == "later":
            suspects.append(len(hosts[-1].host.runtime.gate.quarantine))
        try:
            if name == "poison":
                await asyncio.Event().wait()
        finally:
            running.discard(name)
        return name

    async with stage_of(actor("clerk", todo), lease_s=SHORT_LEASE_S, partitions=1) as it:
        hosts.append(await it.host("first"))
        await it.client.send("clerk", "poison")
        await it.reach("clerk", "task.started")
        for losses, name in enumerate(("second", "third"), 1):
            await hosts[-1].abandon()
            hosts.append(await it.host(name))
            await it.reach("clerk", "task.resumed", losses)
        (later,) = await it.client.send("clerk", "later")
        assert await it.client.wait(later) == "later"
        assert suspects == [0], "it began when the suspect had been watched for long enough"
        assert running == {"poison"}


async def test_a_partition_that_redis_refuses_is_served_from_the_log(stage_of: StageOf, quick: None) -> None:
    """As where the database came back from a backup, with lower epochs than Redis knows."""
    async with stage_of(Echo, partitions=1) as it:
        host = await it.host("first")
        (before,) = await it.client.send("echo", "before")
        await it.client.wait(before)
        await host.stop()
        async with it.redis() as redis:
            await redis.set(epoch_key(it.stream("echo", 0)), 1000)
        await it.host("second")
        (sent,) = await it.client.send("echo", "hello")
        assert await it.client.wait(sent) == "hello"
        (named,) = await it.client.send("echo", "you", key="ann")
        assert await it.client.wait(named) == "you"
