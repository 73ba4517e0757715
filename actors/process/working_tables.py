"""The read models that recovery works with: what is open, due, and at work."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import asyncpg

from callboard.projections import WORKING, mailbox, tasks, timers
from callboard.projections.mailbox import Backlog, OpenMessage
from callboard.projections.runner import Runner
from callboard.projections.timers import Timer


class OfActor(Protocol):
    """A row of something that an actor has to do. `key_hash` modulo a partition count is the actor's partition."""

    @property
    def key(self) -> str: ...

    @property
    def key_hash(self) -> int: ...


class WorkingTables(Protocol):
    """What recovery asks the projections; see the functions of the same names in `projections`.

    Raises ProjectionsBehind, and what asyncpg raises where the database doesn't answer.
    """

    async def caught_up(self, position: int) -> None:
        """Return when the tables have everything up to a position."""
        ...

    async def open_messages(
        self, role: str, partitions: int, numbers: Sequence[int], *, after: tuple[int, int], limit: int
    ) -> Sequence[OpenMessage]: ...

    async def open_to(self, role: str, key: str, upto: tuple[int, int]) -> Sequence[OpenMessage]: ...

    async def open_from(self, sender: str) -> Sequence[OpenMessage]: ...

    async def backlog(self, role: str, partitions: int) -> dict[int, Backlog]: ...

    async def timers_due(
        self, role: str, partitions: int, numbers: Sequence[int], before: datetime
    ) -> Sequence[Timer]: ...

    async def at_work(self, role: str, partitions: int, numbers: Sequence[int]) -> Sequence[OfActor]: ...


class PostgresTables:
    """`WorkingTables` on the projections' database."""

    def __init__(self, pool: asyncpg.Pool, runner: Runner) -> None:
        self._pool = pool
        self._runner = runner

    async def caught_up(self, position: int) -> None:
        """Return when the tables have everything up to a position; see the port."""
        await self._runner.wait_until(position, of=WORKING)

    async def open_messages(
        self, role: str, partitions: int, numbers: Sequence[int], *, after: tuple[int, int], limit: int
    ) -> Sequence[OpenMessage]:
        """See `callboard.projections.mailbox`."""
        return await mailbox.open_messages(self._pool, role, partitions, numbers, after=after, limit=limit)

    async def open_to(self, role: str, key: str, upto: tuple[int, int]) -> Sequence[OpenMessage]:
        """See `callboard.projections.mailbox`."""
        return await mailbox.open_to(self._pool, role, key, upto)

    async def open_from(self, sender: str) -> Sequence[OpenMessage]:
        """See `callboard.projections.mailbox`."""
        return await mailbox.open_from(self._pool, sender)

    async def backlog(self, role: str, partitions: int) -> dict[int, Backlog]:
        """See `callboard.projections.mailbox`."""
        return await mailbox.backlog(self._pool, role, partitions)

    async def timers_due(self, role: str, partitions: int, numbers: Sequence[int], before: datetime) -> Sequence[Timer]:
        """See `callboard.projections.timers`."""
        return await timers.due(self._pool, role, partitions, numbers, before)

    async def at_work(self, role: str, partitions: int, numbers: Sequence[int]) -> Sequence[OfActor]:
        """See `callboard.projections.tasks`."""
        return await tasks.at_work(self._pool, role, partitions, numbers)
