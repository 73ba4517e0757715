"""What all tests share: servers, and a fresh database for each test that asks for one."""

import asyncio
import os
import runpy
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from tests.databases import Databases, administer, at
from tests.forking import Forks
from tests.forking import forks as started_forks
from tests.servers import RUN, Keeper, Servers
from tests.servers import servers as running_servers

DEADLINE_S: Final = 60.0  # of whatever a test waits for: a machine that is busy for a while fails none
KEEPER: Final = pytest.StashKey[Keeper]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run what takes long at its full size: minutes, not seconds")
    parser.addoption("--stalls", action="store_true", help="let the event loops of all processes stand still at times")


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, for this process or for the workers that it starts."""
    if not hasattr(config, "workerinput"):
        keeper = config.stash[KEEPER] = Keeper()
        os.environ[RUN] = str(keeper.folder)
    if config.getoption("--stalls"):
        folder = str(Path(__file__).parent / "stalls")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        runpy.run_path(f"{folder}/sitecustomize.py")


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEEPER in config.stash:
        config.stash[KEEPER].end()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A run of one file or test starts no workers: it is over sooner without."""
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else None


@pytest.fixture(scope="session")
def run_folder() -> Path:
    """The folder of this run, shared by its workers; removed at the end."""
    return Path(os.environ[RUN])


@pytest.fixture(scope="session")
def worker_name() -> str:
    """The name of this process among those of the run."""
    return os.environ.get("PYTEST_XDIST_WORKER", "alone")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether tests may take long: they are run with `--long`."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers(run_folder: Path) -> Iterator[Servers]:
    """PostgreSQL and Redis, for the whole run."""
    with running_servers(run_folder) as running:
        yield running


@pytest.fixture(scope="session")
def databases(servers: Servers) -> Iterator[Databases]:
    """Migrated databases, made ahead."""
    with Databases(servers) as databases:
        yield databases


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What starts `callboard` fast, for the tests that need several processes of it."""
    with started_forks() as forks:
        yield forks


@pytest.fixture
def patient_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of the bus don't look by themselves whether something has changed: they have to be told."""
    monkeypatch.setattr("callboard.bus.reader.BLOCK_MS", round(10 * DEADLINE_S * 1000))
    monkeypatch.setattr("callboard.bus.reader.CLAIM_AGAIN_S", 10 * DEADLINE_S)


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """A Redis to share with the other tests: a store's `store_id` keeps its keys apart."""
    return servers.redis_url


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A fresh, migrated database, dropped after the test; and so are the keys that were made for it."""
    url = databases.take()
    yield url
    databases.give_back(url)


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database without anything in it, dropped after the test."""
    name = f"callboard_test_{uuid4().hex}"
    run(administer(servers, f"create database {name}"))
    yield at(servers.database_url, name)
    run(administer(servers, f"drop database {name} with (force)"))


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop of its own, also where a fixture of a running loop asks for the database."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
