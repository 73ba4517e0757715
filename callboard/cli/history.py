"""`audit`, `events` and `replay`: what the log says, in order."""

import sys
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct
from rich.console import Console
from rich.text import Text

from callboard.actors.state.fold import ActorFold, fold
from callboard.cli.output import Listing, people, write_json, write_text
from callboard.cli.session import Session, read
from callboard.cli.story import EventLine, digests, line
from callboard.cli.words import NOTHING, clock, short
from callboard.projections import audit as audit_
from callboard.projections import dead_letters
from callboard.projections import tasks as tasks_
from callboard.projections.audit import Entry
from callboard.protocols.errors import BadOption, UnknownStream, UnknownTask
from callboard.protocols.events import Event
from callboard.protocols.messages import encode_json
from callboard.protocols.names import RESERVED_ROLES, RUN, actor_stream, dead_stream, parse_stream, run_stream

MAX_TASKS: Final = 10_000  # of one run


# -- audit -----------------------------------------------------------------------------------------------------


def audit(given: str | None, *, after: int | None, limit: int, as_json: bool) -> None:
    """Notable events: those of a run, those behind a position, or else the newest."""

    async def fetch(session: Session) -> list[Entry]:
        run = (await session.run(given)).run if given else None
        begin = after
        if begin is None:
            # Every entry has a position of its own: so many positions hold at most so many entries.
            begin = 0 if run else max(0, await session.store.head() - limit)
        return await audit_.audit(session.pool, run=run, after=begin, limit=limit)

    found = read(fetch)
    if as_json:
        write_json(found)
    elif not found:
        write_text("Nothing notable has happened.")
    else:
        shown = Listing(
            "position", "at", "actor", "task", "what", "detail", right=("position",), wide="detail", spare=("task",)
        )
        for entry in found:
            who, task = short(entry.actor), short(entry.task or NOTHING)
            shown.add(str(entry.position), clock(entry.at), who, task, entry.what, short(entry.detail))
        people().print(shown)
        if len(found) == limit:
            people().print(f"[dim]--after {found[-1].position} shows what came next.[/]")


# -- events ----------------------------------------------------------------------------------------------------


def events(given: str, *, after: int, limit: int, bodies: bool, as_json: bool) -> None:
    """The events of one stream."""

    async def fetch(session: Session) -> list[EventLine]:
        stream = await _stream(session, given)
        found = [event async for event in session.store.read_stream(stream, after=after, before=after + limit + 1)]
        return await _lines(session, found, bodies=bodies)

    found = read(fetch)
    if as_json:
        write_json(found)
        return
    console = people()
    for event in found:
        _show_event(console, event, name=str(event.version))
    if len(found) == limit:
        console.print(f"[dim]--after {found[-1].version} shows what came next.[/]")
    elif not found:
        write_text(f"There is nothing behind version {after}.")


async def _stream(session: Session, given: str) -> str:
    """A stream by its name, whose run or task may be shortened. Raises UnknownStream, BadName."""
    role, key = parse_stream(given)
    async for _ in session.store.read_stream(given, before=2):
        return given
    if role == RUN:
        return run_stream((await session.run(key)).run)
    try:
        task = await session.task(key)
    except UnknownTask:
        raise UnknownStream(given) from None
    if task.role != role:
        raise UnknownStream(given)
    return actor_stream(role, task.key)


# -- replay ----------------------------------------------------------------------------------------------------


class StepAt(Struct, frozen=True, kw_only=True):
    """A step of an actor's task: its form is step, tool, model, question, timer, wait, review, message ..."""

    step: str
    form: str
    state: str  # open, done or failed
    attempt: int


class ActorAt(Struct, frozen=True, kw_only=True):
    """An actor as the events up to a position leave it."""

    actor: str
    version: int
    state: str
    role_state: str | None
    task: str | None
    attempt: int
    ended: bool
    steps: tuple[StepAt, ...]


class Replay(Struct, frozen=True, kw_only=True):
    """What `replay --json` shows: the run's events by position up to `at`, and its actors as they leave them."""

    run: str
    at: int
    events: tuple[EventLine, ...]
    actors: tuple[ActorAt, ...]


def replay(given: str, *, at: int | None, step: bool, bodies: bool, as_json: bool) -> None:
    """All events of a run, and its actors as these leave them."""
    if step and as_json:
        raise BadOption("--step", "--json", "they exclude each other: steps are for people")

    async def fetch(session: Session) -> Replay:
        run = (await session.run(given)).run
        found = up_to(at, await _run_events(session, run))
        lines = await _lines(session, found, bodies=bodies)
        return Replay(run=run, at=found[-1].position, events=tuple(lines), actors=actors_at(found))

    replayed = read(fetch)
    if as_json:
        write_json(replayed)
    else:
        _show_replay(people(), replayed, step=step)


