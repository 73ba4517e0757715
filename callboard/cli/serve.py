"""Processes that serve: `up`, `actor` and `projections`. Each ends in good order when it is told to, by SIGTERM or
Ctrl-C; told a second time, it ends at once, which loses nothing that is in the log."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import anyio
import anyio.abc
import msgspec
import typer

from callboard.actors.process.ending import LAST_S, Ending
from callboard.actors.process.supervisor import READY, SECOND_GRACE_S, ProcessEvent, ProcessSpec, Supervisor, Tie
from callboard.actors.roles.definition import Definition
from callboard.app import load_app
from callboard.bootstrap import (
    check_room,
    claim_name,
    collect_rarely,
    connected,
    namespace_of,
    served,
    warn_of_other_leases,
)
from callboard.cli.errors import error_in, in_a_line
from callboard.cli.output import log_to_stderr, note, plain
from callboard.cli.session import opened
from callboard.cli.stopping import ended, told_to_stop
from callboard.config import Config
from callboard.names import held
from callboard.protocols.errors import BadName, BadOption, DatabaseUnavailable, RedisUnavailable, UserError, listed
from callboard.protocols.messages import Message
from callboard.protocols.types import fields_of
from callboard.settings import PREFIX, Settings

log = logging.getLogger("callboard")

CALLBOARD: Final = (sys.executable, "-P", "-m", "callboard")  # -P: what is in the present folder hides nothing
PROJECTIONS: Final = "projections"
MAX_PROCESSES: Final = 64  # of one role
CLOSING_S: Final = LAST_S + 3.0  # that a child gets on top of its own grace period, before it is hurried

Serve = Callable[..., Coroutine[Any, Any, None]]  # (stop, *, task_status)


# -- up --------------------------------------------------------------------------------------------------------


def up(app: str, processes: Sequence[str], *, in_process: bool, model: str | None) -> None:
    """Serve all roles of an app until told to stop."""
    definitions = load_app(app)
    counts = process_counts(processes, definitions)
    settings = Settings.from_env(os.environ)
    if model is not None:
        settings = msgspec.structs.replace(settings, model=model)
    Config.load(settings.config)  # before anything is started
    log_to_stderr(settings.log_level, "up")
    local, ending = settings.database_url is None, Ending()
    with ended(ending), served(settings, ending) as settings:
        anyio.run(_prepare, settings, 1 if in_process else len(process_specs(app, counts, settings)))
        note(_introduction(app, definitions, settings, local=local))
        with _lifted(ending):
            if in_process:
                anyio.run(_serve_roles, settings, "up", definitions, None, ending)
            else:
                anyio.run(_supervise, app, counts, settings, ending)


def process_counts(given: Sequence[str], definitions: Mapping[str, Definition]) -> dict[str, int]:
    """How many processes each role gets: 1, unless ROLE=N says otherwise. Raises BadOption."""
    counts = dict.fromkeys(definitions, 1)
    for pair in given:
        role, _, number = pair.partition("=")
        if role not in counts or not number.isdecimal() or not 1 <= int(number) <= MAX_PROCESSES:
            reason = f"it is ROLE=N, with N from 1 to {MAX_PROCESSES} and ROLE one of {listed(list(counts))}"
            raise BadOption("--processes", pair, reason)
        counts[role] = int(number)
    return counts


def process_specs(app: str, counts: Mapping[str, int], settings: Settings) -> list[ProcessSpec]:
    """The processes of an app: those of its roles, and one that folds the projections."""
    assert settings.database_url
    assert settings.redis_url
    env = {f"{PREFIX}DATABASE_URL": settings.database_url, f"{PREFIX}REDIS_URL": settings.redis_url}
    if settings.model:
        env[f"{PREFIX}MODEL"] = settings.model
    specs = [ProcessSpec(PROJECTIONS, (*CALLBOARD, PROJECTIONS, "--tied"), env)]
    for role, count in counts.items():
        names = [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]
        specs += [
            ProcessSpec(name, (*CALLBOARD, "actor", role, "--app", app, "--name", name, "--tied"), env)
            for name in names
        ]
    return specs


async def _prepare(settings: Settings, processes: int) -> None:
    """Servers that can't be used are told once, here, before anything runs or is said to."""
    async with connected(settings, "up") as stack:
        await check_room(stack, processes)
        await stack.runner.prepare()


async def _supervise(app: str, counts: Mapping[str, int], settings: Settings, ending: Ending) -> None:
    specs = process_specs(app, counts, settings)
    ready: set[str] = set()

    def tell(event: ProcessEvent) -> None:
        log.log(*_in_words(event))
        if event.what == "ready" and event.name not in ready:
            ready.add(event.name)
            if len(ready) == len(specs):
                log.info("all %d processes are ready", len(specs))

    supervisor, grace_s = Supervisor(specs, tell), settings.grace_s + CLOSING_S
    ending.before(supervisor.kill)
    async with told_to_stop(None, ending, grace_s + SECOND_GRACE_S) as stop:
        await supervisor.run(stop, grace_s=grace_s)


def _in_words(event: ProcessEvent) -> tuple[int, str]:
    """A level and a line for the log."""
    who = f"{event.name} (pid {event.pid})"
    match event.what:
        case "exited":
            code = f" with {_code(event.code)}" if event.code else ""
            return logging.INFO, f"{who} ended{code}" + (f": {event.words}" if event.words else "")
        case "restarting":
            return logging.WARNING, f"{event.name} starts again in {event.delay_s or 0:.1f} s"
        case what:
            return logging.INFO, f"{who} {'is ready' if what == 'ready' else what}"


