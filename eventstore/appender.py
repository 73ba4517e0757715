"""Writing to the log: one appender a process, one transaction a batch.

Appends that arrive while a batch is being written form the next one. A batch takes one of two ways:

    the fast way      if every append tells its stream's version: one call of append_batch, which writes all or
                      nothing. A version that is taken, or a message that is handled, makes the call fail.
    the careful way   else, or after the fast way failed: lock the log, look up where its streams stand, decide on
                      each append by itself, and write those that are accepted.

If the connection breaks, it is not known whether the batch was written. The careful way tells: the batch's number is
looked up under the lock, that is, when no former attempt can still be at work.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple
from uuid import uuid4

import asyncpg

from eventstore.chain import Row, batch_digest
from eventstore.database import UNAVAILABLE, connect, reason_of
from eventstore.rules import Append, admit
from protocols.errors import AppendRefused, BadEvent, StoreUnavailable
from protocols.ports import Appended

log = logging.getLogger(__name__)

MAX_BATCH_EVENTS: Final = 2_000
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
ATTEMPT_S: Final = 5.0  # a server that is silent for so long is taken for gone
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0

# What only the events themselves can cause: values that don't fit their columns (asyncpg's own checks are
# ValueErrors), violated constraints, and sizes beyond the server's limits.
BAD_DATA: Final[tuple[type[Exception], ...]] = (
    ValueError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)

_APPEND = "select append_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_LOCK = "select lock_log()"
_WRITTEN = "select first from commits where writer = $1 and number = $2"
_HEADS = """
    select stream, (select e.version from events e where e.stream = s.stream order by e.version desc limit 1) as version
    from unnest($1::text[]) as s (stream)
