"""Processes for which time goes wrong: they stand still, block, work for long, or have a wrong clock."""

import signal

import anyio

from tests.faults import rest
from tests.faults.checker import Allowed
from tests.faults.conftest import OpenStage
from tests.faults.process import SHORT_LEASE_S


async def test_a_process_that_stood_still_past_its_lease_has_no_effect_on_what_others_took(
    stage: OpenStage, long: bool
) -> None:
    async with stage("SIGSTOP past the lease", lease_s=SHORT_LEASE_S) as it:
        members = {name: it.troupe.start(name) for name in ("a", "b")}
        await it.serves()
        times = 10 if long else 1
        it.troupe.meanwhile(it.load, 30 * times, 2.0 * times)
        for number in range(times):
            await rest.becomes(lambda: it.has_sent(30 * number + 10))  # noqa: B023
            stopped = it.random.choice(list(members))
            members[stopped].signal(signal.SIGSTOP)
            it.counted["processes stopped"] += 1
            await rest.becomes(lambda: it.owns_none(stopped))  # noqa: B023
            await anyio.sleep(it.random.uniform(0, 0.5))
            members[stopped].signal(signal.SIGCONT)
            await rest.becomes(lambda: it.owns(stopped))  # noqa: B023
        await rest.becomes(lambda: it.has_sent(30 * times))
        await it.prove(Allowed(stalled=True))


async def test_a_process_that_stands_still_again_and_again_keeps_the_order_of_its_actors(
    stage: OpenStage, long: bool
) -> None:
    """Each stop is shorter than the lease, which nobody else can take: all that it may lose is its own place."""
    async with stage("SIGSTOP again and again", lease_s=SHORT_LEASE_S) as it:
        only = it.troupe.start("only")
        await it.serves()
        times = 30 if long else 6
        it.troupe.meanwhile(it.load, 30 * times, 0.5 * times)
        await rest.becomes(lambda: it.has_sent(20))
        for number in range(times):
            only.signal(signal.SIGSTOP)
            it.counted["processes stopped"] += 1
            if number == 0:
                async with it.redis() as redis:
                    await redis.flushall()
            await anyio.sleep(it.random.uniform(0.4, 0.9) * SHORT_LEASE_S)
            only.signal(signal.SIGCONT)
            await anyio.sleep(it.random.uniform(0, 0.25))
        await rest.becomes(lambda: it.has_sent(30 * times))
        await it.prove(Allowed(stalled=True))


async def test_a_process_whose_event_loop_was_blocked_for_leases_goes_on_with_its_tasks(
    stage: OpenStage, long: bool
) -> None:
    async with stage("event loop blocked", lease_s=SHORT_LEASE_S) as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves("blocker")
        for _ in range(10 if long else 1):
            await it.load(10)
            await it.send("blocker", 2.5)
            it.counted["loops blocked for 2.5 leases"] += 1
            await it.at_rest()
            await rest.becomes(lambda: it.has_said("stood still", it.counted["loops blocked for 2.5 leases"]))
        await it.prove(Allowed(stalled=True))


async def test_a_handler_of_many_leases_is_started_once(stage: OpenStage, long: bool) -> None:
    lease_s, leases = (10.0, 30) if long else (4.0, 3)
    async with stage(f"a handler of {leases} leases", lease_s=lease_s) as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves("sleeper")
        await it.send("sleeper", leases * lease_s)
        events = await it.prove(within_s=leases * lease_s + 20)
        assert [event.type for event in events if event.type in ("task.started", "task.resumed")] == ["task.started"]
        assert len(it.payments.requests) == 1


async def test_clocks_that_are_off_by_ten_minutes_lose_nothing(stage: OpenStage, long: bool) -> None:
    async with stage("clocks off by 10 minutes") as it:
        it.troupe.start("early", clock_off_s=600.0)
        it.troupe.start("late", clock_off_s=-600.0)
        await it.serves()
        runs = 300 if long else 30
        await it.load(runs)
        for number in range(runs // 3):
            await it.send("writer", number, lost=True)
        await it.prove()
