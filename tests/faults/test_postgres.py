"""PostgreSQL that restarts, crashes, drops connections, and is away for longer than any lease."""

import signal

import anyio
import pytest

from callboard.bootstrap import namespace_of
from tests.faults import rest
from tests.faults.conftest import OpenStage
from tests.faults.stage import Stage


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_runs_go_through_a_postgres_that_restarts(how: str, stage: OpenStage, long: bool) -> None:
    async with stage(f"PostgreSQL restarts, {how}") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        runs, times = (400, 5) if long else (40, 1)
        it.troupe.meanwhile(it.load, runs, 2.0 * times)
        for number in range(times):
            await rest.becomes(lambda: it.has_sent(runs * (number + 1) // (times + 1)))  # noqa: B023
            postgres = it.servers.postgres
            await it.blocking(lambda: it.servers.kill(postgres) if how == "immediate" else postgres.stop(), "ends")  # noqa: B023
            await it.blocking(it.servers.start, "starts")
        await rest.becomes(lambda: it.has_sent(runs), 60)
        await it.prove()


async def test_runs_go_through_backends_that_are_terminated_every_second(stage: OpenStage, long: bool) -> None:
    async with stage("backends terminated") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        times = 30 if long else 3
        it.troupe.meanwhile(it.load, 15 * times, 1.0 * times)
        for _ in range(times):
            await anyio.sleep(1.0)
            await it.terminate_backends()
        await rest.becomes(lambda: it.has_sent(15 * times), 60)
        await it.prove()


async def test_while_postgres_is_away_nothing_is_settled_and_no_attempt_is_burnt(stage: OpenStage, long: bool) -> None:
    async with stage("PostgreSQL away", slots=4) as it:
        it.troupe.start("a")
        second = it.troupe.start("b")
        await it.serves()
        await it.load(60)
        away_s = 60.0 if long else it.plan.lease_s + 1
        await it.blocking(lambda: it.servers.kill(it.servers.postgres), "crashes")
        await anyio.sleep(0.5)  # what was committed before is settled by then
        before = await _entries(it)
        await anyio.sleep(away_s)
        it.counted["seconds away"] += round(away_s)
        assert await _entries(it) == before, "settled, though nothing can be in the log"
        assert before
        second.signal(signal.SIGSTOP)  # one comes back a little earlier than the other
        await it.blocking(it.servers.start, "starts")
        await rest.becomes(lambda: it.has_renewed("a"))
        await anyio.sleep(it.plan.lease_s / 5)
        second.signal(signal.SIGCONT)
        await it.prove(within_s=120)


async def _entries(stage: Stage) -> set[tuple[bytes, bytes]]:
    """All that is on the bus."""
    namespace = namespace_of(stage.stack.store.store_id)
    async with stage.redis() as redis:
        streams = [key async for key in redis.scan_iter(f"cb:{{{namespace}:*", count=1000, _type="stream")]
        return {(stream, entry) for stream in streams for entry, _ in await redis.xrange(stream)}
