"""The event store in memory: for tests, and for trying things out. Nothing outlives the process."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from uuid import uuid4

import anyio

from callboard.eventstore.ledger import Ledger
from callboard.eventstore.rules import Append, admit, count_in, failed
from callboard.protocols.codec import decode_meta, digest, sent_message
from callboard.protocols.errors import AppendRefused, BadName, BlobMissing, MessageNotInLog
from callboard.protocols.events import Event, NewEvent
from callboard.protocols.messages import Message
from callboard.protocols.names import parse_message_id
from callboard.protocols.ports import Appended, Clock, ExpectedVersion, SystemClock


class MemoryEventStore:
    """`callboard.protocols.ports.EventStore` in memory. `clock` gives the events their times."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.store_id = uuid4()
        self._clock = clock or SystemClock()
        self._log: list[Event] = []
        self._streams: dict[str, list[Event]] = {}
        self._heads: dict[str, int] = {}
        self._handled: set[str] = set()
        self._blobs: dict[str, bytes] = {}
        self.ledger = Ledger()
        self._news = anyio.Event()

    def __repr__(self) -> str:
        return f"<MemoryEventStore {len(self._streams)} streams, head {len(self._log)}>"

    @property
    def events(self) -> Sequence[Event]:
        """All events, in order."""
        return self._log

    async def append(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> Appended:
        """Append events; see the port."""
        return await self.submit(stream, events, expected)

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        """Append events; see the port."""
        outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            outcome.set_result(self._append(Append(stream, events, expected)))
        except AppendRefused as refusal:
            return failed(refusal)
        return outcome

    def _append(self, append: Append) -> Appended:
        version = admit(append, self._heads, self._handled)
        moment = self._clock.now()
        if append.entries:
            self.ledger.charge(append.entries, moment)
        count_in(append, self._heads, self._handled)
        for type_, schema_version, data, meta, _ in append.events:
            version += 1
            event = Event(
                position=len(self._log) + 1,
                stream=append.stream,
                version=version,
                type=type_,
                schema_version=schema_version,
                recorded_at=moment,
                data=data,
                meta=decode_meta(meta),
            )
            self._log.append(event)
            self._streams.setdefault(append.stream, []).append(event)
        self._news.set()
        self._news = anyio.Event()
        return Appended(version, len(self._log))

    async def read_stream(
        self, stream: str, *, after: int = 0, before: int | None = None, backwards: bool = False
    ) -> AsyncIterator[Event]:
        """A stream's events; see the port."""
        await anyio.lowlevel.checkpoint()
        high = None if before is None else max(before - 1, 0)
        events = self._streams.get(stream, [])[max(after, 0) : high]
        for event in reversed(events) if backwards else events:
            yield event

    async def read_all(
        self, *, after: int = 0, page: int = 1000, types: Collection[str] | None = None
    ) -> AsyncIterator[list[Event]]:
        """The log up to the present head; see the port."""
        head = len(self._log)
        for first in range(after, head, page):
            await anyio.lowlevel.checkpoint()
            events = self._log[first : min(first + page, head)]
            if wanted := [event for event in events if types is None or event.type in types]:
                yield wanted

    async def subscribe(self, *, after: int = 0, page: int = 1000) -> AsyncIterator[list[Event]]:
        """The log, and what is appended to it; see the port."""
        while True:
            if after >= len(self._log):
                await self._news.wait()
            else:
                await anyio.lowlevel.checkpoint()
            events = self._log[after : after + page]
            if events:
                after += len(events)
                yield events

    async def head(self) -> int:
        """The newest event's position; see the port."""
        await anyio.lowlevel.checkpoint()
        return len(self._log)

    async def message(self, message: str) -> Message:
        """A message by its id; see the port."""
        await anyio.lowlevel.checkpoint()
        try:
            stream, version, place = parse_message_id(message)
        except BadName:
            raise MessageNotInLog(message) from None
        if not 0 < version <= len(self._streams.get(stream, [])):
            raise MessageNotInLog(message)
        return sent_message(self._streams[stream][version - 1], place)

    async def put_blobs(self, contents: Sequence[bytes]) -> list[str]:
        """Store bodies; see the port."""
        await anyio.lowlevel.checkpoint()
        digests = [digest(content) for content in contents]
        self._blobs.update(zip(digests, contents, strict=True))
        return digests

    async def get_blobs(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Read bodies; see the port."""
        await anyio.lowlevel.checkpoint()
        for wanted in digests:
            if wanted not in self._blobs:
                raise BlobMissing(wanted)
        return {wanted: self._blobs[wanted] for wanted in digests}
