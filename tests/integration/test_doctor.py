"""What the doctor sees of real servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from callboard import projections
from callboard.cli import doctor
from callboard.cli.session import Session, opened
from callboard.diagnosis import Finding, Snapshot, diagnose
from callboard.eventstore.leases import PostgresLeases
from callboard.projections import checkpoints
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Meta, NewEvent
from callboard.protocols.ports import ANY, Route
from callboard.settings import Settings
from tests.projection_kit import opening

NOWHERE = "redis://127.0.0.1:1/0"


@asynccontextmanager
async def looking(database_url: str, redis_url: str) -> AsyncIterator[Session]:
    async with opened(Settings(database_url=database_url, redis_url=redis_url), "doctor") as session:
        yield session


async def send(session: Session) -> None:
    """A run of which nothing has been handled."""
    sends = (opening("writer/t1", "t1"),)
    started = new_event(e.RunStarted(task="t1", to="writer/t1"), Meta(run="r1", sends=sends))
    await session.store.append("run/r1", [started], ANY)


def named(snapshot: Snapshot, check: str) -> Finding:
    (finding,) = [finding for finding in diagnose(snapshot) if finding.check == check]
    return finding


async def test_a_system_without_work_is_well(database_url: str, redis_url: str) -> None:
    async with looking(database_url, redis_url) as session:
        assert diagnose(await doctor._look(session)) == []


async def test_messages_are_counted_by_the_roles_partitions_and_missed_processes_named(
    database_url: str, redis_url: str
) -> None:
    async with looking(database_url, redis_url) as session:
        leases = PostgresLeases(session.pool)
        await leases.register(Route("writer", 4))
        await send(session)
        finding = named(await doctor._look(session), "unserved")
        assert finding.what == "no live process serves writer: 1 message open"
        assert finding.runs == ("r1",)
        await leases.heartbeat("p1", ["writer"], lease_s=30)
        assert diagnose(await doctor._look(session)) == []


async def test_redis_that_is_away_is_told_and_stops_nobody(database_url: str) -> None:
    async with looking(database_url, NOWHERE) as session:
        finding = named(await doctor._look(session), "redis")
        assert "Redis at redis://127.0.0.1:1/0 can't be reached" in finding.what
        assert not finding.stuck


async def test_whoever_holds_the_projections_and_folds_nothing_is_named(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.1)
    async with looking(database_url, redis_url) as session:
        await session.runner.prepare()
        assert await checkpoints.take(session.pool, projections.ALL, "stalled@here", 60) is not None
        await send(session)
        finding = named(await doctor._look(session), "projections")
        assert finding.what.startswith("the projections stand still behind the log, 1 event and ")
        assert (finding.stuck, finding.help) == (True, "restart stalled@here")


async def test_an_event_that_nobody_can_fold_is_named(database_url: str, redis_url: str) -> None:
    async with looking(database_url, redis_url) as session:
        await send(session)
        bad = NewEvent(type="task.failed", data=b'{"error": 5}', meta=Meta(run="r1", task="t1"))
        await session.store.append("writer/t1", [bad], ANY)
        finding = named(await doctor._look(session), "projections")
        assert (finding.stuck, "can't take event writer/t1@1 (task.failed" in finding.what) == (True, True)
