"""What can go wrong with an attempt at a model, and what is done about it. Pure: a table, and how it is read.

docs/models.md shows the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

from callboard.protocols.errors import CallboardError
from callboard.protocols.events import Cost, Usage
from callboard.protocols.messages import ErrorInfo

Kind = Literal[
    "rate_limit",  # 429
    "overload",  # 500, 502, 503, 529, and no connection
    "timeout",  # one of our deadlines: connect, first token, total
    "cut_stream",  # the stream ended before the answer did
    "stalled_stream",  # nothing came for longer than the deadline between tokens
    "malformed",  # what came is not what the protocol says
    "content_filter",  # the provider refuses the prompt or the answer
    "context_overflow",  # the prompt is too long for the model
    "empty",  # no text and no tool call
    "bad_answer",  # not what `returns` asks for
    "authentication",  # no key, or a wrong one
    "bad_request",  # the provider doesn't take the request, or doesn't know the model
    "lost",  # the process was lost, or the task was canceled, in mid-call
    "unknown",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is done about a kind of failure.

    First the same model is tried again, `same` times, each after up to `pause_s` (doubled from time to time, with full
    jitter). Then the next model of the chain is tried, if `chain`. When all of the chain has failed, it is begun
    again, `rounds` times, with those of its models that may recover. `trim`: the next attempt goes with a shorter
    prompt. `sick`: it counts against the model's circuit breaker. `uncounted`: it is not the model's failure, and the
    attempt is repeated as if it had not been made.
    """

    same: int = 0
    pause_s: float = 0.0
    chain: bool = True
    rounds: int = 0
    trim: bool = False
    sick: bool = False
    uncounted: bool = False


POLICIES: Final[dict[Kind, Policy]] = {
    "rate_limit": Policy(rounds=3, sick=True),
    "overload": Policy(same=1, pause_s=1.0, rounds=3, sick=True),
    "timeout": Policy(same=1, rounds=1, sick=True),
    "cut_stream": Policy(same=1, rounds=1, sick=True),
    "stalled_stream": Policy(same=1, rounds=1, sick=True),
    "malformed": Policy(same=1, sick=True),
    "content_filter": Policy(),
    "context_overflow": Policy(same=2, trim=True),
    "empty": Policy(same=1),
    "bad_answer": Policy(same=2, chain=False),
    "authentication": Policy(),
    "bad_request": Policy(),
    "lost": Policy(uncounted=True),
    "unknown": Policy(same=1),
}
ROUND_PAUSE_S: Final = 5.0  # before the chain is begun again, at most; doubled each time
LONGEST_PAUSE_S: Final = 60.0


class Failed(Protocol):
    """What of a failed attempt matters here: `callboard.protocols.events.ModelFailed` has it."""

    @property
    def model(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def retry_after_s(self) -> float | None: ...


class Next(msgspec.Struct, frozen=True):
    """The next attempt: at which models (the first that is let in, in this order), after a pause of at most so long (a
    provider's own Retry-After is exact), and how often the prompt has to be trimmed.
    """

    models: tuple[str, ...]
    pause_s: float = 0.0
    exact: bool = False
    trims: int = 0


def policy(kind: str) -> Policy:
    """The policy for a kind; one that is not known (any more) counts as "unknown"."""
    return POLICIES.get(cast("Kind", kind), POLICIES["unknown"])


def plan(chain: Sequence[str], failures: Sequence[Failed]) -> Next | None:
    """What to do after these failures of one call, in their order; None: it has failed.

    It depends on nothing else, so that another process goes on as the former would have.
    """
    walk = _Walk(chain)
    for failure in failures:
        if not policy(failure.kind).uncounted and not walk.step(failure):
            return None
    return Next(walk.left(), walk.pause_s, walk.exact, walk.trims)


class _Walk:
    """How far the attempts at one call have come along its chain."""

    def __init__(self, chain: Sequence[str]) -> None:
        self.chain = list(chain)
        self.place = 0
        self.same = 0  # failures at this place, in this round
        self.rounds = 0
        self.trims = 0
        self.pause_s = 0.0
        self.exact = False
        self.kinds: dict[str, str] = {}  # what each model failed of last

    def left(self) -> tuple[str, ...]:
        return tuple(self.chain[self.place :])

    def step(self, failure: Failed) -> bool:
        """Take one failure into account; False: there is nothing left to try."""
        known = policy(failure.kind)
        self.kinds[failure.model] = failure.kind
        if failure.model in self.chain[self.place + 1 :]:  # those before were not let in
            self.place, self.same = self.chain.index(failure.model), 0
        self.trims += known.trim
        self.pause_s, self.exact = 0.0, False
        self.same += 1
        if self.same <= known.same:
            self.pause_s = min(known.pause_s * 2 ** (self.same - 1), LONGEST_PAUSE_S)
            return True
        if not known.chain:
            return False
        self.place, self.same = self.place + 1, 0
        return self.place < len(self.chain) or self._begin_again(failure)

    def _begin_again(self, last: Failed) -> bool:
        # A model that was never reached because it was not let in may recover, too.
        able = [model for model in self.chain if policy(self.kinds.get(model, "overload")).rounds > self.rounds]
        if not able:
            return False
        self.chain, self.place = able, 0
        self.pause_s = min(ROUND_PAUSE_S * 2**self.rounds, LONGEST_PAUSE_S)
        if last.retry_after_s is not None and len(able) == 1:
            self.pause_s, self.exact = last.retry_after_s, True
        self.rounds += 1
        return True


NOTHING: Final = Usage()


@dataclass(eq=False)
class AttemptFailed(CallboardError):
    """Model {model!r} gave no answer: {kind}: {message}"""

    model: str
    kind: Kind
    type: str  # the name of the error that told
    message: str
    retry_after_s: float | None = None
    usage: Usage = NOTHING
    cost: Cost | None = None  # None: not known
    reported: Raw | UnsetType = UNSET
    answer: str | None = None

    @property
    def info(self) -> ErrorInfo:
        """As a value for the log."""
        return ErrorInfo(type=self.type, message=self.message)
