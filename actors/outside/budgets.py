"""Budgets: set, topped up and removed by people, and warned of in time.

What a budget means is in `callboard.protocols.ledger`; that it holds is the event store's work. Here is what people do
with budgets. Each deed is an event that names who did it, in the budget's own stream or, where it is about one attempt,
in that of its run.
"""

import logging
import re
from decimal import Decimal
from typing import Final, get_args

from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.errors import (
    AmbiguousId,
    BadBudget,
    BadName,
    Conflict,
    StillUnderWay,
    UnknownAttempt,
    UnknownBudget,
)
from callboard.protocols.ledger import EACH, Account, Budget, Charge, Over, Period, Scope, SetBudget
from callboard.protocols.money import Money, decimals
from callboard.protocols.names import budget_stream, check_key, check_role, check_tenant, run_stream
from callboard.protocols.ports import ANY, EventStore, LedgerView

log = logging.getLogger("callboard.budgets")

MAX_AMOUNT: Final = Decimal(10**15)  # of what people write: more is a slip
MAX_PLACES: Final = 18
_CURRENCY: Final = re.compile("[A-Z]{3}")


class Budgets:
    """What people do with budgets."""

    def __init__(self, store: EventStore, ledger: LedgerView) -> None:
        self._store = store
        self.ledger = ledger

    async def set(self, budget: Budget, limit: Money, over: Over = "refuse", *, by: str, note: str = "") -> None:
        """Make a budget, or change it; it holds from now on, and what was spent in its present window counts.

        Raises BadBudget, StoreUnavailable.
        """
        check_budget(budget)
        _check_amount("limit", limit, budget.currency)
        if over not in get_args(Over):
            raise BadBudget("answer to a call beyond it", over, f"it is {_either(Over)}")
        await self._append(budget, e.BudgetSet(budget=budget, limit=limit, over=over, by=by, note=note))

    async def top_up(
        self, budget: Budget, amount: Money, *, target: str = "", run: str = "", by: str, note: str = ""
    ) -> None:
        """Give more for the present window. `target`: whose, where the budget is one for each; `run`: which one's
        window, where it is for each run. Raises BadBudget, UnknownBudget, StoreUnavailable.
        """
        await self.find(budget)
        _check_amount("top-up", amount, budget.currency)
        if not amount:
            raise BadBudget("top-up", str(amount), "it is above 0")
        whose = target or budget.target
        if whose == EACH or budget.target not in (whose, EACH):
            raise BadBudget("target", whose, f"name the {budget.scope} that gets more")
        check_target(budget.scope, whose)
        if budget.period == "run":
            run = run or (whose if budget.scope == "run" else "")
            if not run:
                raise BadBudget("run", run, "the budget is for each run by itself: name the run that gets more")
        body = e.BudgetToppedUp(budget=budget, target=whose, amount=amount, by=by, note=note, run=run)
        await self._append(budget, body)

    async def remove(self, budget: Budget, *, by: str) -> None:
        """Take a budget away. Raises UnknownBudget, StoreUnavailable."""
        await self.find(budget)
        await self._append(budget, e.BudgetRemoved(budget=budget, by=by))

    async def release(self, attempt: str, amount: Money, *, held: bool = False, by: str, note: str = "") -> Charge:
        """Say what an attempt with an unknown outcome cost, so that no more than that is counted. Gives the charge as
        it was before.

        `attempt` is its id, its task's, or an unambiguous beginning or end of either. One that is under way is
        released only if `held`. Raises UnknownAttempt, AmbiguousId, StillUnderWay, BadBudget, StoreUnavailable.
        """
        charge = await self._charge(attempt)
        _check_amount("cost", amount, amount.currency)
        if charge.state == "held" and not held:
            raise StillUnderWay(charge.attempt, charge.at.isoformat(timespec="seconds"))
        party = charge.party
        body = e.BudgetReleased(attempt=charge.attempt, amount=amount, by=by, note=note)
        meta = e.Meta(run=party.run, tenant=party.tenant)
        stream = run_stream(party.run)
        await self._store.append(stream, [new_event(body, meta, stream)], ANY)
        return charge

    async def currency_of(self, attempt: str) -> str:
        """What an attempt holds is in this currency. Raises UnknownAttempt, AmbiguousId, StoreUnavailable."""
        charge = await self._charge(attempt)
        return charge.amount.currency if charge.amount is not None else "USD"

    async def find(self, budget: Budget) -> SetBudget:
        """A budget as it is set now. Raises UnknownBudget, StoreUnavailable."""
        for each in await self.ledger.budgets():
            if each.budget == budget:
                return each
        raise UnknownBudget(name(budget))

    async def choose(self, scope: str, target: str, period: str | None, currency: str | None) -> Budget:
        """The one budget that is meant: of this target or, where it has none, the one for each of its scope.

        Raises UnknownBudget, AmbiguousId, StoreUnavailable.
        """
        found = [
            each.budget
            for each in await self.ledger.budgets()
            if each.budget.scope == scope
            and each.budget.target in (target, EACH)
            and period in (None, each.budget.period)
            and currency in (None, each.budget.currency)
        ]
        found = [budget for budget in found if budget.target == target] or found
        if not found:
            raise UnknownBudget(" ".join(filter(None, (f"of {scope} {target}", period and f"per {period}", currency))))
        if len(found) > 1:
            raise AmbiguousId(f"{scope} {target}", ", ".join(map(name, found)))
        return found[0]

    async def _charge(self, given: str) -> Charge:
        charges = await self.ledger.open_charges()
        found = [each for each in charges if each.attempt == given] or [
            each for each in charges if _names(given, each.attempt)
        ]
        if not found:
            raise UnknownAttempt(given)
        if len(found) > 1:
            raise AmbiguousId(given, ", ".join(each.attempt for each in found[:5]))
        return found[0]

    async def _append(self, budget: Budget, body: e.Body) -> None:
        stream = _stream(budget)
        await self._store.append(stream, [new_event(body, _meta(budget), stream)], ANY)


