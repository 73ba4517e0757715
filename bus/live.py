"""What is shown of a run while it goes on: pieces of answers, by publish and subscribe. Nobody waits for them, nothing
keeps them, and any of them may get lost.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import msgspec
from redis.exceptions import ResponseError

from callboard.bus.link import CONNECT_S, LINK_ERRORS, Link, Reach, Trouble, connection_to, owned_tasks, pack

EVERY_S: Final = 0.05  # between two messages about one run: faster than anybody reads
MAX_SHOWN_BYTES: Final = 1024 * 1024  # that wait to be published; what is more is dropped
MAX_WAITING: Final = 10_000  # pieces that one watcher has not taken yet; then the oldest are dropped
IDLE_S: Final = 60.0  # a connection on which nothing has come for so long is made anew: it may be dead

_batch = msgspec.msgpack.Decoder(list[bytes])


class Pieces:
    """What one watcher has still to see."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._there = asyncio.Event()

    def put(self, piece: bytes) -> None:
        """Add one; if there are too many, the oldest is dropped."""
        self._waiting.append(piece)
        self._there.set()

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        while not self._waiting:
            self._there.clear()
            await self._there.wait()
        return self._waiting.popleft()


class Stage:
    """Publishes what one process shows: all there is, every EVERY_S, and so one message a run."""

    def __init__(self, link: Link, reach: Reach) -> None:
        self._link = link
        self._reach = reach
        self._shown: dict[str, list[bytes]] = {}  # by channel
        self._bytes = 0
        self._work = asyncio.Event()
        self._refused = Trouble("live: Redis refuses what is shown")

    def show(self, channel: str, piece: bytes) -> None:
        """Queue a piece, unless Redis is away, or too much is queued."""
        if self._reach.away or self._bytes + len(piece) > MAX_SHOWN_BYTES:
            return
        self._shown.setdefault(channel, []).append(piece)
        self._bytes += len(piece)
        self._work.set()

    async def run(self) -> None:
        """Publish, until cancelled."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                shown, self._shown, self._bytes = self._shown, {}, 0
                commands = [pack("PUBLISH", channel, msgspec.msgpack.encode(them)) for channel, them in shown.items()]
                with suppress(*LINK_ERRORS):  # the bus's writer asks until Redis is back, and tells
                    refused = [it for it in await self._link.call(commands) if isinstance(it, ResponseError)]
                    self._refused.note(refused[0]) if refused else self._refused.over()
                await asyncio.sleep(EVERY_S)
        finally:
            await self._link.close()


@asynccontextmanager
async def watch(url: str, channel: str) -> AsyncIterator[Pieces]:
    """What is published on a channel, as long as the block lasts; from its beginning, if Redis answers."""
    pieces = Pieces()
    subscription = _Subscription(url, channel, pieces)
    async with owned_tasks() as tasks:
        tasks.start_soon(subscription.run)
        await subscription.tried.wait()
        yield pieces


class _Subscription:
    """One connection that listens, made again whenever it is lost. What comes in between is missed."""

    def __init__(self, url: str, channel: str, pieces: Pieces) -> None:
        self.tried = asyncio.Event()
        self._connection = connection_to(url)
        self._subscribe = pack("SUBSCRIBE", channel)
        self._pieces = pieces
        self._trouble = Trouble("watch: Redis is away")

    async def run(self) -> None:
        """Listen, until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(CONNECT_S):
                        await self._connection.connect()
                        await self._connection.send_packed_command(self._subscribe, check_health=False)
                        await self._connection.read_response()
                    self._trouble.over()
                    self.tried.set()
                    await self._listen()
                except LINK_ERRORS as error:
                    self.tried.set()
                    self._trouble.note(error)
                    await self._trouble.pause()
                finally:
                    await self._connection.disconnect(nowait=True)
        finally:
            with anyio.move_on_after(0.2, shield=True):
                await self._connection.disconnect()

    async def _listen(self) -> None:
        """Take in what comes, until nothing does for IDLE_S."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    _, _, batch = await self._connection.read_response()
            except TimeoutError:
                return
            for piece in _batch.decode(batch):
                self._pieces.put(piece)
