"""The demo as it happens: the processes, the files, the last events, the kill and what follows from it."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from msgspec import Struct, field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from callboard.actors.process.supervisor import ProcessEvent
from callboard.bootstrap import pid_in
from callboard.cli.words import count
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.names import parse_stream

LAST_EVENTS: Final = 6
PLAIN_STEPS: Final = 10  # lines about progress, where there is no terminal


class Process(Struct):
    """A process of the crew, as one line of the view. `at_work` are task ids."""

    name: str
    pid: int = 0
    state: str = "starting"
    done: int = 0
    at_work: set[str] = field(default_factory=set)


class Board:
    """What is to be seen. `say` is told of each moment that matters, as a line of text."""

    def __init__(self, processes: Sequence[str], files: int, say: Callable[[str], None]) -> None:
        self.files = files
        self.inspected = 0
        self.processes = {name: Process(name) for name in processes}
        self.moments: list[str] = []
        self._say = say
        self._begun = time.monotonic()
        self._tail: deque[str] = deque(maxlen=LAST_EVENTS)
        self._by_task: dict[str, Process] = {}
        self._gone_on: Counter[str] = Counter()  # by process
        self._gone_on_at = 0  # the place of their line among the moments

    def note(self, text: str) -> None:
        """Remember a moment that matters."""
        line = f"{time.monotonic() - self._begun:5.1f} s  {text}"
        self.moments.append(line)
        self._say(line)

    def process(self, event: ProcessEvent) -> None:
        """Take what the supervisor tells of a process."""
        process = self.processes[event.name]
        process.pid, process.state = event.pid, event.what
        if event.what == "ready":
            self.note(f"{event.name} is ready, pid {event.pid}")
        elif event.what == "exited":
            process.at_work.clear()

    def record(self, event: e.Event) -> None:
        """Take an event of the log."""
        role, key = parse_stream(event.stream)
        self._tail.append(f"{event.position:>7}  {role}/{key[-6:]}  {event.type}{_step(event)}")
        task = event.meta.task or ""
        if event.type == e.TaskStarted.TYPE:
            self._begins(event, task)
        elif event.type == e.TaskResumed.TYPE:
            self._goes_on(self._begins(event, task), f"{role} task {task[-6:]}")
        elif event.type in e.ENDS_TASK:
            self._ends(task, role)

    def owner(self, task: str) -> Process | None:
        """The process that a task is at work in."""
        return self._by_task.get(task)

    def _begins(self, event: e.Event, task: str) -> str:
        body = body_of(event)
        assert isinstance(body, e.TaskStarted | e.TaskResumed)
        pid = pid_in(body.process)
        process = next((each for each in self.processes.values() if each.pid == pid), None)
        if process is None:
            return f"process {pid}"
        former = self._by_task.get(task)
        if former is not None:
            former.at_work.discard(task)
        self._by_task[task] = process
        process.at_work.add(task)
        return process.name

    def _goes_on(self, process: str, task: str) -> None:
        """A moment for each task that goes on, as lines; all of them in one line of the view, or they'd fill it."""
        begun = f"{time.monotonic() - self._begun:5.1f} s"
        self._say(f"{begun}  {process} takes up {task} again, behind its last recorded step")
        if not self._gone_on:
            self._gone_on_at = len(self.moments)
            self.moments.append("")
        self._gone_on[process] += 1
        number = count(self._gone_on.total(), "task")
        where = ", ".join(f"{each} in {name}" for name, each in self._gone_on.items())
        self.moments[self._gone_on_at] = f"{begun}  {number} go on from the last step: {where}"

    def _ends(self, task: str, role: str) -> None:
        process = self._by_task.pop(task, None)
        if process is not None:
            process.at_work.discard(task)
            process.done += 1
        if role == "inspector":
            self.inspected += 1
            step = max(1, self.files // PLAIN_STEPS)
            if self.inspected % step == 0 or self.inspected == self.files:
                self._say(f"{time.monotonic() - self._begun:5.1f} s  {self.inspected} of {self.files} files inspected")

    # -- drawing -----------------------------------------------------------------------------------------------

    def draw(self, title: str) -> RenderableType:
        """The view, as of now."""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            "files", ProgressBar(total=max(1, self.files), completed=self.inspected, width=50),
            f"{self.inspected} of {self.files}",
        )  # fmt: skip
        moments = Text("\n".join(self.moments[-8:]), overflow="ellipsis", no_wrap=True)
        tail = Text("\n".join(self._tail), style="dim", overflow="ellipsis", no_wrap=True)
        return Group(Text(title, style="bold"), self._table(), bar, Text(), moments, Text(), tail)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("process", "pid", "state"):
            table.add_column(column)
        for column in ("tasks done", "at work"):
            table.add_column(column, justify="right")
        for process in self.processes.values():
            style = {"killed": "bold red", "exited": "red", "restarting": "red", "ready": "green"}.get(
                process.state, ""
            )
            table.add_row(
                process.name,
                str(process.pid or ""),
                Text(process.state, style),
                str(process.done),
                str(len(process.at_work)),
            )
        return table


def shown(title: str, board: Board, console: Console) -> AbstractContextManager[Live | None]:
    """The view on a terminal, to be refreshed by its owner; elsewhere nothing (the board's `say` has to do)."""
    if console.is_terminal:
        return Live(get_renderable=lambda: board.draw(title), console=console, auto_refresh=False, transient=True)
    return nullcontext()


def _step(event: e.Event) -> str:
    step = getattr(body_of(event), "step", None)
    return f"  {step}" if step else ""
