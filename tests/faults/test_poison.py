"""Tasks that harm others: they kill their process, are lost in mid-call, are many, or are to stop."""

import statistics
import time

import anyio
import pytest

from callboard.actors.outside.dead_letters import DeadLetters, Redriven
from callboard.projections import dead_letters
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from tests.faults import rest
from tests.faults.checker import Allowed
from tests.faults.conftest import OpenStage
from tests.faults.process import SHORT_LEASE_S
from tests.faults.stage import Stage

BOMBS = ("exit", "segfault", "memory")
DEAD = Allowed(deaths=1, ends=("message.dead_lettered",))


async def test_a_handler_that_kills_its_process_is_quarantined_then_dead_and_its_neighbours_complete(
    stage: OpenStage, long: bool
) -> None:
    async with stage("poison", lease_s=SHORT_LEASE_S) as it:
        for name in ("a", "b"):
            it.troupe.meanwhile(it.troupe.keep_up, name)
        await it.serves("bomb", "writer", "clerk")
        for how in BOMBS * (3 if long else 1):
            await it.send("bomb", how)
            await it.load(10)
        it.counted["bombs"] += len(it.sent) // 11
        events = await it.prove(DEAD, within_s=120)
        died = [body for event in events if isinstance(body := body_of(event), e.MessageDeadLettered)]
        assert len(died) == it.counted["bombs"]
        assert all(body.to.startswith("bomb/") for body in died)
        for body in died:
            lost = [b for event in events if isinstance(b := body_of(event), e.TaskResumed) and event.stream == body.to]
            assert [b.reason for b in lost] == ["lost"] * 3, "the first attempt, three more, and no fifth"
        said = await anyio.Path(it.plan.log).read_text()
        assert "runs alone" in said


async def test_a_dead_letter_that_is_redriven_twice_is_one_new_task(stage: OpenStage, long: bool) -> None:
    if not long:
        pytest.skip("tests/integration/test_dead_letters.py does it without deaths; with them: --long")
    async with stage("redrive twice", lease_s=SHORT_LEASE_S) as it:
        it.troupe.meanwhile(it.troupe.keep_up, "a")
        await it.serves("bomb")
        await it.send("bomb", "exit")
        await it.at_rest()
        letters = DeadLetters(it.stack.store.pool, it.stack.store, it.stack.bus, it.stack.directory)
        (letter,) = await dead_letters.list_letters(it.stack.store.pool)
        await letters.edit(letter, "nothing", by="dave")
        outcomes: list[object] = []

        async def redrive() -> None:
            outcomes.extend([outcome async for outcome in letters.redrive([letter], by="dave")])

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(redrive)
                it.counted["redrives"] += 1
        assert sum(isinstance(outcome, Redriven) for outcome in outcomes) == 1
        await it.prove(DEAD)
        assert len(it.payments.requests) == 1


async def test_a_tool_lost_in_mid_call_waits_for_a_decision_and_is_called_again_only_by_one(stage: OpenStage) -> None:
    async with stage("unknown outcome", lease_s=SHORT_LEASE_S) as it:
        it.troupe.meanwhile(it.troupe.keep_up, "a")
        await it.serves("bank", "clerk")
        sent = []
        for decision in ({"outcome": "happened", "result": 1}, {"outcome": "run"}):
            wired = await it.send("bank", len(sent))
            assert wired is not None
            sent.append((wired, decision))
            await rest.becomes(lambda: _reviewed(it, len(sent)))
        await it.load(6)
        assert len([request for request in it.payments.requests if request.key.endswith("wire#0")]) == 2
        for wired, decision in sent:
            await it.client.decide(wired.run, wired.task, wired.actor, "wire#0", {**decision, "by": "dave"})
            it.counted[f"decided {decision['outcome']}"] += 1
        await it.prove(Allowed(deaths=1))
        times = [sum(request.key == f"{wired.task}:wire#0" for request in it.payments.requests) for wired, _ in sent]
        assert times == [1, 2]


async def _reviewed(stage: Stage, tasks: int) -> bool:
    query = "select count(*) from tasks where actor_state = 'waiting_review'"
    return bool(await stage.stack.store.pool.fetchval(query) == tasks)


async def test_a_run_with_many_tasks_leaves_other_runs_their_pace(stage: OpenStage, long: bool) -> None:
    async with stage("one run of many tasks") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves("manager", "clerk")
        before = [await _pace(it, number) for number in range(15)]
        await it.send("manager", 100_000 if long else 1000)
        await rest.becomes(lambda: it.has_paid(100), within_s=120)
        beside = [await _pace(it, number) for number in range(15)]
        assert len(it.payments.requests) < (100_000 if long else 1000), "it was over before it could be in the way"
        slower = statistics.median(beside) / statistics.median(before)
        it.counted[f"median {statistics.median(before) * 1e3:.0f} ms alone, beside it times {slower:.1f}:"] = 1
        assert slower < 8
        await it.prove(within_s=1500)


async def _pace(stage: Stage, number: int) -> float:
    """How many seconds a light run takes."""
    begun = time.monotonic()
    sent = await stage.send("clerk", number)
    assert sent is not None
    await stage.client.wait(sent)
    return time.monotonic() - begun


@pytest.mark.parametrize("moving", [False, True], ids=["at rest", "while partitions move"])
async def test_no_effect_of_a_canceled_run_starts_a_second_later(moving: bool, stage: OpenStage) -> None:
    async with stage("cancel" + ", partitions move" * moving) as it:
        it.troupe.start("a")
        if not moving:
            it.troupe.start("b")
        await it.serves("boss", "walker")
        boss = await it.send("boss", 8)
        assert boss is not None
        await rest.becomes(lambda: it.has_paid(50))
        if moving:
            it.troupe.start("b")
            await rest.becomes(lambda: _serve(it, 2))
            await anyio.sleep(it.plan.lease_s / 2)  # the first process has heard of it, and hands over
        it.troupe.meanwhile(it.load, 30, 1.0)
        await it.client.cancel(boss.run, boss.task, boss.actor, "enough")
        canceled_at = time.time()
        it.counted["runs canceled"] += 1
        await rest.becomes(lambda: it.has_sent(31))
        events = await it.prove(Allowed(ends=("task.canceled",)))
        tasks = {event.meta.task for event in events if event.meta.run == boss.run}
        late = [
            each.key
            for each in it.payments.requests
            if each.at > canceled_at + 1 and each.key.partition(":")[0] in tasks
        ]
        assert not late, f"{len(late)} effects, such as {late[0]}"
        assert sum(event.type == "task.canceled" for event in events) == 9


async def _serve(stage: Stage, processes: int) -> bool:
    return len({it.process for it in await stage.stack.leases.members() if it.role == "walker"}) == processes
