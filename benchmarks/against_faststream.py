"""Consuming and acknowledging the same messages from Redis Streams: the bus against FastStream, in one run.

    uv run python benchmarks/against_faststream.py [--messages 6400] [--rounds 3] [--json]

One process, one stream with all messages on it beforehand, read 64 at a time. The bus decodes, delivers and settles
(XACK and XDEL); FastStream decodes, calls a handler and acknowledges (XACK). FastStream runs in an environment of its
own, which uv makes, in four ways:

    as it comes     installed and used as its documentation says, but for reading 64 at a time; its log goes nowhere
    tuned           with hiredis, without a log, without dependency injection
    workers         the same with 64 concurrent workers
    batch           the same, with one call of a handler, and one decoding, for 64 messages: these are not on their own

The target is about the first three: actors take messages one by one.

Redis is the one at CALLBOARD_TEST_REDIS_URL (with CALLBOARD_TEST_DATABASE_URL), or a local one.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bus import BATCH, Sink, message, refuse
from benchmarks.kit import servers
from callboard.bootstrap import collect_rarely
from callboard.bus.keys import epoch_key, stream_key
from callboard.bus.link import Link, pack
from callboard.bus.redis import RedisBus
from callboard.protocols.messages import encode_message
from callboard.protocols.ports import Lease, Route, Tenure

FASTSTREAM: Final = "faststream[redis]==0.7.8"
SIDE: Final = Path(__file__).with_name("faststream_side.py")
WAYS: Final = ("as it comes", "tuned", "workers", "batch")
TARGET: Final = 20.0  # times FastStream's rate
ROUTE: Final = Route("worker", 1)


async def put(url: str, stream: str, field: str, messages: int) -> None:
    """Put the messages on a stream, under the field where the reader looks for them."""
    link = Link(url, timeout_s=60)
    content = [pack("XADD", stream, "*", field, encode_message(message(number))) for number in range(BATCH)]
    for _ in range(messages // BATCH):
        await link.call(content)
    await link.close()


async def delete(url: str, *keys: str) -> None:
    link = Link(url, timeout_s=60)
    await link.call([pack("UNLINK", *keys)])
    await link.close()


async def bus_rate(url: str, messages: int) -> float:
    """Messages a second of the bus: from the first delivery to the last settlement."""
    namespace = uuid4().hex
    stream = stream_key(namespace, ROUTE, 0)
    await put(url, stream, "m", messages)
    sink = Sink()
    async with RedisBus.open(url, namespace, {"worker": ROUTE}.get) as bus:
        sink.consumer = bus.consumer(namespace, sink.deliver, refuse, lambda: BATCH)
        async with sink.consumer:
            began = time.perf_counter()
            await sink.consumer.take(Tenure(Lease("worker", 0, 1)))
            while sink.seen < messages or (await bus.backlog("worker"))[0]:
                sink.came.clear()
                await sink.came.wait() if sink.seen < messages else None
            rate = messages / (time.perf_counter() - began)
    await delete(url, stream, epoch_key(stream))
    return rate


def faststream_rate(url: str, messages: int, way: str) -> float:
    """Messages a second of FastStream."""
    stream = uuid4().hex
    asyncio.run(put(url, stream, "__data__", messages))
    faster = [] if way == "as it comes" else ["--with", "hiredis"]
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--with", FASTSTREAM, *faster]
    command += ["python", str(SIDE), url, stream, str(messages), way]
    done = subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    asyncio.run(delete(url, stream))
    return float(done.stderr)


def main() -> None:
    """Print the median rates and ratios; exit 1 if the bus misses its target."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=100 * BATCH, help=f"a multiple of {BATCH}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    collect_rarely()
    rounds: list[dict[str, float]] = []
    with servers() as urls:
        for _ in range(options.rounds):
            ours = statistics.median(asyncio.run(bus_rate(urls.redis_url, options.messages)) for _ in range(3))
            rounds.append({"bus": ours} | {way: faststream_rate(urls.redis_url, options.messages, way) for way in WAYS})
    rates = {name: statistics.median(each[name] for each in rounds) for name in ("bus", *WAYS)}
    ratios = {way: statistics.median(each["bus"] / each[way] for each in rounds) for way in WAYS}
    if options.json:
        print(json.dumps({"messages_per_s": rates, "ratios": ratios, "load": os.getloadavg()[0]}))
    else:
        print(f"bus: {rates['bus']:,.0f} messages/s (load average {os.getloadavg()[0]:.1f})")
        for way in WAYS:
            print(f"FastStream, {way}: {rates[way]:,.0f} messages/s; the bus has {ratios[way]:.1f} times that")
    sys.exit(min(ratios[way] for way in WAYS[:3]) < TARGET)


if __name__ == "__main__":
    main()
