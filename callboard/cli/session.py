"""A command's connection to the log and its read models, and how ids are given by hand."""

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
from asyncpg import Pool
from msgspec import Struct

import projections
from callboard.bootstrap import process_name, served
from callboard.cli.output import log_to_stderr, people
from callboard.settings import Settings
from eventstore.store import PostgresEventStore
from projections import runs, tasks
from projections.runner import Runner
from projections.runs import Run
from projections.tasks import Task
from protocols.errors import UnknownRun, UnknownTask

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


@asynccontextmanager
async def opened(settings: Settings, name: str) -> AsyncIterator[Session]:
    """The log and its read models, as the settings name them. Raises DatabaseUnavailable, SchemaTooNew."""
    assert settings.database_url
    async with PostgresEventStore.open(settings.database_url) as store:
        runner = Runner(store.pool, store, projections.ALL, process_name(name), lease_s=settings.lease_s)
        yield Session(store=store, runner=runner, settings=settings)


def read(fetch: Callable[[Session], Awaitable[T]], *, caught_up: bool = True) -> T:
    """What `fetch` reads; by default from read models that are at the log's head."""

    async def work() -> T:
        async with opened(settings, "command") as session:
            if caught_up:
                await waited("The projections catch up with the log", session.runner.catch_up())
            else:
                await session.runner.prepare()
            return await fetch(session)

    with served(command_settings()) as settings:
        return anyio.run(work)


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
