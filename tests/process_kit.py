"""Processes as an operator has them: those that serve an app, each by `callboard actor`, and a model provider."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import Request, urlopen

import anyio
import msgspec

from callboard.actors.outside.client import Sent
from callboard.bootstrap import Stack, connected
from callboard.protocols.codec import body_of
from callboard.protocols.events import ENDS_TASK, Event
from callboard.settings import Settings
from tests.cli_kit import until
from tests.conftest import DEADLINE_S, run
from tests.databases import forget_keys
from tests.fake_provider import Play, Seen, environment
from tests.faults.rest import becomes, owned
from tests.forking import Forks

T = TypeVar("T")


class Provider:
    """A fake provider in a process of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.env = environment(url)

    def play(self, *plays: Play, model: str | None = None) -> None:
        """Play these next, for this model only if one is named."""
        self._post("plays", {"plays": plays} | ({"model": model} if model else {}))

    def otherwise(self, play: Play) -> None:
        """Play this whenever nothing else is to be played."""
        self._post("otherwise", play)

    def text(self) -> str:
        """All that it was asked, as JSON."""
        with urlopen(f"{self.url}/seen") as answer:
            return str(answer.read().decode())

    def seen(self, model: str | None = None) -> list[Seen]:
        """The requests, in order; of this model only if one is named."""
        found = msgspec.convert(json.loads(self.text())["seen"], list[Seen])
        return [each for each in found if model in (None, each.body["model"])]

    def _post(self, what: str, content: object) -> None:
        urlopen(Request(f"{self.url}/{what}", msgspec.json.encode(content))).close()


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider, until the block ends."""
    command = [sys.executable, "-m", "tests.fake_provider"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield Provider(server.stdout.readline().strip())
        server.communicate("")


class Processes:
    """The processes that serve an app, each under a name of its own."""

    def __init__(self, forks: Forks, environ: dict[str, str], app: str) -> None:
        self._forks = forks
        self._environ = environ
        self._app = app
        self._pids: dict[str, int] = {}

    def start(self, *names: str) -> None:
        """Start a process of each name, for all roles of the app; each has its share of their partitions on return."""
        for name in names:
            arguments = ("actor", "all", "--app", self._app, "--name", name)
            self._pids[name] = self._forks.start(arguments, self._environ, self._log(name))
        for name in names:
            self.until_said(name, "ready: serves")
        inside(self._environ, lambda stack: becomes(lambda: owned(stack, stack.directory.roles), DEADLINE_S))

    def kill(self, name: str) -> None:
        """End one where it stands."""
        pid = self._pids.pop(name)
        os.kill(pid, signal.SIGKILL)
        self._forks.wait(pid)

    def ended(self) -> list[str]:
        """The names of those that have ended by themselves; `wait` for them."""
        return [name for name, pid in self._pids.items() if ") Z " in Path(f"/proc/{pid}/stat").read_text()]

    def wait(self, name: str) -> int:
        """Wait for the end of one; gives its exit code, negative for a signal."""
        return self._forks.wait(self._pids.pop(name))

    def stop(self) -> None:
        """End all in good order."""
        for pid in self._pids.values():
            os.kill(pid, signal.SIGTERM)
        while self._pids:
            name, pid = self._pids.popitem()
            assert self._forks.wait(pid) == 0, self._log(name).read_text()

    def until_said(self, name: str, words: str) -> None:
        """Return when a process has logged these words."""
        log, status = self._log(name), Path(f"/proc/{self._pids[name]}/stat")
        until(lambda: words in (log.read_text() if log.exists() else "") or ") Z " in status.read_text())
        assert words in log.read_text(), log.read_text()

    def _log(self, name: str) -> Path:
        return Path(self._environ["PWD"]) / f"{name}.log"

    def _end(self) -> None:
        for name in list(self._pids):
            self.kill(name)


@contextmanager
def processes(forks: Forks, environ: dict[str, str], app: str) -> Iterator[Processes]:
    """Processes of an app, none at first; those that still run at the end are killed."""
    them = Processes(forks, environ, app)
    try:
        yield them
    finally:
        them._end()


def inside(environ: dict[str, str], work: Callable[[Stack], Awaitable[T]]) -> T:
    """What some work on the store gives, done with parts of the test's own."""

    async def run() -> T:
        async with connected(Settings.from_env(environ), "test") as stack:
            return await work(stack)

    return anyio.run(run)


def send(environ: dict[str, str], to: str, payloads: Iterable[Any]) -> list[Sent]:
    """Send one message after the other, each in a run of its own."""

    async def work(stack: Stack) -> list[Sent]:
        async with stack.client() as client:
            return [(await client.send(to, payload))[0] for payload in payloads]

    return inside(environ, work)


def log_of(environ: dict[str, str]) -> list[Event]:
    """All events."""

    async def work(stack: Stack) -> list[Event]:
        return [event async for page in stack.store.read_all() for event in page]

    return inside(environ, work)


def ended(environ: dict[str, str], sent: Collection[Sent]) -> dict[str, Any]:
    """How these tasks end: the body of each one's last event, by task. Returns when all have."""
    wanted = {each.task for each in sent}

    async def work(stack: Stack) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with anyio.fail_after(DEADLINE_S):
            async for page in stack.store.subscribe():
                found |= {it.meta.task: body_of(it) for it in page if it.type in ENDS_TASK and it.meta.task in wanted}
                if len(found) == len(wanted):
                    break
        return found

    return inside(environ, work)


def forget(environ: dict[str, str]) -> None:
    """Lose all that Redis has of this store."""
    run(forget_keys(environ["CALLBOARD_REDIS_URL"], environ["CALLBOARD_DATABASE_URL"]))
