"""What every bus does, in memory and on Redis."""

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.bus.keys import stream_key
from callboard.bus.link import Link, pack
from callboard.bus.memory import MemoryBus
from callboard.bus.redis import RedisBus
from callboard.protocols.errors import Busy, RedisUnavailable
from callboard.protocols.messages import MAX_INLINE_BYTES
from callboard.protocols.names import partition_of
from callboard.protocols.ports import Bus, Lease, Route, Tenure
from tests.bus_kit import (
    Owner,
    always,
    backlog,
    backlog_becomes,
    eventually,
    key_on,
    message,
    owner,
    room_becomes,
    waiting_becomes,
)
from tests.conftest import DEADLINE_S
from tests.faults.proxy import proxy_to
from tests.redis_kit import BINARIES, stopped_redis

PARTITIONS = 4
ROUTES = {"writer": Route("writer", PARTITIONS)}
FEWER = Route("writer", 2, generation=2)

FIRST = Lease("writer", 0, 1)
SECOND = Lease("writer", 0, 2)
ON_0 = key_on(0, PARTITIONS)


@dataclass(frozen=True)
class World:
    """One store's bus as two processes see it, the routes that they know, and a way to put any bytes on a partition."""

    bus: Bus
    other: Bus
    routes: dict[str, Route]
    put: Callable[[int, bytes], Awaitable[None]]


MakeWorld = Callable[[], AbstractAsyncContextManager[World]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[World]:
    routes = dict(ROUTES)
    bus = MemoryBus(routes.get)

    async def put(partition: int, content: bytes) -> None:
        bus.add(routes["writer"], partition, content)

    yield World(bus, bus, routes, put)


@asynccontextmanager
async def on_redis(url: str) -> AsyncIterator[World]:
    namespace = uuid4().hex
    routes = dict(ROUTES)
    link = Link(url, timeout_s=5)

    async def put(partition: int, content: bytes) -> None:
        await link.call([pack("XADD", stream_key(namespace, routes["writer"], partition), "*", "m", content)])

    try:
        async with (
            RedisBus.open(url, namespace, routes.get) as bus,
            RedisBus.open(url, namespace, routes.get) as other,
        ):
            yield World(bus, other, routes, put)
            for route in (ROUTES["writer"], FEWER):
                await bus.forget(route)
    finally:
        await link.close()


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


# -- publish and deliver


async def test_messages_come_in_the_order_of_their_partition(world: World) -> None:
    messages = [message(f"k{number % 23}") for number in range(500)]
    leases = [Lease("writer", partition, 1) for partition in range(PARTITIONS)]
    async with owner(world.bus, *leases) as it:
        for start in range(0, 500, 50):
            world.other.publish(messages[start : start + 50])
        await it.has(500)
        for lease in leases:
            sent = [m.id for m in messages if partition_of(m.key, PARTITIONS) == lease.partition]
            assert [d.message.id for d in it.deliveries if d.tenure.lease == lease] == sent


async def test_a_message_arrives_as_it_was_sent(world: World) -> None:
    sent = message(ON_0, text="été\n")
    async with owner(world.bus, FIRST) as it:
        world.other.publish([sent])
        await it.has(1)
        assert it.deliveries[0].message == sent
        assert it.deliveries[0].tenure.lease == FIRST


async def test_a_large_message_comes_without_its_parts(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0, text="x" * MAX_INLINE_BYTES)])
        await it.has(1)
        assert it.deliveries[0].message.parts is None


async def test_what_was_there_before_the_takeover_is_not_fresh_and_what_comes_later_is(world: World) -> None:
    world.bus.publish([message(ON_0), message(ON_0)])
    await world.bus.flush()
    async with owner(world.bus, FIRST) as it:
        await it.has(2)
        world.bus.publish([message(ON_0)])
        await it.has(3)
        assert [delivery.fresh for delivery in it.deliveries] == [False, False, True]


