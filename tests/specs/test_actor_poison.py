"""Handlers that take their process with them: counted in the log, run alone, and stopped."""

import asyncio
from typing import Any

import anyio
import pytest

from callboard import Context, TimeLimits
from callboard.protocols import events as e
from callboard.protocols.errors import TaskFailed
from callboard.testing import event, spec
from callboard.testing.play import QUIET_TURNS, Play
from tests.actor_kit import actor, bodies, double, worker
from tests.conftest import DEADLINE_S


@pytest.fixture(autouse=True)
def _first_come_first_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.actors.process.quarantine.random.choice", lambda suspects: suspects[0])


async def hang() -> None:
    await asyncio.Event().wait()


async def lose(play: Play, times: int, *, clean: bool = False) -> None:
    """Lose the process so many times while the task's handler hangs."""
    for _ in range(times):
        await play.kill()
        await play.restart(wait=False, clean=clean)
        before = play.types().count("task.resumed")
        for _ in range(300):
            await asyncio.sleep(0.001)
            if play.types().count("task.resumed") > before or "message.dead_lettered" in play.types():
                break
        for _ in range(QUIET_TURNS):  # what is resumed in the log begins
            await asyncio.sleep(0)


async def test_the_fifth_attempt_is_not_made() -> None:
    runs = []

    async def todo(ctx: Context) -> None:
        runs.append(ctx.attempt)
        await hang()

    async with spec(worker(todo)) as play:
        sent = await play.send("worker", None)
        await play.until("task.started")
        await lose(play, 4)
        await play.quiet()
        assert runs == [1, 2, 3, 4]
        assert [it.attempt for it in bodies(play.log, e.TaskResumed)] == [2, 3, 4]
        assert {it.reason for it in bodies(play.log, e.TaskResumed)} == {"lost"}
        assert play.types("worker")[-1] == "message.dead_lettered"
        [dead] = bodies(play.log, e.MessageDeadLettered)
        assert (dead.message, dead.attempts, dead.to) == (sent.message, 4, sent.actor)
        with pytest.raises(TaskFailed, match="its process was lost 4 times in a row"):
            await play.result(sent)


async def test_whoever_asked_learns_of_it() -> None:
    async def asks(ctx: Context) -> str:
        try:
            await ctx.ask("worker", None)
        except TaskFailed as error:
            return error.type
        return "answered"

    async with spec(worker(lambda ctx: hang()), actor("asker", asks)) as play:
        sent = await play.send("asker", None)
        await play.until("task.started", 2)
        await lose(play, 4)
        assert await play.result(sent) == "MessageDeadLettered"


async def test_whatever_is_recorded_clears_a_suspect() -> None:
    runs = []

    async def todo(ctx: Context) -> None:
        runs.append(ctx.attempt)
        for _ in range(len(runs)):
            await ctx.step(double, 1)
        await hang()

    async with spec(worker(todo)) as play:
        await play.send("worker", None)
        await play.until("step.completed")
        for done in range(2, 9):
            await play.kill()
            await play.restart(wait=False)
            await play.until("step.completed", done)
        assert runs == list(range(1, 9))


async def test_a_process_that_hands_over_is_not_a_loss() -> None:
    async def todo(ctx: Context) -> None:
        await hang()

    async with spec(worker(todo)) as play:
        await play.send("worker", None)
        await play.until("task.started")
        await lose(play, 6, clean=True)
        assert {it.reason for it in bodies(play.log, e.TaskResumed)} == {"handed over"}
        assert len(bodies(play.log, e.TaskResumed)) == 6


