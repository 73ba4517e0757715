"""Looks again at tasks some branches of which wait, while others neither wait nor have an effect.

When such a branch begins to wait for the others, nothing tells it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from callboard.actors.process.cell import Cell

AT_ONCE: Final = 4  # looks, one a turn of the event loop: mostly that is enough
PAUSE_S: Final = (0.01, 1.0)  # before the next look, doubled: first and longest


class LookAgain:
    """`changed` is called for each actor that was added, until its task waits as a whole or has ended."""

    def __init__(self, changed: Callable[[Cell], None]) -> None:
        self._changed = changed
        self._cells: dict[str, Cell] = {}
        self._looks = 0
        self._next: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return f"LookAgain({len(self._cells)} actors)"

    def add(self, cell: Cell) -> None:
        """Look at an actor, soon and then less and less often."""
        known = self._cells.get(cell.stream) is cell
        self._cells[cell.stream] = cell
        if self._next is not None and (known or self._looks < AT_ONCE):
            return
        if self._next is not None:
            self._next.cancel()
        self._looks = 0
        self._next = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        for cell in list(self._cells.values()):
            if cell.dropped or cell.work is None or not cell.work.undecided:
                del self._cells[cell.stream]
                self._changed(cell)
        loop = asyncio.get_running_loop()
        self._looks += 1
        if not self._cells:
            self._next = None
        elif self._looks < AT_ONCE:
            self._next = loop.call_soon(self._look)
        else:
            first_s, longest_s = PAUSE_S
            self._next = loop.call_later(min(first_s * 2.0 ** min(self._looks - AT_ONCE, 20), longest_s), self._look)

    def close(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
        self._cells.clear()
