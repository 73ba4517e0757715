"""The state of one actor, folded from the events of its stream. Pure: no I/O, no clock, no machine."""

from collections.abc import Callable, Iterable
from typing import Any

from callboard.actors.state.step_record import Received, StepRecord, Tally
from callboard.actors.state.waits import BY_FORM, TRIGGERS, activity_in_log
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.messages import Kind

# The trigger and the lifecycle state that open steps ask for; the first form that is open decides
STATE_BY_FORM = tuple((form, TRIGGERS[it], it.value) for form, it in BY_FORM)
# task.resumed.reason: the process was lost while the handler ran, it gave the task up, or it lost track of it
LOST, HANDED_OVER, RELOADED = "lost", "handed over", "reloaded"
WAITS = frozenset({"review", "wait", "question", "timer"})  # forms that a message ends


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
        "read",
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
        self.read: dict[str, Received] = {}  # of those, the ones that a `ctx.receive` has, by its step

    def take_received(self, kind: Kind, step: str) -> Received | None:
        """The message that a step has received, or the next one that no other step has."""
        found = self.read.get(step) or next((it for it in self.received.get(kind, ()) if it.step is None), None)
        if found is not None:
            found.step = step
            self.read[step] = found
        return found

    def open_steps(self, *forms: str) -> list[tuple[str, StepRecord]]:
        """Steps of these forms without an outcome, in the order in which they began."""
        return [(key, step) for key, step in self.steps.items() if step.form in forms and step.open]

    @property
    def message(self) -> str:
        """The id of the message that opened the task."""
        return next(iter(self.handled))

    def working_state(self) -> tuple[str, str]:
        """The trigger and the lifecycle state that its open steps ask for."""
        asked_for = activity_in_log(self.open)
        return TRIGGERS[asked_for], asked_for.value


class ActorFold:
    """An actor: its version, its lifecycle state, the state of its role's machine, and its current or last task."""

    __slots__ = ("canceled", "current", "memory", "role_state", "state", "version")

    def __init__(self) -> None:
        self.version = 0
        self.state = "idle"
        self.role_state: str | None = None
        self.memory: tuple[str, ...] = ()  # its conversation, as of the last task's end
        self.current: TaskFold | None = None
        self.canceled: dict[str, str] = {}  # tasks that were canceled before their opening message came, and why

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
            self.canceled = dict(body.canceled)
        elif isinstance(body, e.StateChanged):
            self.role_state = body.to
        if task is not None and (self.current is None or task != self.current.task):
            self._take_of_another(body, task)
        if self.current is not None:
            if handles is not None:
                self.current.handled[handles] = None
            apply = _APPLY.get(type(body))
            if apply is not None and task == self.current.task:  # others end here without having begun
                apply(self.current, body)
            self.memory = self.current.memory

    def _take_of_another(self, body: e.Body, task: str) -> None:
        """An event of a task that has not begun."""
        if isinstance(body, e.TaskCancelRequested):
            self.canceled[task] = body.reason
        elif body.TYPE in e.ENDS_TASK:
            self.canceled.pop(task, None)


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
    for step in task.steps.values():
        if step.given_up:  # in the next try nothing may cancel it
            step.forget()
    task.retries.append(body.step)
    wait = task.steps[body.step] = StepRecord("timer", "", body)
    _count(task, wait, 1)


def _cancel_requested(task: TaskFold, body: e.TaskCancelRequested) -> None:
    task.cancel = body.reason
    for _, step in task.open_steps("question"):
        step.stopped = True


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
    step.given_up = False


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


def _asked(task: TaskFold, body: e.QuestionAsked) -> None:
    _requested(task, body)
    task.tally.tasks += 1


def _sent(task: TaskFold, body: e.MessageSent) -> None:
    _succeeded(task, body)
    task.tally.tasks += body.opens


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


def _given_up(task: TaskFold, body: e.StepGivenUp) -> None:
    step = task.steps.get(body.step)
    if step is None:
        step = task.steps[body.step] = StepRecord("step", "")
        task.tally.steps += 1
    elif step.open:
        _count(task, step, -1)
    step.given_up = True
    unread = task.read.pop(body.step, None)
    if unread is not None:  # it came in the same moment: the next one gets it
        unread.step = None


def _received(task: TaskFold, body: e.MessageReceived) -> None:
    message = Received(body.kind, body.sender, body.content, body.step)
    task.received.setdefault(body.kind, []).append(message)
    if body.step is not None:
        task.read[body.step] = message
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
    e.StepGivenUp: _given_up,
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
    e.QuestionAsked: _asked,
    e.QuestionAnswered: _succeeded,
    e.QuestionFailed: _failed,
    e.TimerSet: _requested,
    e.TimerFired: _succeeded,
    e.WaitStarted: _requested,
    e.TaskProgressed: _succeeded,
    e.MessageSent: _sent,
    e.ArtifactAdded: _succeeded,
    e.StateChanged: _succeeded,
    e.MessageReceived: _received,
}
