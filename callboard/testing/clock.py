"""A clock that a test turns."""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

BEGINNING: Final = datetime(2030, 1, 1, tzinfo=UTC)


class ManualClock:
    """A `callboard.protocols.ports.Clock` that stands still until it is turned."""

    def __init__(self, now: datetime = BEGINNING) -> None:
        self._begun = self._now = now
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def __repr__(self) -> str:
        return f"ManualClock({self._now.isoformat()}, {len(self._sleepers)} asleep)"

    def now(self) -> datetime:
        """The time, UTC and aware."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return (self._now - self._begun).total_seconds()

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has been turned so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + timedelta(seconds=seconds), next(self._numbers), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Turn the clock, and wake who has slept long enough."""
        self._now += timedelta(seconds=seconds)
        while self._sleepers and self._sleepers[0][0] <= self._now:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
