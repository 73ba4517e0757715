"""Operating-system processes, kept up: the parent's side and the child's.

A child is tied to its parent by two pipes. Its standard input stays empty; its end tells the child that the parent
is gone, however it went, and the child drains and exits. On its standard output the child says two things to the
parent: the line `ready`, and why it can't run. Its log goes to standard error: the parent's own, or a file.

A child is in a session of its own, so that Ctrl-C in a terminal reaches only the parent, which ends its children in
good order.
"""

import asyncio
import os
import random
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Literal

import anyio
import anyio.abc
from anyio.streams.text import TextReceiveStream
from msgspec import Struct

from callboard.protocols.errors import ProcessGaveUp
from callboard.protocols.ports import Clock, SystemClock

BAD_INPUT: Final = 2  # the exit code of a process that would end the same way again
READY: Final = "ready"

FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 10.0
STEADY_S: Final = 30.0  # a process that ran so long begins with the first delay again
SECOND_GRACE_S: Final = 2.0  # between the second SIGTERM and SIGKILL
LAST_WORDS_S: Final = 1.0  # between a process's end and the end of what it said
MAX_WORDS: Final = 20  # lines


class ProcessSpec(Struct, frozen=True):
    """A process to run. `env` comes on top of the parent's; `log` is a file that its standard error is added to."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = {}
    restart: bool = True
    log: Path | None = None


class ProcessEvent(Struct, frozen=True):
    """What became of a process. `code` is negative for a signal; `delay_s` is the time until it is started again;
    `words` are what it said of its end.
    """

    name: str
    what: Literal["started", "ready", "exited", "restarting"]
    pid: int
    code: int | None = None
    delay_s: float | None = None
    words: str = ""


class Supervisor:
    """Runs processes, each until it is told to stop; one that ends unasked is started again."""

    def __init__(
        self, specs: Sequence[ProcessSpec], on_event: Callable[[ProcessEvent], None], clock: Clock | None = None
    ) -> None:
        self._specs = specs
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._running: dict[str, int] = {}
        self._proven: set[str] = set()  # processes that have been ready
        self._stopping = anyio.Event()
        self._failure: ProcessGaveUp | None = None

    def __repr__(self) -> str:
        return f"Supervisor({len(self._running)} of {len(self._specs)} processes run)"

    def pids(self) -> dict[str, int]:
        """The processes that run now, by name."""
        return dict(self._running)

    def kill(self) -> None:
        """End all processes that run, and what they started, at once."""
        for pid in self.pids().values():
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    async def run(self, stop: anyio.Event, *, grace_s: float) -> None:
        """Keep all processes up until `stop` is set, then end them: SIGTERM, after the grace period a second one,
        and SIGKILL 2 s later. Cancelled, it does the same before it lets go, without a grace period for those that
        have been asked before.

        Returns early when all have ended that are not to be restarted. Raises ProcessGaveUp, with all others ended,
        as soon as one ends with exit code 2 that has never been ready. One that has been is started again, as after
        any other end: what it was given is right, and the others go on.
        """
        self._stopping = anyio.Event()
        self._failure = None
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._stop_when, stop)
            async with anyio.create_task_group() as group:
                for spec in self._specs:
                    group.start_soon(self._keep, spec, grace_s)
            watching.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def _stop_when(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._stopping.set()

    async def _keep(self, spec: ProcessSpec, grace_s: float) -> None:
        """One process, again and again."""
        starts = 0  # in a row that did not last
        while not self._stopping.is_set():
            begun = self._clock.monotonic()
            code, pid, words = await self._run(spec, grace_s)
            if self._stopping.is_set():
                return
            hopeless = code == BAD_INPUT and spec.name not in self._proven
            if hopeless:
                self._failure = self._failure or ProcessGaveUp(spec.name, words or _where_it_says(spec))
                self._stopping.set()
            if not spec.restart or hopeless:
                return
            starts = 1 if self._clock.monotonic() - begun >= STEADY_S else starts + 1
            delay_s = random.uniform(0, min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(starts - 1, 10)))
            self._on_event(ProcessEvent(spec.name, "restarting", pid, code, delay_s))
            await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not longer than until the stop."""
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_after, group.cancel_scope, self._stopping)
            await self._clock.sleep(delay_s)
            group.cancel_scope.cancel()

    async def _run(self, spec: ProcessSpec, grace_s: float) -> tuple[int, int, str]:
        """One process from its start to its end: its exit code, its pid, and what it said last."""
        try:
            with _open_log(spec.log) as log:
                process = await anyio.open_process(
                    spec.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, **spec.env},
                    start_new_session=True,
                )
        except OSError as error:
            self._on_event(ProcessEvent(spec.name, "exited", 0, BAD_INPUT))
            return BAD_INPUT, 0, f"{spec.command[0]} can't be started: {error.strerror}"
        async with process:
            pid = process.pid
            self._running[spec.name] = pid
            self._on_event(ProcessEvent(spec.name, "started", pid))
            words: deque[str] = deque(maxlen=MAX_WORDS)
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._end_when_stopping, process, grace_s)
                    heard = await group.start(self._listen, spec.name, process, words)
                    await process.wait()
                    with anyio.move_on_after(LAST_WORDS_S):  # what it started may hold the pipe open for longer
                        await heard.wait()
                    group.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process, 0.0 if self._stopping.is_set() else grace_s)
                del self._running[spec.name]
        assert process.returncode is not None
        said = "\n".join(words)
        self._on_event(ProcessEvent(spec.name, "exited", pid, process.returncode, words=said))
        return process.returncode, pid, said

    async def _listen(
        self,
        name: str,
        process: anyio.abc.Process,
        words: deque[str],
        *,
        task_status: anyio.abc.TaskStatus[anyio.Event],
    ) -> None:
        """Hear what a child says to its parent. `task_status` gives the event that tells when that is over."""
        assert process.stdout is not None
        heard = anyio.Event()
        task_status.started(heard)
        rest = ""
        async for text in TextReceiveStream(process.stdout, errors="replace"):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                if line == READY:
                    self._proven.add(name)
                    self._on_event(ProcessEvent(name, "ready", process.pid))
                else:
                    words.append(line)
        if rest:
            words.append(rest)
        heard.set()

    async def _end_when_stopping(self, process: anyio.abc.Process, grace_s: float) -> None:
        await self._stopping.wait()
        await _end(process, grace_s)


