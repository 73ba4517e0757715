"""What the benchmarks share: servers that keep what they are told, a database for each round, and real processes."""

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import anyio
import asyncpg
import msgspec

from callboard.actors.process.supervisor import ProcessEvent, Supervisor
from callboard.cli.serve import process_specs
from callboard.services import LocalServices
from callboard.services.local import Urls
from callboard.settings import Settings

READY_WITHIN_S = 60.0


@contextmanager
def servers() -> Iterator[Urls]:
    """CALLBOARD_TEST_DATABASE_URL and CALLBOARD_TEST_REDIS_URL, or local servers of our own; commits are durable."""
    database_url, redis_url = (os.environ.get(f"CALLBOARD_TEST_{name}_URL") for name in ("DATABASE", "REDIS"))
    if database_url and redis_url:
        yield Urls(database_url, redis_url)
        return
    with TemporaryDirectory(prefix="callboard-") as home, LocalServices(Path(home)) as urls:
        yield urls


@asynccontextmanager
async def fresh_database(url: str) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped at the end."""
    name = f"benchmark_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"create database {name}")
    try:
        yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    finally:
        await connection.execute(f"drop database {name} with (force)")
        await connection.close()


@asynccontextmanager
async def processes(
    app: Path, counts: Mapping[str, int], settings: Settings, env: Mapping[str, str], log: Path
) -> AsyncIterator[Supervisor]:
    """The processes that `callboard up` would start for an app, all ready; one that ends is not started again.

    They are named `projections`, and `ROLE` or `ROLE-NUMBER`. `env` comes on top, and what they log goes to a file.
    """
    specs = [
        msgspec.structs.replace(spec, restart=False, env={**spec.env, **env}, log=log)
        for spec in process_specs(str(app), counts, settings)
    ]
    ready, stop = anyio.Event(), anyio.Event()
    waiting = {spec.name for spec in specs}

    def note(event: ProcessEvent) -> None:
        if event.what == "ready":
            waiting.discard(event.name)
            if not waiting:
                ready.set()

    supervisor = Supervisor(specs, note)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: supervisor.run(stop, grace_s=5))
        with anyio.fail_after(READY_WITHIN_S):
            await ready.wait()
        yield supervisor
        stop.set()
