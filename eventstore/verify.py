"""Whether the log is as it was written: every batch against its digest, and the chain of all batches."""

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from msgspec import Struct

from eventstore.chain import Row, batch_digest
from eventstore.database import fetch

COMMITS_PAGE: Final = 100

_COMMITS = """
    select first, last, recorded_at, writer, number, digest, chain from commits where first > $1 order by first limit $2
"""
_ROWS = """
    select position, recorded_at, stream, version, type, schema_version, data, meta, handles from events
    where position >= $1 and position <= $2 order by position
"""
_END = "select position, chain from head"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_BEFORE_ALL: Final = b"\x80" + bytes(7)  # -infinity


class Damage(Struct, frozen=True):
    """Positions at which the log is not as it was written, and in what way."""

    first: int
    last: int
    reason: str


async def verify(pool: asyncpg.Pool) -> AsyncIterator[Damage]:
    """All that was changed, removed or added behind the store's back, in the order of the log."""
    (end,) = await fetch(pool, _END)
    position, chain, time = 0, b"", _BEFORE_ALL
    while commits := await fetch(pool, _COMMITS, position, COMMITS_PAGE):
        rows = await fetch(pool, _ROWS, position + 1, commits[-1]["last"])
        for commit in commits:
            first, last = commit["first"], commit["last"]
            if first != position + 1:
                yield Damage(position + 1, first - 1, "no commit covers these positions")
            batch = [row for row in rows if first <= row["position"] <= last]
            if reason := _damage(commit, batch):
                yield Damage(first, last, reason)
            link = hashlib.sha256(chain + time + first.to_bytes(8) + commit["digest"]).digest()
            if link != commit["chain"]:
                yield Damage(first, last, "the commit doesn't continue the one before")
            position, chain, time = last, commit["chain"], _time(commit["recorded_at"])
    if position < end["position"] or (position == end["position"] and chain != end["chain"]):
        yield Damage(position + 1, end["position"], "the log doesn't end where its head says")


def _damage(commit: Any, batch: list[Any]) -> str | None:
    if len(batch) != commit["last"] - commit["first"] + 1:
        return "events are missing"
    if any(row["recorded_at"] != commit["recorded_at"] for row in batch):
        return "an event's time was changed"
    rows: list[Row] = [tuple(row)[2:] for row in batch]
    if batch_digest(commit["writer"], commit["number"], rows) != commit["digest"]:
        return "events were changed"
    return None


def _time(moment: datetime) -> bytes:
    return ((moment - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, signed=True)
