"""The bus by itself: how many messages a process carries, and how long one takes, against PING.

    uv run python benchmarks/bus.py [--json]

It needs Redis: at CALLBOARD_TEST_REDIS_URL, or the local one. One process publishes, consumes and settles, over 16
partitions: first 64 messages at a time, then one message at a time, from `publish` to `deliver`. PING is measured on
the same kind of connection between the two. The median of the rounds is shown.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

from msgspec import Struct, to_builtins

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import servers
from callboard.bus.keys import epoch_key, stream_key
from callboard.bus.link import Link, pack
from callboard.bus.redis import RedisBus
from callboard.protocols.messages import Message, part_of
from callboard.protocols.ports import Consumer, Delivery, Lease, Route, Tenure

ROUNDS: Final = 3
BATCH: Final = 64
MESSAGES: Final = 300 * BATCH
SINGLE: Final = 1000
ROUTE: Final = Route("worker", 16)
MOST_PINGS: Final = 8.0  # that one message may take; 2.5 to 5 are usual


class Result(Struct):
    """One round."""

    messages_per_s: float
    cpu_us_per_message: float  # this process's
    message_ms: float
    ping_ms: float


class Sink:
    """Settles what is delivered, and tells how much it was."""

    def __init__(self) -> None:
        self.consumer: Consumer
        self.seen = 0
        self.came = asyncio.Event()

    def deliver(self, delivery: Delivery) -> None:
        self.consumer.settle(delivery)
        self.seen += 1
        self.came.set()


async def measure(url: str) -> Result:
    """One round, on keys of its own."""
    namespace = uuid4().hex
    messages = [message(number) for number in range(BATCH)]
    sink, link = Sink(), Link(url, timeout_s=5)
    async with RedisBus.open(url, namespace, {"worker": ROUTE}.get) as bus:
        sink.consumer = bus.consumer(namespace, sink.deliver, refuse, lambda: BATCH)
        async with sink.consumer:
            for partition in range(ROUTE.partitions):
                await sink.consumer.take(Tenure(Lease("worker", partition, 1)))
            rate, cpu_us = await batched(bus, sink, messages)
            ping_ms = await one_at_a_time(lambda: link.call([pack("PING")]))
            message_ms = await one_at_a_time(lambda: publish_one(bus, sink, messages[0]))
    streams = [stream_key(namespace, ROUTE, partition) for partition in range(ROUTE.partitions)]
    await link.call([pack("DEL", *streams, *map(epoch_key, streams))])
    await link.close()
    return Result(rate, cpu_us, message_ms, ping_ms)


async def batched(bus: RedisBus, sink: Sink, messages: list[Message]) -> tuple[float, float]:
    """Messages a second, and the process's CPU time for each, in us."""
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(MESSAGES // BATCH):
        bus.publish(messages)
        await bus.flush()
    while sink.seen < MESSAGES:
        sink.came.clear()
        await sink.came.wait()
    return MESSAGES / (time.perf_counter() - began), (time.process_time() - cpu) / MESSAGES * 1e6


async def publish_one(bus: RedisBus, sink: Sink, message: Message) -> None:
    """Publish one message and wait for it."""
    sink.came.clear()
    bus.publish([message])
    await sink.came.wait()


async def one_at_a_time(act: Callable[[], Awaitable[object]]) -> float:
    """The median time of an action, in ms."""
    times = []
    for _ in range(SINGLE):
        began = time.perf_counter()
        await act()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def message(number: int) -> Message:
    """A message of about 300 bytes."""
    part = part_of({"text": "x" * 150})
    return Message(
        kind="assign", to=f"worker/{number}", sender="run/r", run="r", task="t", id=f"run/r@{number}.0", parts=(part,)
    )


def refuse(_: object) -> None:
    raise AssertionError("all of it can be decoded")


def main() -> None:
    """Print the median round; exit 1 if a message takes more PINGs than it may."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--json", action="store_true")
    as_json = arguments.parse_args().json
    with servers() as urls:
        rounds = [asyncio.run(measure(urls.redis_url)) for _ in range(ROUNDS)]
    median = sorted(rounds, key=lambda result: result.messages_per_s)[ROUNDS // 2]
    pings = median.message_ms / median.ping_ms
    if as_json:
        print(json.dumps(to_builtins(median)))
    else:
        print(
            f"{BATCH} at a time: {median.messages_per_s:,.0f} messages/s, {median.cpu_us_per_message:.1f} us CPU each"
        )
        print(f"one at a time: {median.message_ms:.3f} ms, {pings:.1f} PINGs of {median.ping_ms:.3f} ms")
    sys.exit(pings > MOST_PINGS)


if __name__ == "__main__":
    main()