async def test_what_is_published_again_is_not_fresh(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0)], again=True)
        world.bus.publish([message(ON_0)])
        await it.has(2)
        assert [delivery.fresh for delivery in it.deliveries] == [False, True]


async def test_a_message_to_an_unknown_role_is_dropped_with_a_word_and_the_others_arrive(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    lost, kept = message(role="nobody", text="secret"), message(ON_0)
    with caplog.at_level(logging.WARNING):
        world.bus.publish([lost, kept])
    assert lost.id in caplog.text
    assert "secret" not in caplog.text
    async with owner(world.bus, FIRST) as it:
        await it.has(1)
        assert it.ids == [kept.id]
    assert await world.bus.backlog("nobody") == {}
    assert await world.bus.waiting("nobody", 0) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b'{"kind":"assign","to":"\xff"}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"kind":"assign","to":"writer/k","sender":"run/r","run":"r","task":"t","parts":[{}]}',
    ],
    ids=["empty", "not text", "not an object", "bad UTF-8", "too deep", "bad part"],
)
async def test_what_is_no_message_is_handed_over_as_it_is_and_can_be_settled(world: World, content: bytes) -> None:
    before, after = message(ON_0), message(ON_0)
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([before])
        await world.bus.flush()
        await world.put(0, content)
        world.bus.publish([after])
        await it.has(2)
        assert it.ids == [before.id, after.id]
        (culprit,) = it.undecodable
        assert (culprit.role, culprit.tenure.lease, culprit.content) == ("writer", FIRST, content)
        assert culprit.reason
        assert await world.bus.waiting("writer", 0) == [before.id, after.id]
        it.settle(culprit, *it.deliveries)
        await backlog_becomes(world.bus, 0)


# -- settle


async def test_the_backlog_is_what_nobody_has_settled(world: World) -> None:
    messages = [message(ON_0) for _ in range(5)]
    async with owner(world.bus, FIRST) as it:
        world.bus.publish(messages)
        await it.has(5)
        assert await world.bus.backlog("writer") == {0: 5, 1: 0, 2: 0, 3: 0}
        assert await world.bus.waiting("writer", 0) == [m.id for m in messages]
        it.settle(it.deliveries[0], it.deliveries[3])
        await backlog_becomes(world.bus, 3)
        assert await world.bus.waiting("writer", 0) == [messages[index].id for index in (1, 2, 4)]
        it.settle(*(it.deliveries[index] for index in (1, 2, 4)))
        await backlog_becomes(world.bus, 0)


async def test_unsettled_messages_come_again_to_the_next_owner_in_order(world: World) -> None:
    messages = [message(ON_0) for _ in range(10)]
    async with owner(world.bus, FIRST) as former:
        world.bus.publish(messages)
        await former.has(10)
        former.settle(*former.deliveries[::3])
        await backlog_becomes(world.bus, 6)
    async with owner(world.other, SECOND) as it:
        later = message(ON_0)
        world.bus.publish([later])
        await it.has(7)
        assert it.ids == [m.id for index, m in enumerate(messages) if index % 3] + [later.id]
        assert [delivery.fresh for delivery in it.deliveries] == [False] * 6 + [True]


async def test_a_former_owner_settles_nothing(world: World) -> None:
    world.bus.publish([message(ON_0)])
    await world.bus.flush()
    async with owner(world.bus, FIRST) as stalled:
        await stalled.has(1)
        async with owner(world.other, SECOND) as it:
            await it.has(1)
            stalled.settle(*stalled.deliveries)
            other_key = key_on(1, PARTITIONS)  # the same process settles elsewhere, after that
            await stalled.take(Lease("writer", 1, 1))
            world.bus.publish([message(other_key)])
            await stalled.has(2)
            stalled.settle(stalled.deliveries[1])
            await backlog_becomes(world.bus, 1)
            await waiting_becomes(world.bus, {it.ids[0]})
            it.settle(*it.deliveries)
            await backlog_becomes(world.bus, 0)


