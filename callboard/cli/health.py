"""`messages`, `lag` and `services`: what waits, how far everything is behind, and the local servers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import anyio
from msgspec import Struct

from callboard.bootstrap import Stack, connected, served
from callboard.cli.dead import show_letters
from callboard.cli.output import Listing, people, plain, write_json, write_text
from callboard.cli.session import Session, command_settings, read
from callboard.cli.words import NOTHING, ago, count, duration, short, until
from callboard.projections import dead_letters, mailbox, timers
from callboard.projections import lag as lag_
from callboard.projections.dead_letters import DeadLetter
from callboard.projections.lag import ProjectionLag
from callboard.projections.mailbox import OpenMessage
from callboard.projections.timers import Timer
from callboard.protocols.errors import NotServed
from callboard.services import LocalServices, Status
from callboard.settings import Settings

# -- messages --------------------------------------------------------------------------------------------------


class MessagesReport(Struct, frozen=True, kw_only=True):
    """What `messages --json` shows."""

    open: tuple[OpenMessage, ...]  # oldest first
    timers: tuple[Timer, ...]  # the earliest first
    dead: tuple[DeadLetter, ...]  # newest first


def messages(*, role: str | None, run: str | None, limit: int, as_json: bool) -> None:
    """Messages that nobody has handled yet, timers, and dead letters."""

    async def fetch(session: Session) -> MessagesReport:
        of_run = (await session.run(run)).run if run else None
        given = {"role": role, "run": of_run}
        return MessagesReport(
            open=tuple(await mailbox.list_open(session.pool, limit=limit, **given)),
            timers=tuple(await timers.list_timers(session.pool, limit=limit, **given)),
            dead=tuple(await dead_letters.list_letters(session.pool, role=role, run=of_run, limit=limit)),
        )

    report = read(fetch)
    if as_json:
        write_json(report)
        return
    now = datetime.now(UTC)
    _show_open(report.open, now)
    _show_timers(report.timers, now)
    show_letters(report.dead, now)


def _show_open(found: Sequence[OpenMessage], now: datetime) -> None:
    if not found:
        write_text("No message waits to be handled.")
        return
    shown = Listing("open message", "kind", "to", "from", "run", "priority", "sent", spare=("priority", "from"))
    for each in found:
        to = short(f"{each.role}/{each.key}")
        shown.add(
            short(each.id),
            each.kind,
            to,
            short(each.sender),
            short(each.run),
            each.priority,
            ago(each.opened_at, now),
        )
    people().print(shown)


def _show_timers(found: Sequence[Timer], now: datetime) -> None:
    if not found:
        write_text("No timer is set.")
        return
    shown = Listing("timer", "kind", "wakes", "run", "due")
    for each in found:
        actor = short(f"{each.role}/{each.key}")
        shown.add(short(each.id), each.kind, actor, short(each.run), until(each.due_at, now))
    people().print(shown)


# -- lag -------------------------------------------------------------------------------------------------------


class PartitionLag(Struct, frozen=True, kw_only=True):
    """One partition: who owns it, for how long still, and what waits on it."""

    partition: int
    epoch: int
    owner: str | None
    lease_s: float | None  # negative: it has expired
    backlog: int  # messages on the bus that nobody has taken
    open: int  # messages in the log that nobody has handled


class ProcessLag(Struct, frozen=True, kw_only=True):
    """A live process of a role. `idle_s`: since it last got something done."""

    process: str
    idle_s: float


class RoleLag(Struct, frozen=True, kw_only=True):
    """One role. `oldest_s`: for how long its oldest open message has been waiting; None if none is open."""

    role: str
    generation: int  # of its partitions
    oldest_s: float | None
    processes: tuple[ProcessLag, ...]
    partitions: tuple[PartitionLag, ...]

    @property
    def given_up(self) -> bool:
        """Whether nobody serves it, and nothing is there to do: it was served once, and may never be again."""
        return not self.processes and self.oldest_s is None and not any(each.backlog for each in self.partitions)


class LagReport(Struct, frozen=True, kw_only=True):
    """What `lag --json` shows. `runner` folds the projections; None if nobody does."""

    head: int
    runner: str | None
    projections: tuple[ProjectionLag, ...]
    roles: tuple[RoleLag, ...]


def lag(*, only: Sequence[str], check: bool, as_json: bool) -> None:
    """How far the projections and the roles are behind."""
    with served(command_settings()) as settings:
        report = anyio.run(_lag, settings, only)
    if as_json:
        write_json(report)
    else:
        _show_lag(report, only)
    if check and (missing := unserved(report, only)):
        raise NotServed(", ".join(missing))


def unserved(report: LagReport, only: Sequence[str]) -> list[str]:
    """What nobody does: roles that were never served, partitions without an owner, the projections. A role that has
    nothing to do and is not asked for need not be served.
    """
    missing = [role for role in only if role not in {each.role for each in report.roles}]
    for role in report.roles:
        if role.given_up and not only:
            continue
        free = [each.partition for each in role.partitions if each.owner is None or (each.lease_s or 0) <= 0]
        if free:
            missing.append(f"{role.role} (partitions {numbers(free)})")
    return missing if report.runner else [*missing, "the projections"]


async def _lag(settings: Settings, only: Sequence[str]) -> LagReport:
    async with connected(settings, "lag") as stack:
        await stack.runner.prepare()
        folded = await lag_.lag(stack.store.pool, stack.store)
        alive = folded.expires_in_s is not None and folded.expires_in_s > 0
        return LagReport(
            head=folded.head,
            runner=folded.holder if alive else None,
            projections=folded.projections,
            roles=tuple([await _role_lag(stack, role) for role in stack.directory.roles if role in only or not only]),
        )


async def _role_lag(stack: Stack, role: str) -> RoleLag:
    route = stack.directory.route(role)
    assert route is not None
    pool = stack.store.pool
    backlog = await stack.bus.backlog(role)
    opened = await mailbox.open_counts(pool, role, route.partitions)
    partitions = [
        PartitionLag(
            partition=each.partition,
            epoch=each.epoch,
            owner=each.owner,
            lease_s=each.expires_in_s,
            backlog=backlog.get(each.partition, 0),
            open=opened.get(each.partition, 0),
        )
        for each in await stack.leases.partitions()
        if each.role == role
    ]
    processes = [
        ProcessLag(process=each.process, idle_s=each.idle_s)
        for each in await stack.leases.members()
        if each.role == role
    ]
    return RoleLag(
        role=role,
        generation=route.generation,
        oldest_s=await mailbox.oldest_age_s(pool, role),
        processes=tuple(processes),
        partitions=tuple(partitions),
    )


def _show_lag(report: LagReport, only: Sequence[str]) -> None:
    console = people()
    runner = f"{plain(report.runner)} folds the projections" if report.runner else "nobody folds the projections"
    console.print(f"The log's head is position {report.head:,}; {runner}.\n")
    shown = Listing("projection", "position", "behind", "by", right=("position", "behind", "by"))
    for each in report.projections:
        by = duration(each.seconds) if each.events else NOTHING
        shown.add(each.name, f"{each.position:,}", count(each.events, "event"), by)
    console.print(shown)
    for each in report.projections:
        if each.error:
            console.print(f"\n[red]{each.name} is stopped:[/] {plain(each.error)}", soft_wrap=True)
    unknown = [role for role in only if role not in {each.role for each in report.roles}]
    if unknown or not report.roles:
        what = f"{plain(', '.join(unknown))} has never been served" if unknown else "No role has been served yet"
        console.print(f"\n{what}: `callboard up APP` serves an app's roles.")
    if not report.roles:
        return
    console.print()
    right = ("lease", "idle", "on the bus", "open", "oldest")
    columns = ("role", "partitions", "owner", "lease", "idle", "on the bus", "open", "oldest")
    shown = Listing(*columns, right=right, wide="owner", spare=("idle",))
    for role in report.roles:
        idle = {each.process: duration(each.idle_s) for each in role.processes}
        for owner, group in groupby(sorted(role.partitions, key=_owner), key=_owner):
            owned = list(group)
            lease_s = min((each.lease_s for each in owned if each.lease_s is not None), default=None)
            lease = NOTHING if lease_s is None else duration(lease_s) if lease_s >= 0 else "expired"
            shown.add(
                role.role,
                numbers([each.partition for each in owned]),
                owner or "nobody",
                lease,
                idle.get(owner, NOTHING),
                f"{sum(each.backlog for each in owned):,}",
                f"{sum(each.open for each in owned):,}",
                duration(role.oldest_s) if role.oldest_s is not None else NOTHING,
            )
    console.print(shown)


def _owner(partition: PartitionLag) -> str:
    return partition.owner or ""


def numbers(given: Sequence[int]) -> str:
    """Numbers with their runs drawn together: 0-3, 5."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(given)), key=lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0][1]) if len(run) == 1 else f"{run[0][1]}-{run[-1][1]}" for run in runs)


