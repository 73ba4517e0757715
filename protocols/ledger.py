"""The ledger: what is reserved and spent, kept by the event store in the same commit as the events that say so.

    budget     a limit on what one tenant, run, role or agent may spend in a window of time; or each of them ("*")
    hold       the most that an attempt at a model can cost, reserved before it is made
    account    what a budget has spent and reserved in one window, for one target

An attempt is admitted only if its hold fits into every budget that applies to it. When it ends, its hold gives way to
what it cost; if that is not known, the hold stays counted, as lost, until somebody says what it was.

An entry is what one event means for the ledger. All of it follows from the event, so that the ledger can be made again
from the log.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from msgspec import Struct

from callboard.protocols.money import EXACT, Money

Scope = Literal["tenant", "run", "role", "agent"]
Period = Literal["run", "day", "month", "ever"]
Over = Literal["refuse", "wait", "ask"]
ChargeState = Literal["held", "settled", "lost"]
WarningState = Literal["none", "due", "given"]

EACH = "*"
STRICTEST_FIRST: Final[tuple[Over, ...]] = ("refuse", "ask", "wait")
WARN_ABOVE: Final = (4, 5)  # of the limit: four fifths


class Budget(Struct, frozen=True):
    """Which budget: a scope, a target in it (or "*", each by itself), a window, and a currency.

    Windows are UTC days and months, or each run by itself. An agent is named role/key.
    """

    scope: Scope
    target: str
    period: Period
    currency: str


class Party(Struct, frozen=True):
    """On whose account an attempt is made."""

    run: str
    role: str
    agent: str
    tenant: str | None = None


class Hold(Struct, frozen=True):
    """Reserve. `amount` None: the model has no price, so no budget can admit it. `beyond`: a person approved it.

    It counts in the window in which it is reserved, and so does what it turns out to cost.
    """

    attempt: str
    party: Party
    amount: Money | None
    beyond: bool = False


class Settle(Struct, frozen=True):
    """An attempt ended, and cost so much; None: not known, so that what it holds counts as lost.

    What is settled stays as it is, whoever settles it again. What is lost is settled by the next amount.
    """

    attempt: str
    amount: Money | None


class SetBudget(Struct, frozen=True):
    """Make or change a budget. What was spent before in its present window counts."""

    budget: Budget
    limit: Money
    over: Over


class TopUp(Struct, frozen=True):
    """More for the present window, which is that of `run` where the budget is for each run by itself."""

    budget: Budget
    target: str
    amount: Money
    run: str = ""


class Warned(Struct, frozen=True):
    """The warning for a window has been given. Nothing for an account that isn't there."""

    budget: Budget
    target: str
    window: str


class RemoveBudget(Struct, frozen=True):
    """Take a budget away, with its accounts. The charges stay."""

    budget: Budget


Entry = Hold | Settle | SetBudget | TopUp | Warned | RemoveBudget


def attempt_id(task: str, step: str, attempt: int) -> str:
    """The name of one attempt at a model, in all the system."""
    return f"{task}/{step}@{attempt}"


class Charge(Struct, frozen=True):
    """What an attempt has reserved, or has cost. `amount` None: it has no price, and counts in no budget."""

    attempt: str
    party: Party
    amount: Money | None
    state: ChargeState
    at: datetime  # when it was reserved


class Account(Struct, frozen=True):
    """What a budget has spent and reserved in one window, for one target."""

    budget: Budget
    target: str
    window: str
    limit: Decimal
    over: Over
    spent: Decimal = Decimal()
    held: Decimal = Decimal()
    lost: Decimal = Decimal()
    extra: Decimal = Decimal()  # top-ups
    warning: WarningState = "none"

    @property
    def committed(self) -> Decimal:
        """What is spent, reserved and lost together."""
        return EXACT.add(EXACT.add(self.spent, self.held), self.lost)

    @property
    def bound(self) -> Decimal:
        """The limit with its top-ups."""
        return EXACT.add(self.limit, self.extra)

    @property
    def left(self) -> Decimal:
        """What may still be reserved. Negative, if the limit was lowered or somebody approved more."""
        return EXACT.subtract(self.bound, self.committed)

    @property
    def share(self) -> float:
        """What is committed, as a share of the limit; for people, and for sorting."""
        if not self.bound:
            return 1.0 if self.committed else 0.0
        return float(self.committed / self.bound)

    @property
    def is_near(self) -> bool:
        """Whether more than four fifths are committed."""
        part, whole = WARN_ABOVE
        return EXACT.multiply(self.committed, Decimal(whole)) > EXACT.multiply(self.bound, Decimal(part))


def window_of(period: Period, run: str, at: datetime) -> str:
    """The window that a moment of a run falls into: run:<id>, YYYY-MM-DD, YYYY-MM or ever."""
    moment = at.astimezone(UTC)
    match period:
        case "run":
            return f"run:{run}"
        case "day":
            return f"{moment:%Y-%m-%d}"
        case "month":
            return f"{moment:%Y-%m}"
        case "ever":
            return "ever"


def window_end(period: Period, at: datetime) -> datetime | None:
    """When the window that a moment is in gives way to the next; None: it doesn't, by time."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return day + timedelta(days=1)
    if period == "month":
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return None


def target_in(scope: Scope, party: Party) -> str | None:
    """Who the party is in a scope; None for a party without a tenant."""
    return {"tenant": party.tenant, "run": party.run, "role": party.role, "agent": party.agent}[scope]