async def test_a_former_owner_gets_nothing_more(world: World) -> None:
    async with owner(world.bus, FIRST) as stalled, owner(world.other, SECOND) as it:
        world.bus.publish([message(ON_0) for _ in range(20)])
        await it.has(20)
        assert stalled.deliveries == []


async def test_a_delivery_of_a_former_lease_settles_nothing_in_the_same_process(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0)])
        await it.has(1)
        await it.drop(FIRST)
        await it.take(SECOND)
        await it.has(2)
        assert it.ids == [it.ids[0]] * 2
        it.settle(it.deliveries[0])
        world.bus.publish([message(ON_0)])
        await it.has(3)
        it.settle(it.deliveries[2])
        await waiting_becomes(world.bus, {it.ids[0]})
        it.settle(it.deliveries[1])
        await backlog_becomes(world.bus, 0)


async def test_settling_twice_is_settling_once(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0), message(ON_0)])
        await it.has(2)
        it.settle(it.deliveries[0], it.deliveries[0])
        await backlog_becomes(world.bus, 1)
        it.settle(it.deliveries[1])
        await backlog_becomes(world.bus, 0)


# -- take and drop


async def test_a_lower_epoch_can_not_take_a_partition(world: World) -> None:
    async with owner(world.bus, SECOND) as it, owner(world.other, FIRST) as late:
        world.bus.publish([message(ON_0) for _ in range(20)])
        await it.has(20)
        assert late.deliveries == []


async def test_taking_again_in_the_same_tenure_repeats_nothing(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0)])
        await it.has(1)
        await it.consumer.take(it.tenures[FIRST])
        world.bus.publish([message(ON_0)])
        await it.has(2)
        assert len(set(it.ids)) == 2


async def test_a_later_tenure_of_the_same_lease_begins_with_all_that_is_unsettled(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0), message(ON_0)])
        await it.has(2)
        former = it.deliveries[0]
        former.tenure.end()
        await it.take(FIRST)
        await it.has(4)
        assert it.ids[:2] == it.ids[2:]
        assert not any(delivery.fresh for delivery in it.deliveries[2:])
        assert {delivery.tenure for delivery in it.deliveries[2:]} == {it.tenures[FIRST]}
        it.settle(former)  # of the former tenure: it has no effect
        it.settle(it.deliveries[3])
        await waiting_becomes(world.bus, {former.message.id})


async def test_a_tenure_that_has_ended_is_not_taken(world: World) -> None:
    async with owner(world.bus) as it:
        world.bus.publish([message(ON_0)])
        ended = Tenure(FIRST)
        ended.end()
        await it.consumer.take(ended)
        await it.take(Lease("writer", 1, 1))
        world.bus.publish([message(key_on(1, PARTITIONS))])
        await it.has(1)
        assert {delivery.tenure.lease.partition for delivery in it.deliveries} == {1}


async def test_a_tenure_counts_what_came_and_is_not_settled(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0) for _ in range(3)])
        await it.has(3)
        tenure = it.tenures[FIRST]
        assert list(tenure.entries.values()) == it.deliveries
        it.settle(it.deliveries[1], it.deliveries[1])
        assert list(tenure.entries.values()) == [it.deliveries[0], it.deliveries[2]]
        await backlog_becomes(world.bus, 2)


async def test_a_dropped_partition_delivers_nothing_more_and_the_rest_goes_to_the_next_owner(world: World) -> None:
    leases = [FIRST, Lease("writer", 1, 1)]
    async with owner(world.bus, *leases) as former:
        world.bus.publish([message(ON_0) for _ in range(3)])
        await former.has(3)
        await former.drop(FIRST)
        former.settle(former.deliveries[0])  # nobody has taken the partition yet: this counts
        world.bus.publish([message(ON_0) for _ in range(3)])
        world.bus.publish([message(key_on(1, PARTITIONS))])
        await former.has(4)
        assert [delivery.tenure.lease.partition for delivery in former.deliveries] == [0, 0, 0, 1]
        await backlog_becomes(world.bus, 6)
        async with owner(world.other, SECOND) as it:
            await it.has(5)
            assert it.ids[:2] == former.ids[1:3]