def _code(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _introduction(app: str, definitions: Mapping[str, Definition], settings: Settings, *, local: bool) -> str:
    width = max(len(role) for role in definitions)
    roles = [f"  [bold]{role:{width}}[/]  {plain(each.description)}" for role, each in definitions.items()]
    first = next(iter(definitions.values()))
    lines = [f"[bold]{plain(app)}[/] serves:", *roles]
    if local:
        lines.append(f"with its own PostgreSQL and Valkey in {plain(str(settings.home))}")
    if settings.model:
        lines.append(f"every model call goes to {plain(settings.model)}")
    lines += [f"Try:  callboard send {first.role} '{plain(example_payload(first))}' --wait", "Ctrl-C ends it all.", ""]
    return "\n".join(lines)


def example_payload(definition: Definition) -> str:
    """A payload that the role's first handler takes, as JSON, or text where it takes that."""
    payload = definition.handlers[0].payload
    fields = None if payload is Message else fields_of(payload)
    if fields is not None:
        return msgspec.json.encode({name: _example(kind) for name, kind, required in fields if required}).decode()
    example = _example(payload)
    return example if isinstance(example, str) else msgspec.json.encode(example).decode()


def _example(kind: Any) -> Any:
    examples: dict[Any, Any] = {int: 1, float: 1.0, bool: True}
    origin = getattr(kind, "__origin__", kind)
    if origin in (list, tuple, set, frozenset):
        return []
    return {} if origin is dict else examples.get(kind, "...")


# -- actor and projections -------------------------------------------------------------------------------------


def actor(roles: str, app: str, *, name: str | None, tied: bool) -> None:
    """Serve some of an app's roles in this process."""
    ending = Ending()
    with ended(ending), _tie(tied=tied) as tie:
        definitions = chosen(load_app(app), roles)
        claims, name = name is not None, name or "+".join(definitions)
        settings = Settings.from_env(os.environ)
        log_to_stderr(settings.log_level, name)
        with served(settings, ending) as settings, _lifted(ending):
            anyio.run(_serve_roles, settings, name, definitions, tie, ending, claims)


def chosen(definitions: Mapping[str, Definition], roles: str) -> dict[str, Definition]:
    """The definitions of the roles named: one, several with commas between, or `all`. Raises BadName."""
    names = list(definitions) if roles == "all" else [role.strip() for role in roles.split(",")]
    for role in names:
        if role not in definitions:
            raise BadName("role of this app", role, f"one of {listed(list(definitions))}, or all")
    return {role: definitions[role] for role in names}


def projections(*, tied: bool) -> None:
    """Fold the projections in this process."""
    ending = Ending()
    with ended(ending), _tie(tied=tied) as tie:
        settings = Settings.from_env(os.environ)
        log_to_stderr(settings.log_level, PROJECTIONS)
        with served(settings, ending) as settings, _lifted(ending):
            anyio.run(_serve_projections, settings, tie, ending)


@contextmanager
def _lifted(ending: Ending) -> Iterator[None]:
    """All tasks end in this block. Local services that are stopped after it have limits of their own."""
    try:
        yield
    finally:
        ending.lift()


async def _serve_roles(
    settings: Settings,
    name: str,
    definitions: Mapping[str, Definition],
    tie: Tie | None,
    ending: Ending,
    claims: bool = False,
) -> None:
    """Serve roles. `claims`: the name was given to this process, and no other one may have it."""
    async with connected(settings, name) as stack:
        if tie is None:
            await check_room(stack, 1)
        await warn_of_other_leases(stack.leases, settings.lease_s)
        host, ready = stack.host(definitions, ending), f"ready: serves {listed(list(definitions))}"
        with held(namespace_of(stack.store.store_id), stack.process, definitions) if claims else nullcontext():
            if claims:
                await claim_name(stack.leases, stack.process, definitions)
            await _until_told(host.run, ready, tie, ending, settings.grace_s)


async def _serve_projections(settings: Settings, tie: Tie | None, ending: Ending) -> None:
    async with opened(settings, PROJECTIONS) as session:

        async def fold(stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            await session.runner.prepare()
            async with anyio.create_task_group() as group:
                group.start_soon(session.runner.run)
                task_status.started()
                await stop.wait()
                group.cancel_scope.cancel()

        await _until_told(fold, "ready", tie, ending)


async def _until_told(
    serve: Serve, ready: str, tie: Tie | None, ending: Ending | None = None, grace_s: float = 0.0
) -> None:
    """Serve until told to end. A process that is told so while it starts has nothing to bring to an end."""
    collect_rarely()
    async with told_to_stop(tie, ending, grace_s) as stop, anyio.create_task_group() as group:
        with anyio.CancelScope() as starting:
            group.start_soon(_cancel_when, stop, starting)
            await group.start(serve, stop)
        if starting.cancelled_caught:
            group.cancel_scope.cancel()
        elif tie is not None:
            tie.say(READY)
        else:
            log.info("%s", ready)


async def _cancel_when(told: anyio.Event, scope: anyio.CancelScope) -> None:
    await told.wait()
    scope.cancel()


# -- the parent ---------------------------------------------------------------------------------------------


@contextmanager
def _tie(*, tied: bool) -> Iterator[Tie | None]:
    """The tie to a supervisor, if there is one: it is told why this process can't run, unless that may pass."""
    if not tied:
        yield None
        return
    tie = Tie()
    try:
        yield tie
    except (UserError, BaseExceptionGroup) as raised:
        error = error_in(raised)
        if isinstance(error, DatabaseUnavailable | RedisUnavailable):
            log.error("%s", in_a_line(error))  # noqa: TRY400 - the reason is in the message
            raise typer.Exit(1) from raised  # the supervisor tries again
        if isinstance(error, UserError):
            tie.say(in_a_line(error))
            raise typer.Exit(2) from raised
        raise
