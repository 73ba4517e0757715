"""The ledger as a pure fold of its entries: the rules of `eventstore/sql/0007_ledger.sql` once more, in Python.

It is the ledger of the event store in memory, and what the tables are checked against. What an entry means is said in
`callboard.protocols.ledger`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import replace

from callboard.protocols.errors import BudgetExceeded, NotAdmitted, Unpriced
from callboard.protocols.ledger import (
    EACH,
    STRICTEST_FIRST,
    Account,
    Budget,
    Charge,
    Entry,
    Hold,
    Over,
    Party,
    RemoveBudget,
    Scope,
    SetBudget,
    Settle,
    TopUp,
    Warned,
    target_in,
    window_of,
)
from callboard.protocols.money import EXACT, Money, plain

SCOPES: Final[tuple[Scope, ...]] = ("tenant", "run", "role", "agent")
COUNTED_IN: Final = {"held": "held", "settled": "spent", "lost": "lost"}  # a charge's state, and the account's column

Undo = Callable[[], object]
K = TypeVar("K")
V = TypeVar("V")


class Ledger:
    """Budgets, charges and accounts."""

    def __init__(self) -> None:
        self.budgets: dict[Budget, tuple[Decimal, Over]] = {}
        self.charges: dict[str, Charge] = {}
        self.accounts: dict[tuple[Budget, str, str], Account] = {}  # by budget, target and window
        self._attempts: dict[tuple[Scope, str], list[str]] = {}  # of each target, as they were made
        self._undo: list[Undo] = []

    def __repr__(self) -> str:
        return f"<Ledger {len(self.budgets)} budgets, {len(self.accounts)} accounts, {len(self.charges)} charges>"

    def charge(self, entries: Iterable[Entry], at: datetime) -> None:
        """Apply what an append means, all or none; raises BudgetExceeded, Unpriced."""
        self._undo.clear()
        try:
            for entry in entries:
                self._apply(entry, at)
        except NotAdmitted:
            while self._undo:
                self._undo.pop()()
            raise

    def replay(self, entry: Entry, at: datetime) -> None:
        """Apply an entry that stands in the log: whoever wrote it, it was admitted."""
        self.charge([replace(entry, beyond=True) if isinstance(entry, Hold) else entry], at)

    def _apply(self, entry: Entry, at: datetime) -> None:
        match entry:
            case Hold():
                self._hold(entry, at)
            case Settle():
                self._settle(entry)
            case SetBudget():
                self._set(entry, at)
            case TopUp():
                account = self._opened(entry.budget, entry.target, entry.run, at)
                if account is not None:
                    self._keep(replace(account, extra=EXACT.add(account.extra, entry.amount.amount)))
            case Warned():
                account = self.accounts.get((entry.budget, entry.target, entry.window))
                if account is not None:
                    self._keep(replace(account, warning="given"))
            case RemoveBudget():
                self._put(self.budgets, entry.budget, None)
                for key in [key for key in self.accounts if key[0] == entry.budget]:
                    self._put(self.accounts, key, None)

    # -- attempts ----------------------------------------------------------------------------------------------

    def _hold(self, hold: Hold, at: datetime) -> None:
        if hold.attempt in self.charges:
            return
        applying = sorted(self._budgets_of(hold.party), key=_name)
        if hold.amount is not None:
            currency = hold.amount.currency
            opened = [self._opened(*each, hold.party.run, at) for each in applying if each[0].currency == currency]
            short = [each for each in opened if each is not None and each.left < hold.amount.amount]
            if short and not hold.beyond:
                raise exceeded(min(short, key=_strictest), hold.amount.amount)
        elif applying and not hold.beyond:
            budget, target = applying[0]
            raise Unpriced(budget.scope, target)
        charge = Charge(hold.attempt, hold.party, hold.amount, "held", at)
        self._put(self.charges, charge.attempt, charge)
        for scope in SCOPES:
            if target_in(scope, hold.party) is not None:
                attempts = self._attempts.setdefault((scope, target_in(scope, hold.party) or ""), [])
                attempts.append(charge.attempt)
                self._undo.append(attempts.pop)
        self._count(charge, 1)

    def _settle(self, settle: Settle) -> None:
        charge = self.charges.get(settle.attempt)
        if charge is None or charge.state == "settled" or (charge.state == "lost" and settle.amount is None):
            return
        if settle.amount is None:
            ended = replace(charge, state="lost")
        else:
            ended = replace(charge, state="settled", amount=settle.amount)
        self._count(charge, -1)
        self._put(self.charges, ended.attempt, ended)
        self._count(ended, 1)

    def _count(self, charge: Charge, sign: int) -> None:
        """Add a charge to the accounts that there are of its budgets, or take it out."""
        if charge.amount is None:
            return
        amount = EXACT.multiply(charge.amount.amount, Decimal(sign))
        column = COUNTED_IN[charge.state]
        for budget, target in self._budgets_of(charge.party):
            window = window_of(budget.period, charge.party.run, charge.at)
            account = self.accounts.get((budget, target, window))
            if account is not None and budget.currency == charge.amount.currency:
                self._keep(_marked(replace(account, **{column: EXACT.add(getattr(account, column), amount)})))

    # -- budgets and their accounts ----------------------------------------------------------------------------

    def _budgets_of(self, party: Party) -> Iterator[tuple[Budget, str]]:
        """The budgets that apply to a party, each with the target whose account it is."""
        for budget in self.budgets:
            target = target_in(budget.scope, party)
            if target is not None and budget.target in (target, EACH):
                yield budget, target

    def _set(self, entry: SetBudget, at: datetime) -> None:
        budget = entry.budget
        self._put(self.budgets, budget, (entry.limit.amount, entry.over))
        for key, account in list(self.accounts.items()):
            if key[0] == budget:
                self._keep(_marked(replace(account, limit=entry.limit.amount, over=entry.over)))
        if budget.target != EACH and (budget.period != "run" or budget.scope == "run"):
            self._opened(budget, budget.target, budget.target, at)

    def _opened(self, budget: Budget, target: str, run: str, at: datetime) -> Account | None:
        """The account for a window that is not over yet, with all that was charged in it; None: no such budget."""
        window = window_of(budget.period, run, at)
        there = self.accounts.get((budget, target, window))
        if there is not None or budget not in self.budgets:
            return there
        limit, over = self.budgets[budget]
        sums = dict.fromkeys(COUNTED_IN.values(), Decimal())
        for charge in self._charges(budget, target, run, at):
            if charge.amount is not None and charge.amount.currency == budget.currency:
                column = COUNTED_IN[charge.state]
                sums[column] = EXACT.add(sums[column], charge.amount.amount)
        account = _marked(replace(Account(budget, target, window, limit, over), **sums))
        self._keep(account)
        return account

    def _charges(self, budget: Budget, target: str, run: str, at: datetime) -> Iterator[Charge]:
        if budget.period == "run":
            charges = (self.charges[attempt] for attempt in self._attempts.get(("run", run), ()))
            return (each for each in charges if target_in(budget.scope, each.party) == target)
        attempts = self._attempts.get((budget.scope, target), [])
        first = 0 if budget.period == "ever" else bisect_left(attempts, _begin(budget, at), key=self._time)
        return (self.charges[attempt] for attempt in attempts[first:])

    def _time(self, attempt: str) -> datetime:
        return self.charges[attempt].at

    # -- changes that can be taken back ------------------------------------------------------------------------

    def _keep(self, account: Account) -> None:
        self._put(self.accounts, (account.budget, account.target, account.window), account)

    def _put(self, table: dict[K, V], key: K, value: V | None) -> None:
        former = table.get(key)
        if former is None:
            self._undo.append(partial(table.pop, key, None))
        else:
            self._undo.append(partial(table.__setitem__, key, former))
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value


class MemoryLedger:
    """`callboard.protocols.ports.LedgerView` of a ledger in memory."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def budgets(self) -> list[SetBudget]:
        """All budgets; see the port."""
        found = sorted(self._ledger.budgets.items(), key=lambda each: _name((each[0], "")))
        return [SetBudget(budget, Money(limit, budget.currency), over) for budget, (limit, over) in found]

    async def accounts(self, now: datetime) -> list[Account]:
        """The accounts of windows that are not over; see the port."""
        return by_use(
            account
            for account in self._ledger.accounts.values()
            if account.budget.period == "run" or account.window == window_of(account.budget.period, "", now)
        )

    async def due(self) -> list[Account]:
        """The accounts whose warning is due; see the port."""
        return [each for each in self._ledger.accounts.values() if each.warning == "due" and each.is_near]

    async def open_charges(self) -> list[Charge]:
        """The attempts that hold something; see the port."""
        found = [charge for charge in self._ledger.charges.values() if charge.state != "settled"]
        return sorted(found, key=lambda charge: (charge.at, charge.attempt))


