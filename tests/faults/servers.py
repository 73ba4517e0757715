"""A PostgreSQL and a Redis of the fault tests' own, which they may stop, kill, and start again."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from callboard.services.account import account_for, private_folder
from callboard.services.postgres import Postgres
from callboard.services.server import Server
from callboard.services.valkey import Valkey
from tests.servers import OWN


class OwnServers:
    """Both servers. All methods block until it is done."""

    def __init__(self, home: Path, sockets: Path) -> None:
        account = account_for(home)
        private_folder(home, account)
        private_folder(sockets, account)
        self._home = home
        self.postgres = Postgres(home, sockets, account, durable=False)
        self.redis = Valkey(home, sockets, account, durable=False)

    def start(self) -> None:
        """Start what does not run."""
        self.redis.start()
        self.postgres.start()

    def stop(self) -> None:
        """End both."""
        self.postgres.stop()
        self.redis.stop()

    def kill(self, server: Server) -> None:
        """End a server like a crash: PostgreSQL as `pg_ctl stop -m immediate` does, Redis by SIGKILL."""
        pid = server.pid()
        assert pid is not None, f"{server.name} does not run"
        os.kill(pid, server.kill_signal)
        server.stop()  # returns when nothing of it is left

    def forget(self) -> None:
        """Kill Redis, and start it again with nothing on disk."""
        self.kill(self.redis)
        for folder in self._home.iterdir():
            if folder.is_dir() and folder.name in ("valkey", "redis"):
                shutil.rmtree(folder)
        self.redis.start()


@contextmanager
def own_servers(folder: Path, name: str) -> Iterator[OwnServers]:
    """Servers that run, for as long as the block lasts, with their data in the folder of the run."""
    servers = OwnServers(folder / f"{OWN}{name}", folder / f"sockets-{name}")
    servers.start()
    try:
        yield servers
    finally:
        servers.stop()


assert Valkey.kill_signal == signal.SIGKILL
assert Postgres.kill_signal == signal.SIGQUIT  # "immediate"
