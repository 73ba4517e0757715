"""`costs`: what models were asked, how that went, and what it cost."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec
from msgspec import Struct

from callboard.cli.output import Listing, people, write_json, write_text
from callboard.cli.session import Session, read
from callboard.cli.words import NOTHING, bar, duration, model_word, money, short, tokens
from callboard.projections import costs as costs_
from callboard.projections.costs import Costs, Dimension
from callboard.protocols.errors import BadOption
from callboard.protocols.money import plain

NOBODY: Final = "(none)"  # a value that is empty, for people: no tenant, no model


class Choice(Struct, frozen=True, kw_only=True):
    """Which costs, as it was given."""

    by: Dimension = "role"
    run: str | None = None
    agent: str | None = None
    since: str | None = None
    until: str | None = None
    days: int | None = None

    def first_and_last(self, today: date) -> tuple[date | None, date | None]:
        """The days, both included. Raises BadOption."""
        if self.days is not None:
            if self.since is not None:
                raise BadOption("--days", str(self.days), "--since says already where it begins")
            return today - timedelta(days=self.days - 1), day_of("--until", self.until)
        first, last = day_of("--since", self.since), day_of("--until", self.until)
        if first is not None and last is not None and first > last:
            raise BadOption("--since", str(first), f"it is behind --until {last}")
        return first, last


class CostReport(Costs, frozen=True, kw_only=True):
    """What `costs --json` shows: a group, with its averages."""

    success_rate: float | None
    average_ms: float | None


def day_of(option: str, text: str | None) -> date | None:
    """A day as it was given. Raises BadOption."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadOption(option, text, "a day is written as 2030-12-31") from None


def costs(choice: Choice, *, csv: bool, as_json: bool) -> None:
    """Costs, grouped."""
    if csv and as_json:
        raise BadOption("--csv", "with --json", "choose one of them")
    since, until = choice.first_and_last(datetime.now(UTC).date())

    async def fetch(session: Session) -> list[Costs]:
        run = (await session.run(choice.run)).run if choice.run else None
        return await costs_.costs(session.pool, [choice.by], run=run, agent=choice.agent, since=since, until=until)

    found = read(fetch)
    if as_json:
        write_json([_report(group) for group in found])
    elif csv:
        write_text(as_csv(found, (choice.by,)))
    elif not found:
        write_text("No model has been called." if choice == Choice(by=choice.by) else "No such call has been made.")
    else:
        people().print(costs_table(found, (choice.by,)))


def _report(group: Costs) -> CostReport:
    tidy = {currency: Decimal(plain(amount)) for currency, amount in group.amounts.items()}
    fields = msgspec.structs.asdict(group) | {"amounts": tidy}
    return CostReport(**fields, success_rate=group.success, average_ms=group.latency_ms)


def as_csv(found: Sequence[Costs], by: Sequence[Dimension]) -> str:
    """Groups as CSV (RFC 4180): a line each; costs exactly, in a column for each currency."""
    currencies = sorted({currency for group in found for currency in group.amounts})
    counts = [name for name in Costs.__struct_fields__ if name not in ("by", "amounts")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*by, *counts, *(f"cost_{currency}" for currency in currencies)])
    for group in found:
        amounts = [group.amounts.get(currency) for currency in currencies]
        writer.writerow(
            [
                *map(_harmless, group.by),
                *(getattr(group, name) for name in counts),
                *("" if amount is None else plain(amount) for amount in amounts),
            ]
        )
    return out.getvalue().rstrip("\n")


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def costs_table(found: Sequence[Costs], by: Sequence[Dimension]) -> Listing:
    """Groups with bars: each its share of the amounts of the currency that most groups have, or else of the tokens."""
    currencies = [currency for group in found for currency in group.amounts]
    currency = max(set(currencies), key=currencies.count) if currencies else None

    def weight(group: Costs) -> float:
        return float(group.amounts.get(currency, 0)) if currency else float(group.tokens_in + group.tokens_out)

    whole = sum(weight(group) for group in found) or 1.0
    told = ["attempts"] if by == ("outcome",) else ["calls", "attempts", "success"]
    told += [name for name in ("cached", "refused") if by != ("outcome",) and any(getattr(it, name) for it in found)]
    right = (*told, "latency", "tokens in", "out", "cost")
    shown = Listing(
        *by,
        *right,
        "share",
        right=right,
        wide=by[0],
        spare=("share", "out", "tokens in", "refused", "attempts", "latency"),
    )
    for group in sorted(found, key=weight, reverse=by != ("day",)):
        shown.add(
            *(_word(dimension, value) for dimension, value in zip(by, group.by, strict=True)),
            *(_cell(group, name) for name in told),
            NOTHING if group.latency_ms is None else duration(group.latency_ms / 1000),
            tokens(group.tokens_in),
            tokens(group.tokens_out),
            _money(group),
            f"{bar(weight(group) / whole, 16)} {weight(group) / whole:.0%}",
        )
    return shown


def _word(dimension: Dimension, value: str) -> str:
    return model_word(value) if dimension == "model" and value else short(value) or NOBODY


def _cell(group: Costs, name: str) -> str:
    if name == "success":
        return NOTHING if group.success is None else f"{group.success:.0%}"
    if name == "attempts":
        return f"{group.attempts or group.cached or group.refused:,}"
    return f"{getattr(group, name):,}"


def _money(group: Costs) -> str:
    unknown = f"{group.unknown:,} unknown" if group.unknown else ""
    known = money(group.amounts, group.unpriced)
    return " + ".join(filter(None, (known if known != NOTHING or not unknown else "", unknown)))