@pytest.mark.usefixtures("patient_readers")
async def test_a_partition_taken_while_a_read_is_blocked_is_read_at_once(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0)])
        await it.has(1)  # now it waits for more
        world.bus.publish([message(key_on(1, PARTITIONS))])
        with anyio.fail_after(DEADLINE_S):
            await it.take(Lease("writer", 1, 1))
            await it.has(2)


# -- generations

IN_FEWER = Lease("writer", 0, 1, partitions=2, generation=2)


async def test_a_lease_is_read_in_its_own_generation_and_messages_go_to_the_newest(world: World) -> None:
    old, new = message(ON_0), message(key_on(0, FEWER.partitions))
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([old])
        await it.has(1)
        world.routes["writer"] = FEWER
        world.bus.publish([new])
        await world.bus.flush()
        assert await world.bus.backlog("writer") == {0: 1, 1: 0}
        assert await world.bus.waiting("writer", 0) == [new.id]
        await it.take(SECOND)  # of the former generation, still
        await it.has(2)
        assert it.ids == [old.id, old.id]
        await it.take(IN_FEWER)  # a lower epoch, and another partition with the same number
        await it.has(3)
        assert it.deliveries[2].tenure.lease == IN_FEWER
        it.settle(it.deliveries[2])
        await backlog_becomes(world.bus, 0)
        assert "partitions=2 in_flight=1" in repr(it.consumer)


async def test_a_forgotten_generation_has_neither_messages_nor_epochs(world: World) -> None:
    world.bus.publish([message(ON_0), message(key_on(1, PARTITIONS))])
    await world.bus.flush()
    async with owner(world.bus, SECOND) as it:
        await it.has(1)
        await it.drop(SECOND)
        world.routes["writer"] = FEWER
        kept = message(key_on(0, FEWER.partitions))
        world.bus.publish([kept])
        await world.bus.flush()
        await world.bus.forget(ROUTES["writer"])
        assert await world.bus.waiting("writer", 0) == [kept.id]
        world.routes["writer"] = ROUTES["writer"]
        assert await backlog(world.bus) == 0
        async with owner(world.other, FIRST) as next_:  # an epoch that was over
            later = message(ON_0)
            world.bus.publish([later])
            await next_.has(1)
            assert next_.ids == [later.id]


# -- gaps


@pytest.mark.parametrize("trouble", ["full", "away"])
async def test_in_memory_what_could_not_be_published_is_told_before_what_comes_later(trouble: str) -> None:
    bus = MemoryBus(ROUTES.get)
    async with owner(bus, FIRST, settles=always) as it:
        setattr(bus, trouble, True)
        bus.publish([message(ON_0)])
        setattr(bus, trouble, False)
        later = message(ON_0)
        bus.publish([later])
        await it.has(1)
        assert it.seen == ["gap", later.id]
        await backlog_becomes(bus, 0)


async def test_a_loss_is_told_before_what_comes_later(world: World) -> None:
    async with owner(world.bus, FIRST, settles=always) as it:
        world.bus.publish([message(ON_0)])
        await it.has(1)
        await world.bus.forget(ROUTES["writer"])
        later = message(ON_0)
        world.bus.publish([later])
        await it.has(2)
        assert it.seen[-2:] == ["gap", later.id]


# -- capacity


async def test_no_more_is_delivered_than_there_is_capacity_for(world: World) -> None:
    leases = [Lease("writer", partition, 1) for partition in range(PARTITIONS)]
    async with owner(world.bus, *leases, slots=3) as it:  # it asserts at each delivery that a slot is free
        world.bus.publish([message(f"k{number}") for number in range(50)])
        settled = 0
        while settled < 50:
            await it.has(settled + 1)
            batch = it.deliveries[settled:]
            it.settle(*batch)
            settled += len(batch)
        await backlog_becomes(world.bus, 0)


