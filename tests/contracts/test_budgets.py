"""What people do with budgets, on every event store and its ledger."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from callboard.actors.outside.budgets import Budgets, name, warn_of_budgets
from callboard.eventstore import MemoryEventStore, MemoryLedger, PostgresEventStore, PostgresLedger
from callboard.protocols.codec import body_of
from callboard.protocols.errors import (
    AmbiguousId,
    BadBudget,
    BudgetExceeded,
    StillUnderWay,
    UnknownAttempt,
    UnknownBudget,
)
from callboard.protocols.events import BudgetReleased, BudgetWarned
from callboard.protocols.ledger import EACH, Budget, SetBudget
from callboard.protocols.ports import EventStore, LedgerView
from tests.ledger_kit import Caller, money

PER_DAY = Budget("tenant", "acme", "day", "USD")
PER_RUN = Budget("run", EACH, "run", "USD")


class Office(NamedTuple):
    """A log, its ledger, and who sees to the budgets."""

    store: EventStore
    ledger: LedgerView
    budgets: Budgets

    async def bodies(self, stream: str) -> list[Any]:
        """What the events of a stream say."""
        return [body_of(event) async for event in self.store.read_stream(stream)]

    async def account(self) -> Any:
        """The one account that there is."""
        (account,) = await self.ledger.accounts(datetime.now(UTC))
        return account


@pytest.fixture(params=["memory", "postgres"])
async def office(request: pytest.FixtureRequest) -> AsyncIterator[Office]:
    if request.param == "memory":
        memory = MemoryEventStore()
        view = MemoryLedger(memory.ledger)
        yield Office(memory, view, Budgets(memory, view))
    else:
        async with PostgresEventStore.open(request.getfixturevalue("database_url")) as store:
            ledger = PostgresLedger(store.pool)
            yield Office(store, ledger, Budgets(store, ledger))


async def test_a_budget_is_set_and_changed_by_somebody(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("10"), by="ann", note="a trial")
    await office.budgets.set(PER_DAY, money("20.50"), "ask", by="bob")
    assert await office.ledger.budgets() == [SetBudget(PER_DAY, money("20.5"), "ask")]
    first, second = await office.bodies("budget/tenant:acme:day:USD")
    assert (first.by, first.note, first.over) == ("ann", "a trial", "refuse")
    assert (second.by, second.limit) == ("bob", money("20.5"))


async def test_what_is_spent_held_and_lost_is_seen(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("10"), by="ann")
    caller = Caller(office.store, tenant="acme")
    await caller.settle(await caller.hold("1"), "0.25")
    lost, held = await caller.hold("2"), await caller.hold("3")
    await caller.settle(lost, None)
    account = await office.account()
    assert (account.spent, account.lost, account.held, account.left) == tuple(map(Decimal, ("0.25", "2", "3", "4.75")))
    assert account.share == pytest.approx(0.525)
    assert [(each.attempt, each.state) for each in await office.ledger.open_charges()] == [
        (lost, "lost"),
        (held, "held"),
    ]


async def test_accounts_of_windows_that_are_over_are_not_shown(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("10"), by="ann")
    await office.budgets.set(Budget("tenant", "acme", "ever", "USD"), money("10"), by="ann")
    found = await office.ledger.accounts(datetime(2020, 1, 1, tzinfo=UTC))
    assert [each.window for each in found] == ["ever"]


async def test_of_each_budget_those_with_the_least_left_come_first(office: Office) -> None:
    await office.budgets.set(PER_RUN, money("1"), by="ann")
    await office.budgets.set(Budget("agent", EACH, "ever", "USD"), money("1"), by="ann")
    for run, amount in (("a", "0.1"), ("b", "0.9"), ("c", "0.5")):
        await Caller(office.store, f"writer/{run}", run=run).hold(amount)
    found = [(each.budget.scope, each.target) for each in await office.ledger.accounts(datetime.now(UTC))]
    assert found == [(s, t.format(p)) for s, p in (("agent", "writer/"), ("run", "")) for t in ("{}b", "{}c", "{}a")]


# -- top-ups -----------------------------------------------------------------------------------------------


async def test_more_is_given_for_the_present_window(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("1"), by="ann")
    await office.budgets.top_up(PER_DAY, money("0.5"), by="bob")
    assert (await office.account()).left == Decimal("1.5")


async def test_more_is_given_to_one_of_many(office: Office) -> None:
    await office.budgets.set(PER_RUN, money("1"), by="ann")
    await office.budgets.top_up(PER_RUN, money("0.5"), target="r", by="bob")
    await Caller(office.store).hold("1.5")
    with pytest.raises(BudgetExceeded):
        await Caller(office.store, "writer/b", run="s").hold("1.5")


async def test_more_for_a_tenants_runs_names_the_run(office: Office) -> None:
    budget = Budget("tenant", EACH, "run", "USD")
    await office.budgets.set(budget, money("1"), by="ann")
    with pytest.raises(BadBudget, match="name the run"):
        await office.budgets.top_up(budget, money("1"), target="acme", by="bob")
    await office.budgets.top_up(budget, money("1"), target="acme", run="r", by="bob")
    assert (await office.account()).window == "run:r"
    await Caller(office.store, tenant="acme").hold("2")


@pytest.mark.parametrize(
    ("budget", "amount", "target", "said"),
    [
        (PER_DAY, "0", "", "above 0"),
        (PER_DAY, "-1", "", "from 0"),
        (PER_DAY, "1", "other", "name the tenant"),
        (PER_RUN, "1", "", "name the run"),
        (PER_RUN, "1", "a b", "of a budget"),
    ],
)
async def test_a_top_up_that_makes_no_sense_is_refused(
    office: Office, budget: Budget, amount: str, target: str, said: str
) -> None:
    await office.budgets.set(budget, money("1"), by="ann")
    with pytest.raises(BadBudget, match=said):
        await office.budgets.top_up(budget, money(amount), target=target, by="bob")


# -- what can't be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "target", "period", "currency", "limit", "over", "said"),
    [
        ("team", "a", "day", "USD", "1", "refuse", "'team' is no scope of a budget: it is tenant, run, role or agent"),
        ("role", "writer", "week", "USD", "1", "refuse", "it is run, day, month or ever"),
        ("role", "writer", "day", "usd", "1", "refuse", "ISO 4217"),
        ("role", "Writer!", "day", "USD", "1", "refuse", "is no role of a budget"),
        ("role", "budget", "day", "USD", "1", "refuse", "is no role of a budget"),
        ("agent", "writer", "day", "USD", "1", "refuse", "role/key"),
        ("tenant", "", "day", "USD", "1", "refuse", "can be printed"),
        ("role", "writer", "day", "USD", "-0.01", "refuse", "'-0.01 USD' is no limit of a budget: it is from 0"),
        ("role", "writer", "day", "USD", "NaN", "refuse", "from 0"),
        ("role", "writer", "day", "USD", "1E+15", "refuse", "below 1,000,000,000,000,000"),
        ("role", "writer", "day", "USD", "1E-19", "refuse", "18 decimals"),
        ("role", "writer", "day", "EUR", "1", "refuse", "the budget is in EUR"),
        ("role", "writer", "day", "USD", "1", "warn", "it is refuse, wait or ask"),
    ],
)
async def test_a_budget_that_makes_no_sense_is_refused(
    office: Office, scope: Any, target: str, period: Any, currency: str, limit: str, over: Any, said: str
) -> None:
    with pytest.raises(BadBudget, match=said):
        await office.budgets.set(Budget(scope, target, period, currency), money(limit), over, by="ann")
    assert await office.ledger.budgets() == []
    assert await office.store.head() == 0


async def test_there_is_nothing_to_do_with_a_budget_that_is_not_there(office: Office) -> None:
    with pytest.raises(UnknownBudget, match="tenant acme per day in USD"):
        await office.budgets.top_up(PER_DAY, money("1"), by="ann")
    with pytest.raises(UnknownBudget):
        await office.budgets.remove(PER_DAY, by="ann")
    await office.budgets.set(PER_DAY, money("1"), by="ann")
    await office.budgets.remove(PER_DAY, by="ann")
    with pytest.raises(UnknownBudget):
        await office.budgets.remove(PER_DAY, by="ann")


async def test_the_budget_that_is_meant_is_the_targets_own_or_else_the_one_for_each(office: Office) -> None:
    each = Budget("tenant", EACH, "day", "USD")
    monthly = Budget("tenant", EACH, "month", "USD")
    for budget in (each, PER_DAY):
        await office.budgets.set(budget, money("1"), by="ann")
    assert await office.budgets.choose("tenant", "acme", None, None) == PER_DAY
    assert await office.budgets.choose("tenant", "other", None, None) == each
    await office.budgets.set(monthly, money("1"), by="ann")
    with pytest.raises(AmbiguousId, match="each tenant per day in USD, each tenant per month in USD"):
        await office.budgets.choose("tenant", "other", None, None)
    assert await office.budgets.choose("tenant", "other", "month", None) == monthly
    with pytest.raises(UnknownBudget, match="tenant other per day EUR"):
        await office.budgets.choose("tenant", "other", "day", "EUR")


def test_budgets_are_named_in_words() -> None:
    assert name(PER_RUN) == "each run per run in USD"
    assert name(Budget("agent", "writer/dave", "ever", "EUR")) == "agent writer/dave ever in EUR"


# -- releases ----------------------------------------------------------------------------------------------


async def test_somebody_says_what_a_lost_attempt_cost(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("1"), by="ann")
    caller = Caller(office.store, tenant="acme")
    attempt = await caller.hold("0.9")
    await caller.settle(attempt, None)
    charge = await office.budgets.release(attempt.partition("/")[0], money("0.1"), by="bob", note="the invoice says so")
    assert (charge.attempt, charge.state) == (attempt, "lost")
    assert (await office.account()).left == Decimal("0.9")
    (body,) = await office.bodies("run/r")
    assert body == BudgetReleased(attempt=attempt, amount=money("0.1"), by="bob", note="the invoice says so")
    with pytest.raises(UnknownAttempt):
        await office.budgets.release(attempt, money("0"), by="bob")


async def test_an_attempt_under_way_is_not_released_unless_asked_for(office: Office) -> None:
    attempt = await Caller(office.store, tenant="acme").hold("0.9")
    with pytest.raises(StillUnderWay, match="under way since 20"):
        await office.budgets.release(attempt, money("0"), by="bob")
    await office.budgets.release(attempt, money("0"), held=True, by="bob")
    assert await office.ledger.open_charges() == []


async def test_an_attempt_is_named_without_doubt(office: Office) -> None:
    caller = Caller(office.store)
    attempts = [await caller.hold("1"), await caller.hold("1")]
    with pytest.raises(AmbiguousId, match=attempts[1]):
        await office.budgets.release("writer-a", money("0"), held=True, by="bob")
    with pytest.raises(UnknownAttempt):
        await office.budgets.release("nobody", money("0"), by="bob")
    with pytest.raises(BadBudget):
        await office.budgets.release(attempts[0], money("-1"), held=True, by="bob")


# -- warnings ----------------------------------------------------------------------------------------------


async def test_a_budget_that_is_nearly_used_up_is_warned_of_once(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("1"), by="ann")
    caller = Caller(office.store, tenant="acme")
    await caller.hold("0.8")
    assert await warn_of_budgets(office.store, office.ledger) == []
    await caller.hold("0.15")
    looks = await asyncio.gather(*(warn_of_budgets(office.store, office.ledger) for _ in range(5)))
    assert sum(map(len, looks)) == 1
    await caller.hold("0.01")
    assert await warn_of_budgets(office.store, office.ledger) == []
    _, warning = await office.bodies("budget/tenant:acme:day:USD")
    assert isinstance(warning, BudgetWarned)
    assert (warning.target, warning.committed, warning.limit) == ("acme", money("0.95"), money("1"))


async def test_each_of_many_accounts_is_warned_of(office: Office) -> None:
    await office.budgets.set(PER_RUN, money("1"), by="ann")
    for run in ("a", "b", "c"):
        await Caller(office.store, f"writer/{run}", run=run).hold("0.9")
    warned: list[str] = []
    for _ in range(3):  # those of one budget may get into each other's way
        for look in await asyncio.gather(*(warn_of_budgets(office.store, office.ledger) for _ in range(3))):
            warned += [account.target for account in look]
    assert sorted(warned) == ["a", "b", "c"]


async def test_nobody_is_warned_of_what_has_room_again(office: Office) -> None:
    await office.budgets.set(PER_DAY, money("1"), by="ann")
    caller = Caller(office.store, tenant="acme")
    attempt = await caller.hold("0.9")
    await caller.settle(attempt, "0.1")
    assert await warn_of_budgets(office.store, office.ledger) == []
    await caller.hold("0.8")
    assert len(await warn_of_budgets(office.store, office.ledger)) == 1
