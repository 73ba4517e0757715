"""The throttle on a Redis that stalls, dies, is full and forgets."""

import logging
import signal
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from callboard.bus.keys import breaker_key, rate_key
from callboard.bus.throttle import ANSWER_S, RedisThrottle
from callboard.protocols.ports import Breaker, SystemClock
from tests.conftest import DEADLINE_S
from tests.redis_kit import BINARIES, Server, stopped_redis

BREAKER = Breaker(threshold=2, open_s=100.0)
TARGET = "tool:search"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with stopped_redis(BINARIES[0]) as server:
        await server.start()
        yield server


@pytest.fixture
async def throttle(server: Server) -> AsyncIterator[RedisThrottle]:
    async with RedisThrottle.open(server.url, "test", SystemClock()) as throttle:
        yield throttle


async def state_becomes(throttle: RedisThrottle, expected: str) -> None:
    """Return when Redis, or the process, says so; fails after a deadline."""
    with anyio.fail_after(DEADLINE_S):
        while await throttle.state(TARGET) != expected:  # noqa: ASYNC110 - what it waits for tells nobody
            await anyio.sleep(0.01)


async def test_while_redis_is_dead_each_process_goes_by_itself_and_afterwards_all_share_again(
    server: Server, throttle: RedisThrottle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.kill()
    async with RedisThrottle.open(server.url, "test", SystemClock()) as other:
        for _ in range(2):
            await throttle.report(TARGET, BREAKER, ok=False)
        assert await throttle.state(TARGET) == "open"
        assert await other.state(TARGET) == "closed"
        assert [await throttle.take("b", 1, 1), await throttle.take("b", 1, 1)] == [0.0, pytest.approx(60, abs=5)]
        lines = [record.getMessage() for record in caplog.records if "throttle" in record.getMessage()]
        assert [line.partition(":")[2][:20] for line in lines] == [" no answer from Redi"] * 2  # one of each process
        await server.start()
        await state_becomes(throttle, "closed")  # as Redis says
        for _ in range(2):
            await throttle.report(TARGET, BREAKER, ok=False)
        await state_becomes(other, "open")


async def test_a_redis_that_stalls_keeps_nobody_waiting_for_long(server: Server, throttle: RedisThrottle) -> None:
    assert await throttle.enter(TARGET, BREAKER) == 0
    server.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(throttle.enter, TARGET, BREAKER)
        assert time.monotonic() - begun < ANSWER_S * 10  # all at once, and not one after the other
        begun = time.monotonic()
        for _ in range(20):
            assert await throttle.enter(TARGET, BREAKER) == 0
        assert time.monotonic() - begun < ANSWER_S * 10  # it doesn't ask each time
    finally:
        server.send_signal(signal.SIGCONT)
    with anyio.fail_after(DEADLINE_S):
        while "away=True" in repr(throttle):
            await throttle.enter(TARGET, BREAKER)
            await anyio.sleep(0.01)


async def test_a_redis_without_memory_is_as_good_as_none(server: Server, throttle: RedisThrottle) -> None:
    await server.do("CONFIG", "SET", "maxmemory", "1")
    for _ in range(2):
        await throttle.report(TARGET, BREAKER, ok=False)
    assert await throttle.state(TARGET) == "open"
    assert "away=True" in repr(throttle)


async def test_a_redis_that_forgets_closes_what_was_open(server: Server, throttle: RedisThrottle) -> None:
    await throttle.report(TARGET, BREAKER, ok=False, retry_after_s=50.0)
    assert await throttle.state(TARGET) == "open"
    await server.do("FLUSHALL")
    await server.do("SCRIPT", "FLUSH")
    assert await throttle.enter(TARGET, BREAKER) == 0


async def test_no_key_is_kept_for_ever(server: Server, throttle: RedisThrottle) -> None:
    circuit = breaker_key("test", TARGET)
    assert await throttle.take("b", 30, 60) == 0
    ages = [await server.do("PTTL", rate_key("test", "b"))]
    for retry_after_s in (None, None, 0.001):
        await throttle.report(TARGET, BREAKER, ok=False, retry_after_s=retry_after_s)
        ages.append(await server.do("PTTL", circuit))
    assert await throttle.enter("no such target", BREAKER) == 0
    await throttle.report("no such target", BREAKER, ok=True)
    assert all(isinstance(age, int) and 60_000 < age < 600_000 for age in ages), ages
    assert await server.do("DBSIZE") == 2