@pytest.mark.usefixtures("patient_readers")
async def test_a_consumer_without_capacity_goes_on_when_it_is_woken(world: World) -> None:
    async with owner(world.bus, FIRST, slots=0) as it:
        world.bus.publish([message(ON_0)])
        await backlog_becomes(world.bus, 1)
        it.slots = 1
        with anyio.fail_after(DEADLINE_S):
            it.consumer.wake()
            await it.has(1)


async def test_what_is_held_back_when_a_partition_moves_comes_to_its_next_owner_once(world: World) -> None:
    leases = [Lease("writer", partition, 1) for partition in range(PARTITIONS)]
    messages = [message(key_on(partition, PARTITIONS)) for partition in range(PARTITIONS)]
    async with owner(world.bus, *leases, slots=1) as former:
        world.bus.publish(messages)
        await former.has(1)
        for lease in leases:
            await former.drop(lease)
        former.slots = 10
        former.consumer.wake()
        async with owner(world.other, *(Lease("writer", partition, 2) for partition in range(PARTITIONS))) as it:
            await it.has(PARTITIONS)
            assert sorted(it.ids) == sorted(m.id for m in messages)
        assert len(former.deliveries) == 1


# -- leaving


async def test_leaving_under_load_strands_nothing(world: World, long: bool) -> None:
    published: list[str] = []
    settled: list[str] = []

    async def load() -> None:
        while True:
            room = 200 - (len(published) - len(settled))
            batch = [message(ON_0) for _ in range(min(room, random.randint(1, 20)))]
            world.other.publish(batch)
            await world.other.flush()
            published.extend(m.id for m in batch)
            await anyio.lowlevel.checkpoint()

    stops = 1000 if long else 300
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        for epoch in range(1, stops + 1):
            async with owner(world.bus, Lease("writer", 0, epoch)) as it:
                await it.has(random.randint(0, 5))
                mine = it.deliveries[: random.randint(0, 10)]
                it.settle(*mine)
                settled.extend(delivery.message.id for delivery in mine)
        tasks.cancel_scope.cancel()
    await world.other.flush()
    async with owner(world.bus, Lease("writer", 0, stops + 1), settles=always) as last:
        await backlog_becomes(world.bus, 0)
        everything = settled + last.ids
    assert len(everything) == len(set(everything)), "what was settled came again"
    assert set(published) <= set(everything)


async def test_what_was_settled_before_leaving_does_not_come_again(world: World) -> None:
    world.bus.publish([message(ON_0) for _ in range(100)])
    await world.bus.flush()
    async with owner(world.bus, FIRST) as it:
        await it.has(100)
        it.settle(*it.deliveries[:99])
    assert await backlog(world.bus) == 1


async def test_leaving_a_blocked_read_takes_no_time(world: World) -> None:
    async with owner(world.bus, FIRST) as it:
        world.bus.publish([message(ON_0)])
        await it.has(1)
        began = anyio.current_time()
    assert anyio.current_time() - began < 1


async def test_an_error_in_the_block_comes_out_as_it_is(world: World) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with owner(world.bus, FIRST):
            raise LookupError("mine")


async def test_an_error_in_deliver_ends_the_block(world: World) -> None:
    def deliver(_: object) -> None:
        raise LookupError("mine")

    consumer = world.bus.consumer("p", deliver, deliver, lambda: 1)
    with pytest.raises(LookupError, match="mine"):  # noqa: PT012
        async with consumer:
            await consumer.take(Tenure(FIRST))
            world.bus.publish([message(ON_0)])
            await anyio.sleep_forever()


async def test_a_cancellation_passes(world: World) -> None:
    passed = False
    with anyio.move_on_after(10) as scope:
        async with owner(world.bus, FIRST):
            scope.cancel()
            await anyio.sleep_forever()
        passed = True
    assert not passed
    assert scope.cancelled_caught