async def _run_events(session: Session, run: str) -> list[Event]:
    """All events of a run's streams that belong to it, by position."""
    tasks = await tasks_.list_tasks(session.pool, run=run, limit=MAX_TASKS)
    letters = await dead_letters.list_letters(session.pool, run=run, redriven=True, limit=MAX_TASKS)
    streams = {run_stream(run)} | {actor_stream(task.role, task.key) for task in tasks}
    streams |= {dead_stream(letter.role) for letter in letters}
    found: list[Event] = []
    for stream in streams:
        found += [event async for event in session.store.read_stream(stream) if event.meta.run == run]
    return sorted(found, key=lambda event: event.position)


def up_to(at: int | None, found: Sequence[Event]) -> Sequence[Event]:
    """The events up to a position. Raises BadOption for one that is before or behind them all."""
    if at is None:
        return found
    first, last = found[0].position, found[-1].position
    if not first <= at <= last:
        raise BadOption("--at", str(at), f"the run's events are at positions {first} to {last}")
    return [event for event in found if event.position <= at]


def actors_at(found: Iterable[Event]) -> tuple[ActorAt, ...]:
    """The actors that events leave behind, folded from them, by name."""
    streams: dict[str, list[Event]] = {}
    for event in found:
        if parse_stream(event.stream).role not in RESERVED_ROLES:
            streams.setdefault(event.stream, []).append(event)
    return tuple(_actor_at(stream, fold(streams[stream])) for stream in sorted(streams))


def _actor_at(stream: str, actor: ActorFold) -> ActorAt:
    task = actor.current
    steps = []
    for key, record in task.steps.items() if task is not None else ():
        state = "failed" if record.error is not None else "done" if record.done else "open"
        steps.append(StepAt(step=key, form=record.form, state=state, attempt=max(1, record.attempt)))
    return ActorAt(
        actor=stream,
        version=actor.version,
        state=actor.state,
        role_state=actor.role_state,
        task=task.task if task is not None else None,
        attempt=task.attempt if task is not None else 0,
        ended=task.ended if task is not None else False,
        steps=tuple(steps),
    )


async def _lines(session: Session, found: Sequence[Event], *, bodies: bool) -> list[EventLine]:
    if not bodies:
        return [line(event) for event in found]
    blobs = await session.store.get_blobs(list({digest for event in found for digest in digests(event)}))
    return [line(event, blobs) for event in found]


def _show_replay(console: Console, replayed: Replay, *, step: bool) -> None:
    console.print(f"[bold]run {replayed.run}[/] up to position {replayed.at}\n")
    for event in replayed.events:
        _show_event(console, event, name=short(event.stream))
        if step and event is not replayed.events[-1]:
            console.print("[dim]Enter: the next event; Ctrl-C: stop[/]", end="")
            if not sys.stdin.readline():
                break  # the end of input
    else:
        console.print()
        _show_actors(console, replayed.actors)


def _show_event(console: Console, event: EventLine, *, name: str) -> None:
    """One line, and the body below it where there is one."""
    text = Text.assemble(
        (f"{event.position:>7} ", "dim"),
        (clock(event.at) + "  ", "dim"),
        (f"{name:<22} ", "bold"),
        (f"{event.type:<18} ", "cyan"),
        short(event.words),
    )
    if event.before != event.after:
        text.append(f"  {event.before} -> {event.after}", "yellow")
    console.print(text, soft_wrap=True)
    if event.body is not UNSET:
        _show_content(console, "body", bytes(event.body))
        for message in event.messages:
            _show_content(console, "sends", encode_json(message))
        for digest, content in event.blobs.items():
            _show_content(console, f"blob {digest[:8]}", bytes(content))


def _show_content(console: Console, what: str, content: bytes) -> None:
    text = msgspec.json.format(content, indent=2).decode()
    indented = "".join(f"          {each}\n" for each in f"{what} {text}".splitlines())
    console.print(Text(indented, "dim"), soft_wrap=True, end="")


def _show_actors(console: Console, actors: Sequence[ActorAt]) -> None:
    columns = ("actor", "version", "state", "own state", "attempt", "steps done", "open")
    right = ("version", "attempt", "steps done")
    shown = Listing(*columns, right=right, wide="open", spare=("version", "own state"))
    for actor in actors:
        done = sum(step.state != "open" for step in actor.steps)
        still = ", ".join(step.step for step in actor.steps if step.state == "open" and not actor.ended)
        shown.add(
            short(actor.actor),
            str(actor.version),
            actor.state,
            actor.role_state or NOTHING,
            str(actor.attempt),
            str(done),
            short(still) or NOTHING,
        )
    console.print(shown)
