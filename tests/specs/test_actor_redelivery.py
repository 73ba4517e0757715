"""A message that a lost process had claimed, and not yet taken off the bus, comes again to whoever takes over."""

import asyncio
from typing import Any

from callboard import Context, tool
from callboard.actors.process.runtime import Runtime
from callboard.protocols import events as e
from callboard.protocols.ports import Delivery, Lease
from callboard.testing import spec
from tests.actor_kit import bodies, worker


async def test_a_claimed_message_that_comes_again_resumes_the_task_that_was_lost() -> None:
    runs = 0
    running = asyncio.Event()

    async def hang_once() -> str:
        nonlocal runs
        runs += 1
        running.set()
        if runs == 1:
            await asyncio.Event().wait()
        return "done"

    async def handle(_payload: Any, ctx: Context) -> Any:
        return await ctx.tool(tool(idempotent=True)(hang_once))

    async with spec(worker(handle)) as play:
        sent = await play.send("worker", None)
        await asyncio.wait_for(running.wait(), 5)
        former = play.runtime
        await play.kill()
        async with Runtime(
            play.store,
            play.bus,
            play.directory,
            former.definitions,
            former.services.gateway,
            process="test-2",
            throttle=former.services.throttle,
            answers=former.services.answers,
        ) as runtime:
            tenure = runtime.partitions.begin(Lease("worker", 0, epoch=2, partitions=1))
            runtime.deliver(Delivery(await play.store.message(sent.message), tenure, entry="7", fresh=False))
            await play.until(e.TaskCompleted.TYPE)
        [resumed] = bodies(play.log, e.TaskResumed)
        assert (resumed.attempt, resumed.epoch, resumed.process) == (2, 2, "test-2")
        assert runs == 2
