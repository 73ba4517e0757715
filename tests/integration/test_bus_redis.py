"""The bus on a Redis that forgets, dies, runs out of memory and loses replies: a server of its own for each test."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from callboard.bus.keys import epoch_key, stream_key
from callboard.bus.reader import MAX_READ
from callboard.bus.redis import RedisBus
from callboard.bus.room import ASK_AGAIN_S
from callboard.protocols.errors import Busy, RedisUnavailable, WrongEvictionPolicy
from callboard.protocols.messages import Message
from callboard.protocols.ports import Bus, Lease, Route
from tests.bus_kit import always, backlog, backlog_becomes, eventually, key_on, message, owner, room_becomes
from tests.conftest import DEADLINE_S
from tests.faults.proxy import Proxy, proxy_to
from tests.host_kit import becomes
from tests.redis_kit import BINARIES, Server, stopped_redis

ROUTE = Route("writer", 2)
ROUTES = {"writer": ROUTE}
FIRST, SECOND = Lease("writer", 0, 1), Lease("writer", 0, 2)
ON_0 = key_on(0, ROUTE.partitions)
STREAM = stream_key("test", ROUTE, 0)


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def stopped_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with stopped_redis(request.param) as server:
        yield server


@pytest.fixture
async def server(stopped_server: Server) -> Server:
    await stopped_server.start()
    return stopped_server


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[RedisBus]:
    async with RedisBus.open(server.url, "test", ROUTES.get) as bus:
        yield bus


async def publish_until_there(bus: Bus, wanted: Message) -> None:
    """Publish as an owner does by reconciliation: again and again until it is on the partition."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            bus.publish([wanted], again=True)
            await bus.flush()
            try:
                if wanted.id in await bus.waiting("writer", 0):
                    return
            except RedisUnavailable:
                pass
            await anyio.sleep(0.02)


# -- Redis forgets


@pytest.mark.usefixtures("patient_readers")
@pytest.mark.parametrize("loss", [("FLUSHALL",), ("DEL", STREAM)], ids=lambda loss: loss[0])
async def test_a_lost_stream_is_counted_and_read_on(server: Server, bus: RedisBus, loss: tuple[str, ...]) -> None:
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        await server.do(*loss)  # while the read is blocked
        await eventually(lambda: it.consumer.forgotten == 1)
        it.settle(it.deliveries[0])  # of an entry that is gone
        bus.publish([message(ON_0)])
        await it.has(2)
        assert it.deliveries[1].fresh
        it.settle(it.deliveries[1])
        await backlog_becomes(bus, 0)


async def test_a_lost_group_brings_the_unsettled_again_as_not_fresh(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0), message(ON_0), message(ON_0)])
        await it.has(3)
        it.settle(it.deliveries[1])
        await backlog_becomes(bus, 2)
        await server.do("XGROUP", "DESTROY", STREAM, it.process)
        await it.has(5)
        assert it.ids[3:] == [it.ids[0], it.ids[2]]
        assert not any(delivery.fresh for delivery in it.deliveries[3:])
        assert it.consumer.forgotten == 1
        it.settle(*it.deliveries[3:])
        await backlog_becomes(bus, 0)


async def test_a_loss_on_one_partition_repeats_nothing_of_another(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, Lease("writer", 1, 1)) as it:
        bus.publish([message(ON_0), message(key_on(1, 2))])
        await it.has(2)
        await server.do("XGROUP", "DESTROY", STREAM, it.process)
        await it.has(3)
        assert it.deliveries[2].tenure.lease == FIRST
        bus.publish([message(key_on(1, 2))])
        await it.has(4)
        assert it.consumer.forgotten == 1


async def test_redis_may_forget_while_nobody_reads_for_want_of_capacity(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, slots=1) as it:
        bus.publish([message(ON_0) for _ in range(3)])
        await it.has(1)
        await server.do("FLUSHALL")
        it.settle(it.deliveries[0])
        await eventually(lambda: it.consumer.forgotten == 1)
        it.deliveries.clear()
        it.slots = 10
        last = message(ON_0)
        bus.publish([last])
        await eventually(lambda: it.ids[-1:] == [last.id])


