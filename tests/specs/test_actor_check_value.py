"""Values from outside, held against a rule: each is on record, accepted or refused."""

from decimal import Decimal

import pytest

from callboard import Context, ValueRule
from callboard.protocols.errors import ValueRefused
from callboard.testing import event, spec
from tests.actor_kit import worker

PRICE = ValueRule(low=Decimal("0.01"), high=Decimal(1000), places=2, rounding="half_even", unit="EUR")


async def check(given: str, ctx: Context) -> str:
    try:
        return str(await ctx.check_value("price", given, PRICE))
    except ValueRefused as error:
        return error.reason


@pytest.mark.parametrize(
    ("given", "result", "accepted"),
    [
        ("12.505", "12.50", True),
        ("12.515", "12.52", True),
        ("0", "0 is below 0.01", False),
        ("1e9", "1000000000 is above 1000", False),
        ("twelve", "it is not a number such as 12.50", False),
    ],
)
async def test_a_value_is_accepted_or_refused_and_the_log_says_which(given: str, result: str, accepted: bool) -> None:
    async with spec(worker(check)) as play:
        sent = await play.when("worker", given)
        play.then(
            "task.started",
            event("value.checked", name="price", given=given, accepted=accepted),
            event("task.completed", result=result),
        )
        await play.crash()
        assert await play.result(sent) == result


async def test_a_recorded_check_stands_when_the_handler_runs_again() -> None:
    async def todo(payload: str, ctx: Context) -> str:
        value = await check(payload, ctx)
        await ctx.receive("feedback")
        return value

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", "7")
        await play.crash()
        await play.when(sent.actor, "go", kind="feedback", task=sent.task, run=sent.run)
        assert await play.result(sent) == "7.00"
        assert play.types("worker").count("value.checked") == 1
