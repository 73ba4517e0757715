"""The newest events that this process wrote itself, so that it needn't read them back from the database."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Final

from callboard.eventstore.rules import Append
from callboard.protocols.events import Event

MAX_EVENTS: Final = 4_096
MAX_BYTES: Final = 16 * 1024 * 1024


class WrittenBatch:
    """A batch in the log: each append with the version that it follows. Its events are made when somebody asks."""

    def __init__(self, first: int, recorded_at: datetime, placed: Sequence[tuple[Append, int]]) -> None:
        self.first = first
        self.count = sum(len(append.events) for append, _ in placed)
        self.bytes = sum(append.size for append, _ in placed)
        self._recorded_at = recorded_at
        self._placed = placed

    @property
    def last(self) -> int:
        """The position of its last event."""
        return self.first + self.count - 1

    @cached_property
    def events(self) -> list[Event]:
        """Its events, as they would be read."""
        made: list[Event] = []
        for append, after in self._placed:
            for version, new in enumerate(append.news, after + 1):
                event = Event(
                    position=self.first + len(made),
                    stream=append.stream,
                    version=version,
                    type=new.type,
                    schema_version=new.schema_version,
                    recorded_at=self._recorded_at,
                    data=new.data,
                    meta=new.meta,
                )
                made.append(event)
        return made


class Recent:
    """A run of the log without gaps, up to the newest batch of this process. Others' batches break it off."""

    def __init__(self) -> None:
        self._batches: deque[WrittenBatch] = deque()
        self._next = 0  # the position that follows
        self._events = self._bytes = 0

    def __repr__(self) -> str:
        return f"<Recent {self._events} events, {self._bytes} bytes, up to {self._next - 1}>"

    def add(self, batch: WrittenBatch) -> None:
        """Take a batch that was written."""
        if batch.first != self._next:
            self._batches.clear()
            self._events = self._bytes = 0
        self._next = batch.last + 1
        self._batches.append(batch)
        self._events += batch.count
        self._bytes += batch.bytes
        while self._events > MAX_EVENTS or self._bytes > MAX_BYTES:
            gone = self._batches.popleft()
            self._events -= gone.count
            self._bytes -= gone.bytes

    def between(self, after: int, upto: int) -> list[Event] | None:
        """The events with `after < position <= upto`, or None if not all of them are here."""
        if upto >= self._next or after < self._next - 1 - self._events:
            return None
        found: list[WrittenBatch] = []
        for batch in reversed(self._batches):
            if batch.last <= after:
                break
            found.append(batch)
        return [event for batch in reversed(found) for event in batch.events if after < event.position <= upto]
