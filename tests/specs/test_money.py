"""Money, its shares and percentages, and values from outside that are held against a rule."""

from decimal import ROUND_HALF_EVEN, Decimal, Inexact

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.protocols.errors import BadAmount, BadOption, CurrencyMismatch
from callboard.protocols.money import EXACT, Money, ValueRule, decimals, percent_of, places_of, plain, round_to, shares

amounts = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=8)
cents = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=2)
weights = st.one_of(st.integers(0, 10**6), st.decimals(min_value=0, max_value=1000, places=4))


def usd(amount: str) -> Money:
    return Money(Decimal(amount), "USD")


# -- arithmetic --------------------------------------------------------------------------------------------


def test_tenths_add_up() -> None:
    assert usd("0.1") + usd("0.2") == usd("0.3")
    assert usd("1") - usd("0.9") == usd("0.1")
    assert -usd("1") == usd("-1")
    assert usd("0.0000015") * 1_000_000 == usd("1.5")


def test_a_million_times_the_same_tiny_amount_is_exact() -> None:
    total = usd("0")
    for _ in range(1_000_000):
        total = Money(EXACT.add(total.amount, Decimal("0.0000015")), "USD")
    assert total == usd("1.5")


@given(amounts, amounts, amounts)
def test_sums_are_the_same_in_any_order(a: Decimal, b: Decimal, c: Decimal) -> None:
    x, y, z = (Money(each, "USD") for each in (a, b, c))
    assert (x + y) + z == z + (y + x)
    assert (x + y) - y == x


@given(amounts, amounts)
def test_comparisons_are_those_of_the_amounts(a: Decimal, b: Decimal) -> None:
    x, y = Money(a, "USD"), Money(b, "USD")
    assert (x < y, x <= y, x > y, x >= y, x == y) == (a < b, a <= b, a > b, a >= b, a == b)


@pytest.mark.parametrize("use", ["__add__", "__sub__", "__lt__", "__le__", "__gt__", "__ge__"])
def test_two_currencies_do_not_mix(use: str) -> None:
    with pytest.raises(CurrencyMismatch, match="1 USD and 1 EUR"):
        getattr(usd("1"), use)(Money(Decimal(1), "EUR"))
    with pytest.raises(BadAmount, match="write it as Money"):
        getattr(usd("1"), use)(1)


def test_equal_amounts_of_two_currencies_are_not_equal() -> None:
    assert usd("1") != Money(Decimal(1), "EUR")
    assert usd("1.50") == usd("1.5")


def test_money_is_made_of_decimals() -> None:
    with pytest.raises(BadAmount, match="Decimal"):
        Money(0.1, "USD")  # type: ignore[arg-type]
    with pytest.raises(BadAmount, match="float"):
        usd("1") * 0.1  # type: ignore[operator]


def test_what_a_hundred_digits_cannot_hold_is_an_error() -> None:
    with pytest.raises(Inexact):
        usd("1E+60") + usd("1E-60")


@pytest.mark.parametrize(
    ("text", "money"),
    [
        ("12.50", usd("12.5")),
        (" 12.50 eur ", Money(Decimal("12.5"), "EUR")),
        ("0.05USD", usd("0.05")),
        ("-1", usd("-1")),
        (".5", usd("0.5")),
    ],
)
def test_money_is_read_from_text(text: str, money: Money) -> None:
    assert Money.parse(text) == money


@pytest.mark.parametrize("text", ["", "USD", "1,5", "1e5", "1.2.3", "12 DOLLARS", "NaN", "1" * 61, "٣"])
def test_what_is_no_money_says_how_it_is_written(text: str) -> None:
    with pytest.raises(BadAmount, match=r"12\.50 USD"):
        Money.parse(text)


# -- shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("money", "places", "text"),
    [
        (usd("1.5"), None, "1.50 USD"),
        (usd("1234567.5"), None, "1,234,567.50 USD"),
        (usd("0.0000015"), None, "0.0000015 USD"),
        (usd("0.0000015"), 2, "0.00 USD"),
        (usd("0.125"), 2, "0.12 USD"),
        (usd("0.135"), 2, "0.14 USD"),
        (Money(Decimal(200), "JPY"), None, "200 JPY"),
        (Money(Decimal(1), "KWD"), None, "1.000 KWD"),
        (usd("1E+3"), None, "1,000.00 USD"),
    ],
)
def test_money_is_rounded_only_when_it_is_shown(money: Money, places: int | None, text: str) -> None:
    before = money.amount
    assert money.shown(places) == text
    assert money.amount is before


@given(amounts)
def test_a_plain_amount_is_what_it_was(amount: Decimal) -> None:
    assert Decimal(plain(amount)) == amount
    assert "E" not in plain(amount)
    assert len(plain(amount).partition(".")[2]) == decimals(amount)


@pytest.mark.parametrize(("amount", "text"), [("1E+3", "1000"), ("-0.00", "0"), ("10", "10"), ("1.500", "1.5")])
def test_plain_amounts(amount: str, text: str) -> None:
    assert plain(Decimal(amount)) == text


# -- percentages and shares --------------------------------------------------------------------------------


def test_a_percentage_is_exact() -> None:
    assert percent_of(usd("0.33"), Decimal("7.5")) == usd("0.02475")
    assert percent_of(usd("200"), 19) == usd("38")


def test_shares_give_the_rest_to_who_lost_most() -> None:
    assert shares(usd("100"), [1, 1, 1]) == [usd("33.34"), usd("33.33"), usd("33.33")]
    assert shares(usd("0.05"), [3, 7]) == [usd("0.02"), usd("0.03")]
    assert shares(usd("1"), [0, 1]) == [usd("0"), usd("1")]
    assert shares(Money(Decimal(10), "JPY"), [1, 2]) == [Money(Decimal(3), "JPY"), Money(Decimal(7), "JPY")]


