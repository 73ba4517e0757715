"""What the log says of one step, of what a task has done in all, and of what it has received."""

from decimal import Decimal

from callboard.actors.state.steps import counted_as
from callboard.actors.state.waits import StepState
from callboard.protocols import events as e
from callboard.protocols.errors import ResultNotStored
from callboard.protocols.messages import ErrorInfo, Kind
from callboard.protocols.money import add_amount


class StepRecord:
    """What the log says of one step. `result` is the body of the event that ended it well.

    A step that is to be done `again` failed, or was given up, in a former try of the handler.
    """

    __slots__ = (
        "again",
        "attempt",
        "error",
        "failed",
        "failures",
        "fingerprint",
        "form",
        "given_up",
        "refused",
        "request",
        "result",
        "stopped",
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
        self.given_up = False  # its branch was cancelled, and the handler went on without it
        self.stopped = False  # a question whose actor has been told to stop

    @property
    def state(self) -> StepState:
        """Where it is in its life; see `callboard.actors.state.waits`."""
        if self.given_up:
            return StepState.GIVEN_UP
        if self.result is not None:
            return StepState.DONE
        if self.error is not None:
            return StepState.FAILED
        if self.again:
            return StepState.PLANNED
        unknown = self.form == "review" and isinstance(self.request, e.ToolRequested)
        return StepState.UNKNOWN if unknown else StepState.REQUESTED

    @property
    def done(self) -> bool:
        """Whether it has an outcome."""
        return (self.result is not None or self.error is not None) and not self.given_up

    @property
    def open(self) -> bool:
        """Whether it has begun and has no outcome."""
        return not (self.given_up or self.result is not None or self.error is not None or self.again)

    def forget(self) -> None:
        """Let the failure be as if it had not happened; attempts are counted on. What has run, and only has no result
        that could be stored, stays as it is.
        """
        if self.error is not None and self.error.type == ResultNotStored.__name__:
            return
        self.error = None
        self.result = None
        self.given_up = False
        self.stopped = False
        self.failures = 0
        self.failed = []
        self.refused = False
        self.again = True


class Tally:
    """What a task has done so far: what `policies.Caps` limits."""

    __slots__ = ("calls", "cost", "model_calls", "steps", "tasks", "tokens")

    def __init__(self) -> None:
        self.steps = 0  # that have begun
        self.model_calls = 0
        self.tasks = 0  # of others, that it has asked for or told
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
        key = f"{name}:{counted_as(fingerprint)}"
        self.calls[key] = self.calls.get(key, 0) + 1


class Received:
    """A message that came for a task at work. `step` is the `ctx.receive` that has it, once one does."""

    __slots__ = ("content", "kind", "sender", "step")

    def __init__(self, kind: Kind, sender: str, content: e.Stored, step: str | None) -> None:
        self.kind = kind
        self.sender = sender
        self.content = content
        self.step = step
