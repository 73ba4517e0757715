"""An actor is dropped from memory only when nothing of it would be lost with that."""

from typing import Any

from callboard import Context
from callboard.testing import spec
from tests.actor_kit import worker


async def hear(_: Any, ctx: Context) -> Any:
    return (await ctx.receive("feedback")).content


async def test_an_actor_that_waits_stays_while_another_task_is_queued_behind_it() -> None:
    async with spec(worker(hear)) as play:
        first = await play.when("worker", 1, key="dave")
        second = await play.when("worker", 2, key="dave")
        assert play.passivate() == 0
        await play.when(first.actor, "one", kind="feedback", task=first.task)
        await play.when(second.actor, "two", kind="feedback", task=second.task)
        assert [await play.result(first), await play.result(second)] == ["one", "two"]
