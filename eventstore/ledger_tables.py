"""The ledger's tables: entries as they are sent, what the tables say, and making them again from the log."""

import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from msgspec import Struct

from callboard.eventstore.database import fetch
from callboard.eventstore.ledger import Ledger, by_use
from callboard.protocols.codec import LEDGER_TYPES, body_of, decode_meta, entry_of
from callboard.protocols.errors import BudgetExceeded, NotAdmitted, UnknownEventType, Unpriced
from callboard.protocols.events import NewEvent
from callboard.protocols.ledger import (
    Account,
    Budget,
    Charge,
    Entry,
    Hold,
    Over,
    Party,
    RemoveBudget,
    SetBudget,
    Settle,
    TopUp,
    Warned,
)
from callboard.protocols.money import Money, plain

log = logging.getLogger(__name__)

PAGE: Final = 1000

# kind, attempt, run, role, agent, tenant, amount, currency, beyond, scope, target, period, over, account, window: the
# columns of the type ledger_entry
EntryRow = tuple[Any, ...]
_NOBODY: Final = (None, None, None, None)

_LOG = """
    select position, stream, version, type, schema_version, recorded_at, data, meta from read_log($1, $2)
    where type = any($3::text[]) order by position
"""
_BUDGETS = "select scope, target, period, currency, ceiling, over from budgets"
_ACCOUNTS = """
    select b.scope, b.target, b.period, b.currency, a.target, a.window_name, b.ceiling, b.over,
           a.spent, a.held, a.lost, a.extra, a.warning
    from accounts a join budgets b on b.id = a.budget
"""
_CHARGES = "select attempt, run, role, agent, tenant, amount, currency, state, at from charges"


def entry_row(entry: Entry) -> EntryRow:
    """An entry as its SQL type."""
    match entry:
        case Hold(attempt, party, amount, beyond):
            who = (party.run, party.role, party.agent, party.tenant)
            return ("hold", attempt, *who, *_pair(amount), beyond, *_NOBODY, None, None)
        case Settle(attempt, amount):
            return ("settle", attempt, *_NOBODY, *_pair(amount), None, *_NOBODY, None, None)
        case SetBudget(budget, limit, over):
            return (*_of("set", budget, "", limit.amount), over, None, None)
        case TopUp(budget, target, amount, run):
            return (*_of("top up", budget, run, amount.amount), None, target, None)
        case Warned(budget, target, window):
            return (*_of("warned", budget, "", None), None, target, window)
        case RemoveBudget(budget):
            return (*_of("remove", budget, "", None), None, None, None)


def _pair(amount: Money | None) -> tuple[Decimal | None, str | None]:
    return (None, None) if amount is None else (amount.amount, amount.currency)


def _of(kind: str, budget: Budget, run: str, amount: Decimal | None) -> EntryRow:
    name = (budget.scope, budget.target, budget.period)
    return (kind, None, run, None, None, None, amount, budget.currency, None, *name)


def refusal_of(row: Any) -> NotAdmitted | None:
    """What charge_append says, as an error; None: it is admitted."""
    scope, target, period, window, currency, bound, left, needed, over = row
    if scope is None:
        return None
    if window is None:
        return Unpriced(scope, target)
    return BudgetExceeded(
        scope=scope,
        target=target,
        period=period,
        window=window,
        currency=currency,
        limit=plain(bound),
        left=plain(left),
        needed=plain(needed),
        over=over,
    )


# -- what the tables say -----------------------------------------------------------------------------------


def _budget(row: Any) -> Budget:
    return Budget(*row[:4])


def _account(row: Any) -> Account:
    return Account(_budget(row), *row[4:])


def _charge(row: Any) -> Charge:
    attempt, run, role, agent, tenant, amount, currency, state, at = row
    money = None if amount is None else Money(amount, currency)
    return Charge(attempt, Party(run, role, agent, tenant), money, state, at)


