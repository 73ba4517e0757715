"""The newest events that this process wrote itself, so that it needn't read them back from the database."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from eventstore.rules import Append
from protocols.events import Event

MAX_EVENTS: Final = 4_096
MAX_BYTES: Final = 16 * 1024 * 1024


class Recent:
    """A run of the log without gaps, up to the newest batch that is known. Others' batches break it off."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, list[Event], int]] = deque()  # last position, events, bytes
        self._next = 0  # the position that follows
        self._events = self._bytes = 0

    def __repr__(self) -> str:
        return f"<Recent {self._events} events, {self._bytes} bytes, up to {self._next - 1}>"

    def add(self, first: int, recorded_at: datetime, placed: Sequence[tuple[Append, int]]) -> None:
        """Take a batch that was written: each append with the version that it follows."""
        if first != self._next:
            self._batches.clear()
            self._events = self._bytes = 0
        events: list[Event] = []
        for append, after in placed:
            for number, new in enumerate(append.news, 1):
                event = Event(
                    position=first + len(events),
                    stream=append.stream,
                    version=after + number,
                    type=new.type,
                    schema_version=new.schema_version,
                    recorded_at=recorded_at,
                    data=new.data,
                    meta=new.meta,
                )
                events.append(event)
        size = sum(append.size for append, _ in placed)
        self._next = first + len(events)
        self._batches.append((self._next - 1, events, size))
        self._events += len(events)
        self._bytes += size
        while self._events > MAX_EVENTS or self._bytes > MAX_BYTES:
            _, gone, gone_bytes = self._batches.popleft()
            self._events -= len(gone)
            self._bytes -= gone_bytes

    def between(self, after: int, upto: int) -> list[Event] | None:
        """The events with `after < position <= upto`, or None if not all of them are here."""
        if upto >= self._next or after < self._next - 1 - self._events:
            return None
        found: list[list[Event]] = []
        for last, events, _ in reversed(self._batches):
            if last <= after:
                break
            found.append(events)
        return [event for events in reversed(found) for event in events if after < event.position <= upto]
