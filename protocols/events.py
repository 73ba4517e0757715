"""The facts that the log is made of.

An event says all that happened at one moment. Its *body* is one of the classes below; what every event may bring
along is in its *meta*: the message that it handles, the messages that it sends, the state that it changes.

    in the run's stream      run.started, run.continued
    a task's life            task.started, task.resumed, task.progressed, task.state_changed, task.retry_scheduled,
                             task.cancel_requested, task.stalled,
                             task.completed | task.failed | task.canceled | task.handed_off
    its steps                step.completed | step.failed                                     (own functions)
                             step.given_up                                                    (of any kind)
                             tool.requested,  tool.completed | tool.failed | tool.outcome_unknown
                             model.requested, model.completed | model.failed | model.refused  (each attempt)
                             approval.requested, approval.decided, value.checked
                             question.asked,  question.answered | question.failed
                             timer.set,       timer.fired
                             message.sent, message.received, artifact.added, state.changed
    messages that end here   message.discarded, message.dead_lettered
    and that go out again    dead_letter.edited, dead_letter.redriven
    in a budget's stream     budget.set, budget.topped_up, budget.warned, budget.released, budget.removed

A type's name and its schema version are a storage format: a changed body gets a higher `schema_version` and an
upcaster in `callboard.protocols.codec`.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from callboard.protocols.a2a import Artifact, Part
from callboard.protocols.ledger import Budget, Entry, Over
from callboard.protocols.messages import ErrorInfo, Kind, Message
from callboard.protocols.money import Money
from callboard.protocols.states import StateChange

Subject = Literal["tool", "budget"]  # what a person may have to approve


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
    entry: Entry | None = None  # what it means for the ledger, in the same commit; see callboard.protocols.ledger


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
    deadline: datetime | None = None  # the message's, or an earlier one by the role's limits
    memory: tuple[str, ...] = ()  # the actor's conversation so far, as in `model.requested`
    canceled: Mapping[str, str] = {}  # other tasks that were canceled before their opening message came, and why


class TaskResumed(Body, frozen=True):
    """Another process, or the same one again, took over a task at work.

    `reason` "lost": the process ended, or stood still for longer than its lease, while the handler ran. Such losses are
    counted, and a handler that causes them is stopped. "handed over" and "reloaded" are nobody's fault.
    """

    TYPE = "task.resumed"
    process: str
    epoch: int
    attempt: int
    reason: str  # lost, handed over, reloaded


class TaskStalled(Body, frozen=True):
    """The handler blocked the event loop of its process for longer than its role allows, and the process was ended.

    It counts as a loss of this task. The other tasks of the process were handed over.
    """

    TYPE = "task.stalled"
    process: str
    seconds: float  # for so long it had blocked
    place: str  # in the code


class TaskRetryScheduled(Body, frozen=True):
    """The handler raised a transient error, and runs again at `due_at`: the `timer` message is in `meta.sends`.

    `forgets` are the failed steps that the error came from: they are done again.
    """

    TYPE = "task.retry_scheduled"
    step: str  # the wait: retry#0, retry#1 ...
    error: ErrorInfo
    due_at: datetime
    forgets: tuple[str, ...] = ()


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


class TaskCancelRequested(Body, frozen=True):
    """A cancel message came (`meta.handles`): the handler is stopped, and what it declared for this case runs.

    Where the task has not begun, for the message that opens it is still on its way, it ends when that comes.
    """

    TYPE = "task.cancel_requested"
    reason: str


class TaskCanceled(Body, frozen=True):
    """The task was stopped by a cancel message, or before it began."""

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


class StepGivenUp(Body, frozen=True):
    """The branch that a step belongs to was cancelled: it timed out, or another branch failed. The handler went on.

    Of a question, the message that tells the other actor to stop is in `meta.sends`. What comes late is discarded.
    """

    TYPE = "step.given_up"
    step: str


class ToolRequested(Body, frozen=True):
    """A tool is about to be called; `idempotency_key` goes along where the tool takes one.

    `call` is the id of the model's tool call that it answers, where a model asked for it.
    """

    TYPE = "tool.requested"
    step: str
    fingerprint: str
    tool: str
    arguments: Stored
    idempotency_key: str
    call: str = ""


class ToolCompleted(Body, frozen=True):
    """A tool gave a result."""

    TYPE = "tool.completed"
    step: str
    tool: str
    result: Stored
    duration_ms: int
    resolved_by: str = ""  # the person who said so, where the outcome was unknown
    untrusted: bool = False  # the result may contain what others wrote to mislead a model


class ToolOutcomeUnknown(Body, frozen=True):
    """The process was lost in mid-call of a tool that is not safe to call twice: a person has to say what happened."""

    TYPE = "tool.outcome_unknown"
    step: str
    tool: str


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
    """A model is about to be called. Attempts of one call share its `step`.

    `messages` is the prompt as a tree of blobs, see `callboard.protocols.prompts`; `tools` and `returns` are blobs: the
    JSON of the tools that it may call, and the JSON Schema of the answer. `hold` is the most that the attempt can cost,
    and is reserved in every budget that applies; None where the model has no price.
    """

    TYPE = "model.requested"
    step: str
    fingerprint: str
    attempt: int
    model: str
    messages: tuple[str, ...]
    parameters: Mapping[str, Any] = {}
    tools: str | None = None
    returns: str | None = None
    hold: Cost | None = None
    beyond: bool = False  # somebody approved that it goes beyond a budget
    stream: bool = False
    memory: bool = False  # it goes on with the actor's conversation
    cache: str = ""  # the key under which the answer may be used again
    skipped: Mapping[str, str] = {}  # models of the chain that were not tried now, and why


class ModelCompleted(Body, frozen=True):
    """A model answered. `cost` is None where the model has no price: unpriced, never zero.

    `message` is the assistant's message, as it goes into the next prompt. `reported` is the usage as the provider
    told it. An answer from the cache is an event by itself, without a request: attempt 0, at no cost.
    """

    TYPE = "model.completed"
    SCHEMA_VERSION = 2  # 1 had `text` in place of `message`
    step: str
    attempt: int
    model: str  # as the provider named it
    message: Stored
    usage: Usage
    cost: Cost | None
    finish_reason: str
    duration_ms: int
    deployment: str = ""  # as it was requested
    reported: Raw | UnsetType = UNSET
    first_token_ms: int | None = None
    calls: int = 0  # of tools, that it asks for
    stand_in: bool = False
    cached: str = ""  # the address (stream@version) of the event that the answer comes from
    fingerprint: str = ""  # of a cached answer, which has no request


class ModelFailed(Body, frozen=True):
    """An attempt gave no answer that can be used. `kind` is one of `callboard.actors.models.failures`.

    `usage` is what it used all the same, estimated where it was cut off; `cost` None: not known, for it is not known
    whether the provider charges for it. `answer` is what came, where that was no valid answer.
    """

    TYPE = "model.failed"
    step: str
    attempt: int
    model: str
    error: ErrorInfo
    duration_ms: int
    kind: str = "unknown"
    usage: Usage = Usage()
    cost: Cost | None = None
    reported: Raw | UnsetType = UNSET
    retry_after_s: float | None = None
    answer: Stored | None = None


class ModelRefused(Body, frozen=True):
    """A call was not made: a budget, a limit of the role, or a person said no. Nothing was sent."""

    TYPE = "model.refused"
    step: str
    fingerprint: str
    error: ErrorInfo


class ApprovalRequested(Body, frozen=True):
    """The task waits until a person approves something, or denies it: a `decision` message for this step.

    `digest` is what is approved, and nothing else: of a tool call, the hash of the tool and its arguments.
    """

    TYPE = "approval.requested"
    step: str
    fingerprint: str
    subject: Subject
    digest: str
    note: str  # what it is about, for people
    tool: str = ""
    arguments: Stored | None = None


class ApprovalDecided(Body, frozen=True):
    """A person decided (`meta.handles`)."""

    TYPE = "approval.decided"
    step: str
    approved: bool
    digest: str
    by: str
    reason: str = ""


class ValueChecked(Body, frozen=True):
    """A value from outside was held against a rule: accepted as `value`, or refused for `reason`."""

    TYPE = "value.checked"
    step: str
    fingerprint: str
    name: str
    given: str
    rule: str  # in words
    accepted: bool
    value: str = ""
    reason: str = ""


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
    note: str = ""  # what it waits for, where that is not just the time


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
    opens: int = 0  # tasks


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
    """A message can't be handled. `entry` keeps the bytes where they could not be decoded.

    Where the message opened a task that was begun, this ends it.
    """

    TYPE = "message.dead_lettered"
    to: str
    reason: str
    attempts: int = 0
    message: str = ""  # the id of the message; empty for bytes that are none
    entry: bytes | None = None
    at: Literal["bus", "actor"] = "actor"


class DeadLetterEdited(Body, frozen=True):
    """Somebody gave a dead letter another content, for when it is sent again. The original stays in the log."""

    TYPE = "dead_letter.edited"
    letter: str  # the id of the message
    parts: tuple[Part, ...]
    by: str
    reason: str = ""


class DeadLetterRedriven(Body, frozen=True):
    """Somebody had a dead letter sent again, as a new task: the message is in `meta.sends`.

    `meta.handles` is the address of the event that made it a dead letter: each such event is answered once.
    """

    TYPE = "dead_letter.redriven"
    letter: str
    by: str


# -- budgets -----------------------------------------------------------------------------------------------


class BudgetSet(Body, frozen=True):
    """A budget was made or changed. It is named in full by each event of its stream; see
    `callboard.protocols.ledger.Budget`.
    """

    TYPE = "budget.set"
    budget: Budget
    limit: Money
    over: Over
    by: str
    note: str = ""


class BudgetToppedUp(Body, frozen=True):
    """A budget got more for its present window only; `target` is whose, where the budget is one for each.

    `run` is whose window, where the budget is for each run by itself.
    """

    TYPE = "budget.topped_up"
    budget: Budget
    target: str
    amount: Money
    by: str
    run: str = ""
    note: str = ""


class BudgetWarned(Body, frozen=True):
    """More than four fifths of a budget are spent or reserved, for the first time in this window."""

    TYPE = "budget.warned"
    budget: Budget
    target: str
    window: str
    committed: Money  # spent and reserved together
    limit: Money


class BudgetReleased(Body, frozen=True):
    """Somebody found what an attempt with an unknown outcome cost, so that no more than that is counted."""

    TYPE = "budget.released"
    attempt: str
    amount: Money
    by: str
    note: str = ""


class BudgetRemoved(Body, frozen=True):
    """A budget is no more."""

    TYPE = "budget.removed"
    budget: Budget
    by: str


BODIES: dict[str, type[Body]] = {body.TYPE: body for body in Body.__subclasses__()}
ENDS_TASK = frozenset({"task.completed", "task.failed", "task.canceled", "task.handed_off", "message.dead_lettered"})
