"""Without Redis actors work from the log, and afterwards over the bus again; without PostgreSQL they wait."""

import asyncio
from typing import Any

import anyio
import pytest

from callboard import Context
from callboard.protocols.errors import StoreUnavailable
from tests.actor_kit import actor, worker
from tests.conftest import DEADLINE_S
from tests.faults.proxy import proxy_to
from tests.host_kit import Stage, becomes, stage

RUNS = 10


async def todo(number: int, ctx: Context) -> int:
    answer = await ctx.ask("clerk/dave", number)
    return int(answer) + int(await ctx.ask("helper", number))


async def double(number: int, ctx: Context) -> int:
    return 2 * number


async def work(it: Stage) -> list[Any]:
    with anyio.fail_after(DEADLINE_S):
        return await asyncio.gather(*(it.client.call("worker", number) for number in range(RUNS)))


async def test_actors_go_on_without_redis_and_return_to_it(database_url: str, redis_url: str) -> None:
    roles = worker(todo), actor("clerk", double), actor("helper", double)
    async with proxy_to(redis_url) as proxy, stage(database_url, proxy.url, *roles) as it:
        hosts = [await it.host("a"), await it.host("b")]
        assert await work(it) == [4 * number for number in range(RUNS)]

        proxy.refuses = True
        await proxy.cut()
        await becomes(lambda: all_away(hosts, away=True))
        assert await work(it) == [4 * number for number in range(RUNS)]
        assert all(running.stack.bus.away for running in hosts), "that was without Redis"

        proxy.refuses = False
        await becomes(lambda: all_away(hosts, away=False))
        before = len(await it.log())
        assert await work(it) == [4 * number for number in range(RUNS)]
        assert not [event for event in (await it.log())[before:] if event.type == "task.resumed"]
        await it.settled()


async def all_away(hosts: list[Any], *, away: bool) -> bool:
    return all(running.stack.bus.away is away for running in hosts)


async def test_while_the_log_can_not_be_written_nothing_is_read(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(database_url, redis_url, worker(double), lease_s=3.0) as it:
        host = await it.host("a")
        assert await it.client.call("worker", 1) == 2

        async def gone(*_: object, **__: object) -> Any:
            raise StoreUnavailable("it is away")

        with monkeypatch.context() as broken:
            broken.setattr(host.stack.leases, "heartbeat", gone)
            await becomes(lambda: paused(host, paused=True))
            assert host.host.runtime.gate.capacity() == 0
            (sent,) = await it.client.send("worker", 2)
            await anyio.sleep(0.2)
            assert "task.started" not in [each.type for each in await it.log() if each.meta.task == sent.task]
        await becomes(lambda: paused(host, paused=False))
        with anyio.fail_after(DEADLINE_S):
            assert await it.client.wait(sent) == 4
        assert "task.resumed" not in [event.type for event in await it.log()]


async def paused(host: Any, *, paused: bool) -> bool:
    return host.host.runtime.gate.paused is paused
