"""The PostgreSQL and the Redis that the tests run on, and the end of them.

A run of pytest has one folder for all that its processes (one, or the workers of pytest-xdist) start. A keeper, this
module as a program, waits until pytest has ended, however it ended, then ends what is left of the run and removes the
folder:

    python -m tests.servers FOLDER      ends with its input, which only pytest itself holds open
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from callboard.services import LocalServices
from callboard.services.account import account_for
from callboard.services.postgres import Postgres
from callboard.services.valkey import Valkey

DATABASE_URL: Final = "CALLBOARD_TEST_DATABASE_URL"
REDIS_URL: Final = "CALLBOARD_TEST_REDIS_URL"
CONTAINERS: Final = "CALLBOARD_TEST_CONTAINERS"
RUN: Final = "TESTS_OF_CALLBOARD"  # in the environment of each process of a run: its folder
SHARED: Final = "shared"  # the data of the servers that all processes of a run share
OWN: Final = "own-"  # begins the names of folders with the data of other servers


class Servers(NamedTuple):
    """URLs of servers on which the tests may create databases and keys of their own."""

    database_url: str
    redis_url: str


@contextmanager
def servers(folder: Path, environ: Mapping[str, str] = os.environ) -> Iterator[Servers]:
    """The servers that the environment names, or containers if it asks for them.

    Else local ones with their data below `folder`: all processes of a run share them, the last one stops them.
    """
    given = [name for name in (DATABASE_URL, REDIS_URL) if environ.get(name)]
    if len(given) == 1:
        raise RuntimeError(f"{given[0]} is set alone: set both {DATABASE_URL} and {REDIS_URL}, or neither")
    if given:
        yield Servers(environ[DATABASE_URL], environ[REDIS_URL])
    elif environ.get(CONTAINERS) == "1":
        with _containers() as started:
            yield started
    else:
        with LocalServices(folder / SHARED, durable=False) as urls:
            yield Servers(*urls)


@contextmanager
def _containers() -> Iterator[Servers]:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.community.redis import RedisContainer

    with (
        PostgresContainer("postgres:17-alpine", driver=None) as postgres,
        RedisContainer("redis:7-alpine") as redis,
    ):
        redis_url = f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0"
        yield Servers(postgres.get_connection_url(), redis_url)


class Keeper:
    """Ends what is left of a run when the run has ended."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="callboard-"))
        self.folder.chmod(0o755)  # the servers may run as another user
        command = [sys.executable, "-m", "tests.servers", str(self.folder)]
        root = Path(__file__).parent.parent
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=root, start_new_session=True)

    def end(self) -> None:
        """The run has ended: return when nothing of it is left."""
        self._process.communicate()


def _keep(folder: Path) -> None:
    sys.stdin.read()
    _end_processes(folder)
    LocalServices(folder / SHARED).stop(force=True)
    for home in folder.glob(f"{OWN}*"):
        for server in (Postgres, Valkey):
            server(home, home, account_for(home), durable=False).stop()
    shutil.rmtree(folder)


def _end_processes(folder: Path) -> None:
    """Kill the processes of a run: those that were started in its environment, but for the servers."""
    mark = f"{RUN}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is another user's, or has ended
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
