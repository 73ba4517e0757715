"""Appending to the event store, against COPY of the same rows into the same table with the same indexes.

    uv run python benchmarks/append.py [--json]

Each round makes databases of its own, and measures COPY before, between and after the appends. Ratios are taken within
a round, so that they say something on a noisy machine too; the median round is shown. Exit code 1: a target is missed.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
from msgspec import Struct, to_builtins

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import fresh_database, servers
from callboard.bootstrap import collect_rarely
from callboard.eventstore import PostgresEventStore
from callboard.protocols.events import Meta, NewEvent
from callboard.protocols.messages import encode_json

EVENTS: Final = 20_000
BYTES: Final = 300
STREAMS: Final = 200
# appends waiting at a time, events each -> the ratio to COPY that must hold
TARGETS: Final = {(50, 1): 0.3, (200, 3): 0.5}


class Result(Struct):
    """One way of writing, in one round."""

    waiting: int
    events_each: int
    events_per_s: float
    ratio_to_copy: float
    cpu_us_per_append: float  # this process's


class Log:
    """The events, dealt out to the streams in turn; every other one handles a message."""

    def __init__(self) -> None:
        self.data = b'{"text": "' + b"x" * (BYTES - 12) + b'"}'
        self.count = 0

    def event(self) -> NewEvent:
        self.count += 1
        handles = f"run/{uuid4().hex}@{self.count}.0" if self.count % 2 else None
        return NewEvent(
            type="step.completed",
            data=self.data,
            meta=Meta(run="0192f0c1a5b27cc3", task="0192f0c1a5b27cc4", role="writer", handles=handles),
        )


def stream(number: int) -> str:
    return f"writer/0192f0c1a5b27cc3b1d2e3f4a5b6c7{number:03}"


async def copy(url: str) -> float:
    """COPY in one transaction; seconds."""
    log, rows = Log(), []
    connection = await asyncpg.connect(url)
    moment = await connection.fetchval("select now()")
    for n in range(EVENTS):
        event = log.event()
        meta = encode_json(event.meta)
        at = (n + 1, stream(n % STREAMS), n // STREAMS + 1)
        rows.append((*at, event.type, event.schema_version, moment, event.data, meta, event.meta.handles))
    columns = ("position", "stream", "version", "type", "schema_version", "recorded_at", "data", "meta", "handles")
    begun = time.perf_counter()
    await connection.copy_records_to_table("events", records=rows, columns=columns)
    seconds = time.perf_counter() - begun
    await connection.close()
    return seconds


async def append(url: str, waiting: int, events_each: int) -> tuple[float, float]:
    """As many callers as may wait at a time, each appending to streams of its own; seconds, and seconds of CPU."""
    log = Log()
    appends = [[log.event() for _ in range(events_each)] for _ in range(EVENTS // events_each)]

    async with PostgresEventStore.open(url) as store:

        async def call(caller: int) -> None:
            versions = dict.fromkeys(range(caller, STREAMS, waiting), 0)
            while appends:
                for number, version in versions.items():
                    if not appends:
                        return
                    versions[number] = (await store.append(stream(number), appends.pop(), version)).version

        await store.append("warm/up", [log.event()], 0)
        begun, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as callers:
            for caller in range(waiting):
                callers.create_task(call(caller))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        written = await store.head()
        if written != EVENTS - EVENTS % events_each + 1:
            raise AssertionError(f"{written} events in the log")
    return seconds, cpu


async def migrated(url: str) -> None:
    async with PostgresEventStore.open(url):
        pass


async def one_round(server: str) -> list[Result]:
    copying, appending = [], []
    async with fresh_database(server) as url:
        await migrated(url)
        copying.append(await copy(url))
    for waiting, events_each in TARGETS:
        async with fresh_database(server) as url:
            appending.append(await append(url, waiting, events_each))
        async with fresh_database(server) as url:
            await migrated(url)
            copying.append(await copy(url))
    copied = EVENTS / statistics.mean(copying)
    results = [Result(0, EVENTS, copied, 1.0, 0.0)]
    for (waiting, events_each), (seconds, cpu) in zip(TARGETS, appending, strict=True):
        rate = EVENTS / seconds
        results.append(Result(waiting, events_each, rate, rate / copied, cpu / (EVENTS / events_each) * 1e6))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    collect_rarely()  # as processes that serve do
    with servers() as running:
        rounds = [asyncio.run(one_round(running.database_url)) for _ in range(options.rounds)]
    median = [
        min(ways, key=lambda way: abs(way.ratio_to_copy - statistics.median(each.ratio_to_copy for each in ways)))
        for ways in map(list, zip(*rounds, strict=True))
    ]
    missed = [way for way in median[1:] if way.ratio_to_copy < TARGETS[way.waiting, way.events_each]]
    if options.json:
        print(json.dumps({"median": to_builtins(median), "rounds": to_builtins(rounds), "holds": not missed}))
    else:
        print(f"{EVENTS} events of {BYTES} bytes to {STREAMS} streams, median of {options.rounds} rounds")
        print(f"COPY                        {median[0].events_per_s:9,.0f} events/s")
        for way in median[1:]:
            target = TARGETS[way.waiting, way.events_each]
            print(
                f"{way.waiting:3} waiting, {way.events_each} each      {way.events_per_s:9,.0f} events/s  "
                f"{way.ratio_to_copy:.2f} of COPY (target: {target}), {way.cpu_us_per_append:.0f} us CPU per append"
            )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