"""
_HANDLED = "select handles from events where handles = any($1::text[]) and handles is not null"


class Waiting(NamedTuple):
    """An append, and who waits for it."""

    append: Append
    outcome: asyncio.Future[Appended]


class Placed(NamedTuple):
    """An append that is to be written, and the version that it follows."""

    waiting: Waiting
    after: int


class Batch:
    """Appends that are written together, and what was last decided on them."""

    __slots__ = ("careful", "number", "placed", "refused", "waiting")

    def __init__(self, number: int, waiting: Sequence[Waiting]) -> None:
        self.number = number
        self.waiting = waiting
        self.placed: list[Placed] = []
        self.refused: list[tuple[Waiting, AppendRefused]] = []
        self.careful = False
        for each in waiting:
            after = each.append.stated_version
            if after is None:
                self.careful = True
                break
            self.placed.append(Placed(each, after))

    def decide(self, heads: dict[str, int], handled: set[str]) -> None:
        """Place or refuse each append, given where the log stands."""
        self.placed, self.refused = [], []
        for each in self.waiting:
            try:
                self.placed.append(Placed(each, admit(each.append, heads, handled)))
            except AppendRefused as refusal:
                self.refused.append((each, refusal))

    def settle(self, first: int) -> int:
        """Tell everybody who waits. Gives the position of the last event, 0 if all were refused."""
        position = first - 1 if self.placed else 0
        for (append, outcome), after in self.placed:
            count = len(append.events)
            position += count
            if not outcome.done():  # its caller may have been cancelled
                outcome.set_result(Appended(after + count, position))
        for (_, outcome), refusal in self.refused:
            if not outcome.done():
                outcome.set_exception(refusal)
        return position


class Appender:
    """Writes what a process appends, while it is `running`."""

    def __init__(self, url: str, *, pooled: bool, retry_s: float) -> None:
        self._url = url
        self._pooled = pooled
        self._retry_s = retry_s
        self._writer = uuid4()
        self._waiting: deque[Waiting] = deque()
        self._work = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._closing = False
        self._number = 0
        self._at_work: Sequence[Waiting] = ()
        self.batches = 0  # committed

    def __repr__(self) -> str:
        return f"<Appender {len(self._waiting)} appends waiting, {self.batches} batches committed>"

    @property
    def waiting(self) -> int:
        """The number of appends that wait for their batch to be formed."""
        return len(self._waiting)

    def append(self, append: Append) -> asyncio.Future[Appended]:
        """Queue an append."""
        outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        if self._closing:
            outcome.set_exception(StoreUnavailable("it is closed"))
            return outcome
        self._waiting.append(Waiting(append, outcome))
        self._work.set()
        return outcome

    @asynccontextmanager
    async def running(self, on_commit: Callable[[int], None]) -> AsyncIterator[None]:
        """Write what is appended; on leaving, what waits is written first. `on_commit` hears of each new head."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._run(on_commit), name="appender")
                try:
                    yield
                finally:
                    self._closing = True
                    self._work.set()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None  # the caller's own error, as it was
            raise

    async def _run(self, on_commit: Callable[[int], None]) -> None:
        try:
            while self._waiting or not self._closing:
                if self._waiting:
                    self._at_work = self._take()
                    head = await self._write(Batch(self._next_number(), self._at_work))
                    if head:
                        self.batches += 1
                        on_commit(head)
                    # Whoever was told may append again before the next batch is formed. Without this, callers
                    # split into two groups that wait for each other's batches.
                    await asyncio.sleep(0)
                else:
                    self._work.clear()
                    await self._work.wait()
        finally:
            self._closing = True
            self._fail(self._at_work, "it was closed")
            self._fail(self._waiting, "it was closed")
            self._disconnect()

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _take(self) -> list[Waiting]:
        """The next batch: at least one append, and at most what the bounds allow."""
        taken: list[Waiting] = []
        events = size = 0
        while self._waiting:
            append, outcome = self._waiting[0]
            events += len(append.events)
            size += append.size
            if taken and (events > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES):
                break
            self._waiting.popleft()
            if not outcome.done():
                taken.append(Waiting(append, outcome))
        return taken

    async def _write(self, batch: Batch) -> int:
        """Write a batch, whatever it takes: on return everybody who waited for it has been told.

        Gives the position of the last event, 0 if all were refused.
        """
        deadline = asyncio.get_running_loop().time() + self._retry_s
        pause = FIRST_PAUSE_S
        while batch.waiting:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    first = await self._attempt(batch)
                return batch.settle(first)
            except BAD_DATA as error:
                if batch.careful or not isinstance(error, asyncpg.UniqueViolationError):
                    return await self._isolate(batch, error)
                batch.careful = True
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                reason = reason_of(error)
                log.warning("event store: an attempt to write batch %d failed: %s", batch.number, reason)
                self._disconnect()
                batch.careful = True
                if asyncio.get_running_loop().time() + pause > deadline:
                    # Also those that wait for the next batch have waited long enough.
                    self._fail(batch.waiting, reason)
                    self._fail(self._waiting, reason)
                    break
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        return 0

    async def _attempt(self, batch: Batch) -> int:
        """Write the batch, or find that it is written; gives its first position."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, pooled=self._pooled)
        if not batch.careful:
            return await self._send(self._connection, batch)
        async with self._connection.transaction(isolation="read_committed"):
            await self._connection.execute(_LOCK)
            written: int | None = await self._connection.fetchval(_WRITTEN, self._writer, batch.number)
            if written is not None:
                return written
            streams = list({each.append.stream for each in batch.waiting})
            closes = [event[-1] for each in batch.waiting for event in each.append.events if event[-1] is not None]
            heads = {row["stream"]: row["version"] or 0 for row in await self._connection.fetch(_HEADS, streams)}
            handled = {row["handles"] for row in await self._connection.fetch(_HANDLED, closes)}
            batch.decide(heads, handled)
            if batch.placed:
                return await self._send(self._connection, batch)
            return 0  # all are refused

    async def _send(self, connection: asyncpg.Connection, batch: Batch) -> int:
        """Write the batch as it is placed; gives its first position."""
        rows: list[Row] = []
        streams: list[str] = []
        versions: list[int] = []
        for (append, _), after in batch.placed:
            stream = append.stream
            version = after
            for event in append.events:
                version += 1
                rows.append((stream, version, *event))
            if after:
                streams.append(stream)
                versions.append(after)
        digest = batch_digest(self._writer, batch.number, rows)
        first: int = await connection.fetchval(
            _APPEND, self._writer, batch.number, digest, *zip(*rows, strict=True), streams, versions
        )
        return first

    async def _isolate(self, batch: Batch, error: Exception) -> int:
        """Write the halves of a batch by themselves, down to the append that can't be stored."""
        if len(batch.waiting) == 1:
            append, outcome = batch.waiting[0]
            if not outcome.done():
                outcome.set_exception(BadEvent(append.stream, reason_of(error)))
            return 0
        middle = len(batch.waiting) // 2
        halves = batch.waiting[:middle], batch.waiting[middle:]
        return max([await self._write(Batch(self._next_number(), half)) for half in halves])

    def _fail(self, waiting: Sequence[Waiting] | deque[Waiting], reason: str) -> None:
        """Tell everybody that the store did not answer."""
        for _, outcome in waiting:
            if not outcome.done():
                outcome.set_exception(StoreUnavailable(reason))
        if waiting is self._waiting:
            self._waiting.clear()

    def _disconnect(self) -> None:
        """Drop the connection: it is broken, or its state isn't known."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
