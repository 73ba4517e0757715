"""Money: an exact amount of a currency. Nothing here rounds unless it is asked to.

total = Money(Decimal("0.1"), "USD") + Money.parse("0.2 USD")
fee = percent_of(total, Decimal("2.5"))           exact: 0.0075 USD
parts = shares(Money.parse("100 USD"), [1, 1, 1]) 33.34, 33.33 and 33.33 USD: together they are the whole
rule = ValueRule(low=Decimal(0), high=Decimal(500), places=2, rounding="half_even", unit="USD")
rule.check("19.999").value                        20.00
"""

import decimal
import re
from collections.abc import Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from fractions import Fraction
from typing import Final, Literal

from msgspec import Struct

from callboard.protocols.errors import BadAmount, BadOption, CurrencyMismatch

# A sum that a hundred digits can't hold is an error, and is never rounded.
EXACT: Final = Context(prec=100, traps=[Inexact, InvalidOperation, Overflow])
MAX_DIGITS: Final = 60  # of a value from outside, before and behind the point together

Rounding = Literal["half_even", "half_up", "down", "up", "refuse"]
ROUNDINGS: Final[dict[Rounding, str]] = {
    "half_even": decimal.ROUND_HALF_EVEN,
    "half_up": decimal.ROUND_HALF_UP,
    "down": decimal.ROUND_FLOOR,
    "up": decimal.ROUND_CEILING,
}

# Decimal places of currencies (ISO 4217) that don't have two.
_PLACES: Final = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
_MONEY: Final = re.compile(r"\s*([+-]?[0-9]*\.?[0-9]+)\s*([A-Za-z]{3})?\s*")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