async def test_an_owner_whose_group_is_gone_gives_way_to_a_higher_epoch(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, Lease("writer", 1, 1)) as it:
        await server.do("SET", epoch_key(STREAM), "7")
        await server.do("XGROUP", "DESTROY", STREAM, it.process)
        await eventually(lambda: "partitions=1" in repr(it.consumer))
        bus.publish([message(ON_0), message(key_on(1, 2))])
        await it.has(1)
        assert it.deliveries[0].tenure.lease.partition == 1
        assert await backlog(bus) == 2


async def test_forgotten_scripts_hurt_nobody(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, settles=always) as it:
        for expected in range(1, 4):
            await server.do("SCRIPT", "FLUSH")
            bus.publish([message(ON_0)])
            await it.has(expected)
            await backlog_becomes(bus, 0)
            await it.take(Lease("writer", 0, 1 + expected))


@pytest.mark.parametrize("loss", [("XTRIM", STREAM, "MAXLEN", "0"), ("FLUSHALL",)], ids=lambda loss: loss[0])
async def test_what_a_stranger_takes_off_a_partition_hinders_nothing(
    server: Server, bus: RedisBus, loss: tuple[str, ...]
) -> None:
    async with owner(bus, FIRST, slots=2) as it:
        bus.publish([message(ON_0) for _ in range(5)])
        await it.has(2)  # the other three are in the log only, from now on
        await server.do(*loss)
        it.settle(*it.deliveries)
        last = message(ON_0)
        await publish_until_there(bus, last)
        await eventually(lambda: it.ids[-1] == last.id)
        it.settle(it.deliveries[-1])
        await backlog_becomes(bus, 0)
        assert await server.pending(STREAM, it.process) == 0


async def test_forgetting_a_generation_leaves_no_keys(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0), message(key_on(1, 2))])
        await it.has(1)
    assert await server.do("DBSIZE") == 3  # two streams, and the epoch of the one that was taken
    await bus.forget(ROUTE)
    assert await server.do("DBSIZE") == 0


# -- Redis goes away


