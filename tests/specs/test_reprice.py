"""What history would cost at other prices."""

from decimal import Decimal

import pytest
from msgspec import Raw

from callboard.actors.models.prices import Override, PriceTable, Terms
from callboard.cli.reprice import Repriced, Repricing, _change, _total
from callboard.protocols import events as e
from tests.projection_kit import Log, model_completed, model_failed

MODEL = "test/model"
USAGE = e.Usage(input=1_000_000, cached_input=2_000_000, output=3_000_000)
TABLE = PriceTable({MODEL: Override(input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(2))})


def repriced(log: Log, by: str = "model") -> dict[str, Repriced]:
    repricing = Repricing(TABLE, by)  # type: ignore[arg-type]
    for fact in log.facts:
        repricing.add(fact)
    return repricing.groups


def test_attempts_cost_what_their_tokens_cost_now() -> None:
    log = Log()
    log.add("writer/t1", model_completed("1.23", deployment=MODEL, usage=USAGE), task="t1")
    log.add("writer/t1", model_failed("0.5", model=MODEL, usage=e.Usage(input=500_000)), task="t1")
    group = repriced(log)[MODEL]
    assert group.attempts == 2
    assert group.recorded == {"USD": Decimal("1.73")}
    assert group.repriced == {"USD": Decimal("7.7")}  # 1 + 0.2 + 6, and 0.5
    assert _change(group) == "+345.1%"


def test_a_model_without_a_price_now_is_unpriced_and_one_that_was_has_its_price_now() -> None:
    log = Log()
    log.add("writer/t1", model_completed("1", deployment="test/forgotten"), task="t1")
    log.add("writer/t1", model_completed(None, deployment=MODEL, usage=USAGE), task="t1")
    found = repriced(log)
    forgotten, known = found["test/forgotten"], found[MODEL]
    assert (forgotten.recorded, forgotten.repriced, forgotten.unpriced_now) == ({"USD": Decimal(1)}, {}, 1)
    assert (known.unpriced, known.unpriced_now, known.repriced) == (1, 0, {"USD": Decimal("7.2")})
    total = _total((forgotten, known))
    assert (total.attempts, total.unpriced, total.unpriced_now) == (2, 1, 1)


def test_what_is_not_a_matter_of_prices_stays() -> None:
    """A rejected attempt cost nothing, a lost one nobody knows what, a stand-in has its own prices."""
    log = Log()
    log.add("writer/t1", model_failed("0", model=MODEL), task="t1")
    log.add("writer/t2", model_failed(None, model=MODEL), task="t2")
    log.add("writer/t3", model_completed("0.01", "XTS", model=MODEL, stand_in=True), task="t3")
    log.add("writer/t4", model_completed("0", model=MODEL, attempt=0, cached="writer/t1@4"), task="t4")
    group = repriced(log)[MODEL]
    assert (group.attempts, group.unpriced, group.unpriced_now) == (3, 1, 1)
    assert group.recorded == group.repriced == {"USD": Decimal(), "XTS": Decimal("0.01")}
    assert _change(group) == "0%, +0.0%"


class AtOnePrice:
    """Prices that tell what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def price(self, usage: e.Usage, model: str, terms: Terms) -> e.Cost | None:
        self.asked.append((model, terms.service_tier))
        return e.Cost(Decimal(usage.total), "USD", "test")


def test_what_the_provider_reported_decides_the_price_as_it_did_then() -> None:
    log, prices = Log(), AtOnePrice()
    reported = Raw(b'{"prompt_tokens": 10, "completion_tokens": 5, "service_tier": "priority"}')
    log.add("writer/t1", model_completed("1", deployment=MODEL, model="as-it-says", reported=reported), task="t1")
    log.add("writer/t1", model_completed("1", model="of-old"), task="t1")
    repricing = Repricing(prices, "day")
    for fact in log.facts:
        repricing.add(fact)
    assert prices.asked == [(MODEL, "priority"), ("of-old", "")]


@pytest.mark.parametrize("by", ["role", "agent", "run", "day", "tenant", "outcome"])
def test_groups_are_those_of_the_costs(by: str) -> None:
    log = Log()
    log.add("writer/dave", model_completed("1", deployment=MODEL), task="t1", tenant="acme")
    values = {
        "role": "writer",
        "agent": "writer/dave",
        "run": "r1",
        "day": "2030-01-01",
        "tenant": "acme",
        "outcome": "ok",
    }
    assert list(repriced(log, by)) == [values[by]]
