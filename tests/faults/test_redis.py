"""Redis that forgets, goes away, loses replies, is full, and is visited by strangers."""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import cycle
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from callboard.bootstrap import namespace_of
from tests.faults import rest
from tests.faults.checker import Allowed
from tests.faults.conftest import OpenStage

Visit = Callable[[Redis, list[bytes]], Coroutine[Any, Any, None]]


async def test_runs_go_through_a_flushall_and_a_redis_that_comes_back_with_nothing(
    stage: OpenStage, long: bool
) -> None:
    async with stage("Redis forgets") as it:
        runs, over_s = (1000, 30.0) if long else (100, 3.0)
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        it.troupe.meanwhile(it.load, runs, over_s)
        for times in range(2, 8, 2):
            await rest.becomes(lambda: it.has_sent(runs * times // 10), over_s + 20)  # noqa: B023
            async with it.redis() as redis:
                await redis.flushall()
                it.counted["FLUSHALLs"] += 1
        await it.blocking(it.servers.forget, "restarts of Redis with nothing on disk")
        await rest.becomes(lambda: it.has_sent(runs), over_s + 20)
        await it.prove(within_s=300)


async def kill_clients(redis: Redis, streams: list[bytes]) -> None:
    await redis.client_kill_filter(_type="normal", skipme=True)


async def trim(redis: Redis, streams: list[bytes]) -> None:
    for stream in streams:
        await redis.xtrim(stream, maxlen=0, approximate=False)


async def destroy_groups(redis: Redis, streams: list[bytes]) -> None:
    for stream in streams:
        for group in await redis.xinfo_groups(stream):
            await redis.xgroup_destroy(stream, group["name"])


async def delete(redis: Redis, streams: list[bytes]) -> None:
    if streams:
        await redis.delete(*streams)


async def flush_scripts(redis: Redis, streams: list[bytes]) -> None:
    await redis.script_flush()


VISITS: tuple[Visit, ...] = (kill_clients, trim, destroy_groups, delete, flush_scripts)


async def test_strangers_on_redis_lose_nothing(stage: OpenStage, long: bool) -> None:
    async with stage("strangers, one every 200 ms") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        runs, over_s = (1000, 60.0) if long else (60, 3.0)
        it.troupe.meanwhile(it.load, runs, over_s)
        namespace = namespace_of(it.stack.store.store_id)
        async with it.redis() as redis:
            while len(it.sent) < runs:
                visit = it.random.choice(VISITS)
                streams = [key async for key in redis.scan_iter(f"cb:{{{namespace}:*", count=1000, _type="stream")]
                with suppress(ResponseError):  # what it came for is gone meanwhile
                    await visit(redis, streams)
                it.counted[f"times {visit.__name__}"] += 1
                await anyio.sleep(0.2)
        await it.prove()


async def test_replies_that_get_lost_lose_nothing(stage: OpenStage, long: bool) -> None:
    async with stage("lost replies", proxied=True) as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        assert it.proxy is not None
        runs, over_s = (500, 20.0) if long else (40, 2.0)
        it.troupe.meanwhile(it.load, runs, over_s)
        for command in cycle((b"XADD", b"XREADGROUP", b"XACK")):
            lost = it.proxy.lost
            it.proxy.loses_reply_to = command
            await rest.becomes(lambda: it.has_lost(lost + 1, or_sent=runs))  # noqa: B023
            if len(it.sent) >= runs:
                break
            it.counted[f"replies to {command.decode()} lost"] += 1
            await anyio.sleep(0.1)
        it.proxy.loses_reply_to = b""
        await it.prove()


async def test_connections_to_redis_that_are_half_open_lose_nothing(stage: OpenStage, long: bool) -> None:
    if not long:
        pytest.skip("12 s, until such a connection is given up: --long")
    async with stage("half-open connections", proxied=True) as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        assert it.proxy is not None
        for _ in range(5):
            await it.load(20)
            it.proxy.strand()
            it.counted["times that all connections carry nothing any more"] += 1
        await it.prove()


async def test_a_redis_that_is_full_loses_nothing(stage: OpenStage, long: bool) -> None:
    async with stage("Redis is full") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        it.troupe.meanwhile(it.load, 40, 2.0)
        await rest.becomes(lambda: it.has_sent(10))
        async with it.full_redis():
            await anyio.sleep(30.0 if long else 1.0)
        await rest.becomes(lambda: it.has_sent(40))
        await it.prove()


async def test_order_within_an_actor_holds_when_redis_refuses_one_of_two_messages(stage: OpenStage) -> None:
    async with stage("one refused message of two") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves("teller", "clerk")
        for number in range(4):
            await it.send("teller", number)
        await rest.becomes(lambda: it.has_paid(4))
        async with it.full_redis():
            await rest.becomes(lambda: it.has_paid(8))
        await it.prove()


async def test_bytes_that_are_no_message_are_dead_letters_at_once_and_harm_no_neighbour(stage: OpenStage) -> None:
    async with stage("undecodable bytes") as it:
        it.troupe.start("a")
        it.troupe.start("b")
        await it.serves()
        namespace = namespace_of(it.stack.store.store_id)
        async with it.redis() as redis:
            streams = [key async for key in redis.scan_iter(f"cb:{{{namespace}:*", count=1000, _type="stream")]
            for content in (b"\xff\xfe", b"{}", b"[" * 10_000, b""):
                await it.load(8)
                for stream in sorted(streams):
                    await redis.xadd(stream, {b"m": content})
                    it.counted["entries that are no message"] += 1
        events = await it.prove(Allowed(ends=("message.dead_lettered",)))
        dead = [event for event in events if event.type == "message.dead_lettered"]
        assert len(dead) == it.counted["entries that are no message"]
        assert all(event.stream.startswith("dead/") for event in dead)