async def test_a_consumer_tells_its_counts(world: World) -> None:
    async with owner(world.bus, FIRST, Lease("writer", 1, 1)) as it:
        world.bus.publish([message(ON_0) for _ in range(3)])
        await it.has(3)
        it.settle(it.deliveries[0])
        assert "partitions=2 in_flight=2 forgotten=0" in repr(it.consumer)


# -- a bus that is away, or full


@dataclass(frozen=True)
class FrailWorld:
    """A bus, and how it goes away and fills up (True), and comes back and has room again (False)."""

    bus: Bus
    away: Callable[[bool], Awaitable[None]]
    full: Callable[[bool], Awaitable[None]]


@asynccontextmanager
async def frail_in_memory() -> AsyncIterator[FrailWorld]:
    bus = MemoryBus(ROUTES.get)

    async def away(it_is: bool) -> None:
        bus.away = it_is

    async def full(it_is: bool) -> None:
        bus.full = it_is

    yield FrailWorld(bus, away, full)


@asynccontextmanager
async def frail_on_redis() -> AsyncIterator[FrailWorld]:
    with stopped_redis(BINARIES[0]) as server:
        await server.start()
        async with proxy_to(server.url) as proxy, RedisBus.open(proxy.url, "test", ROUTES.get) as bus:

            async def away(it_is: bool) -> None:
                proxy.refuses = it_is
                await proxy.cut()

            async def full(it_is: bool) -> None:
                await server.do("CONFIG", "SET", "maxmemory", "1" if it_is else "0")

            yield FrailWorld(bus, away, full)


@pytest.fixture(params=[frail_in_memory, frail_on_redis], ids=["memory", "redis"])
async def frail(request: pytest.FixtureRequest) -> AsyncIterator[FrailWorld]:
    async with request.param() as world:
        yield world


async def test_a_bus_that_is_away_says_so_until_it_answers_again(frail: FrailWorld) -> None:
    assert not frail.bus.away
    async with owner(frail.bus, FIRST) as it:
        await frail.away(True)
        frail.bus.publish([message(ON_0)])  # this one is dropped
        await frail.bus.flush()
        assert frail.bus.away
        with pytest.raises(RedisUnavailable):
            await frail.bus.backlog("writer")
        with pytest.raises(RedisUnavailable):
            await frail.bus.waiting("writer", 0)
        with pytest.raises(RedisUnavailable):
            await frail.bus.forget(ROUTES["writer"])
        await frail.away(False)
        await eventually(lambda: not frail.bus.away)
        later = message(ON_0)
        frail.bus.publish([later])
        await it.has(1)
        assert it.ids == [later.id]
        assert not frail.bus.away


async def test_a_bus_that_nobody_uses_is_found_to_be_back(frail: FrailWorld) -> None:
    await frail.away(True)
    with pytest.raises(RedisUnavailable):
        await frail.bus.backlog("writer")
    assert frail.bus.away
    frail.bus.publish([message(ON_0)])
    await frail.bus.flush()  # it is dropped: nothing waits to be written
    await frail.away(False)
    await eventually(lambda: not frail.bus.away)


async def test_senders_to_a_full_bus_are_told_to_wait_while_its_consumers_go_on(frail: FrailWorld) -> None:
    async with owner(frail.bus, FIRST) as it:
        frail.bus.publish([message(ON_0), message(ON_0)])
        await it.has(2)
        await frail.bus.check_room()
        await frail.full(True)
        frail.bus.publish([message(ON_0)])  # this one is dropped
        await frail.bus.flush()
        with pytest.raises(Busy) as caught:
            await frail.bus.check_room()
        assert 0 < caught.value.retry_after_s <= 1
        it.settle(*it.deliveries)
        await backlog_becomes(frail.bus, 0)
        await frail.full(False)
        await room_becomes(frail.bus)
        frail.bus.publish([message(ON_0)])
        await it.has(3)


