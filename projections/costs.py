"""Costs: calls of models, attempts, tokens and exact amounts of money, by run, agent, tenant, day, model and outcome.

A *call* is one step, however many attempts it takes: two failures and a success are one call and three attempts. It is
counted with its first attempt, or with the answer that was used again. What an attempt used and cost counts however it
ended. One without a known price, or whose end nobody knows, adds to `unpriced` and nothing to the amount: unknown is
never zero. What a stand-in answered instead of a real model is kept apart by `stand_in`.
"""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from asyncpg import Connection
from msgspec import Struct

from callboard.projections.agents import agent_of
from callboard.projections.base import Database, Fact, Page, Projection, Table, clean
from callboard.protocols import events
from callboard.protocols.money import EXACT
from callboard.protocols.names import role_of

DDL = """
create table costs (
    run          text collate "C" not null,
    day          date not null,              -- UTC
    role         text collate "C" not null,
    agent        text collate "C" not null,  -- as in the table `agents`
    tenant       text collate "C" not null,  -- '': nobody's
    model        text collate "C" not null,  -- as it was requested
    outcome      text collate "C" not null,  -- ok, cached, refused (nothing was sent), or the kind of a failure
    currency     text collate "C" not null,  -- '' where the cost is not known
    price        text collate "C" not null,  -- the price table that the amount was made with; '' there too
    stand_in     boolean not null,
    count        bigint not null,            -- events: attempts, answers from the cache, refusals
    calls        bigint not null,            -- that began with one of these
    unpriced     bigint not null,            -- of `count`, those whose cost is not known
    estimated    bigint not null,            -- of `count`, those whose tokens the provider did not report
    duration_ms  bigint not null,
    input        bigint not null,            -- tokens, in disjoint buckets
    cached_input bigint not null,
    cache_write  bigint not null,
    output       bigint not null,
    reasoning    bigint not null,
    amount       numeric not null,
    primary key (run, day, role, agent, tenant, model, outcome, currency, price, stand_in)
);
"""

OK, CACHED, REFUSED = "ok", "cached", "refused"

Dimension = Literal["role", "agent", "model", "run", "day", "tenant", "outcome"]
DIMENSIONS: Final[tuple[Dimension, ...]] = get_args(Dimension)

Told = events.ModelCompleted | events.ModelFailed | events.ModelRefused


class CostRow(Struct, gc=False):
    """A row, as the fold adds it up; the first ten fields are its key."""

    run: str
    day: date
    role: str
    agent: str
    tenant: str
    model: str
    outcome: str
    currency: str
    price: str
    stand_in: bool
    count: int = 0
    calls: int = 0
    unpriced: int = 0
    estimated: int = 0
    duration_ms: int = 0
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    amount: Decimal = Decimal()


class Costs(Struct, frozen=True, kw_only=True):
    """A group of calls. `by` are its values of the dimensions asked for (a day as YYYY-MM-DD).

    `amounts` is exact, by currency; what `unpriced` and `unknown` attempts cost is not in it.
    """

    by: tuple[str, ...]
    calls: int  # however many attempts each took; refused ones are not among them
    answered: int  # of `calls`
    attempts: int
    failed: int  # of `attempts`
    cached: int  # of `calls`, those that an earlier answer was used for
    refused: int  # calls that were not made
    unpriced: int  # of `attempts`, those with an answer whose price is not known
    unknown: int  # of `attempts`, failed ones of which nobody knows what they cost
    estimated: int  # of `attempts`, those whose tokens the provider did not report
    stand_ins: int  # of `attempts`, those that a stand-in answered
    duration_ms: int  # of the attempts that gave an answer, together
    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    amounts: dict[str, Decimal]

    @property
    def tokens_in(self) -> int:
        """Tokens of prompts, with those read from a cache or written to it."""
        return self.input + self.cached_input + self.cache_write

    @property
    def tokens_out(self) -> int:
        """Tokens of answers, with those of reasoning."""
        return self.output + self.reasoning

    @property
    def success(self) -> float | None:
        """The share of calls that ended with an answer; None without calls."""
        return min(1.0, self.answered / self.calls) if self.calls else None

    @property
    def latency_ms(self) -> float | None:
        """How long an attempt that gave an answer took, on average; None without any."""
        answers = self.attempts - self.failed
        return self.duration_ms / answers if answers else None


COSTS = Table("costs", CostRow)
KEY: Final = CostRow.__struct_fields__[:10]
_SUMMED: Final = CostRow.__struct_fields__[10:]
_ADD: Final = (
    COSTS.insertion.replace("into costs", "into costs as c")
    + f" on conflict ({', '.join(KEY)}) do update set "
    + ", ".join(f"{column} = c.{column} + excluded.{column}" for column in _SUMMED)
)


async def apply(connection: Connection, page: Page) -> None:
    """Fold a page into the table."""
    await COSTS.write(connection, _ADD, fold(page))


