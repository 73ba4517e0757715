"""The state of one actor, folded from the events of its stream. Pure: no I/O, no clock, no machine."""

from collections.abc import Callable, Iterable
from typing import Any

from protocols import events as e
from protocols.codec import body_of
from protocols.messages import ErrorInfo, Kind

# The lifecycle state that open steps put an actor in; the first form that is open decides. None open: thinking.
STATE_BY_FORM = (
    ("tool", "execute", "executing"),
    ("model", "think", "thinking"),
    ("review", "await_review", "waiting_review"),
    ("wait", "await_input", "waiting_input"),
    ("question", "block", "blocked"),
    ("timer", "block", "blocked"),
)
WAITS = frozenset({"review", "wait", "question", "timer"})  # forms that a message ends


class StepRecord:
    """What the log says of one step. `result` is the body of the event that ended it well."""

    __slots__ = ("attempt", "error", "failures", "fingerprint", "form", "request", "result")

    def __init__(self, form: str, fingerprint: str, request: e.Body | None = None) -> None:
        self.form = form
        self.fingerprint = fingerprint
        self.request = request
        self.result: e.Body | None = None
        self.error: ErrorInfo | None = None
        self.attempt = 0
        self.failures = 0

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return self.result is not None or self.error is not None


class Received:
    """A message that came for a task at work."""

    __slots__ = ("content", "kind", "sender")

    def __init__(self, kind: Kind, sender: str, content: e.Stored) -> None:
        self.kind = kind
        self.sender = sender
        self.content = content


class TaskFold:
    """The task that an actor works at, or worked at last."""

    __slots__ = ("attempt", "ended", "handed_to", "handled", "open", "received", "role_state", "steps", "task")

    def __init__(self, task: str, attempt: int = 1, role_state: str | None = None) -> None:
        self.task = task
        self.role_state = role_state  # of the role's own machine, when the task began
        self.handled: dict[str, None] = {}  # the ids of its messages, in order; the first is the one that opened it
        self.attempt = attempt
        self.ended = False
        self.handed_to: tuple[str, str] | None = None  # the actor's stream, and the task there
        self.steps: dict[str, StepRecord] = {}
        self.open: dict[str, int] = {}  # steps without an outcome, by form
        self.received: dict[Kind, list[Received]] = {}

    def open_steps(self, *forms: str) -> list[tuple[str, StepRecord]]:
        """Steps of these forms without an outcome, in the order in which they began."""
        return [(key, step) for key, step in self.steps.items() if step.form in forms and not step.done]

    @property
    def message(self) -> str:
        """The id of the message that opened the task."""
        return next(iter(self.handled))

    def working_state(self) -> tuple[str, str]:
        """The trigger and the lifecycle state that its open steps ask for."""
        if not self.open:
            return "think", "thinking"
        for form, trigger, state in STATE_BY_FORM:
            if self.open.get(form):
                return trigger, state
        return "think", "thinking"


class ActorFold:
    """An actor: its version, its lifecycle state, the state of its role's machine, and its current or last task."""

    __slots__ = ("current", "role_state", "state", "version")

    def __init__(self) -> None:
        self.version = 0
        self.state = "idle"
        self.role_state: str | None = None
        self.current: TaskFold | None = None

    @property
    def at_work(self) -> bool:
        """Whether a task has begun and not ended."""
        return self.current is not None and not self.current.ended

    def apply(self, event: e.Event) -> None:
        """Take one event of the actor's stream; they come in the order of their versions."""
        self.version = event.version
        change = event.meta.state
        if change is not None and event.type != e.StateChanged.TYPE:
            self.state = change.dest
        self.take(body_of(event), event.meta.task, event.meta.handles)

    def take(self, body: e.Body, task: str | None, handles: str | None) -> None:
        """What `apply` does with an event's body; also used for events that are on their way into the log."""
        if isinstance(body, e.TaskStarted):
            self.current = TaskFold(task or "", body.attempt, body.role_state)
            self.role_state = body.role_state
        elif isinstance(body, e.StateChanged):
            self.role_state = body.to
        if self.current is not None:
            if handles is not None:
                self.current.handled[handles] = None
            apply = _APPLY.get(type(body))
            if apply is not None:
                apply(self.current, body)


def fold(events: Iterable[e.Event]) -> ActorFold:
    """An actor from its events; they may begin at any task.started."""
    actor = ActorFold()
    for event in events:
        actor.apply(event)
    return actor


# -- one function an event -----------------------------------------------------------------------------------


def _resumed(task: TaskFold, body: e.TaskResumed) -> None:
    task.attempt = body.attempt


def _ended(task: TaskFold, _body: e.Body) -> None:
    task.ended = True


def _handed_off(task: TaskFold, body: e.TaskHandedOff) -> None:
    task.ended = True
    task.handed_to = (body.to, body.task)


def _form(body: e.Body) -> str:
    if isinstance(body, e.WaitStarted):
        return "review" if body.kind == "decision" else "wait"
    return body.TYPE.partition(".")[0]


def _count(task: TaskFold, step: StepRecord, change: int) -> None:
    task.open[step.form] = task.open.get(step.form, 0) + change


def _requested(task: TaskFold, body: Any) -> None:
    step = task.steps.get(body.step)
    if step is None:
        step = task.steps[body.step] = StepRecord(_form(body), getattr(body, "fingerprint", ""), body)
        _count(task, step, 1)
    elif step.done:
        _count(task, step, 1)
    step.attempt = getattr(body, "attempt", 1)
    step.error = None


def _end_step(task: TaskFold, key: str, body: e.Body) -> StepRecord:
    step = task.steps.get(key)
    if step is None:  # a step that is one event
        step = task.steps[key] = StepRecord(_form(body), getattr(body, "fingerprint", ""))
    elif not step.done:
        _count(task, step, -1)
    return step


def _succeeded(task: TaskFold, body: Any) -> None:
    _end_step(task, body.step, body).result = body


def _failed(task: TaskFold, body: Any) -> None:
    step = _end_step(task, body.step, body)
    step.error = body.error
    step.failures += 1


def _received(task: TaskFold, body: e.MessageReceived) -> None:
    task.received.setdefault(body.kind, []).append(Received(body.kind, body.sender, body.content))
    if body.step is not None:
        _end_step(task, body.step, body).result = body


_APPLY: dict[type[e.Body], Callable[[TaskFold, Any], None]] = {
    e.TaskResumed: _resumed,
    e.TaskCompleted: _ended,
    e.TaskFailed: _ended,
    e.TaskCanceled: _ended,
    e.TaskHandedOff: _handed_off,
    e.StepCompleted: _succeeded,
    e.StepFailed: _failed,
    e.ToolRequested: _requested,
    e.ToolCompleted: _succeeded,
    e.ToolFailed: _failed,
    e.ModelRequested: _requested,
    e.ModelCompleted: _succeeded,
    e.ModelFailed: _failed,
    e.QuestionAsked: _requested,
    e.QuestionAnswered: _succeeded,
    e.QuestionFailed: _failed,
    e.TimerSet: _requested,
    e.TimerFired: _succeeded,
    e.WaitStarted: _requested,
    e.TaskProgressed: _succeeded,
    e.MessageSent: _succeeded,
    e.ArtifactAdded: _succeeded,
    e.StateChanged: _succeeded,
    e.MessageReceived: _received,
}
