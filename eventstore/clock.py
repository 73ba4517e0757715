"""One time for all processes: the database's."""

import time
from datetime import datetime, timedelta

import asyncpg

from eventstore.database import fetch
from protocols.ports import SystemClock


class DatabaseClock(SystemClock):
    """The machine's clock, corrected by what `set` found it to be off from the database's.

    What one process makes due, another one finds due at the same moment, and the log has its time in between, however
    wrong the clocks of their machines are. A machine's clock that is turned later is noticed at the next `set`.
    """

    def __init__(self) -> None:
        self._behind = timedelta()

    def __repr__(self) -> str:
        return f"DatabaseClock({self._behind.total_seconds():+.3f} s)"

    def now(self) -> datetime:
        return super().now() + self._behind

    async def set(self, pool: asyncpg.Pool) -> None:
        """Ask the database for the time. It is right to within half of what that takes. Raises StoreUnavailable."""
        begun, asked_at = time.monotonic(), super().now()
        (row,) = await fetch(pool, "select clock_timestamp()")
        took = timedelta(seconds=time.monotonic() - begun)
        self._behind = row[0] - (asked_at + took / 2)
