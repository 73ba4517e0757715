"""Notices when the event loop stands still, and names who keeps it.

A handler that computes for long, or calls something that blocks, stops everything else in its process, the renewal of
its leases too. A thread sees that while it lasts, and runs what has to be done meanwhile on an event loop of its own;
the loop itself sees it afterwards.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, Final, NamedTuple

log = logging.getLogger("callboard.actors")

BEAT_S: Final = 0.1
BLOCKED_S: Final = 1.0  # from then on it is worth a warning


class Block(NamedTuple):
    """The loop has not turned for `seconds`. `task` is the name of the asyncio task that runs, "" if there is none."""

    seconds: float
    task: str
    place: str  # in the code


Look = Callable[[], Block | None]  # None: the loop turns


class LoopWatch:
    """Watches the event loop that `run` runs on, for stops of at least `longest_s`.

    Through each of them `meanwhile` runs, on a loop of its own in another thread: it is to return soon after the
    function that it is given says None. `stood_still` is called afterwards, with the seconds that it lasted.
    """

    def __init__(
        self,
        longest_s: float,
        stood_still: Callable[[float], Awaitable[None]],
        meanwhile: Callable[[Look], Coroutine[Any, Any, None]],
    ) -> None:
        self._longest_s = longest_s
        self._stood_still = stood_still
        self._meanwhile = meanwhile
        self._beat = time.monotonic()
        self._warned = False

    @property
    def behind(self) -> bool:
        """Whether the loop turns again after a stop, and `stood_still` has not been called yet."""
        return time.monotonic() - self._beat - BEAT_S >= self._longest_s

    async def run(self) -> None:
        """Watch, until cancelled."""
        loop, over = asyncio.get_running_loop(), threading.Event()
        self._beat = time.monotonic()
        watcher = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident(), over), name="loop watch", daemon=True
        )
        watcher.start()
        try:
            while True:
                await asyncio.sleep(BEAT_S)
                await self._beaten()
        finally:
            over.set()

    async def _beaten(self) -> None:
        now = time.monotonic()
        stopped_s = now - self._beat - BEAT_S
        self._beat, self._warned = now, False
        if stopped_s >= self._longest_s:
            await self._stood_still(stopped_s)
            self._beat = time.monotonic()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int, over: threading.Event) -> None:
        def look() -> Block | None:
            blocked_s = time.monotonic() - self._beat - BEAT_S
            if over.is_set() or blocked_s < min(self._longest_s, BLOCKED_S):
                return None
            task = asyncio.current_task(loop)
            where = place_of(sys._current_frames().get(thread))  # there is no other way to see it from here
            block = Block(blocked_s, task.get_name() if task is not None else "", where)
            if blocked_s >= BLOCKED_S and not self._warned:
                self._warned = True
                who = block.task or "something"
                log.warning("%s blocks the event loop for %.1f s already, in %s", who, blocked_s, where)
            return block

        while not over.wait(BEAT_S):
            block = look()
            if block is not None and block.seconds >= self._longest_s:
                asyncio.run(self._meanwhile(look))


def place_of(frame: FrameType | None) -> str:
    """The innermost function of a thread, and where that is in the code."""
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