async def test_senders_to_a_bus_that_is_away_are_not_told_to_wait(frail: FrailWorld) -> None:
    await frail.full(True)
    with pytest.raises(Busy):
        await frail.bus.check_room()
    await frail.away(True)
    frail.bus.publish([message(ON_0)])
    await frail.bus.flush()
    await frail.bus.check_room()


# -- any history

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.integers(0, 1)),
        st.tuples(st.just("drop"), st.integers(0, 1)),
        st.tuples(st.just("settle"), st.integers(0, 9)),
    ),
    max_size=25,
)


def has_delivered(holder: Owner, ids: list[str]) -> bool:
    return holder.ids == ids


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
async def test_after_any_history_the_next_owner_gets_what_is_unsettled_in_order(
    make_world: MakeWorld, operations: list[tuple[str, int]]
) -> None:
    async with make_world() as world:
        owners = [Owner(world.bus), Owner(world.other)]
        epoch, holder, lease = 0, None, FIRST
        unsettled: list[str] = []
        async with owners[0].consumer, owners[1].consumer:
            for operation, number in operations:
                if operation == "publish":
                    batch = [message(ON_0) for _ in range(number)]
                    world.bus.publish(batch)
                    await world.bus.flush()
                    unsettled.extend(m.id for m in batch)
                elif operation == "take":
                    epoch += 1
                    holder, lease = owners[number], Lease("writer", 0, epoch)
                    holder.deliveries.clear()
                    await holder.take(lease)
                elif operation == "drop":
                    if lease in owners[number].tenures:
                        await owners[number].drop(lease)
                    holder = None if holder is owners[number] else holder
                elif holder is not None and unsettled:
                    await eventually(partial(has_delivered, holder, unsettled))
                    chosen = holder.deliveries.pop(number % len(holder.deliveries))
                    holder.settle(chosen)
                    unsettled.remove(chosen.message.id)
                    await backlog_becomes(world.bus, len(unsettled))
                if holder is not None and unsettled:
                    await eventually(partial(has_delivered, holder, unsettled))
        async with owner(world.bus, Lease("writer", 0, epoch + 1)) as last:
            await last.has(len(unsettled))
            assert last.ids == unsettled


# -- show and watch


def shown(number: int) -> bytes:
    return f"piece {number}".encode()


async def test_all_who_watch_a_run_see_what_is_shown_of_it_in_order(world: World) -> None:
    async with world.bus.watch("r1") as one, world.other.watch("r1") as two, world.bus.watch("r2") as of_another:
        for number in range(500):
            world.bus.show("r1", shown(number))
        world.other.show("r2", b"last")
        for pieces in (one, two):
            assert [await anext(pieces) for _ in range(500)] == [shown(number) for number in range(500)]
        assert await anext(of_another) == b"last"


async def test_a_watcher_that_looks_away_for_a_while_misses_nothing(world: World) -> None:
    async with world.bus.watch("r1") as pieces:
        with anyio.move_on_after(0.01):
            await anext(pieces)
        for number in range(3):
            world.bus.show("r1", shown(number))
        assert [await anext(pieces) for _ in range(3)] == [shown(0), shown(1), shown(2)]


async def test_what_is_shown_while_the_bus_is_away_is_dropped_and_afterwards_watchers_see_again(
    frail: FrailWorld,
) -> None:
    async with frail.bus.watch("r1") as pieces:
        await frail.away(True)
        frail.bus.publish([message(ON_0)])
        await frail.bus.flush()
        frail.bus.show("r1", b"dropped")
        await frail.away(False)
        await eventually(lambda: not frail.bus.away)
        with anyio.fail_after(DEADLINE_S):
            while True:
                frail.bus.show("r1", b"after")
                with anyio.move_on_after(0.1):
                    assert await anext(pieces) == b"after"
                    break


async def test_nobody_need_watch(world: World) -> None:
    for number in range(100):
        world.bus.show("r1", shown(number))
    async with world.bus.watch("r1"):
        pass
