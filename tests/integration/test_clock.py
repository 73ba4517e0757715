"""Clocks that are wrong are set by the database's."""

from datetime import UTC, datetime, timedelta

import pytest

from callboard.eventstore.clock import DatabaseClock
from callboard.eventstore.store import PostgresEventStore
from callboard.protocols.ports import SystemClock


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


@pytest.mark.parametrize("turned_s", [-3600, 3600])
async def test_a_clock_that_is_turned_while_a_process_runs_is_told_and_turns_no_time_of_its(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, turned_s: int
) -> None:
    async with PostgresEventStore.open(database_url) as store:
        clock = DatabaseClock()
        await clock.set(store.pool)
        before = clock.now()
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(seconds=turned_s))
        assert timedelta() <= clock.now() - before < timedelta(seconds=60), "before anybody has asked the database"
        assert not caplog.messages
        for _ in range(2):
            await clock.set(store.pool)
        assert abs(clock.now() - before) < timedelta(seconds=60)
        (told,) = caplog.messages
        assert f"clock is {turned_s:+d} s off" in told