async def test_killing_all_connections_again_and_again_strands_nothing(server: Server, bus: RedisBus) -> None:
    wanted = [message(ON_0) for _ in range(60)]

    async def kill_all() -> None:
        while True:
            await server.do("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
            await anyio.sleep(0.05)

    async with owner(bus, FIRST) as it, anyio.create_task_group() as tasks:
        tasks.start_soon(kill_all)
        for each in wanted:
            bus.publish([each])
            if each.id not in it.ids:
                await publish_until_there(bus, each)
        tasks.cancel_scope.cancel()
    assert set(it.ids) <= {each.id for each in wanted}
    async with owner(bus, SECOND, settles=always) as successor:
        await backlog_becomes(bus, 0)
        assert set(successor.ids) == {each.id for each in wanted}


async def test_an_owner_settles_everything_while_all_connections_are_killed(server: Server, bus: RedisBus) -> None:
    wanted = [message(ON_0) for _ in range(200)]
    for each in wanted:
        bus.publish([each])
    await bus.flush()

    async def kill_all() -> None:
        while True:
            await server.do("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
            await anyio.sleep(0.02)

    async with owner(bus, FIRST, slots=3) as it, anyio.create_task_group() as tasks:
        tasks.start_soon(kill_all)
        settled: set[str] = set()
        while len(settled) < len(wanted):
            await it.has(len(settled) + 1)
            batch = it.deliveries[len(settled) :]
            assert not settled & {delivery.message.id for delivery in batch}
            settled |= {delivery.message.id for delivery in batch}
            it.settle(*batch)
        tasks.cancel_scope.cancel()
        assert it.ids == [each.id for each in wanted]
        await backlog_becomes(bus, 0)
        assert await server.pending(STREAM, it.process) == 0


async def test_nothing_is_lost_with_a_connection_that_was_closed_while_idle(server: Server, bus: RedisBus) -> None:
    bus.publish([message(ON_0)])
    await bus.flush()
    for expected in range(2, 5):
        await server.do("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes")
        bus.publish([message(ON_0)])
        await bus.flush()
        assert await backlog(bus) == expected


async def test_all_goes_on_after_redis_died_and_came_back_empty(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        server.kill()
        lost = message(ON_0)
        bus.publish([lost])
        with anyio.fail_after(DEADLINE_S):
            await bus.flush()  # it is dropped, not waited for
            await it.take(Lease("writer", 1, 1))
        with pytest.raises(RedisUnavailable):
            await bus.backlog("writer")
        await server.start()
        await eventually(lambda: it.consumer.forgotten == 1)
        await publish_until_there(bus, lost)
        await publish_until_there(bus, message(key_on(0, 2)))
        bus.publish([message(key_on(1, 2))])
        await eventually(lambda: {delivery.tenure.lease.partition for delivery in it.deliveries} == {0, 1})
        await eventually(lambda: lost.id in it.ids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
async def test_leaving_takes_less_than_a_second_without_redis(server: Server, how: signal.Signals) -> None:
    opened = RedisBus.open(server.url, "test", ROUTES.get)
    bus = await opened.__aenter__()
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0), message(ON_0)])
        await it.has(2)
        server.send_signal(how)
        it.settle(*it.deliveries)
        began = anyio.current_time()
    assert anyio.current_time() - began < 1
    bus.publish([message(ON_0)])
    began = anyio.current_time()
    await opened.__aexit__(None, None, None)
    assert anyio.current_time() - began < 2


async def test_an_outage_is_one_line_in_the_log_of_each_loop(
    server: Server, bus: RedisBus, caplog: pytest.LogCaptureFixture
) -> None:
    async with owner(bus, FIRST):
        server.kill()
        for _ in range(4):
            bus.publish([message(ON_0, text="secret")])
            await bus.flush()
        lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert sorted(line.partition(":")[0] for line in lines) == ["bus reader", "bus writer"]
        assert "secret" not in caplog.text


async def test_a_redis_that_is_not_there_is_named_without_its_password(stopped_server: Server) -> None:
    url = "redis://me:secret@127.0.0.1:1/0"
    with pytest.raises(RedisUnavailable) as caught:
        async with RedisBus.open(url, "test", ROUTES.get):
            pass
    assert "secret" not in str(caught.value)
    assert "me:***@127.0.0.1:1" in str(caught.value)


# -- memory


async def test_a_redis_that_evicts_is_refused(server: Server) -> None:
    await server.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(WrongEvictionPolicy, match="allkeys-lru"):
        async with RedisBus.open(server.url, "test", ROUTES.get):
            pass


async def test_out_of_memory_messages_are_dropped_and_settling_goes_on(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0) for _ in range(10)])
        await it.has(10)
        await server.do("CONFIG", "SET", "maxmemory", "1")
        bus.publish([message(ON_0) for _ in range(5)])
        await bus.flush()
        await it.take(Lease("writer", 1, 1))  # it can't be claimed yet
        it.settle(*it.deliveries)
        await backlog_becomes(bus, 0)
        await server.do("CONFIG", "SET", "maxmemory", "0")
        bus.publish([message(ON_0), message(key_on(1, 2))])
        await it.has(12)
        assert {delivery.tenure.lease.partition for delivery in it.deliveries[10:]} == {0, 1}


async def test_what_was_refused_is_told_before_anything_that_is_published_later(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, settles=always) as it:
        first, refused, later = message(ON_0), message(ON_0), message(ON_0)
        bus.publish([first])
        await it.has(1)
        await server.do("CONFIG", "SET", "maxmemory", "1")
        bus.publish([refused])
        await bus.flush()
        await server.do("CONFIG", "SET", "maxmemory", "0")
        bus.publish([later])
        await it.has(2)
        assert it.seen == [first.id, "gap", later.id]
        await backlog_becomes(bus, 0)  # the mark is settled, too