def fold(page: Page) -> list[CostRow]:
    """What a page adds, a row for each key."""
    rows: dict[tuple[Any, ...], CostRow] = {}
    for fact in page:
        key = key_of(fact)
        row = rows.get(key)
        if row is None:
            row = rows[key] = CostRow(*key)
        _add(row, fact.body)
    return list(rows.values())


def key_of(fact: Fact) -> tuple[Any, ...]:
    """What an event is counted under: the values of the table's key, in order."""
    event, body = fact.event, fact.body
    cost: events.Cost | None = getattr(body, "cost", None)
    return (
        event.meta.run,
        event.recorded_at.date(),
        role_of(event.stream),
        agent_of(event),
        clean(event.meta.tenant or ""),
        clean(getattr(body, "deployment", "") or getattr(body, "model", "")),
        clean(_outcome(body)),
        cost.currency if cost else "",
        cost.price if cost else "",
        getattr(body, "stand_in", False),
    )


def _outcome(body: Told) -> str:
    match body:
        case events.ModelCompleted():
            return CACHED if body.cached else OK
        case events.ModelFailed():
            return body.kind
        case _:
            return REFUSED


def _add(row: CostRow, body: Told) -> None:
    row.count += 1
    if isinstance(body, events.ModelRefused):
        return
    usage = body.usage
    row.calls += body.attempt <= 1  # an answer from the cache is attempt 0
    row.estimated += usage.estimated
    row.input += usage.input
    row.cached_input += usage.cached_input
    row.cache_write += usage.cache_write
    row.output += usage.output
    row.reasoning += usage.reasoning
    row.duration_ms += body.duration_ms
    if body.cost is None:
        row.unpriced += row.outcome != CACHED
    else:
        row.amount = EXACT.add(row.amount, body.cost.amount)


PROJECTION = Projection(
    name="costs",
    version=2,
    tables=("costs",),
    ddl=DDL,
    handles=frozenset({events.ModelCompleted.TYPE, events.ModelFailed.TYPE, events.ModelRefused.TYPE}),
    apply=apply,
)


# -- queries -----------------------------------------------------------------------------------------------


_ATTEMPT: Final = f"outcome not in ('{CACHED}', '{REFUSED}')"
_FAILED: Final = f"outcome not in ('{OK}', '{CACHED}', '{REFUSED}')"
_SUMS: Final = {
    "calls": "sum(calls)",
    "answered": f"sum(count) filter (where outcome in ('{OK}', '{CACHED}'))",
    "attempts": f"sum(count) filter (where {_ATTEMPT})",
    "failed": f"sum(count) filter (where {_FAILED})",
    "cached": f"sum(count) filter (where outcome = '{CACHED}')",
    "refused": f"sum(count) filter (where outcome = '{REFUSED}')",
    "unpriced": f"sum(unpriced) filter (where outcome = '{OK}')",
    "unknown": f"sum(unpriced) filter (where {_FAILED})",
    "estimated": "sum(estimated)",
    "stand_ins": f"sum(count) filter (where stand_in and outcome = '{OK}')",
    "duration_ms": f"sum(duration_ms) filter (where outcome = '{OK}')",
    **{bucket: f"sum({bucket})" for bucket in ("input", "cached_input", "cache_write", "output", "reasoning")},
}


async def costs(
    database: Database,
    by: Sequence[Dimension] = (),
    *,
    run: str | None = None,
    agent: str | None = None,
    since: date | None = None,
    until: date | None = None,
) -> list[Costs]:
    """Costs grouped by any dimensions, in their order; without any, the total of all (empty if there are none).

    `since` and `until` are days (UTC), both inclusive. Raises ValueError for an unknown dimension.
    """
    if unknown := [dimension for dimension in by if dimension not in DIMENSIONS]:
        raise ValueError(f"unknown dimensions {unknown}: give some of {', '.join(DIMENSIONS)}")
    group = ", ".join(f"{dimension}::text" for dimension in by)
    sums = ", ".join(f"coalesce({sum_}, 0)::bigint as {name}" for name, sum_ in _SUMS.items())
    records = await database.fetch(
        f"""
        select array[{group}]::text[] as by, currency, {sums}, sum(amount) as amount
        from costs
        where ($1::text is null or run = $1) and ($2::text is null or agent = $2)
            and ($3::date is null or day >= $3) and ($4::date is null or day <= $4)
        group by 1, 2 order by 1, 2
        """,  # noqa: S608  # the dimensions are checked above
        run,
        agent,
        since,
        until,
    )
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(record["by"]), []).append(dict(record))
    return [_group(key, rows) for key, rows in groups.items()]


def _group(by: tuple[str, ...], rows: list[dict[str, Any]]) -> Costs:
    """One group, from its rows for each currency."""
    return Costs(
        by=by,
        amounts={row["currency"]: row["amount"] for row in rows if row["currency"]},
        **{name: sum(row[name] for row in rows) for name in _SUMS},
    )