# -- services --------------------------------------------------------------------------------------------------


def services_up(*, as_json: bool) -> None:
    """Start the local servers, and leave them running."""
    services = LocalServices(_home())
    services.start()
    services.pin()
    _show_status(services.status(), as_json=as_json)


def services_down(*, force: bool, as_json: bool) -> None:
    """Stop the local servers, as soon as nobody uses them."""
    services = LocalServices(_home())
    if services.home.exists():
        services.unpin()
    stopped = services.stop(force=force)
    if as_json:
        write_json(services.status())
    elif stopped:
        write_text("PostgreSQL and Valkey are stopped; their data stays.")
    else:
        write_text("Other processes use the servers: they stop when the last one ends. --force stops them now.")


def services_status(*, as_json: bool) -> None:
    """The local servers as they are."""
    _show_status(LocalServices(_home()).status(), as_json=as_json)


def _home() -> Path:
    return command_settings().home


def _show_status(status: Status, *, as_json: bool) -> None:
    if as_json:
        write_json(status)
        return
    console = people()
    for name, answers, url in (
        ("PostgreSQL", status.postgres, status.database_url),
        ("Valkey", status.valkey, status.redis_url),
    ):
        state = "[green]answers[/]" if answers else "[dim]is down[/]"
        console.print(f"{name:<10} {state}  {plain(url)}", soft_wrap=True)
    console.print(f"data in {plain(status.home)}", soft_wrap=True)
    if status.pinned:
        console.print("They run until `callboard services down`.")
    elif status.postgres or status.valkey:
        console.print("They stop when the last process that uses them ends.")
