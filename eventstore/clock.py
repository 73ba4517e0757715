"""One time for all processes: the database's."""

import logging
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from callboard.eventstore.database import fetch
from callboard.protocols.ports import SystemClock

log = logging.getLogger(__name__)

TOLD_S: Final = 5.0  # a machine's clock that is off by more is told


class DatabaseClock(SystemClock):
    """The database's time when it was last `set`, and what has passed since by the machine's monotonic clock.

    What one process makes due, another one finds due at the same moment, and the log has its time in between, however
    wrong the clocks of their machines are, and whenever they are turned. Before the first `set` it is the machine's.
    """

    def __init__(self) -> None:
        self._set: tuple[datetime, float] | None = None  # the database's time, and when that was
        self._off_s = 0.0  # the machine's clock, when it was told last

    def __repr__(self) -> str:
        off_s = 0.0 if self._set is None else (self.now() - super().now()).total_seconds()
        return f"DatabaseClock({off_s:+.3f} s)"

    def now(self) -> datetime:
        if self._set is None:
            return super().now()
        time, at = self._set
        return time + timedelta(seconds=self.monotonic() - at)

    async def set(self, pool: asyncpg.Pool) -> None:
        """Ask the database for the time. It is right to within half of what that takes. Raises StoreUnavailable."""
        begun = self.monotonic()
        (row,) = await fetch(pool, "select clock_timestamp()")
        self._set = row[0], (begun + self.monotonic()) / 2
        off_s = (super().now() - self.now()).total_seconds()
        if abs(off_s - self._off_s) > TOLD_S:
            log.warning("this machine's clock is %+.0f s off from the database's, whose time counts", off_s)
            self._off_s = off_s
