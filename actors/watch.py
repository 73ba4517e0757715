"""Notices when the event loop stands still, and names who keeps it.

A handler that computes for long, or calls something that blocks, stops everything else in its process, the renewal of
its leases too. A thread sees that while it lasts; the loop itself sees it afterwards.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Final, NamedTuple

log = logging.getLogger("callboard.actors")

BEAT_S: Final = 0.1
BLOCKED_S: Final = 1.0  # from then on it is worth a warning


class Stop(NamedTuple):
    """The loop did not turn for `seconds`. `ours`: something in it kept it; else the whole process did not run."""

    seconds: float
    ours: bool


class LoopWatch:
    """Watches the event loop that `run` runs on. `stood_still` is called after a stop of at least `longest_s`."""

    def __init__(self, longest_s: float, stood_still: Callable[[Stop], Awaitable[None]]) -> None:
        self._longest_s = longest_s
        self._stood_still = stood_still
        self._beat = time.monotonic()
        self._looks = 0  # of the thread, since the last beat
        self._warned = False

    async def run(self) -> None:
        """Watch, until cancelled."""
        loop, over = asyncio.get_running_loop(), threading.Event()
        self._beat = time.monotonic()
        watcher = threading.Thread(
            target=self._look, args=(loop, threading.get_ident(), over), name="loop watch", daemon=True
        )
        watcher.start()
        try:
            while True:
                used_s = time.process_time()
                await asyncio.sleep(BEAT_S)
                await self._beaten(time.process_time() - used_s)
        finally:
            over.set()

    async def _beaten(self, used_s: float) -> None:
        now = time.monotonic()
        stopped_s, looks = now - self._beat - BEAT_S, self._looks
        self._beat, self._looks, self._warned = now, 0, False
        if stopped_s >= self._longest_s:
            # Where the thread could look, or the process used the processor, it was not the machine that stood still.
            await self._stood_still(Stop(stopped_s, max(looks * BEAT_S, used_s) >= stopped_s / 2))
            self._beat = time.monotonic()

    def _look(self, loop: asyncio.AbstractEventLoop, thread: int, over: threading.Event) -> None:
        while not over.wait(BEAT_S):
            self._looks += 1
            blocked_s = time.monotonic() - self._beat - BEAT_S
            if blocked_s >= BLOCKED_S and not self._warned:
                self._warned = True
                task = asyncio.current_task(loop)
                who = task.get_name() if task is not None else "something"
                where = _innermost(sys._current_frames().get(thread))  # there is no other way to see it from here
                log.warning("%s blocks the event loop for %.1f s already, in %s", who, blocked_s, where)


def _innermost(frame: FrameType | None) -> str:
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