def check_budget(budget: Budget) -> None:
    """Raise BadBudget if there can't be such a budget."""
    if budget.scope not in get_args(Scope):
        raise BadBudget("scope", budget.scope, f"it is {_either(Scope)}")
    if budget.period not in get_args(Period):
        raise BadBudget("period", budget.period, f"it is {_either(Period)}")
    if not _CURRENCY.fullmatch(budget.currency):
        raise BadBudget("currency", budget.currency, "it is a code of ISO 4217, such as USD")
    if budget.target != EACH:
        check_target(budget.scope, budget.target)


def check_target(scope: Scope, target: str) -> None:
    """Raise BadBudget for what can't be a target of a scope."""
    try:
        match scope:
            case "role":
                check_role(target)
            case "agent":
                role, _, key = target.partition("/")
                check_role(role)
                check_key(key)
            case "run":
                check_key(target)
            case "tenant":
                check_tenant(target)
    except BadName as error:
        allowed = "an agent is role/key, such as writer/dave" if scope == "agent" else error.allowed
        raise BadBudget(scope, target, f"{allowed}; {EACH} is each by itself") from error


def name(budget: Budget) -> str:
    """A budget, as people are told of it: tenant acme per day in USD."""
    target = f"each {budget.scope}" if budget.target == EACH else f"{budget.scope} {budget.target}"
    return f"{target} {'ever' if budget.period == 'ever' else f'per {budget.period}'} in {budget.currency}"


# -- warnings ------------------------------------------------------------------------------------------------------


async def warn_of_budgets(store: EventStore, ledger: LedgerView) -> list[Account]:
    """Record a warning for each account that is near its limit, once a window however many processes look.

    Gives the accounts that this process warned of. Raises StoreUnavailable.
    """
    warned = []
    for account in await ledger.due():
        # Nobody else has warned of it if the budget's stream is where it was before it was looked at last.
        stream = _stream(account.budget)
        version = 0
        async for event in store.read_stream(stream, backwards=True):
            version = event.version
            break
        now = next((each for each in await ledger.due() if _place(each) == _place(account)), None)
        if now is None:
            continue
        currency = now.budget.currency
        body = e.BudgetWarned(
            budget=now.budget,
            target=now.target,
            window=now.window,
            committed=Money(now.committed, currency),
            limit=Money(now.bound, currency),
        )
        try:
            await store.append(stream, [new_event(body, _meta(now.budget), stream)], version)
        except Conflict:
            continue  # it is due still, or somebody has warned: the next look will tell
        log.warning("budget: %s (%s) has committed %s of %s", name(now.budget), now.target, body.committed, body.limit)
        warned.append(now)
    return warned


def _names(given: str, attempt: str) -> bool:
    task = attempt.partition("/")[0]
    return attempt.startswith(given) or attempt.endswith(given) or task.endswith(given)


def _place(account: Account) -> tuple[Budget, str, str]:
    return account.budget, account.target, account.window


def _stream(budget: Budget) -> str:
    return budget_stream(budget.scope, budget.target, budget.period, budget.currency)


def _meta(budget: Budget) -> e.Meta:
    """A budget of one run or tenant concerns it."""
    return e.Meta(
        run=budget.target if budget.scope == "run" and budget.target != EACH else "",
        tenant=budget.target if budget.scope == "tenant" and budget.target != EACH else None,
    )


def _check_amount(what: str, amount: Money, currency: str) -> None:
    if amount.currency != currency:
        raise BadBudget(what, str(amount), f"the budget is in {currency}")
    if not amount.amount.is_finite() or not 0 <= amount.amount < MAX_AMOUNT or decimals(amount.amount) > MAX_PLACES:
        raise BadBudget(what, str(amount), f"it is from 0 to below {MAX_AMOUNT:,}, with at most {MAX_PLACES} decimals")


def _either(words: object) -> str:
    *others, last = get_args(words)
    return f"{', '.join(others)} or {last}"
