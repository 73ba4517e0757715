"""`budgets`: what may be spent, and what is."""

from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from msgspec import Struct
from rich.text import Text

from callboard.actors.outside.budgets import Budgets, name
from callboard.cli.output import Listing, people, plain, write_json
from callboard.cli.session import Desk, Session, act, read, who
from callboard.cli.words import NOTHING, ago, bar, count, currency_word, short
from callboard.eventstore.ledger_tables import PostgresLedger
from callboard.projections import runs, tasks
from callboard.projections.tasks import BUDGET_WAIT
from callboard.protocols.errors import UnknownBudget
from callboard.protocols.ledger import EACH, Account, Budget, Charge, Over, Period, Scope, SetBudget
from callboard.protocols.money import Money
from callboard.protocols.money import plain as digits
from callboard.protocols.names import actor_stream

SHOWN: Final = 10  # accounts of one budget, for people; those with the least left
NEAR: Final = 0.8  # of the limit: from here on it is shown in yellow


class AccountReport(Struct, frozen=True, kw_only=True):
    """What a budget has spent and reserved in one window for one target. Amounts are in the budget's currency."""

    target: str
    window: str
    limit: Decimal  # with top-ups
    spent: Decimal
    held: Decimal  # by attempts that are under way
    lost: Decimal  # by attempts of which nobody knows what they cost
    left: Decimal
    extra: Decimal  # top-ups


class BudgetReport(Struct, frozen=True, kw_only=True):
    """What `budgets --json` shows: a budget, and its accounts of windows that are not over, of runs that go on."""

    budget: Budget
    limit: Decimal
    over: Over
    accounts: tuple[AccountReport, ...]


class Chosen(Struct, frozen=True, kw_only=True):
    """Which budget, as it was given."""

    scope: Scope
    target: str
    period: Period | None = None
    currency: str | None = None
    run: str | None = None  # whose window

    async def target_in(self, session: Session) -> str:
        """The target: a run by its whole id."""
        return (await session.run(self.target)).run if self.scope == "run" and self.target != EACH else self.target


class Done(Struct, frozen=True, kw_only=True):
    """What the commands that change a budget show with --json. `limit` is None where it was removed."""

    budget: Budget
    limit: Decimal | None
    over: Over | None
    by: str


# -- budgets ---------------------------------------------------------------------------------------------------


def listing(*, as_json: bool) -> None:
    """All budgets, with what is spent and reserved of them now."""
    found = read(_reports)
    if as_json:
        write_json(found)
    elif not found:
        people().print("There are no budgets. One for each run: [bold]callboard budgets set run '*' 5 --per run[/]")
    else:
        people().print(_table(found))
        for report in found:
            if len(report.accounts) > SHOWN:
                more = len(report.accounts) - SHOWN
                people().print(f"[dim]{name(report.budget)}: {count(more, 'account')} more; --json has all.[/]")


async def _reports(session: Session) -> list[BudgetReport]:
    ledger = PostgresLedger(session.pool)
    accounts = await going_on(session, await ledger.accounts(datetime.now(UTC)))
    of = {budget: list(found) for budget, found in groupby(accounts, key=lambda account: account.budget)}
    return [_report(each, of.get(each.budget, [])) for each in await ledger.budgets()]


async def going_on(session: Session, accounts: list[Account]) -> list[Account]:
    """The accounts without those of runs that have ended."""
    wanted = {run for account in accounts if (run := _run_of(account)) is not None}
    ended = await runs.ended(session.pool, wanted)
    return [account for account in accounts if _run_of(account) not in ended]


def _run_of(account: Account) -> str | None:
    if account.budget.scope == "run":
        return account.target
    return account.window.removeprefix("run:") if account.budget.period == "run" else None


def _report(budget: SetBudget, accounts: list[Account]) -> BudgetReport:
    return BudgetReport(
        budget=budget.budget,
        limit=Decimal(digits(budget.limit.amount)),
        over=budget.over,
        accounts=tuple(
            AccountReport(
                target=each.target,
                window=each.window,
                limit=Decimal(digits(each.bound)),
                spent=Decimal(digits(each.spent)),
                held=Decimal(digits(each.held)),
                lost=Decimal(digits(each.lost)),
                left=Decimal(digits(each.left)),
                extra=Decimal(digits(each.extra)),
            )
            for each in accounts
        ),
    )


def _table(found: list[BudgetReport]) -> Listing:
    shown = Listing(
        *("budget", "window", "limit", "spent", "held", "lost", "left", "used", "beyond it"),
        right=("limit", "spent", "held", "lost", "left"),
        wide="budget",
        spare=("beyond it", "used", "lost"),
    )
    for report in found:
        budget = report.budget
        for target, window, account in _lines(report):
            used = (account.limit - account.left) / account.limit if account and account.limit else Decimal()
            if account and account.left <= 0:
                used = Decimal(1)
            style = "red" if used >= 1 else "yellow" if used > NEAR else ""
            amounts = (account.spent, account.held, account.lost) if account else ()
            shown.add(
                Text(target, style),
                window,
                f"{digits(account.limit if account else report.limit)} {currency_word(budget.currency)}",
                *(digits(amount) if amount else NOTHING for amount in amounts or (Decimal(),) * 3),
                Text(digits(account.left if account else report.limit), style),
                Text(f"{bar(float(used), 10)} {used:.0%}", style),
                report.over,
            )
    return shown


