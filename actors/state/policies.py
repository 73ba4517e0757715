"""What a role may declare about its failures and its time: values, checked when they are made."""

import random
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from callboard.actors.state.steps import counted_as
from callboard.protocols.causes import kinds, leaves
from callboard.protocols.errors import BadOption, McpFailed, ModelFailed, ResultNotStored
from callboard.protocols.money import Money

if TYPE_CHECKING:
    from callboard.actors.state.step_record import Tally

TRANSIENT: Final = (ConnectionError, TimeoutError, ModelFailed, McpFailed)


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a handler is tried in all, and how long it waits before it is tried again.

    The wait before try n + 1 is uniform between 0 and min(longest_s, first_s * factor ** (n - 1)): exponential backoff
    with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015). `transient` are the errors worth another try:
    their classes with all subclasses, or names of classes; any other error fails the task at once. An error of a step,
    or of an actor that was asked, counts as what it was there; an exception group as what it holds. Raises BadOption.
    """

    attempts: int = 1
    first_s: float = 1.0
    factor: float = 2.0
    longest_s: float = 60.0
    transient: tuple[type[BaseException] | str, ...] = TRANSIENT

    def __post_init__(self) -> None:
        _check(self, "attempts", at_least=1)
        _check(self, "first_s", at_least=0)
        _check(self, "factor", at_least=1)
        _check(self, "longest_s", at_least=0)
        for kind in self.transient:
            if not isinstance(kind, str) and not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise BadOption("Retry.transient", repr(kind), "it takes classes of exceptions, or their names")

    def covers(self, error: BaseException) -> bool:
        """Whether an error is transient. A group of them is if all are that it holds, but for cancelled ones. What has
        run, and only has no result that could be stored, never is.
        """
        names = {kind if isinstance(kind, str) else kind.__name__ for kind in self.transient}
        if any(ResultNotStored.__name__ in kinds(each) for each in (error, *leaves(error))):
            return False
        held = [each for each in leaves(error) if each is error or "CancelledError" not in kinds(each)]
        return not names.isdisjoint(kinds(error)) or (
            bool(held) and all(not names.isdisjoint(kinds(each)) for each in held)
        )

    def wait(self, tries: int) -> timedelta:
        """How long to wait when so many tries have failed."""
        longest = min(self.longest_s, self.first_s * self.factor ** min(tries - 1, 64))
        return timedelta(seconds=random.uniform(0, longest))


class TimeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a task of a role may take, in seconds; None is without limit.

    thinking_s, executing_s: in that state without anything being recorded. blocked_s: waiting for another actor's
    answer without anything being recorded; by default without limit, for a person may have to decide something below.
    Sleeping is not being blocked: it has an end. task_s: from a task's start to its end, also through others that it
    is handed to. run_s: the same for a task that starts a run. cancel_s: for what a cancelled task still does. A task
    that takes longer fails, with TimeLimitExceeded or DeadlineExceeded, and what it has asked for is told to stop.

    blocking_s: how long a handler may block its process's event loop, by a call that should have been awaited. A
    process that is blocked for longer is ended: the task counts as lost there, and all others are handed over.

    Raises BadOption.
    """

    thinking_s: float | None = 300.0
    executing_s: float | None = 600.0
    blocked_s: float | None = None
    blocking_s: float | None = 120.0
    task_s: float | None = None
    run_s: float | None = None
    cancel_s: float = 30.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) is not None:
                _check(self, name, above=0)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an actor's conversation goes with the next call of `ctx.model(..., memory=True)`.

    At most the `last` so many messages, and about so many `tokens` (estimated, beside the system's messages). What is
    too much is left out, oldest first, or, with over="summarise", replaced by what a model says of it. A conversation
    is an actor's, not a task's: a named actor goes on with it in its next task. Raises BadOption.
    """

    last: int | None = None
    tokens: int | None = 100_000
    over: Literal["trim", "summarise"] = "trim"

    def __post_init__(self) -> None:
        for name, least in (("last", 1), ("tokens", 100)):
            if getattr(self, name) is not None:
                _check(self, name, at_least=least)
        if self.over not in ("trim", "summarise"):
            raise BadOption("Memory.over", repr(self.over), "it is 'trim' or 'summarise'")


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model's answer may be used again for a call that is the same in all: in the same run, by the same role,
    or by `all`; until it is so old. Raises BadOption.
    """

    scope: Literal["run", "role", "all"] = "run"
    seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if self.scope not in ("run", "role", "all"):
            raise BadOption("Cache.scope", repr(self.scope), "it is 'run', 'role' or 'all'")
        _check(self, "seconds", above=0)


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """How much one task of a role may do, in all, however often it is taken up again; None is without limit.

    `steps` of any kind, `model_calls` (not counting attempts), `tokens` of all attempts, `cost` (known costs in that
    currency), how often the `same_call` of a tool or a model, with the same input, may be made, and how many other
    `tasks` it may ask for or tell. What would go beyond raises LimitReached.

    Two limits go along with the messages, and end circles of roles. `depth`: a task so many levels below the first of
    its run asks for none below it (TooDeep). `handoffs`: a task that has been handed over so often is not handed over
    again (TooManyHandoffs). Raises BadOption.
    """

    steps: int | None = None
    model_calls: int | None = None
    tokens: int | None = None
    cost: Money | None = None
    same_call: int | None = None
    tasks: int | None = 100_000
    depth: int | None = 100
    handoffs: int | None = 100

    def __post_init__(self) -> None:
        for name in ("steps", "model_calls", "tokens", "same_call", "tasks", "depth", "handoffs"):
            if getattr(self, name) is not None:
                _check(self, name, at_least=1)
        if self.cost is not None and not (isinstance(self.cost, Money) and self.cost.amount > 0):
            raise BadOption("Caps.cost", repr(self.cost), "it is a Money above 0")

    def exceeded(self, done: "Tally", call: str, fingerprint: str) -> tuple[str, str] | None:
        """Which limit one more step would exceed, or one more `call` of a tool or a model: how many, and of what."""
        if self.steps is not None and done.steps >= self.steps:
            return str(self.steps), "steps"
        made = done.calls.get(f"{call}:{counted_as(fingerprint)}", 0)
        if self.same_call is not None and call and made >= self.same_call:
            return str(self.same_call), f"calls of {call} with the same input"
        if call != "model":
            return None
        if self.model_calls is not None and done.model_calls >= self.model_calls:
            return str(self.model_calls), "model calls"
        if self.tokens is not None and done.tokens >= self.tokens:
            return str(self.tokens), "tokens"
        if self.cost is not None and done.cost.get(self.cost.currency, 0) >= self.cost.amount:
            return f"{self.cost.amount} {self.cost.currency}", "cost"
        return None


def _check(value: msgspec.Struct, name: str, *, at_least: float | None = None, above: float | None = None) -> None:
    number = getattr(value, name)
    allowed = f"it is a number of at least {at_least:g}" if at_least is not None else f"it is a number above {above:g}"
    ok = isinstance(number, int | float) and not isinstance(number, bool) and number == number
    if not ok or (at_least is not None and number < at_least) or (above is not None and number <= above):
        raise BadOption(f"{type(value).__name__}.{name}", repr(number), allowed)
