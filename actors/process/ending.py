"""The end of a process, which comes whatever user code does about it.

A handler may swallow its cancellation, a thread may block, an `atexit` function may wait for ever, the event loop may
be blocked. So a thread of its own ends the process at a deadline that is set when its end begins.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from callboard.actors.process.watch import place_of

log = logging.getLogger("callboard")

FORCED: Final = 70  # the exit code of a process that was ended by force (EX_SOFTWARE)
LAST_S: Final = 5.0  # for what comes after the last task: closing connections, threads, atexit functions
LAST_WORDS_S: Final = 2.0  # for the last calls and the log; then the operating system ends the process
MAX_TOLD = 5  # threads


class Ending:
    """Ends this process at the earliest deadline that was set, with exit code 70, unless it has ended by itself."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._set_at = 0.0
        self._thread: threading.Thread | None = None
        self._last: list[Callable[[], object]] = []

    def before(self, call: Callable[[], object]) -> None:
        """Have a function called before the process is ended by force, in another thread; of several, the last one
        first. It has to return soon.
        """
        self._last.append(call)

    def within(self, seconds: float) -> None:
        """End the process in so many seconds, at the latest. May be called from any thread."""
        with self._changed:
            now = time.monotonic()
            deadline = now + seconds
            if self._deadline is not None and self._deadline <= deadline:
                return
            self._deadline, self._set_at = deadline, now
            # Where code keeps the interpreter's lock, no thread can do anything: then SIGALRM ends the process.
            signal.setitimer(signal.ITIMER_REAL, seconds + 2 * LAST_WORDS_S)
            if self._thread is None:
                self._thread = threading.Thread(target=self._wait, name="ending", daemon=True)
                self._thread.start()
            self._changed.notify()

    def lift(self) -> None:
        """Take the deadline back."""
        with self._changed:
            self._deadline = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def at_once(self, reason: str) -> None:
        """End the process now. Does not return."""
        signal.setitimer(signal.ITIMER_REAL, LAST_WORDS_S)
        log.error("%s; the process is ended by force", reason)
        _flush()
        os._exit(FORCED)

    def _wait(self) -> None:
        with self._changed:
            while (left_s := self._left_s()) > 0:
                self._changed.wait(left_s)
            waited_s = time.monotonic() - self._set_at
        try:
            for call in reversed(self._last):
                call()
        finally:
            self.at_once(f"it did not end within {waited_s:.1f} s{self._held_by()}")

    def _left_s(self) -> float:
        return threading.TIMEOUT_MAX if self._deadline is None else self._deadline - time.monotonic()

    def _held_by(self) -> str:
        """What the threads do that keep the process from ending."""
        frames = sys._current_frames()  # there is no other way to see it from here
        kept = [
            f"{thread.name} in {place_of(frames.get(thread.ident or 0))}"
            for thread in threading.enumerate()
            if thread.ident == self._main or not thread.daemon
        ]
        return "".join(f"; {told}" for told in kept[:MAX_TOLD])


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
