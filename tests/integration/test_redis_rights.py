"""A Redis that answers, and refuses: it is refused at the start by name, or actors go on from the log."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory

import anyio
import pytest

from callboard import Context
from callboard.bus.keys import stream_key
from callboard.bus.link import LINK_ERRORS, Link, pack
from callboard.bus.redis import RedisBus
from callboard.bus.throttle import RedisThrottle
from callboard.protocols.errors import RedisRefuses, RedisUnfit
from callboard.protocols.ports import Breaker, Lease, Route, SystemClock
from tests.actor_kit import actor
from tests.bus_kit import always, backlog_becomes, eventually, key_on, message, owner
from tests.conftest import DEADLINE_S
from tests.host_kit import becomes, stage
from tests.redis_kit import BINARIES, Server, stopped_redis

ROUTE = Route("writer", 2)
ROUTES = {"writer": ROUTE}
LEASE = Lease("writer", 0, 1)
ON_0 = key_on(0, 2)
STREAM = stream_key("test", ROUTE, 0)
LIMITED = ("~myapp:*", "resetchannels", "&myapp:*", "+@all", "-@admin", "-@dangerous")


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    with stopped_redis(request.param) as server:
        await server.start()
        yield server


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def cluster_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster of one node, which has all slots."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        command = [request.param, "--port", str(port), "--dir", folder, "--save", "", "--cluster-enabled", "yes"]
        command += ["--cluster-port", str(port + 10_000 if port < 50_000 else port - 10_000), "--bind", "127.0.0.1"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            yield f"redis://127.0.0.1:{port}"
            process.kill()


async def allow(server: Server, *rules: str) -> str:
    """Give a user just these rights; the URL to be that user."""
    assert await server.do("ACL", "SETUSER", "app", "reset", "on", ">x", *rules) == b"OK"
    return server.url.replace("unix://", "unix://app:x@")


async def in_good_order(url: str) -> None:
    """Return when a cluster of one node serves all slots."""
    link = Link(url, timeout_s=5)
    with anyio.fail_after(DEADLINE_S):
        while True:
            try:
                await link.call([pack("CLUSTER", "ADDSLOTSRANGE", "0", "16383")])
                (info,) = await link.call([pack("CLUSTER", "INFO")])
                if b"cluster_state:ok" in info:
                    break
            except LINK_ERRORS:
                pass
            await anyio.sleep(0.02)
    await link.close()


@pytest.mark.parametrize("needed", [True, False], ids=["serves", "only sends"])
async def test_a_cluster_is_refused_by_name(cluster_url: str, needed: bool) -> None:
    await in_good_order(cluster_url)
    with pytest.raises(RedisUnfit, match="Redis Cluster"):
        async with RedisBus.open(cluster_url, "test", ROUTES.get, needed=needed):
            pass


async def test_a_user_of_one_prefix_without_dangerous_commands_is_enough(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    url = await allow(server, *LIMITED)
    async with RedisBus.open(url, "test", ROUTES.get, prefix="myapp:") as bus, owner(bus, LEASE, settles=always) as it:
        async with bus.watch("r") as pieces:
            bus.show("r", b"piece")
            with anyio.fail_after(DEADLINE_S):
                assert await anext(aiter(pieces)) == b"piece"
        bus.publish([message(ON_0)])
        await it.has(1)
        await backlog_becomes(bus, 0)
        async with RedisThrottle.open(url, "test", SystemClock(), prefix="myapp:") as throttle:
            await throttle.report("t", Breaker(threshold=1), ok=False)
            assert (await throttle.state("t"), await throttle.take("b", 1, 60)) == ("open", 0)
            assert "away=False" in repr(throttle)
    keys = await server.do("KEYS", "*")
    assert isinstance(keys, list)
    assert keys
    assert all(key.startswith(b"myapp:{test:") for key in keys)
    assert not [key for key in keys if b"probe" in key], "the check leaves nothing behind"
    assert "INFO" in caplog.text


@pytest.mark.parametrize(
    "command", ["eval", "xadd", "xreadgroup", "xgroup", "xack", "xdel", "publish", "subscribe", "hset"]
)
async def test_a_missing_right_is_named(server: Server, command: str) -> None:
    url = await allow(server, "~*", "&*", "+@all", f"-{command}")
    with pytest.raises(RedisUnfit, match=rf"user app is refused .*{command.upper()}.*ACL SETUSER app"):
        async with RedisBus.open(url, "test", ROUTES.get):
            pass


async def test_keys_and_channels_beyond_the_user_s_are_named(server: Server) -> None:
    for rules in (("~myapp:*", "&*", "+@all"), ("~*", "resetchannels", "&myapp:*", "+@all")):
        url = await allow(server, *rules)
        with pytest.raises(RedisUnfit, match="CALLBOARD_REDIS_PREFIX"):
            async with RedisBus.open(url, "test", ROUTES.get):
                pass
        async with RedisBus.open(url, "test", ROUTES.get, prefix="myapp:"):
            pass


async def test_a_replica_is_refused_and_told_from_one_that_is_away(server: Server) -> None:
    await server.do("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(RedisRefuses, match="primary"):
        async with RedisBus.open(server.url, "test", ROUTES.get):
            pass


async def test_a_redis_that_can_not_save_is_refused_with_its_reason(server: Server) -> None:
    await server.do("CONFIG", "SET", "min-replicas-to-write", "1")  # as MISCONF: reads go on, writes don't
    with pytest.raises(RedisRefuses, match="NOREPLICAS"):
        async with RedisBus.open(server.url, "test", ROUTES.get):
            pass


async def test_a_full_redis_is_no_reason_not_to_start(server: Server) -> None:
    await server.do("CONFIG", "SET", "maxmemory", "1")
    async with RedisBus.open(server.url, "test", ROUTES.get):
        pass


# -- what is refused later


@pytest.mark.parametrize("command", ["eval", "xreadgroup"])
async def test_a_partition_that_can_not_be_read_is_told_of_until_it_can(server: Server, command: str) -> None:
    url = await allow(server, "~*", "&*", "+@all")
    async with RedisBus.open(url, "test", ROUTES.get) as bus, owner(bus, LEASE) as it:
        await allow(server, "~*", "&*", "+@all", f"-{command}")
        again = Lease("writer", 0, 2)
        await it.drop(LEASE)
        await it.take(again)
        bus.publish([message(ON_0)])
        await eventually(lambda: bus.away and not it.consumer.reads(it.tenures[again]))
        await allow(server, "~*", "&*", "+@all")
        await it.has(1)
        await eventually(lambda: not bus.away and it.consumer.reads(it.tenures[again]))


async def test_a_settlement_that_is_refused_keeps_no_message_of_others_waiting(server: Server) -> None:
    async with RedisBus.open(server.url, "test", ROUTES.get) as bus, owner(bus, LEASE, Lease("writer", 1, 1)) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        await server.do("DEL", STREAM)
        await server.do("SET", STREAM, "no stream")
        it.settle(*it.deliveries)
        for number in range(20):  # with ever longer pauses in between that would take half a minute
            bus.publish([message(key_on(1, 2))])
            with anyio.fail_after(5):
                await it.has(2 + number)


@pytest.mark.parametrize(
    "trouble",
    [("-xreadgroup",), ("-eval",), ("-xadd",), ("-@all",), ("resetkeys", "~none:*")],
    ids=lambda rules: " ".join(rules),
)
async def test_tasks_go_on_from_the_log_when_rights_are_taken_away_and_return(
    database_url: str, server: Server, trouble: tuple[str, ...]
) -> None:
    async def double(number: int, ctx: Context) -> int:
        return 2 * number

    async def ask(number: int, ctx: Context) -> int:
        return int(await ctx.ask("helper", number))

    url = await allow(server, "~*", "&*", "+@all")
    async with stage(database_url, url, actor("worker", ask), actor("helper", double)) as it:
        await it.host("a")
        assert await it.client.call("worker", 1) == 2
        await allow(server, "~*", "&*", "+@all", *trouble)
        with anyio.fail_after(DEADLINE_S):
            for number in range(5):
                assert await it.client.call("worker", number) == 2 * number
        await allow(server, "~*", "&*", "+@all")

        async def back() -> bool:
            return not it.stack.bus.away

        assert await it.client.call("worker", 7) == 14
        await becomes(back)
        await it.settled()


async def test_a_key_of_another_type_in_a_stream_s_place_stops_no_task(database_url: str, redis_url: str) -> None:
    async def double(number: int, ctx: Context) -> int:
        return 2 * number

    async with stage(database_url, redis_url, actor("worker", double)) as it:
        host = await it.host("a")
        assert await it.client.call("worker", 1) == 2
        async with it.redis() as redis:
            for partition in range(4):
                await redis.delete(it.stream("worker", partition))
                await redis.set(it.stream("worker", partition), "no stream")
        with anyio.fail_after(DEADLINE_S):
            for number in range(5):
                assert await it.client.call("worker", number) == 2 * number
        assert host.stack.bus.away
