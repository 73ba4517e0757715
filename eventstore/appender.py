"""Writing to the log: one appender a process, one transaction a batch.

Appends that arrive while a batch is being written form the next one. A batch takes one of two ways:

    the fast way      if every append tells its stream's version: one call of append_batch, which writes all or
                      nothing. A version that is taken, a message that is handled, or an attempt that no budget has
                      room for makes the call fail.
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
from datetime import datetime
from typing import Final, NamedTuple
from uuid import uuid4

import asyncpg

from callboard.eventstore.chain import Row, batch_digest
from callboard.eventstore.database import UNAVAILABLE, cancellation_passes, connect, reason_of
from callboard.eventstore.ledger_tables import EntryRow, entry_row, refusal_of
from callboard.eventstore.recent import Recent, WrittenBatch
from callboard.eventstore.rules import Append, admit, count_in
from callboard.protocols.errors import AppendRefused, BadEvent, StoreUnavailable
from callboard.protocols.ports import Appended

log = logging.getLogger(__name__)

# Larger batches gain little, and while the server writes one of these, the next one is made ready.
MAX_BATCH_EVENTS: Final = 300
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
MAX_KNOWN_STREAMS: Final = 10_000
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

_APPEND = "select first_position, moment from append_batch($1, $2, $3, $4, $5, $6, $7, $8)"
_MOMENT = "select greatest(recorded_at, clock_timestamp()) from head"
_CHARGE = "select * from charge_append($1, $2)"
_LOCK = "select lock_log()"
_WRITTEN = "select first, recorded_at from commits where writer = $1 and number = $2"
_HEADS = """
    select stream, (select e.version from events e where e.stream = s.stream order by e.version desc limit 1) as version
    from unnest($1::text[]) as s (stream)
