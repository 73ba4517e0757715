"""Many writers that dawdle and roll back; a subscriber that misses nothing, sees nothing twice, and all in order."""

import logging
import time
from collections import Counter
from random import Random
from typing import Final
from uuid import uuid4

import anyio
import asyncpg
import pytest

from callboard.eventstore import PostgresEventStore
from callboard.eventstore.appender import _APPEND, _LOCK
from callboard.eventstore.chain import Row, batch_digest
from callboard.eventstore.verify import verify
from callboard.protocols.events import Meta, NewEvent
from callboard.protocols.messages import encode_json
from callboard.protocols.ports import NO_STREAM

log = logging.getLogger(__name__)

WRITERS: Final = 32
EVENTS: Final = 20_000
EVENTS_LONG: Final = 1_000_000
ROLLED_BACK, DAWDLING, LOCKED_FIRST = 0.15, 0.1, 0.5  # of the batches
LONGEST_PAUSE_S: Final = 0.005
META: Final = Meta(run="r")


class Plan:
    """How much is left to write, and what was written to which stream."""

    def __init__(self, events: int, largest_batch: int, seed: int) -> None:
        self.random = Random(seed)
        self.left = events
        self.largest_batch = largest_batch
        self.written: Counter[str] = Counter()
        self.rolled_back = 0

    def take(self) -> int:
        """The size of the next batch; 0 if all is written."""
        size = min(self.random.randint(1, self.largest_batch), self.left)
        self.left -= size
        return size


async def write(url: str, stream: str, plan: Plan) -> None:
    """A writer on a connection of its own, which leaves its transactions open for a while, and rolls some back."""
    connection = await asyncpg.connect(url)
    writer, number, random = uuid4(), 0, plan.random
    try:
        while size := plan.take():
            number += 1
            version = plan.written[stream]
            rows: list[Row] = [
                (stream, version + n, "test.happened", 1, b"%d" % (version + n), encode_json(META), None)
                for n in range(1, size + 1)
            ]
            transaction = connection.transaction()
            await transaction.start()
            if random.random() < LOCKED_FIRST:
                await connection.execute(_LOCK)
            await connection.fetchrow(
                _APPEND, writer, number, batch_digest(writer, number, rows), rows, [], [], [], None
            )
            if random.random() < DAWDLING:
                await anyio.sleep(random.uniform(0, LONGEST_PAUSE_S))
            if random.random() < ROLLED_BACK:
                await transaction.rollback()
                plan.rolled_back += 1
                plan.left += size
            else:
                await transaction.commit()
                plan.written[stream] += size
            await anyio.sleep(random.uniform(0, LONGEST_PAUSE_S))
    finally:
        await connection.close()


async def append(store: PostgresEventStore, stream: str, plan: Plan) -> None:
    """A writer on the subscriber's own store, so that some pages come from memory."""
    while size := plan.take():
        version = plan.written[stream]
        events = [NewEvent(type="test.happened", data=b"%d" % (version + n), meta=META) for n in range(1, size + 1)]
        await store.append(stream, events, version or NO_STREAM)
        plan.written[stream] += size
        await anyio.sleep(plan.random.uniform(0, LONGEST_PAUSE_S))


async def read(store: PostgresEventStore, total: int) -> Counter[str]:
    """Read the subscription until so many events were seen; how many there were in each stream."""
    seen: Counter[str] = Counter()
    position = 0
    async for page in store.subscribe():
        for event in page:
            position += 1
            seen[event.stream] += 1
            assert (event.position, event.version) == (position, seen[event.stream])
            assert event.data == b"%d" % event.version
        if position == total:
            return seen
    raise AssertionError("a subscription never ends")


@pytest.mark.timeout(1800)
async def test_a_subscriber_misses_nothing_of_32_writers_that_dawdle_and_roll_back(
    database_url: str, long: bool
) -> None:
    total = EVENTS_LONG if long else EVENTS
    plan = Plan(total, largest_batch=300 if long else 25, seed=total)
    seen: Counter[str] = Counter()
    began = time.monotonic()

    async def follow() -> None:
        seen.update(await read(store, total))

    async with PostgresEventStore.open(database_url) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            tasks.start_soon(append, store, "writer/own", plan)
            for number in range(1, WRITERS):
                tasks.start_soon(write, database_url, f"writer/{number}", plan)
        log.info("%d events, %d batches rolled back, %.1f s", total, plan.rolled_back, time.monotonic() - began)
        assert seen == plan.written
        assert plan.rolled_back > 0
        assert len(seen) == WRITERS
        assert await store.head() == total
        assert [damage async for damage in verify(store.pool)] == []
