"""A pgbouncer of the tests' own in front of a database, in transaction mode, with few connections for many clients."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit

import asyncpg

from tests.faults.proxy import proxy_to
from tests.host_kit import becomes

CONNECTIONS = 3  # to PostgreSQL: fewer than clients, so that statements of many go over each

CONFIGURATION = """
[databases]
{database} = host={host} port={port} user={user} {password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
server_round_robin = 1
"""


def program() -> str | None:
    """Where pgbouncer is, if it is installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@asynccontextmanager
async def pgbouncer(database_url: str) -> AsyncIterator[str]:
    """The URL of the same database through pgbouncer."""
    parts = urlsplit(database_url)
    sockets = parse_qs(parts.query).get("host")
    if sockets is None:
        with _running(database_url, parts.hostname or "127.0.0.1", parts.port or 5432) as url:
            yield await _ready(url)
        return
    # pgbouncer doesn't run as root, so it may not reach the socket that a PostgreSQL of this account has.
    async with proxy_to(f"unix://{sockets[0]}/.s.PGSQL.5432") as proxy:
        with _running(database_url, "127.0.0.1", proxy.port) as url:
            yield await _ready(url)


@contextmanager
def _running(database_url: str, host: str, port: int) -> Iterator[str]:
    parts = urlsplit(database_url)
    database = parts.path.removeprefix("/")
    own_port = _free_port()
    found = program()
    assert found is not None
    with TemporaryDirectory(prefix="pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(
                database=database,
                host=host,
                port=port,
                user=parts.username or "postgres",
                password=f"password={parts.password}" if parts.password else "",
                own_port=own_port,
                connections=CONNECTIONS,
            )
        )
        with (Path(folder) / "log").open("w") as log:
            user = "nobody" if os.getuid() == 0 else None
            process = subprocess.Popen((found, str(configuration)), stdout=log, stderr=log, user=user, cwd="/")
            try:
                yield f"postgresql://postgres@127.0.0.1:{own_port}/{database}"
            finally:
                process.kill()
                process.wait()


async def _ready(url: str) -> str:
    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(url, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    await becomes(answers)
    return url


def _free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
