"""`doctor`: what keeps runs from going on."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import anyio
from msgspec import Struct

from callboard.bootstrap import namespace_of, served
from callboard.cli.budgets import going_on
from callboard.cli.output import people, plain, write_json
from callboard.cli.session import Session, command_settings, opened
from callboard.cli.words import ago, count, short
from callboard.diagnosis import Finding, Folding, Snapshot, diagnose
from callboard.eventstore.leases import PostgresLeases
from callboard.eventstore.ledger_tables import PostgresLedger
from callboard.projections import dead_letters, mailbox, tasks
from callboard.projections import lag as lag_
from callboard.protocols.errors import (
    Busy,
    NotProjected,
    ProjectionsBehind,
    RedisUnavailable,
    UnknownEventType,
    WrongEvictionPolicy,
)
from callboard.protocols.ports import Route

PATIENCE_S: Final = 5.0  # for read models that somebody else folds
LIMIT: Final = 10_000  # tasks and dead letters that are looked at
SHOWN: Final = 50  # findings, for people


class Report(Struct, frozen=True, kw_only=True):
    """What `doctor --json` shows."""

    well: bool  # everything can go on by itself
    findings: tuple[Finding, ...]


def doctor(*, as_json: bool) -> None:
    """Findings; exit code 1 if something can't go on by itself."""
    with served(command_settings()) as settings:

        async def look() -> Snapshot:
            async with opened(settings, "doctor") as session:
                return await _look(session)

        snapshot = anyio.run(look)
    findings = diagnose(snapshot)
    report = Report(well=not any(finding.stuck for finding in findings), findings=tuple(findings))
    if as_json:
        write_json(report)
    else:
        _show(findings, snapshot.now)
    if not report.well:
        sys.exit(1)


async def _look(session: Session) -> Snapshot:
    folding = await _folding(session)
    leases = PostgresLeases(session.pool)
    routes = await leases.routes()
    ledger, now = PostgresLedger(session.pool), datetime.now(UTC)
    return Snapshot(
        now=now,
        tasks=await tasks.open_tasks(session.pool, limit=LIMIT),
        letters=await dead_letters.list_letters(session.pool, limit=LIMIT),
        backlogs={role: await mailbox.backlog(session.pool, role, routes[role].partitions) for role in routes},
        members=await leases.members(),
        partitions=await leases.partitions(),
        folding=folding,
        redis=await _redis(session, routes),
        accounts=await going_on(session, await ledger.accounts(now)),
        charges=await ledger.open_charges(),
    )


async def _folding(session: Session) -> Folding:
    """How the read models stand, after what can be folded has been."""
    await session.runner.prepare()
    before = await lag_.lag(session.pool, session.store)
    try:
        await session.runner.catch_up(within_s=PATIENCE_S)
    except (ProjectionsBehind, NotProjected, UnknownEventType):
        pass
    else:
        return Folding()
    after = await lag_.lag(session.pool, session.store)
    last = max(after.projections, key=lambda each: each.events)
    was = {each.name: each.position for each in before.projections}
    return Folding(
        behind=last.events,
        seconds=last.seconds,
        moves=last.position > was[last.name],
        holder=after.holder,
        error=next((each.error for each in after.projections if each.error), ""),
    )


async def _redis(session: Session, routes: dict[str, Route]) -> str:
    """What is wrong with Redis. Raises RedisUnfit: with that one no process starts."""
    from callboard.bus.redis import RedisBus  # redis-py takes 0.3 s

    assert session.settings.redis_url
    namespace = namespace_of(session.store.store_id)
    try:
        prefix = session.settings.redis_prefix
        async with RedisBus.open(session.settings.redis_url, namespace, routes.get, prefix=prefix) as bus:
            try:
                await bus.check_room()
            except Busy:
                return "Redis is full, and takes no more messages."
    except (RedisUnavailable, WrongEvictionPolicy) as error:
        return str(error)
    return ""


def _show(findings: Sequence[Finding], now: datetime) -> None:
    console = people()
    stuck = sum(finding.stuck for finding in findings)
    if stuck:
        console.print(f"[bold red]{count(stuck, 'thing')} can't go on without you:[/]")
    else:
        console.print("[green]Everything can go on by itself.[/]")
    for finding in findings[:SHOWN]:
        style = "red" if finding.stuck else "dim"
        since = f", since {ago(finding.since, now)}" if finding.since else ""
        console.print(f"[{style}]-[/] {plain(short(finding.what))}[dim]{since}{_runs(finding)}[/]", soft_wrap=True)
        console.print(f"    {plain(short(finding.help))}", soft_wrap=True)
    if len(findings) > SHOWN:
        console.print(f"[dim]... and {count(len(findings) - SHOWN, 'finding')} more: --json has all.[/]")


def _runs(finding: Finding) -> str:
    if not finding.runs:
        return ""
    shown = ", ".join(short(run) for run in finding.runs[:3])
    more = f" and {len(finding.runs) - 3} more" if len(finding.runs) > 3 else ""
    return f" (run {shown}{more})"