class Money(Struct, frozen=True):
    """An amount in a currency (ISO 4217), of any precision.

    It adds and compares with its like only: another currency raises CurrencyMismatch. A result that 100 digits can't
    hold raises decimal.Inexact. It is equal to what is as much: 1.50 is 1.5.
    """

    amount: Decimal
    currency: str

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Decimal):
            raise BadAmount(repr(self.amount), 'an amount is a Decimal, as in Money(Decimal("1.50"), "USD")')

    @classmethod
    def parse(cls, text: str, currency: str = "USD") -> "Money":
        """Money from `1.50 EUR`, or, in `currency`, from `1.50`. Raises BadAmount."""
        found = _MONEY.fullmatch(text)
        if found is None or len(found[1]) > MAX_DIGITS:
            raise BadAmount(repr(text), "write it as 12.50, or with its currency as 12.50 USD")
        return cls(Decimal(found[1]), (found[2] or currency).upper())

    def __str__(self) -> str:
        return f"{plain(self.amount)} {self.currency}"

    def __add__(self, other: "Money") -> "Money":
        return Money(EXACT.add(self.amount, self._like(other)), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(EXACT.subtract(self.amount, self._like(other)), self.currency)

    def __mul__(self, factor: int | Decimal) -> "Money":
        return Money(EXACT.multiply(self.amount, _exact(factor)), self.currency)

    def __neg__(self) -> "Money":
        return Money(self.amount.copy_negate(), self.currency)

    def __bool__(self) -> bool:
        return bool(self.amount)

    def __lt__(self, other: "Money") -> bool:
        return self.amount < self._like(other)

    def __le__(self, other: "Money") -> bool:
        return self.amount <= self._like(other)

    def __gt__(self, other: "Money") -> bool:
        return self.amount > self._like(other)

    def __ge__(self, other: "Money") -> bool:
        return self.amount >= self._like(other)

    def shown(self, places: int | None = None) -> str:
        """For people: rounded half to even to `places` decimals; without, all that there are, and no fewer than the
        currency has: 1.50 USD, 0.0000015 USD, 200 JPY."""
        if places is None:
            places = max(places_of(self.currency), decimals(self.amount))
        rounded = round_to(self.amount, places, "half_even")
        return f"{rounded:,f} {self.currency}"

    def _like(self, other: "Money") -> Decimal:
        if not isinstance(other, Money):
            raise BadAmount(repr(other), f"it is to go with {self}, so write it as Money with a currency")
        if other.currency != self.currency:
            raise CurrencyMismatch(str(self), str(other))
        return other.amount


def add_amount(amounts: dict[str, Decimal], currency: str, amount: Decimal) -> dict[str, Decimal]:
    """Amounts by currency with one more, as a new dict; raises decimal.Inexact rather than round."""
    return {**amounts, currency: EXACT.add(amounts.get(currency, Decimal()), amount)}


def plain(amount: Decimal) -> str:
    """An amount as people write it: all of its digits, no exponent, and no zeros at the end."""
    text = f"{amount:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def decimals(amount: Decimal) -> int:
    """How many decimal places an amount has, zeros at the end not counted."""
    return len(plain(amount).partition(".")[2])


def places_of(currency: str) -> int:
    """How many decimal places the smallest coin of a currency has."""
    return _PLACES.get(currency, 2)


def round_to(amount: Decimal, places: int, rounding: Rounding) -> Decimal:
    """An amount with so many decimal places; `refuse` raises decimal.Inexact where that is not what it is."""
    mode = ROUNDINGS.get(rounding)
    context = EXACT if mode is None else Context(prec=EXACT.prec, rounding=mode, traps=[InvalidOperation])
    return amount.quantize(Decimal(1).scaleb(-places), context=context)


def percent_of(whole: Money, percent: int | Decimal) -> Money:
    """So many per cent of an amount, exactly."""
    return Money(EXACT.multiply(whole.amount, _exact(percent)).scaleb(-2, EXACT), whole.currency)


def shares(whole: Money, weights: Sequence[int | Decimal], places: int | None = None) -> list[Money]:
    """An amount divided by weights, in parts that add up to it exactly.

    The parts have `places` decimals; without, those of the currency, or of the amount where it has more. What is left
    over goes, one smallest unit each, to the parts that lost most by rounding, the first ones first. Raises BadAmount
    for weights below zero, for none above, and for an amount with more than `places` decimals.
    """
    if places is None:
        places = max(places_of(whole.currency), decimals(whole.amount))
    if decimals(whole.amount) > places:
        raise BadAmount(str(whole), f"parts with {places} decimals can't add up to it")
    exact = [Fraction(_exact(weight)) for weight in weights]
    if not exact or min(exact) < 0 or sum(exact) == 0:
        raise BadAmount(str([str(weight) for weight in weights]), "weights are 0 or more, and one is above 0")
    units = abs(int(whole.amount.scaleb(places, EXACT)))
    ideal = [units * weight / sum(exact) for weight in exact]
    parts = [int(part) for part in ideal]
    most_lost = sorted(range(len(parts)), key=lambda place: parts[place] - ideal[place])
    for place in most_lost[: units - sum(parts)]:
        parts[place] += 1
    sign = -1 if whole.amount < 0 else 1
    return [Money(Decimal(sign * part).scaleb(-places, EXACT), whole.currency) for part in parts]


class Checked(Struct, frozen=True):
    """What became of a value that was held against a rule: the value, or the reason why it is refused."""

    value: Decimal | None
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether there is a value."""
        return self.value is not None


class ValueRule(Struct, frozen=True):
    """What a value from outside must be: of money, or of any measurement.

    From `low` to `high`, both included, with at most `places` decimals. What has more is rounded: `half_even`,
    `half_up` (halves away from zero), `down` or `up` (to the number below or above); or it is refused. `unit` is for
    people. Raises BadOption.
    """

    low: Decimal | None = None
    high: Decimal | None = None
    places: int | None = None
    rounding: Rounding = "refuse"
    unit: str = ""

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            bound = getattr(self, name)
            if bound is not None and not (isinstance(bound, Decimal) and bound.is_finite()):
                raise BadOption(f"ValueRule.{name}", repr(bound), 'it is a Decimal, such as Decimal("0.01")')
        if self.low is not None and self.high is not None and self.low > self.high:
            raise BadOption("ValueRule.low", str(self.low), f"it is above high, {self.high}")
        if self.places is not None and not 0 <= self.places <= 30:
            raise BadOption("ValueRule.places", str(self.places), "it is 0 to 30")
        if self.rounding != "refuse" and self.rounding not in ROUNDINGS:
            raise BadOption("ValueRule.rounding", repr(self.rounding), f"it is refuse, {', '.join(ROUNDINGS)}")

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        parts = []
        if self.low is not None:
            parts.append(f"at least {plain(self.low)}{unit}")
        if self.high is not None:
            parts.append(f"at most {plain(self.high)}{unit}")
        if self.places is not None:
            rounded = "no more" if self.rounding == "refuse" else f"rounded {self.rounding.replace('_', ' ')}"
            parts.append(f"{self.places} decimals, {rounded}")
        return "; ".join(parts) or f"any number{unit}"

    def check(self, given: object) -> Checked:
        """Hold a value against the rule: a text, an int or a Decimal. A float is refused, as it is never exact."""
        value = _number(given)
        if isinstance(value, str):
            return Checked(None, value)
        if self.places is not None:
            if self.rounding == "refuse" and decimals(value) > self.places:
                return Checked(None, f"{plain(value)} has more than {self.places} decimals")
            bounded = self._beyond(value)
            if bounded:
                return Checked(None, bounded)
            value = round_to(value, self.places, self.rounding)
        beyond = self._beyond(value)
        return Checked(None, beyond) if beyond else Checked(value)

    def _beyond(self, value: Decimal) -> str:
        if self.low is not None and value < self.low:
            return f"{plain(value)} is below {plain(self.low)}"
        if self.high is not None and value > self.high:
            return f"{plain(value)} is above {plain(self.high)}"
        return ""


def _number(given: object) -> Decimal | str:
    """A value from outside as a Decimal, or why it is none."""
    if isinstance(given, bool) or not isinstance(given, str | int | Decimal):
        hint = ": a float is never exact, write it as text" if isinstance(given, float) else ""
        return f"{type(given).__name__} is not a text, an int or a Decimal{hint}"
    if isinstance(given, int) and abs(given) >= 10**MAX_DIGITS:
        return f"it has more than {MAX_DIGITS} digits"
    if isinstance(given, str) and (len(given) > 2 * MAX_DIGITS or not _NUMBER.fullmatch(given.strip())):
        return "it is not a number such as 12.50"
    value = Decimal(given.strip() if isinstance(given, str) else given)
    if not value.is_finite():
        return f"{value} is not a number such as 12.50"
    if value and (value.adjusted() >= MAX_DIGITS or int(value.as_tuple().exponent) < -MAX_DIGITS):
        return f"it has more than {MAX_DIGITS} digits"
    return value


def _exact(number: int | Decimal) -> Decimal:
    if isinstance(number, bool) or not isinstance(number, int | Decimal):
        raise BadAmount(repr(number), "a factor is an int or a Decimal: a float is never exact")
    return Decimal(number)