class PostgresLedger:
    """`callboard.protocols.ports.LedgerView` on PostgreSQL. Each method raises StoreUnavailable."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def budgets(self) -> list[SetBudget]:
        """All budgets; see the port."""
        rows = await fetch(self._pool, f"{_BUDGETS} order by scope, target, period, currency")
        return [SetBudget(_budget(row), Money(row["ceiling"], row["currency"]), row["over"]) for row in rows]

    async def accounts(self, now: datetime) -> list[Account]:
        """The accounts of windows that are not over; see the port."""
        rows = await fetch(
            self._pool, f"{_ACCOUNTS} where a.window_name = window_of(b.period, '', $1) or b.period = 'run'", now
        )
        return by_use(map(_account, rows))

    async def due(self) -> list[Account]:
        """The accounts whose warning is due; see the port."""
        rows = await fetch(self._pool, f"{_ACCOUNTS} where a.warning = 'due'")
        return [account for account in map(_account, rows) if account.is_near]

    async def open_charges(self) -> list[Charge]:
        """The attempts that hold something; see the port."""
        rows = await fetch(self._pool, f"{_CHARGES} where state <> 'settled' order by at, attempt")
        return list(map(_charge, rows))


class Tables(NamedTuple):
    """All that is in the tables, as the attributes of `callboard.eventstore.ledger.Ledger`."""

    budgets: dict[Budget, tuple[Decimal, Over]]
    accounts: dict[tuple[Budget, str, str], Account]
    charges: dict[str, Charge]


async def read_tables(connection: asyncpg.Connection | asyncpg.Pool) -> Tables:
    """All that is in the tables; of one moment only in a transaction that sees one."""
    budgets = {_budget(row): (row["ceiling"], row["over"]) for row in await connection.fetch(_BUDGETS)}
    accounts = [_account(row) for row in await connection.fetch(_ACCOUNTS)]
    charges = [_charge(row) for row in await connection.fetch(_CHARGES)]
    return Tables(
        budgets,
        {(each.budget, each.target, each.window): each for each in accounts},
        {each.attempt: each for each in charges},
    )


# -- against the log ---------------------------------------------------------------------------------------


class Difference(Struct, frozen=True):
    """Where the tables are not as the log has it."""

    what: str  # a budget, an account or an attempt
    in_log: str
    in_tables: str


async def rebuild_ledger(connection: asyncpg.Connection) -> None:
    """Make the tables again from the log. In a transaction: whoever writes to the log waits for its end."""
    await connection.execute("select lock_log()")
    await connection.execute("truncate budgets, charges, accounts")
    head = await connection.fetchval("select position from head")
    async for page in _entries(connection, head):
        entries = [entry_row(entry) for entry, _ in page]
        await connection.execute("select replay_ledger($1, $2)", entries, [at for _, at in page])


async def check_ledger(pool: asyncpg.Pool, progress: Callable[[int], None] = lambda _: None) -> list[Difference]:
    """What the tables say otherwise than the log. Reads all of the log; others may write meanwhile.

    `progress` hears of the positions that were read.
    """
    ledger = Ledger()
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        head = await connection.fetchval("select position from head")
        tables = await read_tables(connection)
        async for page in _entries(connection, head, progress):
            for entry, at in page:
                ledger.replay(entry, at)
    pairs: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
        (ledger.budgets, tables.budgets),
        (ledger.accounts, tables.accounts),
        (ledger.charges, tables.charges),
    ]
    return [
        Difference(str(key), str(folded.get(key)), str(stored.get(key)))
        for folded, stored in pairs
        for key in sorted(folded.keys() | stored.keys(), key=str)
        if folded.get(key) != stored.get(key)
    ]


async def _entries(
    connection: asyncpg.Connection, head: int, progress: Callable[[int], None] = lambda _: None
) -> AsyncIterator[list[tuple[Entry, datetime]]]:
    """What the log's events mean, each with its time, in pages."""
    for after in range(0, head, PAGE):
        rows = await connection.fetch(_LOG, after, min(after + PAGE, head), sorted(LEDGER_TYPES))
        yield [found for row in rows if (found := _entry(row)) is not None]
        progress(min(after + PAGE, head))


def _entry(row: Any) -> tuple[Entry, datetime] | None:
    position, stream, _, type_, schema_version, recorded_at, data, encoded = row
    meta = decode_meta(encoded)
    try:
        body = body_of(NewEvent(type=type_, data=data, meta=meta, schema_version=schema_version))
    except (msgspec.DecodeError, UnknownEventType) as error:
        log.warning("ledger: event %d is no %s: %s", position, type_, error)
        return None
    entry = entry_of(body, stream, meta)
    return None if entry is None else (entry, recorded_at)
