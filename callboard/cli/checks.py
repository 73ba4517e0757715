"""`verify`, `check-ledger` and `rebuild`: whether what is stored is as it was written, and how to make it again."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
from msgspec import Struct
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from callboard.cli.output import people, plain, write_json, write_text
from callboard.cli.session import Session, read
from callboard.cli.words import count
from callboard.eventstore.ledger_tables import Difference, check_ledger, rebuild_ledger
from callboard.eventstore.verify import Damage, log_end, verify

SHOWN: Final = 50  # of what is found, for people
MOST: Final = 10_000  # of what is found, for machines
LOOK_S: Final = 0.2  # how often the bar of a rebuild moves
PATIENCE_S: Final = 7 * 86_400.0  # of a rebuild: another process may be at it

Move = Callable[[int], None]


class VerifyReport(Struct, frozen=True, kw_only=True):
    """What `verify --json` shows."""

    intact: bool
    events: int
    chain: str  # of the log's end, in hex
    damages: tuple[Damage, ...]
    more: bool  # only the first ones are listed


class LedgerReport(Struct, frozen=True, kw_only=True):
    """What `check-ledger --json` shows."""

    intact: bool
    repaired: bool
    differences: tuple[Difference, ...]


class RebuildReport(Struct, frozen=True, kw_only=True):
    """What `rebuild --json` shows."""

    rebuilt: tuple[str, ...]
    events: int


@asynccontextmanager
async def bar(what: str, total: int) -> AsyncIterator[Move]:
    """A progress bar on a terminal's standard error, and what moves it to a position."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = people(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda position: progress.update(task, completed=position)


# -- the log ---------------------------------------------------------------------------------------------------


def check_log(*, as_json: bool) -> None:
    """Every event against the digests of the commits; exit code 1 if something is not as it was written."""
    report = read(_verified, caught_up=False)
    if as_json:
        write_json(report)
    elif report.intact:
        write_text(f"{count(report.events, 'event')}, each as it was written. The chain ends with {report.chain}.")
    else:
        first, *_ = report.damages
        console = people()
        console.print(
            f"[bold red]The log is not as it was written.[/] First at {plain(_damage(first))}", soft_wrap=True
        )
        for damage in report.damages[1:SHOWN]:
            console.print(f"[red]-[/] {plain(_damage(damage))}", soft_wrap=True)
        if report.more or len(report.damages) > SHOWN:
            console.print("[dim]... and more: --json lists them.[/]")
    if not report.intact:
        sys.exit(1)


async def _verified(session: Session) -> VerifyReport:
    end = await log_end(session.pool)
    damages: list[Damage] = []
    async with bar("Verifying the log", end.position) as move:
        async for damage in verify(session.pool, move):
            if len(damages) == MOST:
                break
            damages.append(damage)
    return VerifyReport(
        intact=not damages,
        events=end.position,
        chain=end.chain,
        damages=tuple(damages),
        more=len(damages) == MOST,
    )


def _damage(damage: Damage) -> str:
    if damage.first == damage.last == 0:
        return damage.reason
    where = f"position {damage.first}" if damage.first == damage.last else f"positions {damage.first} to {damage.last}"
    return f"{where}: {damage.reason}"


# -- the ledger ------------------------------------------------------------------------------------------------


def ledger(*, repair: bool, as_json: bool) -> None:
    """The tables of budgets against the log; exit code 1 if they differ and aren't repaired."""

    async def fetch(session: Session) -> LedgerReport:
        async with bar("Checking the ledger", await session.store.head()) as move:
            found = await check_ledger(session.pool, move)
        if found and repair:
            async with session.pool.acquire() as connection, connection.transaction():
                await rebuild_ledger(connection)
        return LedgerReport(intact=not found, repaired=bool(found and repair), differences=tuple(found))

    report = read(fetch, caught_up=False)
    if as_json:
        write_json(report)
    elif report.intact:
        write_text("Budgets, accounts and charges are as the log has them.")
    else:
        _show(report)
    if not (report.intact or report.repaired):
        sys.exit(1)


def _show(report: LedgerReport) -> None:
    console = people()
    console.print(f"[bold red]{count(len(report.differences), 'difference')} between the log and the tables:[/]")
    for each in report.differences[:SHOWN]:
        console.print(f"[red]-[/] {plain(each.what)}", soft_wrap=True)
        console.print(f"    in the log:    {plain(each.in_log)}", soft_wrap=True)
        console.print(f"    in the tables: {plain(each.in_tables)}", soft_wrap=True)
    if len(report.differences) > SHOWN:
        console.print(f"[dim]... and {len(report.differences) - SHOWN} more: --json has all.[/]")
    if report.repaired:
        console.print("The tables were made again from the log.")
    else:
        console.print("callboard check-ledger --repair makes the tables again from the log.")


# -- the projections -------------------------------------------------------------------------------------------


def rebuild(names: Sequence[str], *, as_json: bool) -> None:
    """Some projections, from the log's beginning."""

    async def fetch(session: Session) -> RebuildReport:
        await session.runner.rebuild(names)
        head = await session.store.head()
        async with bar("Folding the log", head) as move, anyio.create_task_group() as group:
            group.start_soon(_follow, session, list(names), move)
            await session.runner.catch_up(within_s=PATIENCE_S)
            group.cancel_scope.cancel()
        return RebuildReport(rebuilt=tuple(names), events=head)

    report = read(fetch, caught_up=False)
    if as_json:
        write_json(report)
    else:
        write_text(f"Made again from {count(report.events, 'event')}: {', '.join(report.rebuilt)}.")


async def _follow(session: Session, names: list[str], move: Move) -> None:
    """Move the bar to where the furthest behind is."""
    while True:
        query = "select min(position) from projections where name = any($1)"
        move(await session.pool.fetchval(query, names) or 0)
        await anyio.sleep(LOOK_S)
