"""One local server process: started detached, known to be alive by a lock that it holds, ended by a signal.

A server inherits one open file, `<name>.alive`, locked by flock. The kernel gives that lock back when the last
process of the server has ended, however it ended. So the lock tells what no pid can tell: that nothing of a server is
left, its children included, and that its data may be opened by a new one.

All methods block, and are called under the lock of `LocalServices`.
"""

import fcntl
import logging
import os
import re
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar, Final

from callboard.protocols.errors import ServicesFailed
from callboard.services.account import Account

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0  # PostgreSQL may have to replay up to max_wal_size of its log first
STOP_TIMEOUT_S: Final = 30.0
KILL_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 2.0
POLL_S: Final = 0.01
MAX_LOG_BYTES: Final = 1_000_000

# In the background of a shell that ends at once: the server is nobody's child, and leaves no zombie to its starter.
DETACHED: Final = ("/bin/sh", "-c", '"$@" &', "sh")


class Server(ABC):
    """A server with its data in a folder below `home` and its socket in the folder `sockets`."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]  # ends it in good order
    kill_signal: ClassVar[signal.Signals]  # ends it at once

    def __init__(self, home: Path, sockets: Path, account: Account, *, durable: bool) -> None:
        self.home = home
        self.sockets = sockets
        self.account = account
        self.durable = durable
        self.log = home / f"{self.name.lower()}.log"

    @abstractmethod
    def answers(self) -> bool:
        """Whether it takes commands."""

    @abstractmethod
    def prepare(self, alive: int) -> list[str]:
        """Make the data ready for a start while nothing of the server is alive; gives the command that starts it.

        `alive` is the locked file, for `run`. Raises ServicesMissing, ServicesFailed.
        """

    @abstractmethod
    def pid(self) -> int | None:
        """The process id that the server wrote down."""

    def start(self) -> None:
        """Return as soon as the server answers; start it if nothing of it is alive. Raises ServicesFailed."""
        deadline = time.monotonic() + START_TIMEOUT_S
        launched_at: int | None = None
        while not self.answers():
            if not self._alive():
                if launched_at is not None:
                    raise self.failed(self._last_words(launched_at))
                launched_at = self._launch()
            elif time.monotonic() > deadline:
                raise self.failed(f"it runs, but did not answer within {START_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Return when nothing of the server is alive; ends it if need be. Raises ServicesFailed."""
        for number, patience in ((self.stop_signal, STOP_TIMEOUT_S), (self.kill_signal, KILL_TIMEOUT_S)):
            signaled = False
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if not self._alive():
                    return
                signaled = signaled or self._signal(number)  # one that is just starting has no pid yet
                time.sleep(POLL_S)
        raise self.failed("it does not end")

    def failed(self, reason: str) -> ServicesFailed:
        """The error for this server."""
        return ServicesFailed(self.name, reason, str(self.log))

    def run(self, *command: str | Path, alive: int, stdin: str = "") -> None:
        """Run a command on the server's data, to its end; raises ServicesFailed.

        It holds `alive` like the server itself: if this process is killed, the next one waits for the command's end.
        """
        done = subprocess.run(
            [*self.account.prefix, *command],
            pass_fds=[alive],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env=_environment(),
        )
        if done.returncode != 0:
            raise self.failed(f"{Path(command[0]).name}: {_telling(done.stderr + done.stdout)}")

    def _launch(self) -> int:
        """Start the server; gives the length of its log before."""
        with self._held_alive() as held:
            command = self.prepare(held.fileno())
            if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
                self.log.replace(self.log.with_suffix(".old.log"))
            log.info("starting %s in %s", self.name, self.home)
            with self.log.open("ab") as output:
                subprocess.run(
                    [*DETACHED, *self.account.prefix, *command],
                    pass_fds=[held.fileno()],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=True,
                    cwd="/",
                    umask=0o077,
                    env=_environment(),
                )
                return output.tell()

    def _alive(self) -> bool:
        try:
            with self._held_alive():
                return False
        except BlockingIOError:
            return True

    @contextmanager
    def _held_alive(self) -> Iterator[IO[bytes]]:
        with (self.home / f"{self.name.lower()}.alive").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield held

    def _signal(self, number: signal.Signals) -> bool:
        pid = self.pid()
        if pid is None or not works_below(pid, self.home):
            return False
        log.info("ending %s in %s by %s", self.name, self.home, number.name)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def _last_words(self, since: int) -> str:
        with self.log.open("rb") as lines:
            lines.seek(since)
            return _telling(lines.read(MAX_LOG_BYTES).decode(errors="replace"))


def ask(path: Path, request: bytes) -> bytes:
    """The first bytes that a server answers on its unix socket; nothing if it doesn't."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return connection.recv(1024)
        except OSError:
            return b""


def works_below(pid: int, folder: Path) -> bool:
    """Whether a process is alive, no zombie, and has its working directory in the folder.

    Where that directory can't be seen (macOS; other users' processes) a server's name is enough.
    """
    process = Path(f"/proc/{pid}")
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except PermissionError:
        words = (process / "cmdline").read_text(errors="replace")  # a zombie has none
    except OSError:
        if process.parent.joinpath("self").exists():
            return False
        listing = ["ps", "-o", "stat=,comm=", "-p", str(pid)]
        words = subprocess.run(listing, capture_output=True, text=True, check=False).stdout
    return not words.startswith("Z") and re.search("postgres|valkey|redis", words) is not None


def read_pid(path: Path) -> int | None:
    """The number in a file's first line, if there is one."""
    try:
        first, _, _ = path.read_text().partition("\n")
    except FileNotFoundError:
        return None
    return int(first) if first.strip().isdecimal() else None


def _environment() -> dict[str, str]:
    """What the servers get of ours. They live longer than we do, so no secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _telling(output: str) -> str:
    """The line that tells best what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("fatal|panic|error|denied|failed", line, re.IGNORECASE)]
    return (errors or lines or ["it ended without a word"])[-1]
