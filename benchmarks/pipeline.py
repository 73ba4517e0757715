"""Runs of three actors in sequence, against a hand-written minimum of one XADD, XREADGROUP, INSERT and XACK a step.

    uv run python benchmarks/pipeline.py [--runs 300 3000] [--rounds 3] [--json]

Each actor is a no-op that returns 1 KB; every step is durable and the projections run along. `hand-off`: each actor
hands the task on to the next. `orchestrated`: a fourth actor asks the three in turn. The minimum does the least that
durable steps over a stream can do, a step at a time: no batching, no actors, no recovery.

Everything is in one process, on the same servers, measured in turn within a round; the median round is shown. The
servers are those at CALLBOARD_TEST_DATABASE_URL and CALLBOARD_TEST_REDIS_URL, or local ones.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import anyio
import asyncpg
import redis.asyncio as redis
from msgspec import Struct, to_builtins

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import fresh_database, servers
from callboard.actors.roles.definition import Actor, Handoff, define
from callboard.actors.task.context import Context
from callboard.bootstrap import collect_rarely, connected
from callboard.services.local import Urls
from callboard.settings import Settings

STEPS: Final = 3
PAYLOAD: Final = "x" * 1024
MINIMUM_CONNECTIONS: Final = 16  # to PostgreSQL: the count at which the minimum was fastest
TARGETS: Final = {("hand-off", 50): 1.5, ("orchestrated", 50): 0.8}  # of the minimum's rate
LATENCY_TARGETS: Final = {("hand-off", 1): 1.33, ("orchestrated", 1): 2.5}  # times the minimum's p50


class First(Actor):
    """Passes on to Second."""

    async def handle(self, text: str, ctx: Context) -> Handoff:
        return await ctx.handoff("second", text)


class Second(Actor):
    """Passes on to Third."""

    async def handle(self, text: str, ctx: Context) -> Handoff:
        return await ctx.handoff("third", text)


class Third(Actor):
    """Returns what it is given."""

    async def handle(self, text: str, ctx: Context) -> str:
        return text


class Echo(Actor):
    """Returns what it is given."""

    async def handle(self, text: str, ctx: Context) -> str:
        return text


class Orchestrator(Actor):
    """Asks three times, one after the other."""

    async def handle(self, text: str, ctx: Context) -> str:
        for _ in range(STEPS):
            text = await ctx.ask("echo", text)
        return text


class Result(Struct):
    """One way to do the runs, in one round."""

    way: str
    runs: int
    at_a_time: int
    runs_per_s: float
    p50_ms: float
    cpu_us_per_run: float  # this process's


async def measure(way: str, runs: int, at_a_time: int, one: Callable[[], Awaitable[object]]) -> Result:
    """Do `runs` runs, `at_a_time` of them at any time."""
    todo = iter(range(runs))
    took: list[float] = []

    async def worker() -> None:
        for _ in todo:
            begun = time.perf_counter()
            await one()
            took.append(time.perf_counter() - begun)

    cpu, begun = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(worker())
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return Result(way, runs, at_a_time, runs / wall, statistics.median(took) * 1000, cpu / runs * 1e6)


class Minimum:
    """The least: workers that wait for a step's messages, and for each an XREADGROUP, an INSERT that commits, an XADD
    to the next step, an XACK. There are as many workers a step as there are runs at a time.
    """

    def __init__(self, pool: asyncpg.Pool, client: redis.Redis) -> None:
        self._pool = pool
        self._redis = client
        self._done: dict[bytes, asyncio.Future[None]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, database: str, redis_url: str, workers: int) -> AsyncIterator["Minimum"]:
        async with asyncpg.create_pool(database, min_size=MINIMUM_CONNECTIONS, max_size=MINIMUM_CONNECTIONS) as pool:
            await pool.execute(
                """
                create table steps (position bigint generated always as identity primary key, stream text, version int,
                                    at timestamptz default clock_timestamp(), data bytea, unique (stream, version))
                """
            )
            async with redis.Redis.from_url(redis_url, socket_timeout=None, max_connections=1000) as client:
                for step in range(STEPS):
                    await client.xgroup_create(f"minimum:{step}", "workers", id="0", mkstream=True)
                minimum = cls(pool, client)
                async with anyio.create_task_group() as group:
                    for step in range(STEPS):
                        for number in range(workers):
                            group.start_soon(minimum._work, step, f"{step}-{number}")
                    yield minimum
                    group.cancel_scope.cancel()
                await client.delete(*(f"minimum:{step}" for step in range(STEPS)))

    async def run(self) -> None:
        name = uuid4().hex.encode()
        done = self._done[name] = asyncio.get_running_loop().create_future()
        await self._redis.xadd("minimum:0", {"run": name, "body": PAYLOAD})
        await done

    async def _work(self, step: int, worker: str) -> None:
        key = f"minimum:{step}"
        while True:
            replies = await self._redis.xreadgroup("workers", worker, {key: ">"}, count=1, block=60_000)
            for entry, fields in replies[0][1]:
                name, body = fields[b"run"], fields[b"body"]
                await self._pool.execute(
                    "insert into steps (stream, version, data) values ($1, $2, $3)", name.decode(), step + 1, body
                )
                if step + 1 < STEPS:
                    await self._redis.xadd(f"minimum:{step + 1}", {"run": name, "body": body})
                else:
                    self._done.pop(name).set_result(None)
                await self._redis.xack(key, "workers", entry)


async def round_of(where: Urls, runs: int, at_a_time: int) -> list[Result]:
    """All ways, once, on a fresh database."""
    async with fresh_database(where.database_url) as database:
        async with Minimum.open(database, where.redis_url, at_a_time) as minimum:
            results = [await measure("minimum", runs, at_a_time, minimum.run)]
        settings = Settings(database_url=database, redis_url=where.redis_url, slots=256)
        async with connected(settings, "benchmark") as stack, anyio.create_task_group() as group:
            stop = anyio.Event()
            await group.start(stack.host(define([First, Second, Third, Echo, Orchestrator])).run, stop)
            async with stack.client() as client:
                await measure("warm-up", 50, at_a_time, partial(client.call, "first", PAYLOAD))
                for way, role in (("hand-off", "first"), ("orchestrated", "orchestrator")):
                    results.append(await measure(way, runs, at_a_time, partial(client.call, role, PAYLOAD)))
            stop.set()
    return results


def ratios(results: list[Result]) -> list[dict[str, Any]]:
    """Each way's rate and p50 as multiples of the minimum's in the same round."""
    base = next(r for r in results if r.way == "minimum")
    return [
        {**to_builtins(r), "rate_ratio": r.runs_per_s / base.runs_per_s, "p50_ratio": r.p50_ms / base.p50_ms}
        for r in results
    ]


def median_of(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The median of each figure over the rounds."""
    return [
        {
            name: statistics.median(row[name] for row in rows) if isinstance(value, float) else value
            for name, value in rows[0].items()
        }
        for rows in zip(*rounds, strict=True)
    ]


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'':14}{'runs':>6}{'at once':>9}{'runs/s':>9}{'p50 ms':>8}{'cpu us':>8}{'rate':>7}{'p50':>7}  target")
    for row in rows:
        case = (row["way"], row["at_a_time"])
        target = f"rate >= {TARGETS[case]}" if case in TARGETS else ""
        target = f"p50 <= {LATENCY_TARGETS[case]}" if case in LATENCY_TARGETS else target
        print(
            f"{row['way']:14}{row['runs']:6}{row['at_a_time']:9}{row['runs_per_s']:9.0f}{row['p50_ms']:8.2f}"
            f"{row['cpu_us_per_run']:8.0f}{row['rate_ratio']:7.2f}{row['p50_ratio']:7.2f}  {target}"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[300, 3000])
    parser.add_argument("--at-a-time", type=int, nargs="+", default=[50, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the median round as JSON")
    options = parser.parse_args()
    rows = []
    collect_rarely()  # as processes that serve do
    with servers() as where:
        for runs in options.runs:
            for at_a_time in options.at_a_time:
                rounds = [ratios(await round_of(where, runs, at_a_time)) for _ in range(options.rounds)]
                rows += median_of(rounds)
    print(json.dumps(rows)) if options.json else show(rows)


if __name__ == "__main__":
    asyncio.run(main())
