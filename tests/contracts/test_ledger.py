"""What the ledger of every event store does: what is reserved fits into the budgets, whoever reserves it when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.eventstore import MemoryEventStore, PostgresEventStore
from callboard.eventstore.ledger import Ledger
from callboard.eventstore.ledger_tables import check_ledger
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, entry_of, new_event
from callboard.protocols.errors import AlreadyHandled, BadEvent, BudgetExceeded, Conflict, NotAdmitted, Unpriced
from callboard.protocols.events import Meta
from callboard.protocols.ledger import EACH, Budget, Over, Period, Scope
from callboard.protocols.money import plain
from callboard.protocols.ports import ANY, EventStore
from callboard.testing import ManualClock
from tests.ledger_kit import Caller, Treasurer, account_of, money, tables_of

PER_DAY = Budget("tenant", "acme", "day", "USD")


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[EventStore]:
    if request.param == "memory":
        yield MemoryEventStore()
    else:
        async with PostgresEventStore.open(request.getfixturevalue("database_url")) as store:
            yield store
            assert await check_ledger(store.pool) == []


@pytest.fixture(params=[True, False], ids=["stated", "any"])
def stated(request: pytest.FixtureRequest) -> bool:
    """Whether appends tell their stream's version: on PostgreSQL the fast way, and the careful one."""
    return bool(request.param)


@pytest.fixture
def caller(store: EventStore, stated: bool) -> Caller:
    return Caller(store, tenant="acme", stated=stated)


@pytest.fixture
def treasurer(store: EventStore) -> Treasurer:
    return Treasurer(store)


async def sums(store: EventStore, budget: Budget, target: str = "") -> dict[str, str]:
    """What an account says, without zeros."""
    account = await account_of(store, budget, target)
    found = {name: getattr(account, name) for name in ("spent", "held", "lost", "extra")}
    return {name: plain(amount) for name, amount in found.items() if amount}


# -- holds -------------------------------------------------------------------------------------------------


async def test_without_budgets_everything_is_admitted_and_charged(store: EventStore, caller: Caller) -> None:
    attempt = await caller.hold("1.50")
    unpriced = await caller.hold(None)
    tables = await tables_of(store)
    assert tables.charges[attempt].amount == money("1.5")
    assert tables.charges[attempt].state == "held"
    assert tables.charges[unpriced].amount is None
    assert not tables.accounts


