"""How long a message takes from being published to its handler's start, against one PING and one INSERT that commits.

    uv run python benchmarks/hop.py [--messages 500] [--rounds 5] [--json]

One at a time, on the same servers, through a real host with its projections: a client in the same process sends over
the bus, and waits for the task's end before it sends the next. `published` is when the message goes to the bus, which
is after the commit that sends it; `sent` is before that commit. It goes to a fresh actor, or to one with a name.

The reference is the time of one PING plus one INSERT of a single row, which commits, on idle connections. References
and messages take turns, a block of each; the median of the rounds' medians is shown.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

import anyio
import asyncpg

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import fresh_database, servers
from callboard.actors.outside.client import Client
from callboard.actors.roles.definition import Actor, define
from callboard.actors.task.context import Context
from callboard.bootstrap import collect_rarely, connected
from callboard.bus.link import Link, pack
from callboard.protocols.messages import Message
from callboard.protocols.ports import Bus
from callboard.services.local import Urls
from callboard.settings import Settings

TARGET: Final = 2.0  # times the reference, from published to started, fresh and named
BLOCK: Final = 50
TEXT: Final = "x" * 300

started: list[float] = []


class Sink(Actor):
    """Notes when it starts."""

    async def handle(self, text: str, ctx: Context) -> None:
        started.append(time.perf_counter())


class NotingBus:
    """A bus that notes when something is published."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.published = 0.0

    def publish(self, messages: Iterable[Message], *, again: bool = False) -> None:
        self.published = time.perf_counter()
        self._bus.publish(messages, again=again)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


async def took(times: list[float], act: Callable[[], Awaitable[object]]) -> None:
    begun = time.perf_counter()
    await act()
    times.append(time.perf_counter() - begun)


async def reference(pool: asyncpg.Pool, link: Link) -> dict[str, float]:
    """The medians of a block, in s."""
    pings: list[float] = []
    inserts: list[float] = []
    for _ in range(BLOCK):
        await took(pings, lambda: link.call([pack("PING")]))
        await took(inserts, lambda: pool.execute("insert into reference (data) values ($1)", TEXT))
    return {"ping": statistics.median(pings), "insert": statistics.median(inserts)}


async def messages(client: Client, bus: NotingBus, name: str, key: str | None) -> dict[str, float]:
    """The medians of a block, in s."""
    from_sent: list[float] = []
    from_published: list[float] = []
    for _ in range(BLOCK):
        started.clear()
        begun = time.perf_counter()
        await client.call("sink", TEXT, key=key)
        from_sent.append(started[0] - begun)
        from_published.append(started[0] - bus.published)
    return {f"{name}, sent": statistics.median(from_sent), f"{name}, published": statistics.median(from_published)}


async def round_of(where: Urls, blocks: int) -> dict[str, float]:
    """One round on a fresh database: the median block of each, in s."""
    found: list[dict[str, float]] = []
    async with fresh_database(where.database_url) as database:
        settings = Settings(database_url=database, redis_url=where.redis_url)
        async with connected(settings, "benchmark") as stack, anyio.create_task_group() as group:
            stop = anyio.Event()
            await group.start(stack.host(define([Sink])).run, stop)
            link = Link(where.redis_url, timeout_s=5)
            bus = NotingBus(stack.bus)
            async with (
                asyncpg.create_pool(database, min_size=1, max_size=1) as pool,
                Client.open(stack.store, bus, stack.directory) as client,  # type: ignore[arg-type]
            ):
                await pool.execute("create table reference (id bigserial primary key, data text)")
                for block in range(blocks + 1):
                    await asyncio.sleep(0.2)  # let the projections and settlements of the former block end
                    measured = await reference(pool, link)
                    measured |= await messages(client, bus, "fresh", None)
                    measured |= await messages(client, bus, "named", "dave")
                    if block:  # the first one warms up
                        found.append(measured)
            await link.close()
            stop.set()
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def main() -> None:
    """Print times and ratios; exit 1 if a hop takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=10 * BLOCK, help="of each kind, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    collect_rarely()
    with servers() as where:
        rounds = [asyncio.run(round_of(where, options.messages // BLOCK)) for _ in range(options.rounds)]
    times = {name: statistics.median(each[name] for each in rounds) * 1000 for name in rounds[0]}
    ratios = {
        name: statistics.median(each[name] / (each["ping"] + each["insert"]) for each in rounds)
        for name in times
        if "," in name
    }
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"ms": times, "ratios": ratios, "load": load}))
    else:
        print(f"PING {times['ping']:.3f} ms, INSERT {times['insert']:.3f} ms (load average {load:.1f})")
        for name, ratio in ratios.items():
            print(f"{name:17} {times[name]:.3f} ms, {ratio:.2f} of both together")
    sys.exit(max(ratio for name, ratio in ratios.items() if name.endswith("published")) > TARGET)


if __name__ == "__main__":
    main()
