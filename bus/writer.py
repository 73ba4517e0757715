"""All that a process writes to Redis: messages and settlements, by one loop, each time all there is in one pipeline."""

import asyncio
from collections import deque
from typing import Any, TypeGuard

import anyio
from redis.exceptions import OutOfMemoryError, ResponseError

from callboard.bus import scripts
from callboard.bus.keys import GAP
from callboard.bus.link import LINK_ERRORS, Link, Reach, Trouble, pack
from callboard.bus.room import Room

MAX_BATCH = 512  # commands in one pipeline
LINGER_S = 0.005  # how long settlements wait for company: nobody waits for them
MARK_AGAIN_S = 0.5
MAX_QUEUED_BYTES = 64 * 1024 * 1024  # of messages; what is more is dropped

Settlements = dict[tuple[str, str], list[str]]  # (stream, group) -> entries


class Writer:
    """Queues and writes. A message is tried once: if that fails, it is dropped, and whoever owns its partition finds
    it in the log; a mark is written before the next message to that partition, so that none is read before the one
    that is missing was looked for. A settlement may be repeated, so it is kept until Redis has it. While Redis is
    away, it is asked again and again, so that somebody notices when it is back.
    """

    def __init__(self, link: Link, reach: Reach, room: Room) -> None:
        self._link = link
        self._reach = reach
        self._room = room
        self._messages: deque[tuple[str, bytes]] = deque()  # the stream, and the packed command
        self._gaps: set[str] = set()  # the streams that miss messages, and have no mark of it yet
        self._message_bytes = 0
        self._settlements: Settlements = {}
        self._work = asyncio.Event()
        reach.on_failure = self._work.set
        self._urgent = asyncio.Event()  # there are messages, or as many settlements as one call takes
        self._progress = asyncio.Event()  # replaced after each pass
        self._queued = self._done = 0  # messages, ever
        self._away = Trouble("bus writer: Redis is away")
        self._refused = Trouble("bus writer: Redis refuses messages")
        self._full = Trouble("bus writer: the queue is full")
        self._unsettled = Trouble("bus writer: Redis refuses settlements")

    def publish(self, stream: str, content: bytes, *, again: bool) -> None:
        """Queue a message for a stream."""
        packed = pack("XADD", stream, "*", "m", content, *(("again", "1") if again else ()))
        if self._message_bytes + len(packed) > MAX_QUEUED_BYTES:
            self._full.note(f"{self._message_bytes} bytes", dropped=1)
            self._gaps.add(stream)
            return
        self._messages.append((stream, packed))
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
            if len(entries) == scripts.MAX_SETTLED:
                self._urgent.set()
        self._work.set()

    async def flush(self) -> None:
        """Return when all messages queued before are written or dropped."""
        target = self._queued
        while self._done < target:
            await self._progress.wait()

    async def settled(self) -> None:
        """Return when no settlement and no mark is queued or being written. Lasts as long as Redis is away."""
        while self._settlements or self._gaps:
            await self._progress.wait()

    async def run(self) -> None:
        """Write, until cancelled."""
        try:
            while True:
                with anyio.move_on_after(MARK_AGAIN_S if self._gaps else None):
                    await self._work.wait()
                if not (self._messages or self._gaps or self._settlements_fill_a_call()):
                    with anyio.move_on_after(LINGER_S):
                        await self._urgent.wait()
                await self._write()
        finally:
            await self._link.close()

    def _settlements_fill_a_call(self) -> bool:
        return any(len(entries) >= scripts.MAX_SETTLED for entries in self._settlements.values())

    async def _write(self) -> None:
        messages = [self._messages.popleft() for _ in range(min(len(self._messages), MAX_BATCH))]
        settlements = {key: entries[: scripts.MAX_SETTLED] for key, entries in self._settlements.items()}
        marks = list(self._gaps)
        commands = [
            *(pack("XADD", stream, "*", GAP, "1") for stream in marks),
            *(packed for _, packed in messages),
            *(scripts.settle(*key, entries) for key, entries in settlements.items()),
        ]
        try:
            replies = await self._link.call(commands or [pack("PING")])
        except LINK_ERRORS as error:
            self._gaps.update(stream for stream, _ in messages)
            self._finish(messages, {})
            self._away.note(error, dropped=len(messages))
            await self._away.pause()
            self._work.set()
            return
        self._away.over()
        written = len(marks) + len(messages)
        self._gaps.difference_update(marks)  # others may have come while it was written
        self._check_written([*marks, *(stream for stream, _ in messages)], replies[:written])
        outcomes = dict(zip(settlements, replies[written : len(commands)], strict=True))
        self._finish(messages, {key: them for key, them in settlements.items() if not is_error(outcomes[key])})
        if failure := next(filter(is_error, outcomes.values()), None):
            self._unsettled.note(failure)
            await self._unsettled.pause(until=self._urgent)  # messages don't wait for what another stream is refused
        else:
            self._unsettled.over()

    def _finish(self, messages: list[tuple[str, bytes]], settlements: Settlements) -> None:
        """These are done with: written or dropped."""
        for key, entries in settlements.items():
            if len(rest := self._settlements[key]) > len(entries):
                del rest[: len(entries)]
            else:
                del self._settlements[key]
        self._message_bytes -= sum(len(packed) for _, packed in messages)
        self._done += len(messages)
        if not self._messages:
            self._full.over()
            self._urgent.clear()
            if not self._settlements:
                self._work.clear()
        self._progress.set()
        self._progress = asyncio.Event()

    def _check_written(self, streams: list[str], replies: list[Any]) -> None:
        refused = {stream: reply for stream, reply in zip(streams, replies, strict=True) if is_error(reply)}
        self._reach.unwritable.difference_update(streams)
        if refused:
            self._gaps.update(refused)
            self._reach.unwritable.update(refused)
            first = next(iter(refused.values()))
            if isinstance(first, OutOfMemoryError):
                self._room.refused()
            self._refused.note(first, dropped=sum(map(is_error, replies)))
        elif replies:
            self._refused.over()

    def __repr__(self) -> str:
        settlements = sum(map(len, self._settlements.values()))
        return f"<Writer queued={self._queued - self._done} settling={settlements} gaps={len(self._gaps)}>"


def is_error(reply: object) -> TypeGuard[ResponseError]:
    """Whether Redis refused a command."""
    return isinstance(reply, ResponseError)
