"""Tasks that may be what kills their process run alone, so that they take nobody with them.

A task is a suspect when its process was lost twice while it ran, with nothing recorded in between. It gets its turn
when all others have come to rest; nothing else begins until it has ended, waits for a message, has recorded something
(which clears it), or has run for a while.

Whose turn is next is drawn by lot: a process that dies for a reason of its own doesn't blame the same task each time.
"""

import logging
import random
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from callboard.protocols.ports import Clock

log = logging.getLogger("callboard.actors")

SUSPECT_AFTER: Final = 2  # losses: the third attempt is made alone
DEAD_AFTER: Final = 4  # losses: the fifth is not made
PATIENCE_S: Final = 30.0  # to wait for others to come to rest; after that the suspect runs beside them
ALONE_S: Final = 10.0
ASSEMBLE_S: Final = 0.1  # for all the suspects of one loss to be here before the first is drawn
POLL_S: Final = 0.02


class Suspect(Protocol):
    """An actor in memory."""

    stream: str
    dropped: bool

    @property
    def suspect(self) -> bool:
        """Whether it runs, and may be what kills its process."""


class Quarantine:
    """The suspects of one process. `others` counts what else is at work; `opened` is called when others may go on."""

    def __init__(self, clock: Clock, others: Callable[[], int], opened: Callable[[], None]) -> None:
        self._clock = clock
        self._others = others
        self._opened = opened
        self._suspects: list[Suspect] = []
        self._alone: Suspect | None = None  # the one of them whose turn it is

    def __repr__(self) -> str:
        return f"Quarantine({len(self._suspects)} suspects)"

    def __len__(self) -> int:
        return len(self._suspects)

    def closed_to(self, cell: Suspect | None) -> bool:
        """Whether a cell has to wait: there are suspects, and it isn't the one whose turn it is."""
        return bool(self._suspects) and (cell is None or cell is not self._alone)

    async def turn(self, cell: Suspect) -> None:
        """Return when it is a suspect's turn, or it has been dropped. The caller starts it without another await, and
        has it watched: until then it is not seen to run.
        """
        self._suspects.append(cell)
        await anyio.sleep(ASSEMBLE_S)
        await _until(lambda: cell.dropped or self._drawn() is cell)
        end = self._clock.monotonic() + PATIENCE_S
        await _until(lambda: not self._others() or self._clock.monotonic() >= end or cell.dropped)
        log.info("%s runs alone: its process was lost with it before", cell.stream)

    def _drawn(self) -> Suspect:
        """Whose turn it is; the next one is drawn by lot."""
        if self._alone is None:
            self._alone = random.choice(self._suspects)
        return self._alone

    async def watch(self, cell: Suspect) -> None:
        """Let others go on when a suspect, whose turn it was, needs no watching any more."""
        end = self._clock.monotonic() + ALONE_S
        try:
            await _until(lambda: not cell.suspect or self._clock.monotonic() >= end)
        finally:
            self._suspects.remove(cell)
            if self._alone is cell:
                self._alone = None
            self._opened()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it depends on all that the process does, and is asked for seldom
        await anyio.sleep(POLL_S)
