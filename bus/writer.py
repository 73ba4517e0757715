"""All that a process writes to Redis: messages and settlements, by one loop, each time all there is in one pipeline."""

import asyncio
from collections import deque
from typing import Any

import anyio
from redis.exceptions import ResponseError

from bus import scripts
from bus.link import LINK_ERRORS, Link, Trouble, pack

MAX_BATCH = 512  # commands in one pipeline
LINGER_S = 0.005  # how long settlements wait for company: nobody waits for them
MAX_QUEUED_BYTES = 64 * 1024 * 1024  # of messages; what is more is dropped

Settlements = dict[tuple[str, str], list[str]]  # (stream, group) -> entries


class Writer:
    """Queues and writes. A message is tried once: if that fails, it is dropped, and whoever owns its partition finds
    it in the log. A settlement may be repeated, so it is kept until Redis has it.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._messages: deque[bytes] = deque()  # packed
        self._message_bytes = 0
        self._settlements: Settlements = {}
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()  # there are messages
        self._progress = asyncio.Event()  # replaced after each pass
        self._queued = self._done = 0  # messages, ever
        self._away = Trouble("bus writer: Redis is away")
        self._refused = Trouble("bus writer: Redis refuses messages")
        self._full = Trouble("bus writer: the queue is full")

    def publish(self, stream: str, content: bytes, *, again: bool) -> None:
        """Queue a message for a stream."""
        packed = pack("XADD", stream, "*", "m", content, *(("again", "1") if again else ()))
        if self._message_bytes + len(packed) > MAX_QUEUED_BYTES:
            self._full.note(f"{self._message_bytes} bytes", dropped=1)
            return
        self._messages.append(packed)
        self._message_bytes += len(packed)
        self._queued += 1
        self._urgent.set()
        self._work.set()

    def settle(self, stream: str, group: str, entry: str) -> None:
        """Queue the settlement of an entry."""
        entries = self._settlements.get((stream, group))
        if entries is None:
            self._settlements[stream, group] = [entry]
        else:
            entries.append(entry)
        self._work.set()

    async def flush(self) -> None:
        """Return when all messages queued before are written or dropped."""
        target = self._queued
        while self._done < target:
            await self._progress.wait()

    async def settled(self) -> None:
        """Return when no settlement is queued or being written. Lasts as long as Redis is away."""
        while self._settlements:
            await self._progress.wait()

    async def run(self) -> None:
        """Write, until cancelled."""
        try:
            while True:
                await self._work.wait()
                if not self._messages:
                    with anyio.move_on_after(LINGER_S):
                        await self._urgent.wait()
                await self._write()
        finally:
            await self._link.close()

    async def _write(self) -> None:
        messages = [self._messages.popleft() for _ in range(min(len(self._messages), MAX_BATCH))]
        settlements = {key: entries[: scripts.MAX_SETTLED] for key, entries in self._settlements.items()}
        commands = [*messages, *(scripts.settle(*key, entries) for key, entries in settlements.items())]
        try:
            replies = await self._link.call(commands)
        except LINK_ERRORS as error:
            self._finish(messages, {})
            self._away.note(error, dropped=len(messages))
            await self._away.pause()
            return
        self._away.over()
        self._check_messages(replies[: len(messages)])
        failure = self._failure_of(replies[len(messages) :])
        self._finish(messages, {} if failure else settlements)
        if failure:
            self._away.note(failure)
            await self._away.pause()

    def _finish(self, messages: list[bytes], settlements: Settlements) -> None:
        """These are done with: written or dropped."""
        for key, entries in settlements.items():
            if len(rest := self._settlements[key]) > len(entries):
                del rest[: len(entries)]
            else:
                del self._settlements[key]
        self._message_bytes -= sum(map(len, messages))
        self._done += len(messages)
        if not self._messages:
            self._full.over()
            self._urgent.clear()
            if not self._settlements:
                self._work.clear()
        self._progress.set()
        self._progress = asyncio.Event()

    def _check_messages(self, replies: list[Any]) -> None:
        refused = [reply for reply in replies if isinstance(reply, ResponseError)]
        if refused:
            self._refused.note(refused[0], dropped=len(refused))
        elif replies:
            self._refused.over()

    @staticmethod
    def _failure_of(replies: list[Any]) -> ResponseError | None:
        return next((reply for reply in replies if isinstance(reply, ResponseError)), None)

    def __repr__(self) -> str:
        settlements = sum(map(len, self._settlements.values()))
        return f"<Writer queued={self._queued - self._done} settling={settlements}>"
