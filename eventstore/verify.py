"""Whether the log is as it was written: every batch against its digest, and the chain of all batches.

Commits and events are read side by side from one snapshot, some rows at a time, however large a commit is: a log of
any length takes the same memory.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import asyncpg
from msgspec import Struct

from callboard.eventstore.chain import BatchDigest

ROWS: Final = 500  # read at a time

_COMMITS: Final = "select first, last, recorded_at, writer, number, digest, chain from commits order by first, last"
_EVENTS: Final = """
    select position, recorded_at, stream, version, type, schema_version, data, meta, handles from events
    order by position
"""
_END: Final = "select position, chain from head"
_BAD_BLOBS: Final = "select digest from blobs where digest <> encode(sha256(content), 'hex') order by digest"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_BEFORE_ALL: Final = b"\x80" + bytes(7)  # -infinity

T = TypeVar("T")


class Damage(Struct, frozen=True):
    """Positions at which the log is not as it was written, and in what way. Blobs have no position: 0."""

    first: int
    last: int
    reason: str


class Verified(Struct, frozen=True):
    """Where the log ends, and the chain there, in hex. Kept elsewhere, it shows up a log that was written anew."""

    position: int
    chain: str


class _Peekable(Generic[T]):
    """Rows, one after the other; `next_` is the one that `take` gives, None at the end."""

    def __init__(self, rows: AsyncIterator[T]) -> None:
        self._rows = rows
        self.next_: T | None = None

    async def take(self) -> None:
        self.next_ = await anext(self._rows, None)


async def log_end(pool: asyncpg.Pool) -> Verified:
    """Where the log ends now."""
    row = await pool.fetchrow(_END)
    return Verified(row["position"], row["chain"].hex())


async def verify(pool: asyncpg.Pool, progress: Callable[[int], None] = lambda _: None) -> AsyncIterator[Damage]:
    """All that was changed, removed or added behind the store's back, in the order of the log.

    `progress` hears of the positions that were looked at.
    """
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        end = await connection.fetchrow(_END)
        last_of_log = end["position"]
        events = _Peekable[Any](aiter(connection.cursor(_EVENTS, prefetch=ROWS)))
        await events.take()
        position, chain, time = 0, b"", _BEFORE_ALL
        async for commit in connection.cursor(_COMMITS, prefetch=ROWS):
            first, last = commit["first"], commit["last"]
            async for damage in _outside(events, last_of_log, first):
                yield damage
            if first != position + 1:
                yield Damage(position + 1, first - 1, "no commit covers these positions")
            if (wrong := await _damage(commit, events)) is not None:
                yield wrong
            link = hashlib.sha256(chain + time + first.to_bytes(8) + commit["digest"]).digest()
            if link != commit["chain"]:
                yield Damage(first, last, "the commit doesn't continue the one before")
            position, chain, time = last, commit["chain"], _time(commit["recorded_at"])
            progress(position)
        async for damage in _outside(events, last_of_log, None):
            yield damage
        if position != end["position"] or chain != end["chain"]:
            yield Damage(position + 1, end["position"], "the log doesn't end where its head says")
        for row in await connection.fetch(_BAD_BLOBS):
            yield Damage(0, 0, f"the content of blob {row['digest']} was changed")


async def _outside(events: _Peekable[Any], position: int, before: int | None) -> AsyncIterator[Damage]:
    """Take the events in front of `before`, or all that are left: they are in no commit. Those in front of the log's
    first position, or behind its end at `position`, were inserted; the others' commit is missing.
    """
    while (row := events.next_) is not None and (before is None or row["position"] < before):
        if row["position"] < 1 or (before is None and row["position"] > position):
            yield Damage(row["position"], row["position"], f"{_name(row)} was inserted: no commit has it")
        await events.take()


async def _damage(commit: Any, events: _Peekable[Any]) -> Damage | None:
    """The first thing that is wrong with the events of a commit; takes them all."""
    first, last = commit["first"], commit["last"]
    expected, found = first, None
    digest = BatchDigest(commit["writer"], commit["number"], last - first + 1)
    names: list[str] = []
    while (row := events.next_) is not None and row["position"] <= last:
        if found is None and row["position"] != expected:
            found = Damage(expected, row["position"] - 1, "events are missing")
        if found is None and row["recorded_at"] != commit["recorded_at"]:
            found = Damage(row["position"], row["position"], f"the time of {_name(row)} was changed")
        digest.add(tuple(row)[2:])
        expected = row["position"] + 1
        names = [names[0] if names else _name(row), _name(row)]
        await events.take()
    if found is None and expected != last + 1:
        found = Damage(expected, last, "events are missing")
    if found is None and digest.value() != commit["digest"]:
        which = names[0] if first == last else f"an event from {names[0]} to {names[1]}"
        found = Damage(first, last, f"{which} was changed")
    return found


def _name(row: Any) -> str:
    return f"{row['stream']}@{row['version']}"


def _time(moment: datetime) -> bytes:
    return ((moment - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, signed=True)
