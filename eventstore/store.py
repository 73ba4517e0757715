"""The event store on PostgreSQL."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from uuid import UUID

import anyio
import asyncpg

from callboard.eventstore.appender import Appender
from callboard.eventstore.database import connection_pool, fetch, first_connection
from callboard.eventstore.migrations import migrate
from callboard.eventstore.refusals import check_database, explained
from callboard.eventstore.rules import Append, failed
from callboard.protocols.codec import decode_meta, digest, sent_message
from callboard.protocols.errors import BadEvent, BadName, BlobMissing, MessageNotInLog, StoreUnavailable
from callboard.protocols.events import Event, NewEvent
from callboard.protocols.messages import Message
from callboard.protocols.names import parse_message_id
from callboard.protocols.ports import Appended, ExpectedVersion

log = logging.getLogger(__name__)

CONNECTIONS: Final = 5
STREAM_PAGE: Final = 500
MAX_VERSION: Final = 2**63 - 1
LONGEST_PAUSE_S: Final = 1.0

_PAGE = "select position, stream, version, type, schema_version, recorded_at, data, meta from read_log($1, $2)"
_PAGE_OF_TYPES = f"{_PAGE} where type = any($3::text[]) order by position"
_FORWARDS = """
    select position, stream, version, type, schema_version, recorded_at, data, meta from read_stream($1, $2, $3, $4)
"""
_BACKWARDS = _FORWARDS.replace("read_stream", "read_stream_backwards")
_HEAD = "select position from head"
# In the order of the digests: two writers that store the same blobs don't wait for each other in a circle.
_PUT_BLOBS = """
    insert into blobs (digest, content) select * from unnest($1::text[], $2::bytea[]) as b (digest, content)
    order by digest on conflict do nothing
