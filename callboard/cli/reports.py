"""`runs`, `run`, `tasks` and `agents`: what the read models say."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from rich.console import Console
from rich.text import Text

from callboard.cli.costs import costs_table
from callboard.cli.output import Listing, people, plain, write_json, write_result, write_text
from callboard.cli.session import Session, read
from callboard.cli.words import (
    NOTHING,
    STATE_STYLES,
    Branch,
    ago,
    count,
    duration,
    money,
    one_line,
    short,
    span,
    state_of,
    state_word,
    tokens,
    tree,
)
from callboard.projections import agents as agents_
from callboard.projections import costs as costs_
from callboard.projections import runs as runs_
from callboard.projections import tasks as tasks_
from callboard.projections.agents import Agent
from callboard.projections.costs import Costs
from callboard.projections.runs import Run
from callboard.projections.tasks import Task
from callboard.protocols.codec import body_of
from callboard.protocols.errors import BadOption
from callboard.protocols.events import ENDS_TASK, TaskCompleted
from callboard.protocols.states import AT_WORK, TERMINAL, TaskState

MAX_TASKS: Final = 10_000  # of one run
STATES: Final = ("submitted", "working", "input-required", "completed", "failed", "canceled", "idle", *AT_WORK)


class RunReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `run --json` shows. `result` only where the run has completed with one."""

    run: Run
    tasks: tuple[Task, ...]  # oldest first
    costs: tuple[Costs, ...]  # by role
    result: Raw | UnsetType = UNSET


# -- runs ------------------------------------------------------------------------------------------------------


def runs(*, state: str | None, limit: int, as_json: bool) -> None:
    """All runs, newest first."""
    chosen = _a2a_state(state)
    found = read(lambda session: runs_.list_runs(session.pool, state=chosen, limit=limit))  # type: ignore[arg-type]
    if as_json:
        write_json(found)
    elif not found:
        write_text("There is no such run." if state else "There are no runs yet: `callboard send` starts one.")
    else:
        people().print(_runs_table(found, datetime.now(UTC)))
        _tell_limit(found, limit)


def _runs_table(found: Sequence[Run], now: datetime) -> Listing:
    right = ("tasks", "took", "tokens", "cost")
    columns = ("run", "state", "sent to", "started", "took", "tasks", "tokens", "cost")
    shown = Listing(*columns, right=right, spare=("tokens", "took", "started"))
    for run in found:
        shown.add(
            short(run.run),
            _state(run.state),
            short(run.actor),
            ago(run.started_at, now),
            duration(((run.ended_at or now) - run.started_at).total_seconds()),
            f"{run.tasks:,}" + (f" ({run.failed:,} failed)" if run.failed else ""),
            tokens(run.input_tokens + run.output_tokens),
            money(run.cost, run.unpriced),
        )
    return shown


# -- run -------------------------------------------------------------------------------------------------------


def run(given: str, *, as_json: bool) -> None:
    """One run in full."""

    async def fetch(session: Session) -> RunReport:
        found = await session.run(given)
        tasks = await tasks_.list_tasks(session.pool, run=found.run, limit=MAX_TASKS)
        by_role = await costs_.costs(session.pool, ["role"], run=found.run)
        result = await _result(session, found, tasks)
        return RunReport(run=found, tasks=tuple(reversed(tasks)), costs=tuple(by_role), result=result)

    report = read(fetch)
    if as_json:
        write_json(report)
    else:
        _show_run(people(), report, datetime.now(UTC))


async def _result(session: Session, found: Run, tasks: Sequence[Task]) -> Raw | UnsetType:
    """What the answering task gave."""
    answering = next((task for task in tasks if task.task == found.answering), None)
    if answering is None or answering.state != "TASK_STATE_COMPLETED":
        return UNSET
    async for event in session.store.read_stream(f"{answering.role}/{answering.key}", backwards=True):
        if event.type in ENDS_TASK and event.meta.task == answering.task:
            body = body_of(event)
            return body.result if isinstance(body, TaskCompleted) else UNSET
    return UNSET


def _show_run(console: Console, report: RunReport, now: datetime) -> None:
    found = report.run
    end = found.ended_at or now
    took = duration((end - found.started_at).total_seconds())
    how_long = f"took {took}" if found.ended_at else f"open for {took}"
    style = STATE_STYLES[found.state]
    console.print(f"[bold]run {found.run}[/]  [{style}]{state_word(found.state)}[/]")
    started = found.started_at.astimezone()
    origin = f", from {plain(found.origin)}" if found.origin else ""
    console.print(f"sent to {plain(short(found.actor))}{origin}, {started:%Y-%m-%d %H:%M:%S}, {how_long}")
    calls = "no model calls"
    if found.model_calls:
        used = f"{tokens(found.input_tokens + found.output_tokens)} tokens"
        calls = f"{count(found.model_calls, 'model call')}, {used}, {money(found.cost, found.unpriced)}"
    console.print(f"{count(found.tasks, 'task')}, {calls}, {count(found.events, 'event')}")
    console.print()
    console.print(_tree_table(tree(report.tasks), found.started_at, max(end, _last(report.tasks)), now))
    _show_waits(console, report.tasks, now)
    _show_errors(console, report.tasks)
    if report.costs:
        console.print()
        console.print(costs_table(report.costs, ("role",)))
    if report.result is not UNSET:
        console.print("\n[bold]result[/]")
        write_result(msgspec.json.decode(report.result))
    console.print(f"\n[dim]callboard replay {short(found.run)}    every event, in order[/]")