def _lines(report: BudgetReport) -> Iterator[tuple[str, str, AccountReport | None]]:
    """What is told of a budget: target, window, account."""
    scope, period = report.budget.scope, report.budget.period
    if not report.accounts:
        target = f"each {scope}" if report.budget.target == EACH else f"{scope} {short(report.budget.target)}"
        yield target, period if period == "ever" else f"each {period}", None
    for account in report.accounts[:SHOWN]:
        window = short(account.window.replace("run:", "run "))
        yield f"{scope} {short(account.target)}", "its own" if scope == "run" == period else window, account


def holds(*, as_json: bool) -> None:
    """The attempts that hold something, oldest first."""
    found: list[Charge] = read(lambda session: PostgresLedger(session.pool).open_charges(), caught_up=False)
    if as_json:
        write_json(found)
        return
    if not found:
        people().print("No call of a model holds anything: all that were made have ended, and are settled.")
        return
    now = datetime.now(UTC)
    shown = Listing(
        "attempt", "agent", "run", "holds", "state", "since", right=("holds",), wide="attempt", spare=("run",)
    )
    for each in found:
        state = Text("lost: nobody knows what it cost", "yellow") if each.state == "lost" else Text("under way")
        amount = "unpriced" if each.amount is None else each.amount.shown()
        shown.add(short(each.attempt), short(each.party.agent), short(each.party.run), amount, state, ago(each.at, now))
    people().print(shown)


# -- what people do with them ----------------------------------------------------------------------------------


def set_(chosen: Chosen, limit: str, *, over: Over, note: str, by: str | None, as_json: bool) -> None:
    """Make or change a budget."""
    amount = Money.parse(limit, chosen.currency or "USD")

    async def work(desk: Desk, budgets: Budgets) -> Budget:
        target = await chosen.target_in(desk)
        budget = Budget(chosen.scope, target, chosen.period or "month", chosen.currency or amount.currency)
        await budgets.set(budget, amount, over, by=who(by), note=note)
        return budget

    _tell(work, who(by), "is set to", as_json=as_json)


def top_up(chosen: Chosen, more: str, *, note: str, by: str | None, as_json: bool) -> None:
    """Give more for the present window."""

    async def work(desk: Desk, budgets: Budgets) -> Budget:
        target = await chosen.target_in(desk)
        budget = await budgets.choose(chosen.scope, target, chosen.period, chosen.currency)
        run = (await desk.run(chosen.run)).run if chosen.run else ""
        amount = Money.parse(more, budget.currency)
        await budgets.top_up(budget, amount, target=target, run=run, by=who(by), note=note)
        return budget

    _tell(work, who(by), f"has {more} more in its present window; its limit stays", as_json=as_json)


def remove(chosen: Chosen, *, by: str | None, as_json: bool) -> None:
    """Take a budget away."""

    async def work(desk: Desk, budgets: Budgets) -> Budget:
        target = await chosen.target_in(desk)
        budget = await budgets.choose(chosen.scope, target, chosen.period, chosen.currency)
        if budget.target != target:
            raise UnknownBudget(f"of {chosen.scope} {target} itself")
        await budgets.remove(budget, by=who(by))
        return budget

    _tell(work, who(by), "is removed", as_json=as_json)


def release(attempt: str, cost: str, *, held: bool, note: str, by: str | None, as_json: bool) -> None:
    """Say what an attempt cost whose outcome nobody knows."""

    async def work(desk: Desk) -> Charge:
        budgets = _budgets(desk)
        amount = Money.parse(cost, await budgets.currency_of(attempt))
        released = await budgets.release(attempt, amount, held=held, by=who(by), note=note)
        await _look_again(desk)
        return released

    charge = act(work, "budgets")
    if as_json:
        write_json(charge)
    else:
        freed = "nothing" if charge.amount is None else charge.amount.shown()
        people().print(f"{plain(charge.attempt)} held {freed}; it counts with {plain(cost)} now.", soft_wrap=True)


def _tell(work: Callable[[Desk, Budgets], Coroutine[Any, Any, Budget]], by: str, what: str, *, as_json: bool) -> None:
    """Do something with a budget, and tell how it is set now."""

    async def working(desk: Desk) -> Done:
        budgets = _budgets(desk)
        budget = await work(desk, budgets)
        await _look_again(desk)
        try:
            now = await budgets.find(budget)
        except UnknownBudget:
            return Done(budget=budget, limit=None, over=None, by=by)
        return Done(budget=budget, limit=Decimal(digits(now.limit.amount)), over=now.over, by=by)

    done = act(working, "budgets")
    if as_json:
        write_json(done)
        return
    limit = "" if done.limit is None else f" {Money(done.limit, done.budget.currency).shown()}"
    beyond = "" if done.over is None else f"; beyond it: {done.over}"
    people().print(f"The budget of {plain(short(name(done.budget)))} {what}{limit}{beyond}.", soft_wrap=True)


async def _look_again(desk: Desk) -> None:
    """There may be room now: let the tasks that wait for it look at once."""
    for task in await tasks.awaiting_budget(desk.pool):
        for wait in task.waiting:
            if BUDGET_WAIT in wait.step:
                await desk.client.wake(task.run, task.task, actor_stream(task.role, task.key), wait.step)


def _budgets(desk: Desk) -> Budgets:
    return Budgets(desk.store, PostgresLedger(desk.pool))
