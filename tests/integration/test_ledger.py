"""The ledger on PostgreSQL when things go wrong: lost replies, damaged tables, databases from before it was there."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from callboard.eventstore import PostgresEventStore, appender, migrations
from callboard.eventstore.ledger_tables import check_ledger, rebuild_ledger
from callboard.protocols.errors import BudgetExceeded
from callboard.protocols.ledger import EACH, Budget
from tests.integration.test_appender import connection, until
from tests.ledger_kit import Caller, Treasurer, account_of, money, tables_of

PER_DAY = Budget("tenant", "acme", "day", "USD")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresEventStore]:
    async with PostgresEventStore.open(database_url) as store:
        yield store


async def history(store: PostgresEventStore) -> None:
    """Some of everything."""
    treasurer, caller = Treasurer(store), Caller(store, tenant="acme")
    await caller.settle(await caller.hold("1"), "0.0000015")
    await treasurer.set(PER_DAY, "3")
    await treasurer.set(Budget("role", EACH, "ever", "USD"), "5", "wait")
    await treasurer.top_up(PER_DAY, "0.5")
    await caller.settle(await caller.hold("2"), None)
    await caller.hold("0.25")
    await caller.hold("4", beyond=True)


async def test_a_lost_reply_charges_once(store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is committed, and then the connection breaks: on the fast way, and on the careful one."""
    await Treasurer(store).set(PER_DAY, "1")
    attempt = appender.Appender._attempt
    lost = 0

    async def attempt_and_break(self: appender.Appender, batch: appender.Batch) -> appender.Written | None:
        nonlocal lost
        written = await attempt(self, batch)
        if lost < 2:
            lost += 1
            raise ConnectionResetError("the reply is lost")
        return written

    monkeypatch.setattr(appender.Appender, "_attempt", attempt_and_break)
    callers = [Caller(store, f"writer/{n}", tenant="acme") for n in range(4)]
    outcomes = await asyncio.gather(*(each.hold("0.3") for each in callers), return_exceptions=True)
    assert [type(each) for each in outcomes].count(BudgetExceeded) == 1
    assert lost == 2
    assert (await account_of(store, PER_DAY)).held == money("0.9").amount
    assert await check_ledger(store.pool) == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("update accounts set held = held + 1", ["tenant", "role"]),
        ("delete from charges where state = 'lost'", ["writer-a-2"]),
        ("delete from budgets where scope = 'role'", ["role", "role"]),
        ("update charges set amount = amount + 0.0000001 where state = 'settled'", ["writer-a-1"]),
    ],
)
async def test_tables_that_were_changed_are_named_and_made_again(
    store: PostgresEventStore, damage: str, named: list[str]
) -> None:
    await history(store)
    assert await check_ledger(store.pool) == []
    before = await tables_of(store)
    await store.pool.execute(damage)
    found = await check_ledger(store.pool)
    assert len(found) == len(named)
    assert all(any(name in each.what for each in found) for name in named)
    async with store.pool.acquire() as connection, connection.transaction():
        await rebuild_ledger(connection)
    assert await check_ledger(store.pool) == []
    assert await tables_of(store) == before


async def test_a_database_from_before_the_ledger_is_charged_with_what_its_log_says(
    store: PostgresEventStore, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history(store)
    log = await store.pool.fetch("select * from events order by position")
    head = await store.pool.fetchrow("select position, recorded_at, chain from head")
    former = [each for each in migrations.migrations() if each.version < migrations.LEDGER]
    async with connection(empty_database_url) as session:
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "migrations", lambda: former)
            await migrations.migrate(session)
        await session.copy_records_to_table("events", records=[tuple(each) for each in log])
        await session.execute("update head set position = $1, recorded_at = $2, chain = $3", *head)
    async with PostgresEventStore.open(empty_database_url) as migrated:
        assert await tables_of(migrated) == await tables_of(store)
        assert await check_ledger(migrated.pool) == []


async def test_the_charges_are_never_scanned(store: PostgresEventStore, database_url: str) -> None:
    """Also not where an account is opened in a ledger that has grown since the plans were made."""

    async def scans(kind: str) -> int:
        count: int = await session.fetchval(f"select {kind} from pg_stat_user_tables where relname = 'charges'")
        return count

    async with connection(database_url) as session:
        await session.execute("vacuum analyze charges")
        before = await scans("idx_scan"), await scans("seq_scan")
        async with PostgresEventStore.open(database_url) as other:
            treasurer = Treasurer(other)
            for number in range(8):  # PostgreSQL begins to keep a plan after five
                for scope in ("tenant", "run", "role", "agent"):
                    for period in ("run", "day", "ever"):
                        budget = Budget(scope, EACH, period, "USD")
                        await treasurer.set(budget, f"{number + 10}")
                who = {"run": f"run{number}", "tenant": f"tenant{number}"}
                caller = Caller(other, f"writer/{number}", stated=number % 2 == 0, **who)
                await caller.settle(await caller.hold("0.01"), "0.01")

        async def counted() -> bool:
            return await scans("idx_scan") > before[0]

        await until(counted)
        assert await scans("seq_scan") == before[1]
