"""Numbers, times, ids and states in words: pure functions, for people. Machines get the exact values by --json."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

from callboard.actors.models.stand_in import DEMO_CURRENCY, STAND_IN
from callboard.projections.tasks import Task
from callboard.protocols.states import TaskState

SHORT: Final = 8  # characters of an id that people see: its last, which tell ids of one moment apart
NOTHING: Final = "-"

_ID: Final = re.compile(r"[0-9a-f]{32}")
_STATE_WORDS: Final[dict[TaskState, str]] = {
    "TASK_STATE_SUBMITTED": "submitted",
    "TASK_STATE_WORKING": "working",
    "TASK_STATE_INPUT_REQUIRED": "input required",
    "TASK_STATE_COMPLETED": "completed",
    "TASK_STATE_FAILED": "failed",
    "TASK_STATE_CANCELED": "canceled",
}
STATE_STYLES: Final[dict[TaskState, str]] = {
    "TASK_STATE_SUBMITTED": "dim",
    "TASK_STATE_WORKING": "cyan",
    "TASK_STATE_INPUT_REQUIRED": "yellow",
    "TASK_STATE_COMPLETED": "green",
    "TASK_STATE_FAILED": "red",
    "TASK_STATE_CANCELED": "magenta",
}
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


# -- names ---------------------------------------------------------------------------------------------------


def short(name: str) -> str:
    """An id, or a name with ids in it, with each id cut to its last 8 characters."""
    return _ID.sub(lambda found: found[0][-SHORT:], name)


def state_word(state: TaskState) -> str:
    """A task's state."""
    return _STATE_WORDS[state]


def state_of(word: str) -> str | None:
    """The A2A state that a word such as "input-required" or "TASK_STATE_FAILED" names; None if there is none."""
    plain = word.lower().replace("_", " ").replace("-", " ").removeprefix("task state ")
    return next((state for state, known in _STATE_WORDS.items() if known == plain), None)


def one_line(text: str, limit: int = 120) -> str:
    """A text on one line, cut where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def count(number: int, noun: str) -> str:
    """A number of things: 1 task, 2 tasks."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def tokens(number: int) -> str:
    """A number of tokens."""
    return f"{number:,}" if number else NOTHING


# -- times ---------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """A length of time."""
    if (thousandths := max(0, round(seconds * 1000))) < 1000:
        return f"{thousandths} ms"
    if (tenths := round(seconds, 1)) < 60:
        return f"{tenths:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def ago(at: datetime, now: datetime) -> str:
    """How long ago that was, in the largest unit that fits."""
    seconds = (now - at).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "now"


def until(at: datetime, now: datetime) -> str:
    """How long it is until then."""
    seconds = (at - now).total_seconds()
    return f"in {duration(seconds)}" if seconds >= 0 else f"due {duration(-seconds)} ago"


def clock(at: datetime) -> str:
    """The local time of day, to the millisecond."""
    local = at.astimezone()
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03}"


# -- money ---------------------------------------------------------------------------------------------------


def money(amounts: Mapping[str, Decimal], unpriced: int = 0) -> str:
    """Amounts by currency, and how many model calls have no price; never 0 for what is not known."""
    parts = [f"{_amount(amount)} {currency_word(currency)}" for currency, amount in sorted(amounts.items())]
    if unpriced:
        parts.append(f"{unpriced:,} unpriced")
    return " + ".join(parts) or NOTHING


def currency_word(currency: str) -> str:
    """A currency; the test currency is named as what it is."""
    return f"{currency} (demo)" if currency == DEMO_CURRENCY else currency


def _amount(amount: Decimal) -> str:
    """Two decimals, or as many as it has, up to six."""
    text = f"{amount:,.6f}"
    if not amount or Decimal(text.replace(",", "")):
        whole, _, fraction = text.partition(".")
        return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
    return "<0.000001"


def model_word(model: str) -> str:
    """A model's name; the stand-in is named as what it is."""
    return f"{model} (no real model)" if model == STAND_IN else model


# -- pictures ------------------------------------------------------------------------------------------------


def bar(share: float, width: int = 20) -> str:
    """A bar as long as a share (0 to 1) of the width; what is not nothing is seen."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    if share > 0:
        eighths = max(1, eighths)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def span(begin: float, end: float, width: int = 28) -> str:
    """Where a time lies within another: from `begin` to `end`, shares from 0 to 1."""
    first = min(width - 1, int(max(0.0, begin) * width))
    last = max(first + 1, min(width, round(end * width)))
    return " " * first + "━" * (last - first) + " " * (width - last)


class Branch(NamedTuple):
    """A task in the tree of its run: the lines before its name, and the task."""

    lines: str
    task: Task


def tree(tasks: Sequence[Task]) -> list[Branch]:
    """A run's tasks, each below the one that asked for it, in the order in which they were opened."""
    known = {task.task for task in tasks}
    children: dict[str | None, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: (task.opened_at, task.task)):
        parent = task.parent if task.parent in known else None
        children.setdefault(parent, []).append(task)
    branches: list[Branch] = []

    def grow(task: Task, before: str, here: str, below: str) -> None:
        branches.append(Branch(before + here, task))
        mine = children.get(task.task, [])
        for child in mine[:-1]:
            grow(child, before + below, "├─ ", "│  ")
        for last in mine[-1:]:
            grow(last, before + below, "└─ ", "   ")

    for root in children.get(None, ()):
        grow(root, "", "", "")
    return branches
