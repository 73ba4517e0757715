"""What every throttle does, in memory and on Redis. The time is a test's own, but where it says otherwise."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.bus import MemoryThrottle, RedisThrottle
from callboard.bus.keys import breaker_key, rate_key
from callboard.bus.link import Link, pack
from callboard.bus.memory_throttle import PROBE_S
from callboard.protocols.ports import Breaker, SystemClock, Throttle
from callboard.testing import ManualClock
from tests.conftest import DEADLINE_S

BREAKER = Breaker(threshold=3, window_s=60.0, open_s=10.0, longest_s=35.0)
TARGET, BUCKET = "model:openai/gpt-5", "model:openai/gpt-5:tokens"


@dataclass(frozen=True)
class World:
    """The throttles of three processes, and the clock that counts."""

    throttles: tuple[Throttle, ...]
    clock: ManualClock

    @property
    def one(self) -> Throttle:
        return self.throttles[0]

    async def enter_all(self, callers: int = 10, target: str = TARGET) -> list[float]:
        """What so many callers of each process are told, all at once."""
        return await gather(lambda throttle: throttle.enter(target, BREAKER), self.throttles, callers)

    async def fail(self, times: int = 1, retry_after_s: float | None = None) -> None:
        for number in range(times):
            throttle = self.throttles[number % len(self.throttles)]
            await throttle.report(TARGET, BREAKER, ok=False, retry_after_s=retry_after_s)

    async def succeed(self) -> None:
        await self.one.report(TARGET, BREAKER, ok=True)

    async def states(self) -> set[str]:
        return {await throttle.state(TARGET) for throttle in self.throttles}


MakeWorld = Callable[[], AbstractAsyncContextManager[World]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[World]:
    clock = ManualClock()
    throttle = MemoryThrottle(clock)
    yield World((throttle, throttle, throttle), clock)


@asynccontextmanager
async def on_redis(url: str) -> AsyncIterator[World]:
    clock = ManualClock()
    clock.advance(1e6)
    namespace = uuid4().hex[:12]
    throttles = tuple(
        RedisThrottle(url, namespace, clock, time_us=lambda: round(clock.monotonic() * 1e6)) for _ in range(3)
    )
    try:
        yield World(throttles, clock)
        assert "away=True" not in repr(throttles), "it was not Redis that answered"
    finally:
        link = Link(url, timeout_s=5)
        await link.call([pack("DEL", breaker_key(namespace, TARGET), rate_key(namespace, BUCKET))])
        for each in (link, *throttles):
            await each.close()


async def gather(
    do: Callable[[Throttle], Awaitable[float]], throttles: tuple[Throttle, ...], callers: int
) -> list[float]:
    """The outcomes of so many calls to each, all at once."""
    outcomes: list[float] = []

    async def call(throttle: Throttle) -> None:
        outcomes.append(await do(throttle))

    async with anyio.create_task_group() as tasks:
        for throttle in throttles:
            for _ in range(callers):
                tasks.start_soon(call, throttle)
    return outcomes


@pytest.fixture(params=["memory", "redis"])
def make_world(request: pytest.FixtureRequest) -> MakeWorld:
    if request.param == "memory":
        return in_memory
    url = request.getfixturevalue("redis_url")
    return lambda: on_redis(url)


@pytest.fixture
async def world(make_world: MakeWorld) -> AsyncIterator[World]:
    async with make_world() as world:
        yield world


# -- breakers


async def test_a_target_that_has_not_failed_is_open_to_all(world: World) -> None:
    assert set(await world.enter_all()) == {0.0}
    assert await world.states() == {"closed"}


async def test_failures_in_a_row_from_any_processes_open_it(world: World) -> None:
    await world.fail(2)
    assert await world.states() == {"closed"}
    await world.fail()
    assert await world.states() == {"open"}
    assert set(await world.enter_all()) == {10.0}
    world.clock.advance(4)
    assert set(await world.enter_all()) == {6.0}


async def test_a_success_ends_the_row(world: World) -> None:
    await world.fail(2)
    await world.succeed()
    await world.fail(2)
    assert await world.states() == {"closed"}


async def test_failures_far_apart_are_no_row(world: World) -> None:
    for _ in range(5):
        await world.fail()
        world.clock.advance(60.001)
    assert await world.states() == {"closed"}
    for _ in range(3):
        await world.fail()
        world.clock.advance(59)
    assert await world.states() == {"half-open"}


async def test_each_target_has_a_breaker_of_its_own(world: World) -> None:
    await world.fail(3)
    assert await world.one.enter("model:anthropic/claude", BREAKER) == 0


async def test_one_failure_that_tells_when_to_come_again_opens_it_for_so_long(world: World) -> None:
    await world.fail(retry_after_s=120.5)
    assert set(await world.enter_all()) == {120.5}
    world.clock.advance(120.5)
    assert await world.states() == {"half-open"}


async def test_of_many_told_times_the_last_to_come_counts(world: World) -> None:
    for retry_after_s in (5.0, 20.0, 3.0):
        await world.fail(retry_after_s=retry_after_s)
    assert await world.one.enter(TARGET, BREAKER) == 20.0


async def test_a_told_time_of_nothing_is_a_failure_like_others(world: World) -> None:
    await world.fail(2, retry_after_s=0.0)
    await world.fail(1, retry_after_s=-1.0)
    assert await world.one.enter(TARGET, BREAKER) == 10.0


async def test_half_open_lets_in_one_of_all_callers(world: World) -> None:
    await world.fail(3)
    world.clock.advance(10)
    told = await world.enter_all(20)
    assert sorted(told)[:2] == [0.0, 10.0]
    assert set(told) == {0.0, 10.0}
    assert await world.states() == {"half-open"}


async def test_a_probe_that_succeeds_closes_it(world: World) -> None:
    await world.fail(3)
    world.clock.advance(10)
    await world.one.enter(TARGET, BREAKER)
    await world.succeed()
    assert await world.states() == {"closed"}
    assert set(await world.enter_all()) == {0.0}
    await world.fail(2)
    assert await world.states() == {"closed"}


async def test_each_probe_that_fails_opens_it_for_twice_as_long_up_to_the_longest(world: World) -> None:
    await world.fail(3)
    for expected_s in (10.0, 20.0, 35.0, 35.0):
        assert await world.one.enter(TARGET, BREAKER) == expected_s
        world.clock.advance(expected_s)
        assert await world.one.enter(TARGET, BREAKER) == 0
        await world.fail()


async def test_a_probe_that_never_reports_is_given_up(world: World) -> None:
    await world.fail(3)
    world.clock.advance(10)
    await world.one.enter(TARGET, BREAKER)
    world.clock.advance(PROBE_S - 4)
    assert set(await world.enter_all()) == {4.0}
    world.clock.advance(4)
    assert sorted(await world.enter_all())[:2] == [0.0, 10.0]


async def test_a_probe_that_leaves_lets_another_be_it(world: World) -> None:
    await world.fail(3)
    world.clock.advance(10)
    assert await world.one.enter(TARGET, BREAKER) == 0
    assert await world.one.enter(TARGET, BREAKER) > 0
    await world.one.leave(TARGET)
    assert sorted(await world.enter_all())[:2] == [0.0, 10.0]


async def test_who_leaves_a_target_that_is_closed_changes_nothing(world: World) -> None:
    await world.fail(2)
    await world.one.leave(TARGET)
    await world.fail()
    assert await world.states() == {"open"}


async def test_what_was_let_in_before_it_opened_neither_closes_nor_prolongs_it(world: World) -> None:
    await world.fail(3)
    world.clock.advance(5)
    await world.fail(5)
    await world.succeed()
    assert await world.one.enter(TARGET, BREAKER) == 5.0
    world.clock.advance(5)
    await world.fail()  # and this one came when nobody had tried yet
    assert await world.one.enter(TARGET, BREAKER) == 10.0


# -- rates


async def test_a_full_bucket_gives_a_minutes_allowance_at_once_and_then_evenly(world: World) -> None:
    told = await gather(lambda throttle: throttle.take(BUCKET, 1, 60), world.throttles, 30)
    assert told.count(0.0) == 60
    assert {wait_s for wait_s in told if wait_s} == {1.0}
    world.clock.advance(2.5)
    told = await gather(lambda throttle: throttle.take(BUCKET, 1, 60), world.throttles, 3)
    assert told.count(0.0) == 2
    assert {wait_s for wait_s in told if wait_s} == {0.5}


async def test_what_is_refused_takes_nothing(world: World) -> None:
    assert await world.one.take(BUCKET, 50, 60) == 0
    assert await world.one.take(BUCKET, 20, 60) == 10.0
    assert await world.one.take(BUCKET, 10, 60) == 0


async def test_more_than_a_minutes_allowance_is_let_in_when_the_bucket_is_full(world: World) -> None:
    assert await world.one.take(BUCKET, 1, 60) == 0
    assert await world.one.take(BUCKET, 90, 60) == 1.0
    world.clock.advance(1)
    assert await world.one.take(BUCKET, 90, 60) == 0
    assert await world.one.take(BUCKET, 1, 60) == 31.0


async def test_each_bucket_is_by_itself(world: World) -> None:
    assert await world.one.take(BUCKET, 60, 60) == 0
    assert await world.one.take("another", 60, 60) == 0


TAKINGS = st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(1, 40)), max_size=40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(takings=TAKINGS, per_minute=st.integers(1, 200))
async def test_in_no_window_is_more_taken_than_allowed(
    make_world: MakeWorld, takings: list[tuple[int, int]], per_minute: int
) -> None:
    taken: list[tuple[float, int]] = []
    async with make_world() as world:
        for number, (pause_us, amount) in enumerate(takings):
            world.clock.advance(pause_us / 1e6)
            if not await world.throttles[number % 3].take(BUCKET, min(amount, per_minute), per_minute):
                taken.append((world.clock.monotonic(), min(amount, per_minute)))
    for place, (begin, _) in enumerate(taken):
        total = 0
        for end, amount in taken[place:]:
            total += amount
            assert total <= per_minute * (1 + (end - begin) / 60) + 1e-6


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 60), min_size=1, max_size=20))
async def test_after_the_told_wait_there_is_enough(make_world: MakeWorld, amounts: list[int]) -> None:
    async with make_world() as world:
        for amount in amounts:
            if wait_s := await world.one.take(BUCKET, amount, 60):
                world.clock.advance(wait_s)
                assert await world.one.take(BUCKET, amount, 60) == 0


# -- both are one


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "ok", "failed", "told", "take"]), st.integers(0, 30_000_000), st.integers(1, 60)
    ),
    max_size=60,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
async def test_redis_and_memory_tell_the_same(redis_url: str, steps: list[tuple[str, int, int]]) -> None:
    async with in_memory() as memory, on_redis(redis_url) as redis:
        for do, pause_us, number in steps:
            told = []
            for world in (memory, redis):
                world.clock.advance(pause_us / 1e6)
                throttle = world.throttles[number % 3]
                if do == "enter":
                    told.append(await throttle.enter(TARGET, BREAKER))
                elif do == "take":
                    told.append(await throttle.take(BUCKET, number, 60))
                else:
                    retry_after_s = float(number) if do == "told" else None
                    await throttle.report(TARGET, BREAKER, ok=do == "ok", retry_after_s=retry_after_s)
                told.append(await throttle.state(TARGET))
            assert told[: len(told) // 2] == pytest.approx(told[len(told) // 2 :], abs=1e-5), (do, steps)


async def test_by_default_the_time_is_that_of_redis(redis_url: str) -> None:
    async with RedisThrottle.open(redis_url, uuid4().hex[:12], SystemClock()) as throttle:
        await throttle.report(TARGET, BREAKER, ok=False, retry_after_s=0.05)
        assert 0 < await throttle.enter(TARGET, BREAKER) <= 0.05
        with anyio.fail_after(DEADLINE_S):
            while await throttle.enter(TARGET, BREAKER):  # noqa: ASYNC110 - the time that passes tells nobody
                await anyio.sleep(0.005)
        await throttle.report(TARGET, BREAKER, ok=True)
        assert await throttle.state(TARGET) == "closed"
