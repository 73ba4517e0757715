"""`reprice`: what history would cost at other prices. Nothing is changed: what was recorded stays as it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from rich.progress import Progress

from callboard.actors.models.prices import PriceTable, Terms
from callboard.actors.models.usage import terms_of
from callboard.cli.costs import day_of
from callboard.cli.output import Listing, people, write_json
from callboard.cli.session import Session, command_settings, read
from callboard.cli.words import NOTHING, model_word, money, short
from callboard.config import Config
from callboard.projections import costs
from callboard.projections.base import Fact, fact_of
from callboard.projections.costs import Dimension
from callboard.protocols import events as e
from callboard.protocols.errors import BadOption
from callboard.protocols.money import EXACT, add_amount, plain

ATTEMPTS: Final = (e.ModelCompleted.TYPE, e.ModelFailed.TYPE)
PAGE: Final = 5_000  # positions of the log


class Prices(Protocol):
    """A price table."""

    def price(self, usage: e.Usage, model: str, terms: Terms) -> e.Cost | None:
        """What tokens cost at a model; None: not known."""
        ...


class Repriced(Struct, kw_only=True):
    """A group of attempts: what they cost as it was recorded, and at the other prices. Amounts are by currency."""

    by: str
    attempts: int = 0
    recorded: dict[str, Decimal] = {}
    repriced: dict[str, Decimal] = {}
    unpriced: int = 0  # attempts whose recorded cost is not known
    unpriced_now: int = 0  # the same, at the other prices


class Report(Struct, frozen=True, kw_only=True):
    """What `reprice --json` shows. `prices` names the price table."""

    prices: str
    groups: tuple[Repriced, ...]


class Repricing:
    """Adds up attempts by one dimension, as recorded and at other prices."""

    def __init__(self, prices: Prices, by: Dimension) -> None:
        self._prices = prices
        self._place = costs.KEY.index(by)
        self.groups: dict[str, Repriced] = {}

    def add(self, fact: Fact) -> None:
        """Add an attempt. An answer that was used again is none."""
        body: e.ModelCompleted | e.ModelFailed = fact.body
        if isinstance(body, e.ModelCompleted) and body.cached:
            return
        name = str(costs.key_of(fact)[self._place])
        group = self.groups.setdefault(name, Repriced(by=name))
        group.attempts += 1
        now = self._cost(body)
        if body.cost is None:
            group.unpriced += 1
        else:
            group.recorded = add_amount(group.recorded, body.cost.currency, body.cost.amount)
        if now is None:
            group.unpriced_now += 1
        else:
            group.repriced = add_amount(group.repriced, now.currency, now.amount)

    def _cost(self, body: e.ModelCompleted | e.ModelFailed) -> e.Cost | None:
        """What the attempt would cost. A stand-in's demo price, and what used nothing that is known, stay."""
        if isinstance(body, e.ModelFailed):
            return body.cost if not body.usage.total else self._prices.price(body.usage, body.model, _terms(body))
        if body.stand_in:
            return body.cost
        return self._prices.price(body.usage, body.deployment or body.model, _terms(body))


def _terms(body: e.ModelCompleted | e.ModelFailed) -> Terms:
    reported: Any = msgspec.json.decode(body.reported) if isinstance(body.reported, msgspec.Raw) else {}
    return terms_of(reported if isinstance(reported, Mapping) else {})


def reprice(*, by: Dimension, config: Path | None, since: str | None, until: str | None, as_json: bool) -> None:
    """Go through all attempts of a period, and tell what they would cost."""
    first, last = day_of("--since", since), day_of("--until", until)
    if first is not None and last is not None and first > last:
        raise BadOption("--since", str(first), f"it is behind --until {last}")
    table = PriceTable(Config.load(config or command_settings().config).prices)
    repricing = Repricing(table, by)

    async def work(session: Session) -> None:
        head = await session.store.head()
        with _progress(head, shown=not as_json) as advance:
            async for page in session.store.read_all(page=PAGE, types=ATTEMPTS):
                for event in page:
                    if _within(event.recorded_at.date(), first, last):
                        repricing.add(fact_of(event))
                advance(page[-1].position)

    read(work, caught_up=False)
    groups = tuple(sorted(repricing.groups.values(), key=lambda group: group.by))
    if as_json:
        write_json(Report(prices=table.version, groups=tuple(map(_tidy, groups))))
    elif not groups:
        people().print("No model has been called in this time.")
    else:
        people().print(_table(groups, by))
        people().print(f"[dim]Repriced: with {table.version}. Nothing that was recorded has been changed.[/]")


def _within(day: date, first: date | None, last: date | None) -> bool:
    return (first is None or first <= day) and (last is None or day <= last)


@contextmanager
def _progress(head: int, *, shown: bool) -> Iterator[Any]:
    """A bar for people who watch a terminal; gives what moves it to a position of the log."""
    console = people(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("events", total=head)
        yield lambda position: progress.update(task, completed=position)


def _tidy(group: Repriced) -> Repriced:
    for name in ("recorded", "repriced"):
        setattr(group, name, {it: Decimal(plain(amount)) for it, amount in getattr(group, name).items()})
    return group


def _table(groups: tuple[Repriced, ...], by: Dimension) -> Listing:
    shown = Listing(
        *(by, "attempts", "recorded", "repriced", "change"),
        right=("attempts", "recorded", "repriced", "change"),
        wide=by,
        spare=("attempts",),
    )
    for group in (*groups, _total(groups)) if len(groups) > 1 else groups:
        name = model_word(group.by) if by == "model" else short(group.by) or NOTHING
        recorded, now = money(group.recorded, group.unpriced), money(group.repriced, group.unpriced_now)
        shown.add(name, f"{group.attempts:,}", recorded, now, _change(group))
    return shown


def _total(groups: tuple[Repriced, ...]) -> Repriced:
    total = Repriced(by="all")
    for group in groups:
        total.attempts += group.attempts
        total.unpriced += group.unpriced
        total.unpriced_now += group.unpriced_now
        for currency, amount in group.recorded.items():
            total.recorded = add_amount(total.recorded, currency, amount)
        for currency, amount in group.repriced.items():
            total.repriced = add_amount(total.repriced, currency, amount)
    return total


def _change(group: Repriced) -> str:
    """By how much the cost changes, where both are known to the last attempt."""
    if group.unpriced != group.unpriced_now or group.recorded.keys() != group.repriced.keys():
        return NOTHING
    changes = []
    for currency, before in sorted(group.recorded.items()):
        after = group.repriced[currency]
        if not before:
            changes.append("0%" if not after else NOTHING)
            continue
        changes.append(f"{float(EXACT.subtract(after, before) / before):+.1%}")
    return ", ".join(changes) or NOTHING
