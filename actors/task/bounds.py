"""How many tasks a run may have, so that roles that ask each other in circles come to an end.

The count of a run is exact for the tasks that this process opens, from when it first had to do with the run; what
other processes open is added every few seconds, from the projection of the tasks. So a run may go beyond its limit by
what all processes open within that time.
"""

from collections import OrderedDict
from typing import Final

from callboard.protocols.errors import TooManyTasks

RUN_TASKS: Final = 200_000  # of a run, unless set otherwise
RUNS: Final = 10_000  # that are counted here; of more, those that opened tasks last


class RunTasks:
    """The tasks of the runs that are at work in one process. `limit`: None for no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._opened: set[str] = set()  # runs that have opened tasks here since `to_count`

    def __repr__(self) -> str:
        return f"RunTasks({len(self._counts)} runs)"

    def check(self, run: str, more: int) -> None:
        """Raise TooManyTasks if a run may not open so many more."""
        if self._limit is not None and more and self._counts.get(run, 1) + more > self._limit:
            raise TooManyTasks(run, self._limit)

    def open(self, run: str, more: int) -> None:
        """A run opens so many more tasks here."""
        if not more:
            return
        self._counts[run] = self._counts.get(run, 1) + more
        self._counts.move_to_end(run)
        self._opened.add(run)
        while len(self._counts) > RUNS:
            self._counts.popitem(last=False)

    def to_count(self) -> list[str]:
        """The runs whose count may have changed since this was asked for last."""
        opened, self._opened = self._opened, set()
        return list(opened)

    def counted(self, run: str, tasks: int) -> None:
        """A run has at least so many tasks, all processes together."""
        if run in self._counts:
            self._counts[run] = max(self._counts[run], tasks)
