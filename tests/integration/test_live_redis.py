"""What is shown of a run, on a Redis that dies and comes back: a server of its own for each test."""

import time
from collections.abc import AsyncIterator

import anyio
import pytest

from callboard.bus.live import EVERY_S, MAX_SHOWN_BYTES
from callboard.bus.redis import RedisBus
from callboard.protocols.ports import Route
from tests.bus_kit import message
from tests.conftest import DEADLINE_S
from tests.redis_kit import BINARIES, Server, stopped_redis


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    with stopped_redis(BINARIES[0]) as server:
        await server.start()
        yield server


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[RedisBus]:
    async with RedisBus.open(server.url, "test", {"writer": Route("writer", 2)}.get) as bus:
        yield bus


async def test_pieces_go_out_together(server: Server, bus: RedisBus) -> None:
    async with bus.watch("r1") as pieces:
        begun = time.monotonic()
        for number in range(200):
            bus.show("r1", b"%d" % number)
            bus.show("r2", b"of another run")
            await anyio.sleep(0.002)
        assert [await anext(pieces) for _ in range(200)] == [b"%d" % number for number in range(200)]
        took_s = time.monotonic() - begun
    assert await server.times("publish") <= 2 * (took_s / EVERY_S + 2)


async def test_a_watcher_goes_on_after_redis_died(server: Server, bus: RedisBus) -> None:
    async with bus.watch("r1") as pieces:
        server.kill()
        bus.publish([message()])
        await bus.flush()
        assert bus.away
        bus.show("r1", b"dropped")
        await server.start()
        with anyio.fail_after(DEADLINE_S):
            while True:
                bus.show("r1", b"after")
                with anyio.move_on_after(0.1):
                    assert await anext(pieces) == b"after"
                    break


async def test_a_watch_begins_and_ends_without_redis(server: Server, bus: RedisBus) -> None:
    server.kill()
    with anyio.fail_after(DEADLINE_S):
        async with bus.watch("r1"):
            pass


async def test_what_nobody_can_publish_takes_no_more_than_its_share_of_memory(bus: RedisBus) -> None:
    async with bus.watch("r1") as pieces:
        for _ in range(2 * MAX_SHOWN_BYTES // 1024):
            bus.show("r1", b"x" * 1024)
        bus.show("r1", b"dropped")
        for _ in range(MAX_SHOWN_BYTES // 1024):
            assert await anext(pieces) == b"x" * 1024
        bus.show("r1", b"last")
        assert await anext(pieces) == b"last"
