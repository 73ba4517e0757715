"""What the fault tests share: servers of their own, and a stage for each scenario."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from callboard.eventstore.migrations import migrate
from tests.conftest import run
from tests.faults.servers import OwnServers, own_servers
from tests.faults.stage import Stage, opened

SEED = int(os.environ.get("CALLBOARD_FAULT_SEED", random.SystemRandom().randrange(2**32)))
LONGEST_S = 1800

OpenStage = Callable[..., AbstractAsyncContextManager[Stage]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --long a scenario may take longer than other tests."""
    here = Path(__file__).parent
    for item in items:
        if config.getoption("--long") and here in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONGEST_S))


@pytest.fixture(scope="session")
def session_servers(run_folder: Path, worker_name: str) -> Iterator[OwnServers]:
    """Servers for all scenarios of a worker, one after the other."""
    with own_servers(run_folder, worker_name) as servers:
        yield servers


@pytest.fixture
def own(session_servers: OwnServers) -> OwnServers:
    """Both servers, up again whatever the scenario before did to them."""
    session_servers.start()
    return session_servers


@pytest.fixture
def stage(own: OwnServers, tmp_path: Path) -> OpenStage:
    """Opens a stage on a database of its own: `async with stage(name, **plan) as it`."""

    def open_stage(name: str, **options: Any) -> AbstractAsyncContextManager[Stage]:
        database = f"faults_{uuid4().hex}"
        run(_create(own.postgres.url, database))
        url = own.postgres.url.replace("/callboard?", f"/{database}?")
        run(_migrate(url))
        return opened(name, SEED, own, url, tmp_path, **options)

    return open_stage


async def _create(url: str, database: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"create database {database} strategy file_copy")
    finally:
        await connection.close()


async def _migrate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()