def test_an_amount_below_the_smallest_coin_is_divided_as_finely_as_it_is_given() -> None:
    assert shares(usd("0.001"), [1, 2]) == [usd("0"), usd("0.001")]
    assert shares(usd("0.001"), [1, 2], places=6) == [usd("0.000333"), usd("0.000667")]
    with pytest.raises(BadAmount, match="2 decimals"):
        shares(usd("0.001"), [1, 2], places=2)


@given(cents, st.lists(weights, min_size=1, max_size=12).filter(any), st.integers(2, 6))
def test_shares_add_up_to_the_whole_and_each_is_within_a_unit(
    amount: Decimal, parts: list[int | Decimal], places: int
) -> None:
    whole = Money(amount, "USD")
    found = shares(whole, parts, places)
    total = Money(Decimal(), "USD")
    for part, weight in zip(found, parts, strict=True):
        total += part
        assert decimals(part.amount) <= places
        ideal = amount * Decimal(weight) / sum(map(Decimal, parts))
        assert abs(part.amount - ideal) < Decimal(1).scaleb(-places) + Decimal("1E-12")
        assert weight or not part
    assert total == whole


@pytest.mark.parametrize("parts", [[], [0, 0], [1, -1]])
def test_weights_are_above_nothing(parts: list[int]) -> None:
    with pytest.raises(BadAmount, match="weights"):
        shares(usd("1"), parts)


@pytest.mark.parametrize(("currency", "places"), [("USD", 2), ("JPY", 0), ("KWD", 3), ("XTS", 2)])
def test_currencies_have_their_own_smallest_coins(currency: str, places: int) -> None:
    assert places_of(currency) == places


# -- values from outside -----------------------------------------------------------------------------------

PRICE = ValueRule(low=Decimal("0.01"), high=Decimal(500), places=2, rounding="half_even", unit="USD")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("19.99", "19.99"),
        (" 20 ", "20.00"),
        ("0.125", "0.12"),
        ("0.135", "0.14"),
        (500, "500"),
        (Decimal("1e2"), "100"),
        ("1e2", "100"),
    ],
)
def test_a_value_is_taken_and_rounded_by_the_rule(given: object, value: str) -> None:
    checked = PRICE.check(given)
    assert checked.accepted
    assert checked.value == Decimal(value)
    assert checked.value.as_tuple().exponent == -2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("500.01", "500.01 is above 500"),
        ("500.001", "500.001 is above 500"),
        ("0.009", "0.009 is below 0.01"),
        ("-3", "-3 is below 0.01"),
        ("12,50", "it is not a number such as 12.50"),
        ("", "it is not a number such as 12.50"),
        ("NaN", "it is not a number such as 12.50"),
        (Decimal("NaN"), "NaN is not a number such as 12.50"),
        (Decimal("Infinity"), "Infinity is not a number such as 12.50"),
        (0.5, "float is not a text, an int or a Decimal: a float is never exact, write it as text"),
        (True, "bool is not a text, an int or a Decimal"),
        (None, "NoneType is not a text, an int or a Decimal"),
        ("1e999", "it has more than 60 digits"),
        (10**60, "it has more than 60 digits"),
        ("9" * 200, "it is not a number such as 12.50"),
    ],
)
def test_a_value_is_refused_with_the_reason(given: object, reason: str) -> None:
    assert PRICE.check(given).reason == reason
    assert PRICE.check(given).value is None


@pytest.mark.parametrize(
    ("rounding", "given", "value"),
    [
        ("half_up", "0.125", "0.13"),
        ("half_up", "-0.125", "-0.13"),
        ("half_even", "-0.125", "-0.12"),
        ("down", "0.129", "0.12"),
        ("down", "-0.121", "-0.13"),
        ("up", "0.121", "0.13"),
        ("up", "-0.129", "-0.12"),
        ("refuse", "0.120", "0.12"),
        ("refuse", "0.121", None),
    ],
)
def test_rounding_is_as_the_rule_says(rounding: str, given: str, value: str | None) -> None:
    rule = ValueRule(places=2, rounding=rounding)  # type: ignore[arg-type]
    assert rule.check(given).value == (None if value is None else Decimal(value))


@given(st.one_of(amounts, st.text(max_size=20), st.integers()), st.integers(0, 6))
def test_what_is_accepted_is_in_the_range_with_no_more_places(given: object, places: int) -> None:
    rule = ValueRule(low=Decimal(-100), high=Decimal(100), places=places, rounding="half_even")
    checked = rule.check(given)
    assert checked.accepted != bool(checked.reason)
    if checked.value is not None:
        assert -100 <= checked.value <= 100
        assert decimals(checked.value) <= places


@given(amounts, st.integers(0, 8))
def test_half_even_is_that_of_decimal(amount: Decimal, places: int) -> None:
    assert round_to(amount, places, "half_even") == amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)


def test_a_rule_in_words() -> None:
    assert str(PRICE) == "at least 0.01 USD; at most 500 USD; 2 decimals, rounded half even"
    assert str(ValueRule(unit="kg")) == "any number kg"


@pytest.mark.parametrize(
    "options",
    [
        {"low": Decimal(2), "high": Decimal(1)},
        {"low": 1.5},
        {"high": Decimal("NaN")},
        {"places": -1},
        {"rounding": "nearest"},
    ],
    ids=str,
)
def test_a_rule_that_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadOption, match="ValueRule"):
        ValueRule(**options)  # type: ignore[arg-type]