async def test_the_mark_of_what_was_refused_comes_though_nothing_more_is_published(
    server: Server, bus: RedisBus
) -> None:
    async with owner(bus, FIRST, settles=always) as it:
        await server.do("CONFIG", "SET", "maxmemory", "1")
        bus.publish([message(ON_0)])
        await bus.flush()
        await server.do("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: it.seen == ["gap"])


async def test_what_was_lost_with_a_connection_is_told_before_anything_that_is_published_later(
    server: Server, bus: RedisBus
) -> None:
    async with owner(bus, Lease("writer", 0, 1), settles=always) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        await server.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        lost, later = message(ON_0), message(ON_0)
        bus.publish([lost])
        await bus.flush()
        bus.publish([later])
        await eventually(lambda: later.id in it.seen)  # the first message may come again before it
        behind = it.seen[: it.seen.index(later.id)]
        assert "gap" in behind or lost.id in behind


async def test_a_redis_that_fills_up_has_room_again_when_its_consumers_have_drained_it(
    server: Server, bus: RedisBus
) -> None:
    await server.leave_room_for(2_000_000)
    async with owner(bus, FIRST, slots=0, settles=always) as it:
        with pytest.raises(Busy), anyio.fail_after(DEADLINE_S):  # noqa: PT012
            while True:
                await bus.check_room()
                bus.publish([message(ON_0, text="x" * 10_000) for _ in range(10)])
                await bus.flush()
        there = await backlog(bus)
        assert there > 50
        it.slots = 16
        it.consumer.wake()
        await backlog_becomes(bus, 0)
        await room_becomes(bus)
        bus.publish([message(ON_0)])
        await it.has(there + 1)


async def test_redis_is_asked_for_its_memory_at_most_once_a_second(server: Server, bus: RedisBus) -> None:
    before = await server.times("info")
    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(bus.check_room)
    assert await server.times("info") - before - 1 <= 1 + (anyio.current_time() - began) // ASK_AGAIN_S  # 1: `times`


# -- reading far ahead


async def test_no_more_is_read_than_there_is_capacity_for(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, Lease("writer", 1, 1), slots=0) as it:
        bus.publish([message(ON_0) for _ in range(50)] + [message(key_on(1, 2)) for _ in range(50)])
        await bus.flush()
        it.slots = 6
        it.consumer.wake()
        await it.has(6)
        assert [await server.pending(stream_key("test", ROUTE, number), it.process) for number in (0, 1)] == [3, 3]


async def test_with_much_capacity_a_read_is_bounded_nevertheless(bus: RedisBus) -> None:
    messages = [message(ON_0) for _ in range(3 * MAX_READ)]
    async with owner(bus, FIRST, slots=0) as it:
        bus.publish(messages)
        await bus.flush()
        it.slots = 8 * MAX_READ
        it.consumer.wake()
        seen = largest = 0
        with anyio.fail_after(DEADLINE_S):
            while seen < len(messages):
                await anyio.lowlevel.checkpoint()  # a read's entries are delivered within one turn of the loop
                largest = max(largest, len(it.deliveries) - seen)
                seen = len(it.deliveries)
        assert largest <= MAX_READ
        assert it.ids == [each.id for each in messages]


async def test_what_comes_while_there_is_no_capacity_is_held_in_order(server: Server, bus: RedisBus) -> None:
    messages = [message(ON_0) for _ in range(20)]
    async with owner(bus, FIRST) as it:
        bus.publish(messages[:1])
        await it.has(1)
        await becomes(lambda: reads(server))
        it.slots = 0
        bus.publish(messages[1:10])
        await eventually(lambda: "held=0" not in repr(it.consumer))
        bus.publish(messages[10:])
        for expected in (3, 5, 20):
            it.slots = expected - len(it.deliveries)
            it.consumer.wake()
            await it.has(expected)
        assert it.ids == [each.id for each in messages]
        assert "in_flight=20" in repr(it.consumer)
        assert "held=0" in repr(it.consumer)


async def reads(server: Server) -> bool:
    """Whether somebody waits for messages."""
    return bool(await server.blocked_clients())


# -- replies get lost


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with proxy_to(server.url) as proxy:
        yield proxy


@pytest.fixture
async def bus_over_proxy(proxy: Proxy) -> AsyncIterator[RedisBus]:
    async with RedisBus.open(proxy.url, "test", ROUTES.get) as bus:
        yield bus


async def test_a_lost_reply_to_a_publication_publishes_nothing_twice(
    bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    proxy.loses_reply_to = b"XADD"
    bus_over_proxy.publish([message(ON_0)])
    await bus_over_proxy.flush()
    bus_over_proxy.publish([message(ON_0)])
    await bus_over_proxy.flush()
    assert not proxy.loses_reply_to
    assert await backlog(bus) == 3  # with the mark that something may be missing


async def test_a_lost_reply_to_a_read_strands_nothing_and_repeats_nothing(
    bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    async with owner(bus_over_proxy, FIRST, settles=always) as it:
        bus.publish([message(ON_0) for _ in range(5)])
        await it.has(5)
        proxy.loses_reply_to = b"XREADGROUP"
        messages = [message(ON_0) for _ in range(5)]
        bus.publish(messages)
        await eventually(lambda: not proxy.loses_reply_to)
        later = message(ON_0)
        bus.publish([later])
        await it.has(11)
        assert it.ids[5:] == [each.id for each in [*messages, later]]
        assert all(delivery.fresh for delivery in it.deliveries)
        assert it.consumer.forgotten == 0
        await backlog_becomes(bus, 0)


async def test_what_was_held_back_while_its_group_got_lost_comes_once(
    server: Server, bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    async with owner(bus_over_proxy, FIRST, Lease("writer", 1, 1), slots=0) as it:
        bus.publish([message(ON_0), message(key_on(1, 2))])
        await backlog_becomes(bus, 2)
        it.slots = 1
        it.consumer.wake()
        await it.has(1)  # both are read, one is held back
        delivered = it.deliveries[0].tenure.lease.partition
        await server.do("XGROUP", "DESTROY", stream_key("test", ROUTE, 1 - delivered), it.process)
        proxy.loses_reply_to = b"XREVRANGE"
        await it.take(Lease("writer", delivered, 2))  # its claim is lost: all is claimed again
        await eventually(lambda: it.consumer.forgotten == 1)
        it.deliveries.clear()
        it.slots = 10
        it.consumer.wake()
        bus.publish([message(key_on(1 - delivered, 2))])
        await it.has(3)
        assert [delivery.tenure.lease.partition for delivery in it.deliveries].count(1 - delivered) == 2
        assert len(set(it.ids)) == 3


async def test_a_lost_reply_to_a_settlement_settles_it_nevertheless(
    bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    async with owner(bus_over_proxy, FIRST, settles=always) as it:
        proxy.loses_reply_to = b"XACK"
        bus.publish([message(ON_0)])
        await eventually(lambda: not proxy.loses_reply_to)
        bus.publish([message(ON_0)])
        await it.has(2)
        await backlog_becomes(bus, 0)
        await eventually(lambda: "settling=0" in repr(bus_over_proxy))


async def test_a_settlement_that_did_not_arrive_is_repeated(
    bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    async with owner(bus_over_proxy, FIRST) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        proxy.loses_request = b"XACK"
        it.settle(it.deliveries[0])
        await backlog_becomes(bus, 0)
        assert not proxy.loses_request


@pytest.mark.usefixtures("patient_readers")
async def test_a_read_left_over_from_a_lost_connection_takes_nothing(
    server: Server, bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    async with owner(bus_over_proxy, FIRST) as it:
        former: set[str] = set()
        for expected in range(1, 5):
            with anyio.fail_after(DEADLINE_S):  # the former connection's read doesn't end by itself
                while not (blocked := await server.blocked_clients()) or blocked & former:
                    pass
            bus.publish([message(ON_0)])
            await it.has(expected)
            former = await server.blocked_clients()
            await proxy.abandon()


async def test_connections_that_carry_nothing_more_are_given_up(
    bus: RedisBus, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard.bus.reader.BLOCK_MS", 300)
    monkeypatch.setattr("callboard.bus.redis.READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr("callboard.bus.redis.COMMAND_TIMEOUT_S", 0.5)
    async with RedisBus.open(proxy.url, "test", ROUTES.get) as behind, owner(behind, FIRST, settles=always) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        await backlog_becomes(bus, 0)
        proxy.strand()
        there = [message(ON_0), message(ON_0)]
        bus.publish(there)
        lost = message(ON_0)
        behind.publish([lost])
        await eventually(lambda: behind.away)
        await eventually(lambda: not behind.away)
        await it.has(3)
        assert it.ids[1:3] == [each.id for each in there]
        await backlog_becomes(bus, 0)