def by_use(accounts: Iterable[Account]) -> list[Account]:
    """By budget, and of each those with the least left in proportion first."""
    return sorted(accounts, key=lambda each: (_name((each.budget, "")), -each.share, each.target, each.window))


def exceeded(account: Account, needed: Decimal) -> BudgetExceeded:
    """The refusal of what an account has no room for."""
    budget = account.budget
    return BudgetExceeded(
        scope=budget.scope,
        target=account.target,
        period=budget.period,
        window=account.window,
        currency=budget.currency,
        limit=plain(account.bound),
        left=plain(account.left),
        needed=plain(needed),
        over=account.over,
    )


def _marked(account: Account) -> Account:
    """The account, due for its warning if it is near its limit and had none."""
    return replace(account, warning="due") if account.warning == "none" and account.is_near else account


def _name(of: tuple[Budget, str]) -> tuple[str, ...]:
    budget, _ = of
    return budget.scope, budget.target, budget.period, budget.currency


def _strictest(account: Account) -> tuple[int, Decimal, tuple[str, ...]]:
    """What sorts accounts: the strictest first, of these the one with the least left."""
    return STRICTEST_FIRST.index(account.over), account.left, _name((account.budget, ""))


def _begin(budget: Budget, at: datetime) -> datetime:
    """The beginning of the day or the month, UTC."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if budget.period == "day" else day.replace(day=1)