def _tree_table(branches: Sequence[Branch], begin: datetime, end: datetime, now: datetime) -> Listing:
    whole = max((end - begin).total_seconds(), 0.001)
    right = ("took", "tokens", "cost")
    shown = Listing(
        "task", "id", "state", "took", "when", "tokens", "cost", right=right, spare=("tokens", "cost", "took")
    )
    for lines, task in branches:
        started, ended = task.started_at or task.opened_at, task.ended_at or now
        name = task.role if task.key == task.task else f"{task.role}/{task.key}"
        style = STATE_STYLES[task.state]
        shown.add(
            lines + name,
            Text(short(task.task), "dim"),
            _state(task.state),
            duration((ended - started).total_seconds()) if task.started_at else NOTHING,
            Text(span((started - begin).total_seconds() / whole, (ended - begin).total_seconds() / whole), style),
            tokens(task.input_tokens + task.output_tokens),
            money(task.cost, task.unpriced),
        )
    return shown


def _last(tasks: Sequence[Task]) -> datetime:
    return max((task.updated_at for task in tasks), default=datetime.min.replace(tzinfo=UTC))


def _show_waits(console: Console, tasks: Sequence[Task], now: datetime) -> None:
    for task in tasks:
        for wait in task.waiting:
            since = duration((now - wait.since).total_seconds())
            console.print(f"[yellow]{task.role} {short(task.task)} waits[/] for {plain(short(wait.on))}, {since}")


def _show_errors(console: Console, tasks: Sequence[Task]) -> None:
    for task in tasks:
        if task.error_type:
            what = f"{task.error_type}: {one_line(task.error_message or '', 300)}"
            console.print(f"[red]{task.role} {short(task.task)} {state_word(task.state)}:[/] {plain(what)}")


# -- tasks, agents ---------------------------------------------------------------------------------------------


def tasks(*, run: str | None, role: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """Tasks, newest first."""
    chosen = _any_state(state)

    async def fetch(session: Session) -> list[Task]:
        of_run = (await session.run(run)).run if run else None
        return await tasks_.list_tasks(session.pool, run=of_run, role=role, state=chosen, limit=limit)  # type: ignore[arg-type]

    found = read(fetch)
    if as_json:
        write_json(found)
    elif not found:
        write_text("There is no such task." if run or role or state else "There are no tasks yet.")
    else:
        people().print(_tasks_table(found, datetime.now(UTC)))
        _tell_limit(found, limit)


def _tasks_table(found: Sequence[Task], now: datetime) -> Listing:
    right = ("took", "tokens", "cost", "attempt")
    columns = ("task", "actor", "run", "state", "took", "attempt", "tokens", "cost", "waits for")
    shown = Listing(*columns, right=right, wide="waits for", spare=("tokens", "attempt", "cost", "run"))
    for task in found:
        began = task.started_at
        shown.add(
            short(task.task),
            task.role if task.key == task.task else f"{task.role}/{short(task.key)}",
            short(task.run),
            _state(task.state),
            duration(((task.ended_at or now) - began).total_seconds()) if began else NOTHING,
            str(task.attempt) if task.attempt else NOTHING,
            tokens(task.input_tokens + task.output_tokens),
            money(task.cost, task.unpriced),
            ", ".join(short(wait.on) for wait in task.waiting),
        )
    return shown


def agents(*, role: str | None, as_json: bool) -> None:
    """All agents, by name."""
    found: list[Agent] = read(lambda session: agents_.list_agents(session.pool, role=role))
    if as_json:
        write_json(found)
    elif not found:
        write_text(f"No agent of role {role!r} has worked yet." if role else "No agent has worked yet.")
    else:
        now = datetime.now(UTC)
        right = ("tasks", "at work", "completed", "failed", "canceled", "tokens", "cost")
        shown = Listing(
            *("agent", "tasks", "at work", "completed", "failed", "canceled", "tokens", "cost", "seen", "last in"),
            right=right,
            spare=("last in", "tokens", "canceled", "seen"),
        )
        for each in found:
            ended = (each.completed + each.handed_off, each.failed, each.canceled)
            shown.add(
                short(each.agent),
                *(f"{number:,}" for number in (each.tasks, each.at_work, *ended)),
                tokens(each.input_tokens + each.output_tokens),
                money(each.cost, each.unpriced),
                ago(each.last_seen, now),
                Text(each.last_process or NOTHING, "dim"),
            )
        people().print(shown)


# -- shared ----------------------------------------------------------------------------------------------------


def _state(state: TaskState) -> Text:
    return Text(state_word(state), STATE_STYLES[state])


def _tell_limit(found: Sequence[object], limit: int) -> None:
    if len(found) == limit:
        people().print(f"[dim]The newest {limit}; --limit shows more.[/]")


def _a2a_state(word: str | None) -> str | None:
    """The A2A state that a word names. Raises BadOption."""
    if word is None:
        return None
    state = state_of(word)
    if state is None:
        raise BadOption("--state", word, f"it is one of {', '.join(STATES[:6])}")
    return state


def _any_state(word: str | None) -> str | None:
    """A state of A2A or of actors that a word names. Raises BadOption."""
    if word is None or word in ("idle", *AT_WORK, *TERMINAL):
        return word
    state = state_of(word)
    if state is None:
        raise BadOption("--state", word, f"it is one of {', '.join(STATES)}")
    return state
