"""Who was at work when: a bar for each process, from the log. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.names import role_of

LEVELS: Final = " ▁▂▃▄▅▆▇█"


class Lane(Struct):
    """A process, and the times in seconds from the run's start at which it began and ended tasks."""

    role: str
    process: str
    spans: list[tuple[float, float]]
    last: float  # its last event


def lanes(events: Iterable[e.Event]) -> list[Lane]:
    """The processes of a run, in the order in which they took their first task.

    A task that was taken away from a process ended there with the process's last event.
    """
    begun: datetime | None = None
    found: dict[str, Lane] = {}
    at_work: dict[str, tuple[Lane, float]] = {}  # by task
    taken_away: list[tuple[Lane, float]] = []
    for event in events:
        begun = begun or event.recorded_at
        now, task = (event.recorded_at - begun).total_seconds(), event.meta.task or ""
        if event.type in (e.TaskStarted.TYPE, e.TaskResumed.TYPE):
            process = str(getattr(body_of(event), "process"))  # noqa: B009 - one of two classes
            if task in at_work:
                taken_away.append(at_work[task])
            lane = found.setdefault(process, Lane(role_of(event.stream), process, [], now))
            at_work[task] = (lane, now)
        if task in at_work:
            at_work[task][0].last = now
        if event.type in e.ENDS_TASK and task in at_work:
            lane, since = at_work.pop(task)
            lane.spans.append((since, now))
    for lane, since in (*taken_away, *at_work.values()):
        lane.spans.append((since, max(since, lane.last)))
    return list(found.values())


def bars(shown: Sequence[Lane], width: int) -> list[str]:
    """A bar of `width` characters for each lane: the higher, the more of its tasks were at work at that time."""
    length = max((end for lane in shown for _, end in lane.spans), default=0.0) or 1.0
    loads = [
        [_load(lane, place * length / width, (place + 1) * length / width) for place in range(width)] for lane in shown
    ]
    highest = max((load for row in loads for load in row), default=1) or 1
    return ["".join(LEVELS[-(-load * (len(LEVELS) - 1) // highest)] for load in row) for row in loads]


def _load(lane: Lane, begin: float, end: float) -> int:
    """The tasks that were at work at any moment of a stretch of time."""
    return sum(since < end and until >= begin for since, until in lane.spans)
