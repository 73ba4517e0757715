"""The state of one actor, folded from the events of its stream. Pure: no I/O, no clock, no machine."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from protocols import events as e
from protocols.codec import body_of
from protocols.messages import ErrorInfo, Kind
from protocols.money import add_amount

# The lifecycle state that open steps put an actor in; the first form that is open decides. None open: thinking.
STATE_BY_FORM = (
    ("tool", "execute", "executing"),
    ("model", "think", "thinking"),
    ("review", "await_review", "waiting_review"),
    ("wait", "await_input", "waiting_input"),
    ("question", "block", "blocked"),
    ("timer", "block", "blocked"),
)
# task.resumed.reason: the process was lost while the handler ran, it gave the task up, or it lost track of it
LOST, HANDED_OVER, RELOADED = "lost", "handed over", "reloaded"
WAITS = frozenset({"review", "wait", "question", "timer"})  # forms that a message ends


class StepRecord:
    """What the log says of one step. `result` is the body of the event that ended it well.

    A step that is to be done `again` failed in a former try of the handler.
    """

    __slots__ = (
        "again",
        "attempt",
        "error",
        "failed",
        "failures",
        "fingerprint",
        "form",
        "refused",
        "request",
        "result",
    )

    def __init__(self, form: str, fingerprint: str, request: e.Body | None = None) -> None:
        self.form = form
        self.fingerprint = fingerprint
        self.request = request
        self.result: e.Body | None = None
        self.error: ErrorInfo | None = None
        self.attempt = 0
        self.failures = 0
        self.failed: list[e.ModelFailed] = []  # the attempts at a model that gave no answer, since it began (again)
        self.refused = False  # a call that was not made
        self.again = False

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return self.result is not None or self.error is not None

    @property
    def open(self) -> bool:
        """Whether it has begun and has no outcome."""
        return not (self.done or self.again)

    def forget(self) -> None:
        """Let the failure be as if it had not happened; attempts are counted on."""
        self.error = None
        self.failures = 0
        self.failed = []
        self.refused = False
        self.again = True


class Tally:
    """What a task has done so far: what `policies.Caps` limits."""

    __slots__ = ("calls", "cost", "model_calls", "steps", "tokens")

    def __init__(self) -> None:
        self.steps = 0  # that have begun
        self.model_calls = 0
        self.tokens = 0
        self.cost: dict[str, Decimal] = {}  # by currency
        self.calls: dict[str, int] = {}  # of a tool or a model with one input, by name and fingerprint

    def add(self, usage: e.Usage, cost: e.Cost | None) -> None:
        """Count what an attempt used."""
        self.tokens += usage.total
        if cost is not None:
            self.cost = add_amount(self.cost, cost.currency, cost.amount)

    def call(self, name: str, fingerprint: str) -> None:
        """Count a call of a tool or a model."""
        key = f"{name}:{fingerprint}"
        self.calls[key] = self.calls.get(key, 0) + 1


class Received:
    """A message that came for a task at work."""

    __slots__ = ("content", "kind", "sender")

    def __init__(self, kind: Kind, sender: str, content: e.Stored) -> None:
        self.kind = kind
        self.sender = sender
        self.content = content


class TaskFold:
    """The task that an actor works at, or worked at last."""

    __slots__ = (
        "attempt",
        "cancel",
        "deadline",
        "ended",
        "handed_to",
        "handled",
        "losses",
        "memory",
        "open",
        "process",
        "received",
        "retries",
        "role_state",
        "steps",
        "tally",
        "task",
    )

    def __init__(self, task: str, started: e.TaskStarted | None = None) -> None:
        self.task = task
        self.role_state = started.role_state if started else None  # of the role's own machine, when the task began
        self.deadline = started.deadline if started else None
        self.process = started.process if started else ""  # that runs it, or ran it last
        self.losses = 0  # processes that were lost with it, one after the other, since anything was recorded
        self.retries: list[str] = []  # the steps that wait before the next try, in order
        self.cancel: str | None = None  # the reason, once it has been asked to stop
        self.handled: dict[str, None] = {}  # the ids of its messages, in order; the first is the one that opened it
        self.attempt = started.attempt if started else 1
        self.ended = False
        self.handed_to: tuple[str, str] | None = None  # the actor's stream, and the task there
        self.steps: dict[str, StepRecord] = {}
        self.open: dict[str, int] = {}  # steps without an outcome, by form
        self.tally = Tally()
        self.memory = started.memory if started else ()  # the actor's conversation, as in model.requested
        self.received: dict[Kind, list[Received]] = {}

    def open_steps(self, *forms: str) -> list[tuple[str, StepRecord]]:
        """Steps of these forms without an outcome, in the order in which they began."""
        return [(key, step) for key, step in self.steps.items() if step.form in forms and step.open]

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

    __slots__ = ("current", "memory", "role_state", "state", "version")

    def __init__(self) -> None:
        self.version = 0
        self.state = "idle"
        self.role_state: str | None = None
        self.memory: tuple[str, ...] = ()  # its conversation, as of the last task's end
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
            self.current = TaskFold(task or "", body)
            self.role_state = body.role_state
        elif isinstance(body, e.StateChanged):
            self.role_state = body.to
        if self.current is not None:
            if handles is not None:
                self.current.handled[handles] = None
            apply = _APPLY.get(type(body))
            if apply is not None and task == self.current.task:  # others end here without having begun
                apply(self.current, body)
            self.memory = self.current.memory


def fold(events: Iterable[e.Event]) -> ActorFold:
    """An actor from its events; they may begin at any task.started."""
    actor = ActorFold()
    for event in events:
        actor.apply(event)
    return actor


# -- one function an event -----------------------------------------------------------------------------------


def _resumed(task: TaskFold, body: e.TaskResumed) -> None:
    task.attempt = body.attempt
    task.process = body.process
    if body.reason == LOST:
        task.losses += 1


def _stalled(task: TaskFold, _body: e.TaskStalled) -> None:
    task.losses += 1


def _retry_scheduled(task: TaskFold, body: e.TaskRetryScheduled) -> None:
    for key in body.forgets:
        task.steps[key].forget()
    task.retries.append(body.step)
    wait = task.steps[body.step] = StepRecord("timer", "", body)
    _count(task, wait, 1)


def _cancel_requested(task: TaskFold, body: e.TaskCancelRequested) -> None:
    task.cancel = body.reason


def _outcome_unknown(task: TaskFold, body: e.ToolOutcomeUnknown) -> None:
    step = task.steps[body.step]
    _count(task, step, -1)
    step.form = "review"
    _count(task, step, 1)


def _ended(task: TaskFold, _body: e.Body) -> None:
    task.ended = True


def _handed_off(task: TaskFold, body: e.TaskHandedOff) -> None:
    task.ended = True
    task.handed_to = (body.to, body.task)


def _form(body: e.Body) -> str:
    if isinstance(body, e.ApprovalRequested):
        return "review"
    if isinstance(body, e.WaitStarted):
        return "review" if body.kind == "decision" else "wait"
    return body.TYPE.partition(".")[0]


def _count(task: TaskFold, step: StepRecord, change: int) -> None:
    task.open[step.form] = task.open.get(step.form, 0) + change


def _requested(task: TaskFold, body: Any) -> None:
    step = task.steps.get(body.step)
    if step is None:
        step = task.steps[body.step] = StepRecord(_form(body), getattr(body, "fingerprint", ""))
        _count(task, step, 1)
        task.tally.steps += 1
    elif not step.open:
        _count(task, step, 1)
    elif step.form != _form(body):  # its outcome was unknown, and it is called again
        _count(task, step, -1)
        step.form = _form(body)
        _count(task, step, 1)
    step.request = body
    step.attempt = getattr(body, "attempt", 1)
    step.error = None
    step.again = False


def _end_step(task: TaskFold, key: str, body: e.Body) -> StepRecord:
    step = task.steps.get(key)
    if step is None:  # a step that is one event
        step = task.steps[key] = StepRecord(_form(body), getattr(body, "fingerprint", ""))
        task.tally.steps += 1
    elif step.open:
        _count(task, step, -1)
    step.again = False
    task.losses = 0
    return step


def _succeeded(task: TaskFold, body: Any) -> None:
    _end_step(task, body.step, body).result = body


def _failed(task: TaskFold, body: Any) -> None:
    step = _end_step(task, body.step, body)
    step.error = body.error
    step.failures += 1


def _tool_requested(task: TaskFold, body: e.ToolRequested) -> None:
    known = task.steps.get(body.step)
    if known is None or known.again:
        task.tally.call(body.tool, body.fingerprint)
    _requested(task, body)


def _model_requested(task: TaskFold, body: e.ModelRequested) -> None:
    known = task.steps.get(body.step)
    if known is None or known.again:
        task.tally.model_calls += 1
        task.tally.call("model", body.fingerprint)
    _requested(task, body)


def _model_completed(task: TaskFold, body: e.ModelCompleted) -> None:
    known = task.steps.get(body.step)
    request = known.request if known is not None else None
    _succeeded(task, body)
    task.tally.add(body.usage, body.cost)
    remembers = isinstance(request, e.ModelRequested) and request.memory and not body.calls
    if isinstance(request, e.ModelRequested) and remembers and body.message.blob is not None:
        task.memory = (*request.messages, body.message.blob)


def _model_failed(task: TaskFold, body: e.ModelFailed) -> None:
    _failed(task, body)
    task.steps[body.step].failed.append(body)
    task.tally.add(body.usage, body.cost)


def _model_refused(task: TaskFold, body: e.ModelRefused) -> None:
    _failed(task, body)
    task.steps[body.step].refused = True


def _received(task: TaskFold, body: e.MessageReceived) -> None:
    task.received.setdefault(body.kind, []).append(Received(body.kind, body.sender, body.content))
    if body.step is not None:
        _end_step(task, body.step, body).result = body


_APPLY: dict[type[e.Body], Callable[[TaskFold, Any], None]] = {
    e.TaskResumed: _resumed,
    e.TaskStalled: _stalled,
    e.TaskRetryScheduled: _retry_scheduled,
    e.TaskCancelRequested: _cancel_requested,
    e.MessageDeadLettered: _ended,
    e.TaskCompleted: _ended,
    e.TaskFailed: _ended,
    e.TaskCanceled: _ended,
    e.TaskHandedOff: _handed_off,
    e.StepCompleted: _succeeded,
    e.StepFailed: _failed,
    e.ToolRequested: _tool_requested,
    e.ToolOutcomeUnknown: _outcome_unknown,
    e.ToolCompleted: _succeeded,
    e.ToolFailed: _failed,
    e.ModelRequested: _model_requested,
    e.ModelCompleted: _model_completed,
    e.ModelFailed: _model_failed,
    e.ModelRefused: _model_refused,
    e.ApprovalRequested: _requested,
    e.ApprovalDecided: _succeeded,
    e.ValueChecked: _succeeded,
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
