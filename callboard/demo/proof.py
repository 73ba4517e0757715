"""What the log says about a kill: which tasks were taken up again, and that no recorded step was repeated. Pure."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from msgspec import Struct, field

from callboard.protocols import events as e
from callboard.protocols.codec import body_of

# Events that record a step's outcome. Those that only record a request end nothing.
OUTCOMES: Final = frozenset(
    {
        e.StepCompleted.TYPE,
        e.StepFailed.TYPE,
        e.ToolCompleted.TYPE,
        e.ToolFailed.TYPE,
        e.ModelCompleted.TYPE,
        e.ModelFailed.TYPE,
        e.QuestionAnswered.TYPE,
        e.QuestionFailed.TYPE,
        e.TimerFired.TYPE,
        e.TaskProgressed.TYPE,
        e.MessageSent.TYPE,
        e.MessageReceived.TYPE,
        e.ArtifactAdded.TYPE,
        e.StateChanged.TYPE,
    }
)
REQUESTS: Final = frozenset(
    {e.ToolRequested.TYPE, e.ModelRequested.TYPE, e.QuestionAsked.TYPE, e.TimerSet.TYPE, e.WaitStarted.TYPE}
)


class Outcome(NamedTuple):
    """What there may be only one of: a step's outcome. Each failed attempt at a model is one of its own."""

    task: str
    step: str
    attempt: int  # 0, but for a failed attempt


class Resumption(Struct, kw_only=True):
    """A task that another process took up again (or the same one, started anew), and the steps of it.

    `kept` were in the log and did not run again; `in_flight` had begun, and their outcome was not in the log, so that
    they ran again; `after` ran for the first time.
    """

    task: str
    actor: str
    before: str  # the process that had it
    process: str
    kept: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


class Proof(Struct, frozen=True, kw_only=True):
    """The verdict on a run's events."""

    events: int
    tasks: int
    outcomes: int
    resumed: tuple[Resumption, ...]
    repeated: tuple[str, ...]  # steps with more than one outcome: there must be none
    unended: tuple[str, ...]  # tasks without an end, and steps without an outcome in tasks that went well

    @property
    def holds(self) -> bool:
        """Whether everything has exactly one outcome."""
        return not self.repeated and not self.unended


def prove(events: Iterable[e.Event]) -> Proof:
    """Judge the events of a run, in the log's order."""
    ledger = _Ledger()
    for event in events:
        ledger.take(event)
    return ledger.proof()


class _Task:
    """What is known of a task so far."""

    def __init__(self, process: str) -> None:
        self.process = process
        self.open: dict[str, None] = {}  # steps that were requested and have no outcome
        self.done: dict[str, None] = {}
        self.resumption: Resumption | None = None
        self.end = ""


class _Ledger:
    """The fold of a run's events."""

    def __init__(self) -> None:
        self._events = 0
        self._tasks: dict[str, _Task] = {}
        self._outcomes: Counter[Outcome] = Counter()
        self._resumed: list[Resumption] = []

    def take(self, event: e.Event) -> None:
        self._events += 1
        task = event.meta.task
        if task is None:
            return
        if event.type == e.TaskStarted.TYPE:
            self._tasks.setdefault(task, _Task(_field(event, "process")))
        elif event.type == e.TaskResumed.TYPE:
            self._resume(event, task)
        elif event.type in e.ENDS_TASK:
            self._tasks[task].end = event.type
        elif event.type in REQUESTS:
            self._tasks[task].open[_field(event, "step")] = None
        elif event.type in OUTCOMES:
            self._outcome(event, task)

    def _resume(self, event: e.Event, task: str) -> None:
        known, process = self._tasks[task], _field(event, "process")
        known.resumption = Resumption(
            task=task,
            actor=event.stream,
            before=known.process,
            process=process,
            kept=list(known.done),
            in_flight=list(known.open),
        )
        known.process = process
        self._resumed.append(known.resumption)

    def _outcome(self, event: e.Event, task: str) -> None:
        known, body = self._tasks[task], body_of(event)
        step = getattr(body, "step", None)
        if step is None:  # a message that came before anything waited for it
            return
        self._outcomes[Outcome(task, step, body.attempt if isinstance(body, e.ModelFailed) else 0)] += 1
        known.open.pop(step, None)
        known.done[step] = None
        if known.resumption is not None and step not in known.resumption.in_flight:
            known.resumption.after.append(step)

    def proof(self) -> Proof:
        unended = [task for task, known in self._tasks.items() if not known.end]
        for task, known in self._tasks.items():
            if known.end == e.TaskCompleted.TYPE:
                unended += [f"{task} {step}" for step in known.open]
        return Proof(
            events=self._events,
            tasks=len(self._tasks),
            outcomes=sum(self._outcomes.values()),
            resumed=tuple(self._resumed),
            repeated=tuple(f"{each.task} {each.step}" for each, times in self._outcomes.items() if times > 1),
            unended=tuple(unended),
        )


def _field(event: e.Event, name: str) -> str:
    return str(getattr(body_of(event), name))
