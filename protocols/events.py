"""The facts that the log is made of.

An event says all that happened at one moment. Its *body* is one of the classes below; what every event may bring
along is in its *meta*: the message that it handles, the messages that it sends, the state that it changes.

    in the run's stream      run.started, run.continued
    a task's life            task.started, task.resumed, task.progressed, task.state_changed,
                             task.completed | task.failed | task.canceled | task.handed_off
    its steps                step.completed | step.failed                                     (own functions)
                             tool.requested,  tool.completed | tool.failed
                             model.requested, model.completed | model.failed                  (each attempt)
                             question.asked,  question.answered | question.failed
                             timer.set,       timer.fired
                             message.sent, message.received, artifact.added, state.changed
    messages that end here   message.discarded, message.dead_lettered

A type's name and its schema version are a storage format: a changed body gets a higher `schema_version` and an
upcaster in `protocols.codec`.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from protocols.a2a import Artifact
from protocols.messages import ErrorInfo, Kind, Message
from protocols.states import StateChange


class Meta(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What any event may bring along."""

    run: str
    task: str | None = None
    role: str | None = None
    handles: str | None = None  # the id of the message that this event closes
    sends: tuple[Message, ...] = ()
    state: StateChange | None = None
    causation: str | None = None
    correlation: str | None = None
    traceparent: str | None = None
    tenant: str | None = None


class Event(Struct, frozen=True, kw_only=True):
    """An event as it stands in the log."""

    position: int  # in the whole log: 1, 2, 3 ... without gaps
    stream: str
    version: int  # in its stream: 1, 2, 3 ... without gaps
    type: str
    schema_version: int
    recorded_at: datetime
    data: bytes  # the body, JSON
    meta: Meta


class NewEvent(Struct, frozen=True, kw_only=True):
    """An event that is to be appended."""

    type: str
    data: bytes
    meta: Meta
    schema_version: int = 1


