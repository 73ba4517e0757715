"""Answers that may be used again, on PostgreSQL: the same are found as in memory."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg
import pytest
from msgspec.structs import replace

from callboard.projections import answers, checkpoints
from callboard.projections.answers import MAX_AGE, PostgresAnswers
from callboard.protocols import events as e
from callboard.testing.play import LoggedAnswers
from tests.projection_kit import BEGINNING, Log, RandomLog, model_completed

KEYS = ("k1", "k2", "no such key")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class InMemory:
    """As much of a MemoryEventStore as `LoggedAnswers` looks at."""

    def __init__(self, log: Log) -> None:
        self.events = log.events


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(database_url, min_size=0, max_size=2) as pool:
        yield pool


async def project(pool: asyncpg.Pool, log: Log, *, page: int = 1000) -> None:
    """Fold a log into the tables, in pages."""
    await checkpoints.prepare(pool, [answers.PROJECTION])
    for start in range(0, len(log.events), page):
        async with pool.acquire() as connection, connection.transaction():
            await answers.apply(connection, answers.PROJECTION.of(log.facts[start : start + page]))


@pytest.mark.parametrize("seed", [4, 5, 9])  # logs that have answers under both keys
async def test_the_same_answers_are_found_as_in_memory(pool: asyncpg.Pool, seed: int) -> None:
    log = RandomLog(Random(seed), 400)
    await project(pool, log, page=7)
    twin = LoggedAnswers(InMemory(log))  # type: ignore[arg-type]
    for since in (LONG_AGO, *(event.recorded_at for event in log.events[::20])):
        for key in KEYS:
            assert await PostgresAnswers(pool).find(key, since) == await twin.find(key, since), (key, since)
    assert None not in [await PostgresAnswers(pool).find(key, LONG_AGO) for key in ("k1", "k2")]


async def test_what_is_old_is_forgotten(pool: asyncpg.Pool) -> None:
    log = Log()
    asked = e.ModelRequested(step="model", fingerprint="f", attempt=1, model="m", messages=(), cache="k")
    for task in ("t1", "t2"):
        log.add("writer/a", asked, task=task)
    log.add("writer/a", model_completed(), task="t1")
    await project(pool, log)
    assert await PostgresAnswers(pool).find("k", BEGINNING) == "writer/a@3"
    assert await pool.fetchval("select count(*) from answers_asked") == 1
    later = log.add("writer/a", model_completed(step="another"), task="t1")
    log.events[:] = [replace(later, recorded_at=BEGINNING + MAX_AGE + timedelta(hours=1))]
    await project(pool, log)
    assert await PostgresAnswers(pool).find("k", LONG_AGO) is None
    assert await pool.fetchval("select count(*) from answers_asked") == 0


async def test_before_the_tables_are_made_nothing_is_found(pool: asyncpg.Pool) -> None:
    assert await PostgresAnswers(pool).find("k", LONG_AGO) is None


async def test_a_database_that_is_away_costs_only_the_call(pool: asyncpg.Pool) -> None:
    await project(pool, RandomLog(Random(0), 50))
    await pool.close()
    assert await PostgresAnswers(pool).find("k1", LONG_AGO) is None
