"""Clocks that are wrong are set by the database's."""

from datetime import UTC, datetime, timedelta

import pytest

from eventstore.clock import DatabaseClock
from eventstore.store import PostgresEventStore
from protocols.ports import SystemClock


@pytest.mark.parametrize("off_s", [-600, 0, 600])
async def test_processes_with_wrong_clocks_have_the_same_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    async with PostgresEventStore.open(database_url) as store:
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(seconds=off_s))
        clock = DatabaseClock()
        await clock.set(store.pool)
        before = clock.now()
        there = await store.pool.fetchval("select clock_timestamp()")
        after = clock.now()
        slack = timedelta(seconds=0.5)
        assert before - slack <= there <= after + slack
        assert before <= after