class Body(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The base of all bodies: `TYPE` is the event type's stored name."""

    TYPE: ClassVar[str]
    SCHEMA_VERSION: ClassVar[int] = 1


class Stored(Struct, frozen=True, omit_defaults=True):
    """A value that a step gave: in the event, or, above `MAX_INLINE_BYTES`, where it stands already or in a blob."""

    inline: Raw | UnsetType = UNSET
    blob: str | None = None
    message: str | None = None  # the id of the message whose first part it is


# -- runs and tasks ----------------------------------------------------------------------------------------


class RunStarted(Body, frozen=True):
    """Someone outside sent the first message of a run, which is among `meta.sends`."""

    TYPE = "run.started"
    task: str  # the root task
    to: str  # the actor that it was sent to
    origin: str = ""  # where it came from: "command line", "python", ...


class RunContinued(Body, frozen=True):
    """Someone outside sent a further message into a run."""

    TYPE = "run.continued"
    origin: str = ""


class TaskStarted(Body, frozen=True):
    """An actor took the message that opens a task (`meta.handles`)."""

    TYPE = "task.started"
    process: str
    epoch: int = 0
    attempt: int = 1
    role_state: str | None = None  # the state of the role's own machine, if it has one


class TaskResumed(Body, frozen=True):
    """Another process, or the same one again, took over a task at work."""

    TYPE = "task.resumed"
    process: str
    epoch: int
    attempt: int
    reason: str


class TaskProgressed(Body, frozen=True):
    """The handler told how far it is."""

    TYPE = "task.progressed"
    step: str
    done: float
    total: float | None = None
    note: str = ""


class TaskStateChanged(Body, frozen=True):
    """The change in `meta.state` is all that happened: the task goes on beside what it waits for, or only waits now."""

    TYPE = "task.state_changed"


class TaskCompleted(Body, frozen=True):
    """The handler returned. If someone asked, the result is in the reply, `meta.sends`, and not here."""

    TYPE = "task.completed"
    result: Raw | UnsetType = UNSET


class TaskFailed(Body, frozen=True):
    """The handler raised."""

    TYPE = "task.failed"
    error: ErrorInfo


class TaskCanceled(Body, frozen=True):
    """The task was stopped by a cancel message."""

    TYPE = "task.canceled"
    reason: str


class TaskHandedOff(Body, frozen=True):
    """The handler gave the task over; the `handoff` message is in `meta.sends`."""

    TYPE = "task.handed_off"
    to: str
    task: str


# -- steps -------------------------------------------------------------------------------------------------


class StepCompleted(Body, frozen=True):
    """A function of the handler's own gave a result."""

    TYPE = "step.completed"
    step: str
    fingerprint: str
    result: Stored


class StepFailed(Body, frozen=True):
    """A function of the handler's own raised."""

    TYPE = "step.failed"
    step: str
    fingerprint: str
    error: ErrorInfo


class ToolRequested(Body, frozen=True):
    """A tool is about to be called; `idempotency_key` goes along where the tool takes one."""

    TYPE = "tool.requested"
    step: str
    fingerprint: str
    tool: str
    arguments: Stored
    idempotency_key: str


class ToolCompleted(Body, frozen=True):
    """A tool gave a result."""

    TYPE = "tool.completed"
    step: str
    tool: str
    result: Stored
    duration_ms: int


class ToolFailed(Body, frozen=True):
    """A tool raised."""

    TYPE = "tool.failed"
    step: str
    tool: str
    error: ErrorInfo
    duration_ms: int


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens in disjoint buckets, as the provider reported them; `estimated` where it reported none."""

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        """All tokens."""
        return self.input + self.cached_input + self.cache_write + self.output + self.reasoning


class Cost(Struct, frozen=True):
    """An exact amount of money. `price` names the price table that it was made with."""

    amount: Decimal
    currency: str
    price: str


class ModelRequested(Body, frozen=True):
    """A model is about to be called. Attempts of one call share its `step`."""

    TYPE = "model.requested"
    step: str
    fingerprint: str
    attempt: int
    model: str
    messages: tuple[str, ...]  # the digests of the prompt's messages, in order; the bodies are blobs
    parameters: Mapping[str, Any] = {}


class ModelCompleted(Body, frozen=True):
    """A model answered. `cost` is None where the model has no price: unpriced, never zero."""

    TYPE = "model.completed"
    step: str
    attempt: int
    model: str  # as the provider named it
    text: Stored
    usage: Usage
    cost: Cost | None
    finish_reason: str
    duration_ms: int
    stand_in: bool = False


class ModelFailed(Body, frozen=True):
    """An attempt gave no answer."""

    TYPE = "model.failed"
    step: str
    attempt: int
    model: str
    error: ErrorInfo
    duration_ms: int


class QuestionAsked(Body, frozen=True):
    """The task asked another actor; the message is in `meta.sends`."""

    TYPE = "question.asked"
    step: str
    fingerprint: str
    to: str
    task: str


class QuestionAnswered(Body, frozen=True):
    """The answer came (`meta.handles`)."""

    TYPE = "question.answered"
    step: str
    result: Stored


class QuestionFailed(Body, frozen=True):
    """The other actor's task failed or was canceled (`meta.handles`)."""

    TYPE = "question.failed"
    step: str
    error: ErrorInfo


class TimerSet(Body, frozen=True):
    """The task sleeps until `due_at`; the `timer` message to itself is in `meta.sends`."""

    TYPE = "timer.set"
    step: str
    due_at: datetime


class TimerFired(Body, frozen=True):
    """The due time came (`meta.handles`)."""

    TYPE = "timer.fired"
    step: str


class WaitStarted(Body, frozen=True):
    """The task waits for a message that somebody has to send: input, feedback or a decision."""

    TYPE = "wait.started"
    step: str
    kind: Kind
    note: str = ""


class MessageSent(Body, frozen=True):
    """The task told something to somebody; the messages are in `meta.sends`."""

    TYPE = "message.sent"
    step: str
    fingerprint: str


class MessageReceived(Body, frozen=True):
    """A message for the task at work came (`meta.handles`); `ctx.receive` gives it to the handler."""

    TYPE = "message.received"
    kind: Kind
    sender: str
    content: Stored
    step: str | None = None  # the wait that it ends, if one was open


class ArtifactAdded(Body, frozen=True):
    """The task made something; above `MAX_INLINE_BYTES` the artifact's JSON is in `blob`."""

    TYPE = "artifact.added"
    step: str
    fingerprint: str
    name: str
    artifact: Artifact | None = None
    blob: str | None = None


class StateChanged(Body, frozen=True):
    """The role's own machine made the change in `meta.state`."""

    TYPE = "state.changed"
    step: str
    to: str


# -- messages that end here --------------------------------------------------------------------------------


class MessageDiscarded(Body, frozen=True):
    """A message came for a task that has ended (`meta.handles`)."""

    TYPE = "message.discarded"
    kind: Kind
    reason: str


class MessageDeadLettered(Body, frozen=True):
    """A message can't be handled. `entry` keeps the bytes where they could not be decoded."""

    TYPE = "message.dead_lettered"
    to: str
    reason: str
    attempts: int = 0
    entry: bytes | None = None
    at: Literal["bus", "actor"] = "actor"


BODIES: dict[str, type[Body]] = {body.TYPE: body for body in Body.__subclasses__()}
ENDS_TASK = frozenset({"task.completed", "task.failed", "task.canceled", "task.handed_off"})
