"""What a page of the log adds to the costs, and what people see of them."""

import csv
import io
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from callboard import Context
from callboard.cli.costs import Choice, as_csv
from callboard.projections import costs
from callboard.projections.base import Fact, fact_of
from callboard.projections.costs import CostRow, Costs
from callboard.protocols import events as e
from callboard.protocols.errors import BadOption
from callboard.protocols.messages import ErrorInfo
from callboard.testing import spec
from tests.actor_kit import worker
from tests.projection_kit import Log, model_completed, model_failed

TODAY = date(2030, 1, 31)


@pytest.fixture
def log() -> Log:
    return Log()


def rows(log: Log) -> dict[str, CostRow]:
    """What the log adds, by outcome; there must be one row of each."""
    found = costs.fold(log.facts)
    by = {row.outcome: row for row in found}
    assert len(by) == len(found)
    return by


def told(log: Sequence[e.Event]) -> list[Fact]:
    """What of a log concerns the costs."""
    return list(costs.PROJECTION.of([fact_of(event) for event in log]))


def group(*by: str, **fields: Any) -> Costs:
    numbers = {name: 0 for name in Costs.__struct_fields__ if name not in ("by", "amounts")}
    return Costs(by=by, **(numbers | {"amounts": {}} | fields))


# -- the fold ----------------------------------------------------------------------------------------------


def test_costs_are_by_day_agent_model_price_and_outcome(log: Log) -> None:
    log.add("writer/t1", model_completed("0.1", deployment="openai/gpt-5"), task="t1", tenant="acme")
    log.add("writer/t1", model_completed("0.2", deployment="openai/gpt-5"), task="t1", tenant="acme")
    row = rows(log)["ok"]
    assert (row.day, row.agent, row.role, row.tenant) == (date(2030, 1, 1), "writer", "writer", "acme")
    assert (row.model, row.price, row.currency) == ("openai/gpt-5", "2030-01", "USD")
    assert (row.count, row.amount, row.duration_ms) == (2, Decimal("0.3"), 14)


def test_what_is_not_known_is_never_zero(log: Log) -> None:
    log.add("writer/t1", model_completed("0.1"), task="t1")
    log.add("writer/t1", model_completed(None), task="t1")
    priced, unpriced = costs.fold(log.facts)
    assert (priced.currency, priced.count, priced.unpriced) == ("USD", 1, 0)
    assert (unpriced.currency, unpriced.count, unpriced.unpriced, unpriced.amount) == ("", 1, 1, Decimal())


def test_two_failures_and_a_success_are_one_call_and_three_attempts(log: Log) -> None:
    log.add("writer/t1", model_failed(None, attempt=1, kind="rate_limited"), task="t1")
    log.add("writer/t1", model_failed(None, attempt=2, kind="timeout"), task="t1")
    log.add("writer/t1", model_completed("0.1", attempt=3), task="t1")
    found = costs.fold(log.facts)
    assert sum(row.calls for row in found) == 1
    assert sum(row.count for row in found) == 3
    assert {row.outcome for row in found} == {"rate_limited", "timeout", "ok"}


def test_what_a_failed_attempt_used_and_cost_counts(log: Log) -> None:
    usage = e.Usage(input=100, output=7, reasoning=1, estimated=True)
    log.add("writer/t1", model_failed("0.05", kind="cut_off", usage=usage), task="t1")
    row = rows(log)["cut_off"]
    assert (row.amount, row.input, row.output, row.reasoning) == (Decimal("0.05"), 100, 7, 1)
    assert (row.estimated, row.unpriced) == (1, 0)


def test_an_answer_that_is_used_again_is_a_call_at_no_cost(log: Log) -> None:
    again = model_completed("0", attempt=0, cached="writer/t1@4", usage=e.Usage(), duration_ms=0)
    log.add("writer/t1", again, task="t1")
    log.add("writer/t2", model_completed(None, attempt=0, cached="writer/t1@4", usage=e.Usage()), task="t2")
    found = costs.fold(log.facts)
    assert {row.outcome for row in found} == {"cached"}
    assert [(row.calls, row.unpriced, row.amount) for row in found] == [(1, 0, Decimal())] * 2


