"""Costs: model calls, tokens and exact amounts of money, by day, run, agent, model and price table.

A call without a known price adds to `unpriced` and nothing to the amount: unknown is never zero. What a stand-in
answered instead of a real model is kept apart by `stand_in`.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from asyncpg import Connection
from msgspec import Struct

from projections.agents import agent_of
from projections.base import EXACT, Database, Fact, Page, Projection, Table, clean
from protocols import events
from protocols.names import role_of

DDL = """
create table costs (
    run          text collate "C" not null,
    day          date not null,              -- UTC
    role         text collate "C" not null,
    agent        text collate "C" not null,  -- as in the table `agents`
    model        text collate "C" not null,
    currency     text collate "C" not null,  -- '' in rows of unpriced and failed calls
    price        text collate "C" not null,  -- the price table that the amount was made with; '' there too
    stand_in     boolean not null,
    calls        bigint not null,            -- that gave an answer
    failed       bigint not null,            -- attempts that gave none
    unpriced     bigint not null,            -- of `calls`, those whose cost is not known
    estimated    bigint not null,            -- of `calls`, those whose tokens the provider did not report
    input        bigint not null,            -- tokens, in disjoint buckets
    cached_input bigint not null,
    cache_write  bigint not null,
    output       bigint not null,
    reasoning    bigint not null,
    amount       numeric not null,
    primary key (run, day, role, agent, model, currency, price, stand_in)
);
"""

Dimension = Literal["role", "agent", "model", "run", "day"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)


class CostRow(Struct, gc=False):
    """A row, as the fold adds it up; the first eight fields are its key."""

    run: str
    day: date
    role: str
    agent: str
    model: str
    currency: str
    price: str
    stand_in: bool
    calls: int = 0
    failed: int = 0
    unpriced: int = 0
    estimated: int = 0
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    amount: Decimal = Decimal()


class Costs(Struct, frozen=True, kw_only=True):
    """A group of calls. `by` are its values of the dimensions asked for (a day as YYYY-MM-DD).

    `amounts` is exact, by currency; `unpriced` calls are not in it.
    """

    by: tuple[str, ...]
    calls: int
    failed: int
    unpriced: int
    estimated: int
    stand_ins: int  # of `calls`, those that a stand-in answered
    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    amounts: dict[str, Decimal]


COSTS = Table("costs", CostRow)
_KEY: Final = CostRow.__struct_fields__[:8]
_SUMMED: Final = CostRow.__struct_fields__[8:]
_ADD: Final = (
    COSTS.insertion.replace("into costs", "into costs as c")
    + f" on conflict ({', '.join(_KEY)}) do update set "
    + ", ".join(f"{column} = c.{column} + excluded.{column}" for column in _SUMMED)
)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    await COSTS.write(connection, _ADD, fold(page))


def fold(page: Page) -> list[CostRow]:
    """What a page adds, a row for each key."""
    rows: dict[tuple[Any, ...], CostRow] = {}
    for fact in page:
        key = _key(fact)
        row = rows.get(key)
        if row is None:
            row = rows[key] = CostRow(*key)
        _add(row, fact.body)
    return list(rows.values())


def _key(fact: Fact) -> tuple[Any, ...]:
    """The values of `_KEY`."""
    event, body = fact.event, fact.body
    cost: events.Cost | None = getattr(body, "cost", None)  # a failed attempt has none
    return (
        event.meta.run,
        event.recorded_at.date(),
        role_of(event.stream),
        agent_of(event),
        clean(body.model),
        cost.currency if cost else "",
        cost.price if cost else "",
        getattr(body, "stand_in", False),
    )


def _add(row: CostRow, body: events.ModelCompleted | events.ModelFailed) -> None:
    if isinstance(body, events.ModelFailed):
        row.failed += 1
        return
    usage = body.usage
    row.calls += 1
    row.estimated += usage.estimated
    row.input += usage.input
    row.cached_input += usage.cached_input
    row.cache_write += usage.cache_write
    row.output += usage.output
    row.reasoning += usage.reasoning
    if body.cost is None:
        row.unpriced += 1
    else:
        row.amount = EXACT.add(row.amount, body.cost.amount)


PROJECTION = Projection(
    name="costs",
    version=1,
    tables=("costs",),
    ddl=DDL,
    handles=frozenset({events.ModelCompleted.TYPE, events.ModelFailed.TYPE}),
    apply=apply,
)


# -- queries -----------------------------------------------------------------------------------------------


async def costs(
    database: Database,
    by: Sequence[Dimension] = (),
    *,
    run: str | None = None,
    since: date | None = None,
    until: date | None = None,
) -> list[Costs]:
    """Costs grouped by any dimensions, in their order; without any, the total of all (empty if there are none).

    `since` and `until` are days (UTC), both inclusive. Raises ValueError for an unknown dimension.
    """
    if unknown := [dimension for dimension in by if dimension not in DIMENSIONS]:
        raise ValueError(f"unknown dimensions {unknown}: give some of {', '.join(DIMENSIONS)}")
    group = ", ".join(f"{dimension}::text" for dimension in by)
    records = await database.fetch(
        f"""
        select array[{group}]::text[] as by, currency, sum(calls)::bigint as calls, sum(failed)::bigint as failed,
            sum(unpriced)::bigint as unpriced, sum(estimated)::bigint as estimated,
            coalesce(sum(calls) filter (where stand_in), 0)::bigint as stand_ins,
            sum(input)::bigint as input, sum(cached_input)::bigint as cached_input,
            sum(cache_write)::bigint as cache_write, sum(output)::bigint as output,
            sum(reasoning)::bigint as reasoning, sum(amount) as amount
        from costs
        where ($1::text is null or run = $1) and ($2::date is null or day >= $2) and ($3::date is null or day <= $3)
        group by 1, 2 order by 1, 2
        """,  # noqa: S608  # the dimensions are checked above
        run,
        since,
        until,
    )
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(record["by"]), []).append(dict(record))
    return [_group(key, rows) for key, rows in groups.items()]


def _group(by: tuple[str, ...], rows: list[dict[str, Any]]) -> Costs:
    """One group, from its rows for each currency."""
    counted = [name for name in Costs.__struct_fields__ if name not in ("by", "amounts")]
    return Costs(
        by=by,
        amounts={row["currency"]: row["amount"] for row in rows if row["currency"]},
        **{name: sum(row[name] for row in rows) for name in counted},
    )