async def _end(process: anyio.abc.Process, grace_s: float) -> None:
    """End a process that may run: ask it, ask it again, kill it and what it started."""
    for patience_s in (grace_s, SECOND_GRACE_S):
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(patience_s):
            await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _cancel_after(scope: anyio.CancelScope, event: anyio.Event) -> None:
    await event.wait()
    scope.cancel()


@contextmanager
def _open_log(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
    else:
        with path.open("ab") as log:
            yield log


def _where_it_says(spec: ProcessSpec) -> str:
    return f"its log says why: {spec.log}" if spec.log else "it said why above"


# -- the child's side ----------------------------------------------------------------------------------------


class Tie:
    """What a child has of its parent. It takes standard output for itself: from then on what the process prints
    goes to standard error, where it can't be taken for a word to the parent.
    """

    def __init__(self) -> None:
        self._words = os.dup(1)
        os.dup2(2, 1)

    def say(self, words: str) -> None:
        """Tell the parent something: READY, or why this process can't run."""
        with suppress(BrokenPipeError):
            os.write(self._words, f"{words}\n".encode())

    async def parent_gone(self) -> None:
        """Return when the parent has let go of this process's standard input, or was killed."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()

        def look() -> None:
            if not os.read(0, 4096):
                gone.set()

        loop.add_reader(0, look)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(0)