"""
_GET_BLOBS = "select digest, content from blobs where digest = any($1::text[])"


class PostgresEventStore:
    """`callboard.protocols.ports.EventStore` on PostgreSQL; made by `open`.

    `pool` is for the tables that others keep in the same database; `store_id` is the database's own name for itself,
    and `pooled` tells whether a pooler stands between.
    """

    def __init__(self, pool: asyncpg.Pool, appender: Appender, store_id: UUID, poll_s: float, *, pooled: bool) -> None:
        self.pool = pool
        self.store_id = store_id
        self.pooled = pooled
        self._appender = appender
        self._poll_s = poll_s
        self._head = 0  # the highest position that this process knows of
        self._news = anyio.Event()  # set when this process has appended

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, poll_s: float = 0.025, retry_s: float = 15.0, connections: int = CONNECTIONS
    ) -> AsyncIterator[Self]:
        """Connect, bring the schema up to date, and run the appender; on leaving, what was appended is written first.

        `poll_s`: how often a subscription looks for what other processes append. `retry_s`: how long an append is
        tried while the server is gone. `connections`: the most that are open at a time, one of them the appender's.
        Raises DatabaseUnavailable (also DatabaseRefuses), DatabaseUnfit, BadSetting, SchemaTooNew; these are raised
        in place of the server's errors by what happens within the block, too.
        """
        with explained(url):
            async with first_connection(url) as (connection, pooled):
                await check_database(connection, url)
                await migrate(connection)
                store_id = await connection.fetchval("select id from store")
            async with connection_pool(url, size=connections - 1, pooled=pooled) as pool:
                appender = Appender(url, pooled=pooled, retry_s=retry_s)
                store = cls(pool, appender, store_id, poll_s, pooled=pooled)
                async with appender.running(store._committed):
                    yield store

    def __repr__(self) -> str:
        return (
            f"<PostgresEventStore {self._appender.waiting} appends waiting, "
            f"{self._appender.batches} batches committed, head {self._head}>"
        )

    async def append(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> Appended:
        """Append events; see the port."""
        return await self.submit(stream, events, expected)

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        """Queue an append; see the port."""
        try:
            return self._appender.append(Append(stream, events, expected))
        except BadEvent as error:
            return failed(error)

    async def read_stream(
        self, stream: str, *, after: int = 0, before: int | None = None, backwards: bool = False
    ) -> AsyncIterator[Event]:
        """A stream's events, read in pages of 500; see the port."""
        low, high = after, MAX_VERSION if before is None else before
        while low < high:
            rows = await fetch(self.pool, _BACKWARDS if backwards else _FORWARDS, stream, low, high, STREAM_PAGE)
            for row in rows:
                yield _event(row)
            if len(rows) < STREAM_PAGE:
                return
            if backwards:
                high = rows[-1]["version"]
            else:
                low = rows[-1]["version"]

    async def read_all(
        self, *, after: int = 0, page: int = 1000, types: Collection[str] | None = None
    ) -> AsyncIterator[list[Event]]:
        """The log up to the present head; see the port."""
        head = await self.head()
        while after < head:
            bound = min(after + page, head)
            if types is None:
                events = await self._page(after, bound)
            else:
                events = [_event(row) for row in await fetch(self.pool, _PAGE_OF_TYPES, after, bound, list(types))]
            if events:
                yield events
            after = bound

    async def subscribe(self, *, after: int = 0, page: int = 1000) -> AsyncIterator[list[Event]]:
        """The log, and what is appended to it; while the server is gone, it waits. See the port."""
        pause = self._poll_s
        while True:
            try:
                await self._wait_for_news(after)
                head = self._head
                while after < head:
                    bound = min(after + page, head)
                    if events := await self._page(after, bound):
                        yield events
                    after = bound
                pause = self._poll_s
            except StoreUnavailable as error:
                log.warning("event store: a subscription waits at position %d: %s", after, error.reason)
                await anyio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def head(self) -> int:
        """The newest event's position; see the port."""
        (row,) = await fetch(self.pool, _HEAD)
        position: int = row["position"]
        self._head = max(self._head, position)
        return position

    async def message(self, message: str) -> Message:
        """A message by its id; see the port."""
        try:
            stream, version, place = parse_message_id(message)
        except BadName:
            raise MessageNotInLog(message) from None
        if 0 < version < MAX_VERSION:
            async for event in self.read_stream(stream, after=version - 1, before=version + 1):
                return sent_message(event, place)
        raise MessageNotInLog(message)

    async def put_blobs(self, contents: Sequence[bytes]) -> list[str]:
        """Store bodies; see the port."""
        digests = [digest(content) for content in contents]
        await fetch(self.pool, _PUT_BLOBS, digests, contents)
        return digests

    async def get_blobs(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Read bodies; see the port."""
        found = {row["digest"]: row["content"] for row in await fetch(self.pool, _GET_BLOBS, digests)}
        for wanted in digests:
            if wanted not in found:
                raise BlobMissing(wanted)
        return found

    async def _page(self, after: int, upto: int) -> list[Event]:
        """The events between two positions: from memory, if this process wrote them all just now."""
        recent = self._appender.recent.between(after, upto)
        if recent is not None:
            return recent
        return [_event(row) for row in await fetch(self.pool, _PAGE, after, upto)]

    def _committed(self, head: int) -> None:
        """This process appended: wake its subscriptions, two turns of the loop later, when whoever appended goes on."""
        self._head = max(self._head, head)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._tell)

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def _wait_for_news(self, after: int) -> None:
        """Return when the log is known to reach beyond a position."""
        while self._head <= after:
            with anyio.move_on_after(self._poll_s):
                await self._news.wait()
            if self._head <= after:
                await self.head()


def _event(row: Any) -> Event:
    """An event from its row."""
    position, stream, version, type_, schema_version, recorded_at, data, meta = row
    return Event(
        position=position,
        stream=stream,
        version=version,
        type=type_,
        schema_version=schema_version,
        recorded_at=recorded_at,
        data=data,
        meta=decode_meta(meta),
    )
