"""FastStream's side of `against_faststream.py`; runs in an environment of its own.

    python faststream_side.py URL STREAM MESSAGES WAY       WAY: as it comes, tuned, workers or batch

Consumes and acknowledges that many messages from a stream, and says on standard error how many a second: from the first
that a handler gets to the last acknowledgement.
"""

import asyncio
import sys
import time
from typing import Any

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub

BATCH = 64


async def main(url: str, stream: str, messages: int, way: str) -> None:
    broker = RedisBroker(url) if way == "as it comes" else RedisBroker(url, apply_types=False, logger=None)
    seen = 0
    began = 0.0
    done = asyncio.Event()
    source = StreamSub(stream, group="faststream", consumer="one", last_id="0", max_records=BATCH, batch=way == "batch")

    async def handle(body: Any) -> None:
        nonlocal seen, began
        began = began or time.perf_counter()
        seen += len(body) if way == "batch" else 1
        if seen == messages:
            done.set()

    workers = BATCH if way == "workers" else 1
    broker.subscriber(stream=source, ack_policy=AckPolicy.ACK, max_workers=workers)(handle)
    async with broker:
        await broker.start()
        await done.wait()
        while (await broker._connection.xpending(stream, "faststream"))["pending"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        print(messages / (time.perf_counter() - began), file=sys.stderr)  # its log goes to standard output


if __name__ == "__main__":
    url, stream, messages, way = sys.argv[1:]
    asyncio.run(main(url, stream, int(messages), way))