"""
_HANDLED = "select handles from events where handles = any($1::text[]) and handles is not null"


class Written(NamedTuple):
    """Where a batch begins in the log, and when it was recorded."""

    first: int
    recorded_at: datetime


class Batch:
    """Appends that are written together, and what was last decided on them."""

    __slots__ = ("appends", "careful", "charged_at", "number", "placed", "refused")

    def __init__(self, number: int, appends: Sequence[Append]) -> None:
        self.number = number
        self.appends = appends
        self.placed: list[tuple[Append, int]] = []  # each with the version that it follows
        self.refused: list[tuple[Append, AppendRefused]] = []
        self.charged_at: datetime | None = None  # its time, where the ledger has what it means already
        self.careful = False
        for append in appends:
            after = append.stated_version
            if after is None:
                self.careful = True
                break
            self.placed.append((append, after))

    async def decide(self, connection: asyncpg.Connection, heads: dict[str, int], handled: set[str]) -> None:
        """Place or refuse each append, given where the log stands; what those that are placed mean is charged."""
        self.placed, self.refused = [], []
        charges = any(append.entries for append in self.appends)
        self.charged_at = await connection.fetchval(_MOMENT) if charges else None
        for append in self.appends:
            try:
                after = admit(append, heads, handled)
                if append.entries:
                    await _charge(connection, append, self.charged_at)
            except AppendRefused as refusal:
                self.refused.append((append, refusal))
            else:
                count_in(append, heads, handled)
                self.placed.append((append, after))


class Appender:
    """Writes what a process appends, while it is `running`."""

    def __init__(self, url: str, *, pooled: bool, retry_s: float) -> None:
        self._url = url
        self._pooled = pooled
        self._retry_s = retry_s
        self._writer = uuid4()
        self._waiting: deque[Append] = deque()
        self._events_waiting = 0
        self._work = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._closing = False
        self._number = 0
        self._at_work: Sequence[Append] = ()
        self._written: dict[str, int] = {}  # the versions that streams have at least
        self.recent = Recent()
        self.batches = 0  # committed

    def __repr__(self) -> str:
        return f"<Appender {len(self._waiting)} appends waiting, {self.batches} batches committed>"

    @property
    def waiting(self) -> int:
        """The number of appends that wait for their batch to be formed."""
        return len(self._waiting)

    def append(self, append: Append) -> asyncio.Future[Appended]:
        """Queue an append."""
        append.outcome = asyncio.get_running_loop().create_future()
        if self._closing:
            append.outcome.set_exception(StoreUnavailable("it is closed"))
        else:
            self._waiting.append(append)
            self._events_waiting += len(append.events)
            self._work.set()
        return append.outcome

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
                raise group.exceptions[0] from group.exceptions[0].__cause__  # the caller's own error, as it was
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
                    if self._events_waiting < MAX_BATCH_EVENTS:
                        # Whoever was told may append again before the next batch is formed. Without this, callers
                        # split into two groups that wait for each other's batches.
                        await asyncio.sleep(0)
                else:
                    self._work.clear()
                    await self._work.wait()
        finally:
            self._closing = True
            self._give_up(self._at_work, "it was closed")
            self._disconnect()

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _take(self) -> list[Append]:
        """The next batch: at least one append, and at most what the bounds allow."""
        taken: list[Append] = []
        events = size = 0
        while self._waiting:
            append = self._waiting[0]
            events += len(append.events)
            size += append.size
            if taken and (events > MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES):
                break
            taken.append(self._waiting.popleft())
            self._events_waiting -= len(append.events)
        return taken

    async def _write(self, batch: Batch) -> int:
        """Write a batch, whatever it takes: on return everybody who waited for it has been told.

        Gives the position of the last event, 0 if all were refused.
        """
        deadline = asyncio.get_running_loop().time() + self._retry_s
        pause = FIRST_PAUSE_S
        while batch.appends:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    with cancellation_passes():
                        written = await self._attempt(batch)
                return self._settle(batch, written)
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
                    self._give_up(batch.appends, reason, error)
                    break
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        return 0

    async def _attempt(self, batch: Batch) -> Written | None:
        """Write the batch, or find that it is written; None if all of it is refused."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, pooled=self._pooled)
        if not batch.careful:
            return await self._send(self._connection, batch)
        async with self._connection.transaction(isolation="read_committed"):
            await self._connection.execute(_LOCK)
            written = await self._connection.fetchrow(_WRITTEN, self._writer, batch.number)
            if written is not None:
                return Written(*written)
            streams = list({each.stream for each in batch.appends})
            closes = [event[-1] for each in batch.appends for event in each.events if event[-1] is not None]
            heads = {row["stream"]: row["version"] or 0 for row in await self._connection.fetch(_HEADS, streams)}
            handled = {row["handles"] for row in await self._connection.fetch(_HANDLED, closes)}
            await batch.decide(self._connection, heads, handled)
            if batch.placed:
                return await self._send(self._connection, batch)
            return None  # all are refused

    async def _send(self, connection: asyncpg.Connection, batch: Batch) -> Written:
        """Write the batch as it is placed."""
        rows: list[Row] = []
        entries: list[EntryRow] = []
        # A version that this process didn't write itself may be ahead of its stream: append_batch looks.
        streams: list[str] = []
        versions: list[int] = []
        for append, after in batch.placed:
            stream = append.stream
            if after > self._written.get(stream, 0):
                streams.append(stream)
                versions.append(after)
            version = after
            for event in append.events:
                version += 1
                rows.append((stream, version, *event))
            if append.entries and batch.charged_at is None:
                entries += map(entry_row, append.entries)
        digest = batch_digest(self._writer, batch.number, rows)
        batch_id = self._writer, batch.number, digest
        return Written(
            *await connection.fetchrow(_APPEND, *batch_id, rows, streams, versions, entries, batch.charged_at)
        )

    def _settle(self, batch: Batch, written: Written | None) -> int:
        """Tell everybody who waits. Gives the position of the last event, 0 if all were refused."""
        if len(self._written) > MAX_KNOWN_STREAMS:
            self._written.clear()
        for append, refusal in batch.refused:
            refuse(append, refusal)
        if written is None:
            return 0
        self.recent.add(WrittenBatch(written.first, written.recorded_at, batch.placed))
        position = written.first - 1
        for append, after in batch.placed:
            version = after + len(append.events)
            position += len(append.events)
            self._written[append.stream] = version
            if not append.outcome.done():  # its caller may have been cancelled
                append.outcome.set_result(Appended(version, position))
        return position

    async def _isolate(self, batch: Batch, error: Exception) -> int:
        """Write the halves of a batch by themselves, down to the append that can't be stored."""
        if len(batch.appends) == 1:
            append = batch.appends[0]
            refuse(append, BadEvent(append.stream, reason_of(error)))
            return 0
        middle = len(batch.appends) // 2
        halves = batch.appends[:middle], batch.appends[middle:]
        return max([await self._write(Batch(self._next_number(), half)) for half in halves])

    def _give_up(self, appends: Sequence[Append], reason: str, cause: Exception | None = None) -> None:
        """Tell everybody that the store did not answer, also those that wait for the next batch."""
        for append in (*appends, *self._waiting):
            failure = StoreUnavailable(reason)
            failure.__cause__ = cause
            refuse(append, failure)
        self._waiting.clear()
        self._events_waiting = 0

    def _disconnect(self) -> None:
        """Drop the connection: it is broken, or its state isn't known."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _charge(connection: asyncpg.Connection, append: Append, at: datetime | None) -> None:
    """Apply what an append means for the ledger, in the transaction that holds the log; raises NotAdmitted."""
    row = await connection.fetchrow(_CHARGE, [entry_row(entry) for entry in append.entries], at)
    refusal = refusal_of(row)
    if refusal is not None:
        raise refusal


def refuse(append: Append, error: AppendRefused | StoreUnavailable) -> None:
    """Tell whoever still waits for an append that it failed."""
    if not append.outcome.done():
        append.outcome.set_exception(error)