@pytest.mark.parametrize("resend_s", [0.0, 0.05])
async def test_a_suspect_runs_alone_and_its_neighbours_before_and_after_it(
    resend_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where, as on a real host, what it sent is looked for before it goes on."""

    async def resend(_stream: str) -> None:
        await asyncio.sleep(resend_s)

    monkeypatch.setattr("callboard.actors.process.runtime._nothing", resend)
    at_once: list[set[str]] = []
    running: set[str] = set()
    crash = asyncio.Event()

    async def todo(name: str, ctx: Context) -> str:
        running.add(name)
        at_once.append(set(running))
        try:
            if name == "poison" or not crash.is_set():
                await hang()
        finally:
            running.discard(name)
        return name

    async def all_run() -> None:
        with anyio.fail_after(DEADLINE_S):
            while running != {"n0", "n1", "n2", "poison"}:  # noqa: ASYNC110 - a handler tells nobody
                await asyncio.sleep(0)

    async with spec(actor("clerk", todo)) as play:
        for number in range(3):
            await play.send("clerk", f"n{number}")
        poison = await play.send("clerk", "poison")
        await all_run()
        await lose(play, 1)
        await all_run()  # the second attempt is made beside others
        crash.set()
        at_once.clear()
        await lose(play, 1)
        await play.until("task.completed", 3)
        await play.until("task.resumed", 8)
        assert all(len(names) == 1 for names in at_once)
        await play.send("clerk", "later")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert at_once[-1] == {"poison"}, "nothing begins beside a suspect"
        play.clock.advance(11)
        await play.until("task.completed", 4)
        assert at_once[-1] == {"poison", "later"}, "but it doesn't wait for ever"
        await lose(play, 2)
        with pytest.raises(TaskFailed):
            await play.result(poison)


async def test_a_suspect_that_waits_lets_others_go_on() -> None:
    async def asks(ctx: Context) -> Any:
        if ctx.attempt < 3:
            await hang()
        return await ctx.ask("clerk", "x")

    async with spec(worker(asks), actor("clerk", lambda payload, ctx: asyncio.sleep(0, payload))) as play:
        sent = await play.send("worker", None)
        await play.until("task.started")
        await lose(play, 2)
        assert await play.result(sent) == "x"


async def test_a_message_that_no_handler_takes_is_dead_at_once() -> None:
    async def todo(number: int, ctx: Context) -> int:
        return number

    class Numbers(actor("numbers", todo)):  # type: ignore[misc]
        limits = TimeLimits(task_s=9)

        async def handle(self, payload: int, ctx: Context) -> int:
            return payload

    async with spec(Numbers) as play:
        sent = await play.when("numbers", "one")
        play.then("task.started", event("message.dead_lettered", message=sent.message, attempts=1, state="failed"))
        assert await play.result(await play.when("numbers", 2)) == 2


async def test_a_process_that_dies_of_something_else_does_not_blame_the_same_task_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time, it dies while the suspect whose turn it is runs."""
    drawn: list[str] = []

    def by_lot(suspects: list[Any]) -> Any:
        chosen = suspects[len(drawn) % len(suspects)]
        drawn.append(chosen.stream)
        return chosen

    monkeypatch.setattr("callboard.actors.process.quarantine.random.choice", by_lot)
    async with spec(actor("clerk", lambda payload, ctx: hang())) as play:
        for number in range(4):
            await play.send("clerk", number)
        await play.until("task.started", 4)
        await lose(play, 1)
        await play.until("task.resumed", 4)
        for turn in range(4):
            await play.kill()
            await play.restart(wait=False)
            await play.until("task.resumed", 5 + turn)
        assert len(set(drawn)) == 4
        assert "message.dead_lettered" not in play.types()


async def test_a_task_that_only_waits_is_not_blamed_for_what_happens_meanwhile() -> None:
    """One of two branches is answered, so the log says that the task goes on: it waits for the other one."""

    async def todo(ctx: Context) -> Any:
        return await ctx.gather(ctx.ask("clerk", "x"), ctx.receive("feedback"))

    async with spec(worker(todo), actor("clerk", lambda payload, ctx: asyncio.sleep(0, payload))) as play:
        sent = await play.when("worker", None)
        assert play.types("worker")[-1] == "question.answered"
        for _ in range(6):
            await play.crash()
        assert [it.reason for it in bodies(play.log, e.TaskResumed)] == ["lost"]
        await play.when(sent.actor, "y", kind="feedback", task=sent.task, run=sent.run)
        (first, second) = await play.result(sent)
        assert first == "x"
        assert second["content"] == "y"