async def test_a_hold_gives_way_to_what_the_attempt_cost(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    await treasurer.set(PER_DAY, "1")
    attempt = await caller.hold("0.60")
    assert await sums(store, PER_DAY) == {"held": "0.6"}
    with pytest.raises(BudgetExceeded):
        await caller.hold("0.60")
    await caller.settle(attempt, "0.0000015")
    assert await sums(store, PER_DAY) == {"spent": "0.0000015"}
    await caller.hold("0.60")


async def test_what_just_fits_is_admitted_and_the_least_more_is_not(caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    await caller.hold("0.9999999999")
    with pytest.raises(BudgetExceeded):
        await caller.hold("0.0000000002")
    await caller.hold("0.0000000001")
    await caller.hold("0")


async def test_a_refusal_names_the_budget_and_all_values(caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(Budget("role", EACH, "ever", "USD"), "1", "ask")
    await caller.hold("0.75")
    with pytest.raises(BudgetExceeded) as refusal:
        await caller.hold("0.50")
    error = refusal.value
    assert (error.scope, error.target, error.period, error.window) == ("role", "writer", "ever", "ever")
    assert (error.limit, error.left, error.needed, error.currency) == ("1", "0.25", "0.5", "USD")
    assert error.over == "ask"


async def test_a_refused_hold_leaves_no_trace(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(Budget("role", EACH, "ever", "USD"), "1")
    head = await store.head()
    with pytest.raises(BudgetExceeded):
        await caller.hold("2")
    tables = await tables_of(store)
    assert not tables.charges
    assert not tables.accounts
    assert await store.head() == head
    await caller.hold("1")


async def test_every_budget_that_applies_must_have_room(caller: Caller, treasurer: Treasurer) -> None:
    for scope, target in (("tenant", "acme"), ("run", "r"), ("role", "writer"), ("agent", "writer/a")):
        for whom in (target, EACH):
            budget = await treasurer.set(Budget(scope, whom, "ever", "USD"), "1")  # type: ignore[arg-type]
            with pytest.raises(BudgetExceeded, match=f"{scope} {target}"):
                await caller.hold("1.01")
            await treasurer.remove(budget)
    await caller.hold("1.01")


async def test_other_targets_and_currencies_are_no_matter(store: EventStore, treasurer: Treasurer) -> None:
    await treasurer.set(Budget("tenant", "other", "ever", "USD"), "0")
    await treasurer.set(Budget("tenant", EACH, "ever", "USD"), "0")
    await treasurer.set(Budget("agent", "writer/b", "ever", "USD"), "0")
    await treasurer.set(Budget("run", EACH, "run", "EUR"), "0")
    nobody = Caller(store, tenant=None)
    await nobody.hold("5")
    with pytest.raises(BudgetExceeded, match="run r"):
        await nobody.hold("5", currency="EUR")


async def test_each_target_has_an_account_of_its_own(store: EventStore, treasurer: Treasurer) -> None:
    each = await treasurer.set(Budget("run", EACH, "run", "USD"), "1")
    for run in ("r", "s"):
        caller = Caller(store, f"writer/{run}", run=run)
        await caller.hold("0.6")
        with pytest.raises(BudgetExceeded, match=f"run {run} "):
            await caller.hold("0.6")
        assert await sums(store, each, run) == {"held": "0.6"}


async def test_of_several_that_refuse_the_strictest_says_what_is_to_be_done(
    caller: Caller, treasurer: Treasurer
) -> None:
    await treasurer.set(Budget("run", "r", "run", "USD"), "0.1", "wait")
    for scope, target, limit, over in (
        ("agent", "writer/a", "0.2", "ask"),
        ("role", "writer", "0.3", "refuse"),
        ("tenant", "acme", "0.25", "refuse"),
    ):
        await treasurer.set(Budget(scope, target, "ever", "USD"), limit, over)  # type: ignore[arg-type]
        with pytest.raises(BudgetExceeded) as refusal:
            await caller.hold("1")
        assert (refusal.value.scope, refusal.value.over) == (scope, over)


async def test_a_call_without_a_price_is_refused_where_any_budget_applies(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    await treasurer.set(Budget("role", "other", "ever", "USD"), "100")
    await caller.hold(None)
    await treasurer.set(Budget("role", EACH, "ever", "EUR"), "100")
    with pytest.raises(Unpriced, match="role writer"):
        await caller.hold(None)
    await caller.hold(None, beyond=True)


async def test_what_a_person_approved_goes_beyond_and_counts(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    await treasurer.set(PER_DAY, "1", "ask")
    await caller.hold("3", beyond=True)
    assert await sums(store, PER_DAY) == {"held": "3"}
    with pytest.raises(BudgetExceeded, match="has -2 left of 1 USD"):
        await caller.hold("0.01")


async def test_an_attempt_is_held_once(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    await caller.hold("0.6")
    await caller.append(caller.requested("0.6"))
    assert await sums(store, PER_DAY) == {"held": "0.6"}


# -- ends --------------------------------------------------------------------------------------------------


async def test_an_unknown_outcome_stays_counted_until_somebody_says_what_it_was(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    await treasurer.set(PER_DAY, "1")
    attempt = await caller.hold("0.60")
    await caller.settle(attempt, None)
    assert await sums(store, PER_DAY) == {"lost": "0.6"}
    with pytest.raises(BudgetExceeded):
        await caller.hold("0.60")
    released = e.BudgetReleased(attempt=attempt, amount=money("0.05"), by="treasurer")
    await caller.append(caller.event(released))
    assert await sums(store, PER_DAY) == {"spent": "0.05"}
    assert (await tables_of(store)).charges[attempt].state == "settled"


async def test_settling_twice_changes_nothing(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    attempt = await caller.hold("0.60")
    for amount in ("0.10", "0.20", None):
        await caller.settle(attempt, amount)
    assert await sums(store, PER_DAY) == {"spent": "0.1"}


async def test_it_may_cost_more_than_was_held(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    await caller.settle(await caller.hold("0.60"), "1.20")
    assert await sums(store, PER_DAY) == {"spent": "1.2"}


async def test_the_end_of_an_attempt_that_was_never_held_is_nothing(store: EventStore, caller: Caller) -> None:
    await caller.settle("t/model#1@1", "5")
    assert not (await tables_of(store)).charges


async def test_an_unpriced_attempt_counts_once_its_cost_is_known(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    attempt = await caller.hold(None)
    await treasurer.set(PER_DAY, "1")
    assert await sums(store, PER_DAY) == {}
    await caller.settle(attempt, "0.4")
    assert await sums(store, PER_DAY) == {"spent": "0.4"}


async def test_a_cost_in_another_currency_counts_in_its_budgets(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    in_euros = await treasurer.set(Budget("tenant", "acme", "day", "EUR"), "1")
    await treasurer.set(PER_DAY, "1")
    await caller.settle(await caller.hold("0.5"), "0.4", currency="EUR")
    assert await sums(store, PER_DAY) == {}
    assert await sums(store, in_euros) == {"spent": "0.4"}


# -- budgets -----------------------------------------------------------------------------------------------


async def test_what_was_spent_and_held_before_counts(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await caller.settle(await caller.hold("1"), "0.3")
    await caller.settle(await caller.hold("0.2"), None)
    await caller.hold("0.1")
    await Caller(store, "writer/b", tenant="other").hold("7")
    await treasurer.set(PER_DAY, "1")
    assert await sums(store, PER_DAY) == {"spent": "0.3", "lost": "0.2", "held": "0.1"}
    each = await treasurer.set(Budget("agent", EACH, "month", "USD"), "1")
    with pytest.raises(BudgetExceeded, match=r"has 0\.4 left"):
        await caller.hold("0.5")
    await caller.hold("0.4")
    assert await sums(store, each, "writer/a") == {"spent": "0.3", "lost": "0.2", "held": "0.5"}


async def test_a_changed_limit_holds_at_once(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    await caller.hold("1")
    await treasurer.set(PER_DAY, "2", "wait")
    await caller.hold("0.5")
    await treasurer.set(PER_DAY, "0.5")
    with pytest.raises(BudgetExceeded, match=r"has -1 left of 0\.5"):
        await caller.hold("0.1")
    assert await sums(store, PER_DAY) == {"held": "1.5"}


async def test_a_top_up_is_for_the_present_window_of_one_target(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    each = await treasurer.set(Budget("run", EACH, "run", "USD"), "1")
    await treasurer.top_up(each, "0.5", target="r", run="r")
    await caller.hold("1.5")
    with pytest.raises(BudgetExceeded, match=r"0 left of 1\.5"):
        await caller.hold("0.1")
    with pytest.raises(BudgetExceeded, match="1 left of 1 USD"):
        await Caller(store, "writer/b", run="s").hold("1.5")


async def test_a_budget_that_is_removed_and_set_again_knows_what_was_spent(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    await treasurer.set(PER_DAY, "1")
    attempt = await caller.hold("1")
    await treasurer.remove(PER_DAY)
    await caller.settle(attempt, "0.9")
    await caller.hold("10")
    await treasurer.set(PER_DAY, "20")
    assert await sums(store, PER_DAY) == {"spent": "0.9", "held": "10"}


async def test_what_concerns_no_budget_that_there_is_is_nothing(store: EventStore, treasurer: Treasurer) -> None:
    await treasurer.remove(PER_DAY)
    await treasurer.top_up(PER_DAY, "1")
    await treasurer.say(
        PER_DAY,
        e.BudgetWarned(budget=PER_DAY, target="acme", window="2026-01-01", committed=money("1"), limit=money("1")),
    )
    assert not (await tables_of(store)).accounts


async def test_a_warning_is_due_once_above_four_fifths(store: EventStore, caller: Caller, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    await caller.hold("0.8")
    assert (await account_of(store, PER_DAY)).warning == "none"
    attempt = await caller.hold("0.01")
    account = await account_of(store, PER_DAY)
    assert account.warning == "due"
    warned = e.BudgetWarned(
        budget=PER_DAY, target="acme", window=account.window, committed=money("0.81"), limit=money("1")
    )
    await treasurer.say(PER_DAY, warned)
    await caller.settle(attempt, "0")
    await caller.hold("0.2")
    assert (await account_of(store, PER_DAY)).warning == "given"


async def test_a_limit_below_what_is_spent_makes_the_warning_due(
    store: EventStore, caller: Caller, treasurer: Treasurer
) -> None:
    await caller.hold("1")
    await treasurer.set(PER_DAY, "10")
    assert (await account_of(store, PER_DAY)).warning == "none"
    await treasurer.set(PER_DAY, "1")
    assert (await account_of(store, PER_DAY)).warning == "due"


# -- windows -----------------------------------------------------------------------------------------------


async def test_windows_are_days_and_months_of_the_stores_clock_in_utc() -> None:
    clock = ManualClock(datetime(2026, 1, 31, 23, 59, tzinfo=UTC))
    store = MemoryEventStore(clock)
    treasurer, caller = Treasurer(store), Caller(store, tenant="acme")
    budgets = [await treasurer.set(Budget("role", "writer", period, "USD"), "1") for period in get_args(Period)[1:]]
    attempt = await caller.hold("0.4")
    clock.advance(120)
    await caller.hold("0.5")
    await caller.settle(attempt, "0.1")  # counts where it was held
    found = {each.window: each.committed for each in store.ledger.accounts.values()}
    assert found == {
        "2026-01-31": Decimal("0.1"),
        "2026-02-01": Decimal("0.5"),
        "2026-01": Decimal("0.1"),
        "2026-02": Decimal("0.5"),
        "ever": Decimal("0.6"),
    }
    assert len(budgets) == 3


async def test_an_account_that_is_opened_late_counts_its_window_only() -> None:
    clock = ManualClock(datetime(2026, 1, 31, 23, 59, tzinfo=UTC))
    store = MemoryEventStore(clock)
    treasurer, caller = Treasurer(store), Caller(store, tenant="acme")
    await caller.hold("3")
    clock.advance(60)
    await caller.hold("0.5")
    budgets = [await treasurer.set(Budget("tenant", "acme", period, "USD"), "1") for period in get_args(Period)[1:]]
    assert [(await account_of(store, each)).held for each in budgets] == [
        Decimal(each) for each in ("0.5", "0.5", "3.5")
    ]


@pytest.mark.parametrize(
    ("period", "at", "window"),
    [
        ("day", "2026-03-01T00:30:00+02:00", "2026-02-28"),
        ("month", "2026-02-28T23:30:00-02:00", "2026-03"),
        ("run", "2026-03-01T00:00:00Z", "run:r"),
        ("ever", "2026-03-01T00:00:00Z", "ever"),
    ],
)
async def test_the_server_names_windows_alike(database_url: str, period: Period, at: str, window: str) -> None:
    moment = datetime.fromisoformat(at)
    async with PostgresEventStore.open(database_url) as store:
        assert await store.pool.fetchval("select window_of($1, 'r', $2)", period, moment) == window


# -- appends -----------------------------------------------------------------------------------------------


async def test_appends_that_wait_together_are_admitted_one_by_one(store: EventStore, treasurer: Treasurer) -> None:
    """Refused ones leave the others as they are; who follows a refused one is told of a conflict."""
    await treasurer.set(PER_DAY, "1")
    callers = [Caller(store, f"writer/{n}", tenant="acme") for n in range(4)]
    events = [each.requested(amount) for each, amount in zip(callers, ("0.6", "0.6", "0.4", "0.1"), strict=True)]
    futures = [store.submit(each.agent, [new], 0) for each, new in zip(callers, events, strict=True)]
    futures.append(store.submit("writer/1", [callers[1].event(e.TaskStarted(process="p"))], 1))
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    kinds = [type(each).__name__ for each in outcomes]
    assert kinds == ["Appended", "BudgetExceeded", "Appended", "BudgetExceeded", "Conflict"]
    assert await sums(store, PER_DAY) == {"held": "1"}


async def test_an_append_is_charged_whole_or_not_at_all(store: EventStore, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    caller, other = Caller(store, tenant="acme"), Caller(store, "writer/b", tenant="acme")
    caller.tasks = 1
    first = caller.requested("0.6")
    caller.tasks = 2
    with pytest.raises(BudgetExceeded):
        await caller.append(first, caller.requested("0.6"))
    assert await sums(store, PER_DAY) == {}
    await other.hold("1")


async def test_what_is_refused_for_another_reason_is_not_charged(store: EventStore, treasurer: Treasurer) -> None:
    await treasurer.set(PER_DAY, "1")
    caller = Caller(store, tenant="acme")
    with pytest.raises(Conflict):
        await store.append(caller.agent, [caller.requested("0.6")], 7)
    closing = new_event(e.BudgetRemoved(budget=PER_DAY, by="x"), Meta(run="", handles="m/a@1.0"))
    await store.append("test/a", [new_event(e.RunContinued(), Meta(run="", handles="m/a@1.0"))], ANY)
    with pytest.raises(AlreadyHandled):
        await store.append("test/b", [closing], ANY)
    assert await sums(store, PER_DAY) == {}


@pytest.mark.parametrize("amount", ["-1", "1E+30", "1E-46", "NaN", "Infinity"])
async def test_an_amount_that_sums_could_not_hold_is_refused(store: EventStore, amount: str) -> None:
    with pytest.raises(BadEvent, match="amount"):
        await Caller(store).hold(amount)


@pytest.mark.parametrize("tenant", ["a\0b", "x" * 1001], ids=["NUL", "long"])
async def test_a_name_that_cannot_be_kept_is_refused(store: EventStore, tenant: str) -> None:
    with pytest.raises(BadEvent, match="names in the ledger"):
        await Caller(store, tenant=tenant).hold("1")


async def test_a_million_tiny_amounts_are_what_they_are(store: EventStore, treasurer: Treasurer) -> None:
    """A million times $0.0000015 is $1.5, in 1,000 calls, and exactly fills a budget of that."""
    await treasurer.set(PER_DAY, "1.5")
    caller = Caller(store, tenant="acme")
    for _ in range(1000):
        caller.tasks += 1
        await caller.append(caller.requested("0.0015"))
    assert await sums(store, PER_DAY) == {"held": "1.5"}
    with pytest.raises(BudgetExceeded):
        await caller.hold("0.0000015")


# -- several writers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "any"])
async def test_a_dollar_admits_exactly_twenty_of_a_hundred_calls_of_five_cents(
    database_url: str, *, stated: bool
) -> None:
    """From three writers at once, each with its own connection."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(PostgresEventStore.open(database_url)) for _ in range(3)]
        await Treasurer(stores[0]).set(PER_DAY, "1")
        callers = [Caller(stores[n % 3], f"writer/{n}", tenant="acme", stated=stated) for n in range(100)]
        outcomes = await asyncio.gather(*(each.hold("0.05") for each in callers), return_exceptions=True)
        assert sum(isinstance(each, str) for each in outcomes) == 20
        assert sum(isinstance(each, BudgetExceeded) for each in outcomes) == 80
        assert await sums(stores[0], PER_DAY) == {"held": "1"}
        assert await check_ledger(stores[0].pool) == []


Deed = tuple[str, Any, Any, Any]
targets: dict[Scope, list[str]] = {
    "tenant": ["acme", EACH],
    "run": ["r0", EACH],
    "role": ["writer", EACH],
    "agent": ["writer/a", EACH],
}
amounts = st.sampled_from(["0", "0.1", "0.25", "0.4", "1", "0.000001", None])
budgets = st.sampled_from(sorted(targets)).flatmap(
    lambda scope: st.builds(
        Budget,
        st.just(scope),
        st.sampled_from(targets[scope]),
        st.sampled_from(get_args(Period)),
        st.sampled_from(["USD", "USD", "USD", "EUR"]),
    )
)
callings = st.sampled_from([0, 0, 1, 2, 3])
holding = st.tuples(st.just("hold"), callings, amounts, st.sampled_from([False, False, False, True]))
setting = st.tuples(st.just("set"), budgets, st.sampled_from(["0", "0.5", "1", "3"]), st.sampled_from(get_args(Over)))
changing = st.one_of(
    st.tuples(st.just("settle"), callings, amounts, st.integers(0, 3)),
    st.tuples(st.just("top up"), budgets, st.sampled_from(["0.1", "1"]), st.just(None)),
    st.tuples(st.just("warned"), budgets, st.just(None), st.just(None)),
    st.tuples(st.just("remove"), budgets, st.just(None), st.just(None)),
)
deeds = st.one_of(holding, setting, holding, changing, holding)


def callers_of(store: EventStore, place: int = 0) -> list[Caller]:
    """Four callers in two runs; those of different places share roles, runs and tenants, and no tasks."""
    found = [
        Caller(store, f"writer/{'ab'[n % 2]}{place or ''}", run=f"r{n % 2}", tenant="acme", stated=False)
        for n in range(4)
    ]
    for n, caller in enumerate(found):
        caller.tasks = 1000 * n
    return found


async def do(deed: Deed, store: EventStore, callers: list[Caller], held: list[str]) -> str:
    """One thing that somebody does; gives why it was refused, if it was."""
    kind, which, amount, extra = deed
    treasurer = Treasurer(store)
    if kind == "hold":
        try:
            held.append(await callers[which].hold(amount, beyond=extra, currency="EUR" if which == 3 else "USD"))
        except NotAdmitted as refusal:
            return str(refusal)
    elif kind == "settle" and held:
        await callers[which].settle(held[extra % len(held)], amount)
    elif kind == "set":
        await treasurer.set(which, amount, extra)
    elif kind == "top up":
        target = {"tenant": "acme", "run": "r0", "role": "writer", "agent": "writer/a"}[which.scope]
        await treasurer.top_up(which, amount, target=target, run="r0")
    elif kind == "warned":
        for account in list((await tables_of(store)).accounts.values()):
            if account.budget == which:
                warned = e.BudgetWarned(
                    budget=which,
                    target=account.target,
                    window=account.window,
                    committed=money("1", which.currency),
                    limit=money("1", which.currency),
                )
                await treasurer.say(which, warned)
    elif kind == "remove":
        await treasurer.remove(which)
    return ""


async def cleared(stores: list[PostgresEventStore]) -> None:
    """Forget everything, for the next example."""
    await stores[0].pool.execute("truncate events, commits, budgets, charges, accounts")
    await stores[0].pool.execute("update head set position = 0, chain = '', recorded_at = '-infinity'")
    for each in stores:
        each._appender._written.clear()


random_ledger = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@random_ledger
@given(hands=st.lists(st.lists(deeds, max_size=15), min_size=2, max_size=2))
async def test_the_tables_are_what_the_log_says_whoever_wrote_it(
    two_stores: list[PostgresEventStore], hands: list[list[Deed]]
) -> None:
    """Two writers do things at once; then the tables are the pure fold of the log."""
    await cleared(two_stores)

    async def play(hand: list[Deed], place: int) -> None:
        store, held = two_stores[place], list[str]()
        callers = callers_of(store, place)
        for deed in hand:
            await do(deed, store, callers, held)

    await asyncio.gather(*(play(hand, place) for place, hand in enumerate(hands)))
    assert await check_ledger(two_stores[0].pool) == []
    folded = Ledger()
    async for page in two_stores[0].read_all():
        for event in page:
            entry = entry_of(body_of(event), event.stream, event.meta)
            if entry is not None:
                folded.charge([entry], event.recorded_at)  # raises if it admits less than the server did


@random_ledger
@given(begin=st.lists(setting, min_size=4, max_size=8), then=st.lists(deeds, min_size=10, max_size=30))
async def test_both_stores_admit_and_refuse_alike(
    two_stores: list[PostgresEventStore], begin: list[Deed], then: list[Deed]
) -> None:
    """With the same values in what they refuse."""
    await cleared(two_stores)
    hand = begin + then
    stores: list[EventStore] = [MemoryEventStore(), two_stores[0]]
    said = []
    for store in stores:
        callers, held = callers_of(store), list[str]()
        said.append([await do(deed, store, callers, held) for deed in hand])
    assert said[0] == said[1]
    one, other = [await tables_of(store) for store in stores]
    assert one.budgets == other.budgets
    assert one.accounts == other.accounts
    assert {attempt: (it.amount, it.state) for attempt, it in one.charges.items()} == {
        attempt: (it.amount, it.state) for attempt, it in other.charges.items()
    }


@pytest.fixture
async def two_stores(database_url: str) -> AsyncIterator[list[PostgresEventStore]]:
    async with PostgresEventStore.open(database_url) as one, PostgresEventStore.open(database_url) as other:
        yield [one, other]
