"""How a process that serves is told to end: by SIGTERM, by Ctrl-C, or by its parent's end.

The signals are heard by a thread: so a process also hears them whose event loop is blocked. Told once, it stops in good
order, within a limit; told again, it ends at once. What doesn't end by itself is ended
(callboard.actors.process.ending).
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import anyio
import typer

from callboard.actors.process.ending import LAST_S, Ending
from callboard.actors.process.supervisor import Tie

log = logging.getLogger("callboard")

INTERRUPTED: Final = 130
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@asynccontextmanager
async def told_to_stop(tie: Tie | None, ending: Ending | None, limit_s: float) -> AsyncIterator[anyio.Event]:
    """An event that is set when this process is told to end, or its parent is gone; told again, all is cancelled.

    From the first time on `ending` gives it `limit_s` and a little more, from the second only the little.
    """
    loop, stop, at_once = asyncio.get_running_loop(), anyio.Event(), anyio.Event()
    told: list[int] = []

    def limit(seconds: float) -> None:
        if ending is not None:
            ending.within(seconds)

    def heard(number: int) -> None:  # in the thread
        told.append(number)
        limit(LAST_S if len(told) > 1 else limit_s + LAST_S)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, number)

    def tell(number: int) -> None:
        if stop.is_set():
            log.warning("ends at once")
            at_once.set()
            group.cancel_scope.cancel()
            return
        again = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
        log.info("ends when the tasks at work have come to rest%s", again)
        stop.set()

    async def hear_parent(tie: Tie) -> None:
        await tie.parent_gone()
        limit(limit_s + LAST_S)
        stop.set()

    with _signals(heard):
        async with anyio.create_task_group() as group:
            if tie is not None:
                group.start_soon(hear_parent, tie)
            yield stop
            group.cancel_scope.cancel()
    if at_once.is_set():
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _signals(heard: Callable[[int], None]) -> Iterator[None]:
    """Call a function, in a thread, with each SIGTERM and SIGINT."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        while numbers := os.read(reader, 64):
            for number in numbers:
                if number in SIGNALS:
                    heard(number)
        os.close(reader)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    former_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    former = {number: signal.signal(number, _ignore) for number in SIGNALS}
    _Forks.hearing = True
    try:
        yield
    finally:
        _Forks.hearing = False
        for number, handler in former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former_fd)
        os.close(writer)


class _Forks:
    """What becomes of the signals of a process that user code forks (multiprocessing): they are its own, and end it.
    None may come to it before it has forgotten how this process hears them, or this one would hear it, too.
    """

    hearing = False

    @classmethod
    def before(cls) -> None:
        if cls.hearing:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    @classmethod
    def in_parent(cls) -> None:
        if cls.hearing:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @classmethod
    def in_child(cls) -> None:
        if cls.hearing:
            cls.hearing = False
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


os.register_at_fork(before=_Forks.before, after_in_parent=_Forks.in_parent, after_in_child=_Forks.in_child)


def _ignore(*_: object) -> None:
    """Python calls this in the main thread, if that comes to it; the thread has heard the signal already."""


@contextmanager
def ended(ending: Ending) -> Iterator[None]:
    """The last thing that a process does is in this block: what is left to run after it gets a little time."""
    try:
        yield
    finally:
        ending.within(LAST_S)
