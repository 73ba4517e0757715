"""A command's connection to the log and its read models, and how ids are given by hand."""

import getpass
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
from asyncpg import Pool
from msgspec import Struct

from callboard import projections
from callboard.actors.outside.client import Client
from callboard.actors.outside.dead_letters import DeadLetters
from callboard.actors.roles.directory import Directory
from callboard.bootstrap import connected, process_name, served
from callboard.cli.output import log_to_stderr, note, people, plain
from callboard.eventstore.leases import PostgresLeases
from callboard.eventstore.store import PostgresEventStore
from callboard.projections import runs, tasks
from callboard.projections.runner import Runner
from callboard.projections.runs import Run
from callboard.projections.tasks import Task
from callboard.protocols.errors import NotProjected, ProjectionsBehind, UnknownEventType, UnknownRun, UnknownTask
from callboard.protocols.ports import Bus
from callboard.settings import Settings

T = TypeVar("T")

LAST: Final = "last"
PATIENCE_S: Final = 0.5  # what takes longer is told


class Session(Struct, frozen=True, kw_only=True):
    """What reading commands need."""

    store: PostgresEventStore
    runner: Runner
    settings: Settings

    @property
    def pool(self) -> Pool:
        """The database of the read models."""
        return self.store.pool

    async def run(self, given: str) -> Run:
        """A run by its id, by an unambiguous beginning or end of it, or as `last`. Raises UnknownRun, AmbiguousId."""
        if given == LAST:
            newest = await runs.list_runs(self.pool, limit=1)
            if not newest:
                raise UnknownRun(given)
            return newest[0]
        return await runs.find_run(self.pool, given)

    async def task(self, given: str) -> Task:
        """A task in the same ways. Raises UnknownTask, AmbiguousId."""
        if given == LAST:
            newest = await tasks.list_tasks(self.pool, limit=1)
            if not newest:
                raise UnknownTask(given)
            return newest[0]
        return await tasks.find_task(self.pool, given)


class Desk(Session, frozen=True, kw_only=True):
    """What commands need that change something."""

    leases: PostgresLeases
    directory: Directory
    bus: Bus
    client: Client

    @property
    def letters(self) -> DeadLetters:
        """Dead letters."""
        return DeadLetters(self.pool, self.store, self.bus, self.directory)


@asynccontextmanager
async def opened(settings: Settings, name: str) -> AsyncIterator[Session]:
    """The log and its read models, as the settings name them. Raises DatabaseUnavailable, DatabaseUnfit,
    SchemaTooNew.
    """
    assert settings.database_url
    async with PostgresEventStore.open(settings.database_url, connections=settings.connections) as store:
        runner = Runner(store.pool, store, projections.ALL, process_name(name), lease_s=settings.lease_s)
        yield Session(store=store, runner=runner, settings=settings)


async def caught_up_with_log(runner: Runner) -> None:
    """Return when the read models are at the log's head, but for those that are stopped: they are told."""
    stopped = await waited("The projections catch up with the log", catch_up(runner))
    for name, error in stopped.items():
        note(f"[yellow]{name} is not up to date:[/] {plain(error)}")


async def catch_up(runner: Runner) -> dict[str, str]:
    """Fold what can be folded; gives why the other read models are stopped. Raises ProjectionsBehind."""
    try:
        await runner.catch_up()
    except (NotProjected, ProjectionsBehind, UnknownEventType):
        stopped = await runner.stopped(projections.ALL)
        if not stopped:
            raise
        return stopped
    return {}


def read(fetch: Callable[[Session], Awaitable[T]], *, caught_up: bool = True) -> T:
    """What `fetch` reads; by default from read models that are at the log's head."""

    async def work() -> T:
        async with opened(settings, "command") as session:
            if caught_up:
                await caught_up_with_log(session.runner)
            else:
                await session.runner.prepare()
            return await fetch(session)

    with served(command_settings()) as settings:
        return anyio.run(work)


def act(work: Callable[[Desk], Awaitable[T]], name: str) -> T:
    """What `work` gives, from read models that are at the log's head. `name` tells people which process this is."""

    async def working() -> T:
        async with (
            connected(settings, name, redis_needed=False) as stack,
            stack.client() as client,
        ):
            await caught_up_with_log(stack.runner)
            return await work(
                Desk(
                    store=stack.store,
                    runner=stack.runner,
                    settings=settings,
                    leases=stack.leases,
                    directory=stack.directory,
                    bus=stack.bus,
                    client=client,
                )
            )

    with served(command_settings()) as settings:
        return anyio.run(working)


def who(by: str | None) -> str:
    """Who gives a command: as said, or the user of this computer."""
    try:
        return by or getpass.getuser()
    except (OSError, KeyError):  # no name for this user
        return f"user {os.getuid()}"


def command_settings() -> Settings:
    """The settings of a command that ends by itself: what it logs below a warning is shown only at level DEBUG."""
    settings = Settings.from_env(os.environ)
    level = settings.log_level
    log_to_stderr("WARNING" if level == "INFO" else level)
    return settings


async def waited(what: str, work: Awaitable[T]) -> T:
    """Await something; if it takes long, people see what for."""
    async with anyio.create_task_group() as group:
        group.start_soon(_tell, what)
        result = await work
        group.cancel_scope.cancel()
    return result


async def _tell(what: str) -> None:
    await anyio.sleep(PATIENCE_S)
    console = people(stderr=True)
    if console.is_terminal:
        with console.status(f"{what} ..."):
            await anyio.sleep_forever()
    logging.getLogger("callboard").info("%s", what)