def test_a_call_that_was_not_made_counts_as_refused_only(log: Log) -> None:
    refused = e.ModelRefused(step="model", fingerprint="f", error=ErrorInfo("BudgetExceeded", "m"))
    log.add("writer/t1", refused, task="t1")
    row = rows(log)["refused"]
    assert (row.count, row.calls, row.unpriced, row.amount, row.model) == (1, 0, 0, Decimal(), "")


def test_a_million_times_a_tiny_amount_is_exact() -> None:
    log = Log()
    for _ in range(1000):
        log.add("writer/t1", model_completed("0.0000015"), task="t1")
    facts = log.facts
    total = CostRow(*costs.key_of(facts[0]))
    for _ in range(1000):
        for fact in facts:
            costs._add(total, fact.body)
    assert (total.count, total.amount) == (1_000_000, Decimal("1.5"))


async def test_a_message_that_comes_again_adds_nothing() -> None:
    async def handle(_payload: Any, ctx: Context) -> str:
        return (await ctx.model("Say something.")).text

    async with spec(worker(handle), models=["something"]) as play:
        sent = await play.send("worker", None)
        assert await play.result(sent) == "something"
        once = costs.fold(told(play.log))
        await play.again(sent)
        await play.quiet()
        assert costs.fold(told(play.log)) == once
        assert [(row.calls, row.count) for row in once] == [(1, 1)]


# -- what people see ---------------------------------------------------------------------------------------


def test_averages_are_of_what_there_is() -> None:
    some = group("writer", calls=4, answered=3, attempts=6, failed=3, duration_ms=600)
    assert (some.success, some.latency_ms) == (0.75, 200.0)
    none = group("writer")
    assert (none.success, none.latency_ms) == (None, None)


def test_csv_has_exact_costs_in_a_column_for_each_currency() -> None:
    first = group("writer", calls=1, amounts={"USD": Decimal("0.0000015"), "EUR": Decimal("1E+3")})
    second = group("reviewer, the", calls=2, amounts={"USD": Decimal("1.50")})
    found = list(csv.DictReader(io.StringIO(as_csv([first, second], ("role",)))))
    assert [(row["role"], row["calls"], row["cost_EUR"], row["cost_USD"]) for row in found] == [
        ("writer", "1", "1000", "0.0000015"),
        ("reviewer, the", "2", "", "1.5"),
    ]


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_spreadsheet_takes_a_name_for_a_formula(value: str) -> None:
    (row,) = csv.reader(io.StringIO(as_csv([group(value)], ("tenant",)).partition("\n")[2]))
    assert row[0] == f"'{value}"


@pytest.mark.parametrize(
    ("given", "days"),
    [
        ({}, (None, None)),
        ({"since": "2030-01-01"}, (date(2030, 1, 1), None)),
        ({"until": "2030-01-01"}, (None, date(2030, 1, 1))),
        ({"days": 1}, (TODAY, None)),
        ({"days": 7}, (date(2030, 1, 25), None)),
    ],
    ids=str,
)
def test_a_period_is_given_by_days(given: dict[str, Any], days: tuple[date | None, date | None]) -> None:
    assert Choice(**given).first_and_last(TODAY) == days


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"since": "yesterday"}, "a day is written as 2030-12-31"),
        ({"until": "2030-02-30"}, "a day is written as 2030-12-31"),
        ({"since": "2030-02-01", "until": "2030-01-01"}, "it is behind --until 2030-01-01"),
        ({"since": "2030-01-01", "days": 7}, "--since says already"),
    ],
    ids=str,
)
def test_a_period_that_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        Choice(**given).first_and_last(TODAY)
