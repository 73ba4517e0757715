"""`models`: the tiers and their models, what these cost, and whether they can be called."""

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal

import anyio
from msgspec import Struct
from rich.text import Text

from callboard.actors.models.prices import Prices
from callboard.actors.models.stand_in import STAND_IN
from callboard.actors.models.tiers import Tiers
from callboard.bootstrap import namespace_of
from callboard.cli.output import Listing, people, write_json
from callboard.cli.words import NOTHING
from callboard.config import Config
from callboard.eventstore.store import PostgresEventStore
from callboard.protocols.errors import DatabaseUnavailable, DatabaseUnfit
from callboard.protocols.ports import SystemClock
from callboard.settings import Settings

KEY_STYLES = {"set": "green", "missing": "dim"}
BREAKER_STYLES = {"closed": "green", "half-open": "yellow", "open": "red"}


class Model(Struct, frozen=True, kw_only=True):
    """A model: `models --json` lists them. `prices` are of a million tokens; None: unpriced. `key` is set, missing, or
    none (no key is needed, or which one is not known). `breaker` is None where no Redis is named, or it is away.
    """

    model: str
    tiers: tuple[str, ...]
    key: str
    variables: tuple[str, ...]
    prices: Prices | None
    price_table: str
    requests_a_minute: int | None
    tokens_a_minute: int | None
    breaker: str | None


def models(names: Sequence[str], *, as_json: bool) -> None:
    """The models of all tiers, or of the tiers and models that are named."""
    settings = Settings.from_env(os.environ)
    config = Config.load(settings.config)
    tiers = Tiers(config.tiers)
    chosen = _chosen(tiers, config, names)
    breakers = anyio.run(_breakers, settings, list(chosen))
    gateway = config.gateway()
    found = []
    for model, of in chosen.items():
        row = gateway.prices.row(model)
        variables, rates = tiers.keys(model), gateway.rates(model)
        found.append(
            Model(
                model=model,
                tiers=of,
                key=("set" if tiers.has_key(model) else "missing") if variables else "none",
                variables=variables,
                prices=row.plain() if row is not None else None,
                price_table=gateway.prices.version,
                requests_a_minute=rates.requests,
                tokens_a_minute=rates.tokens,
                breaker=breakers.get(model),
            )
        )
    if as_json:
        write_json(found)
        return
    people().print(_listing(found))
    if settings.model:
        people().print(f"[dim]CALLBOARD_MODEL={settings.model} takes the place of all of them.[/]")


def _chosen(tiers: Tiers, config: Config, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The models to show, and the tiers that each is in. Raises UnknownModel."""
    shown = [model for name in names or tiers.tiers for model in tiers.models(name)]
    if not names:
        shown += [*config.prices, *config.rates]
    of = {model: tuple(name for name, models in tiers.tiers.items() if model in models) for model in shown}
    return {model: its for model, its in of.items() if model != STAND_IN}


async def _breakers(settings: Settings, models: Sequence[str]) -> Mapping[str, str]:
    """The state of each model's breaker, if servers are named and answer; none are started for it."""
    if not (settings.database_url and settings.redis_url):
        return {}
    from callboard.bus import RedisThrottle  # redis-py takes 0.3 s

    try:
        async with (
            PostgresEventStore.open(settings.database_url) as store,
            RedisThrottle.open(
                settings.redis_url, namespace_of(store.store_id), SystemClock(), prefix=settings.redis_prefix
            ) as throttle,
        ):
            return {model: await throttle.state(f"model:{model}") for model in models}
    except (DatabaseUnavailable, DatabaseUnfit):
        return {}


def _listing(found: Sequence[Model]) -> Listing:
    right = ("input", "cached", "output")
    columns = ("model", "tiers", "key", "input", "cached", "output", "longest prompt", "breaker")
    shown = Listing(*columns, right=right, wide="tiers", spare=("longest prompt", "cached", "breaker"))
    for each in found:
        prices = each.prices
        amounts = (prices.input, prices.cached_input, prices.output) if prices else None
        key = f"{each.variables[0]} {each.key}" if each.variables else NOTHING
        shown.add(
            each.model,
            ", ".join(each.tiers) or NOTHING,
            Text(key, KEY_STYLES.get(each.key, "")),
            *([_amount(amount, prices.currency) for amount in amounts] if amounts and prices else ["unpriced", "", ""]),
            f"{prices.max_input_tokens:,}" if prices and prices.max_input_tokens else NOTHING,
            Text(each.breaker or NOTHING, BREAKER_STYLES.get(each.breaker or "", "dim")),
        )
    return shown


def _amount(amount: Decimal, currency: str) -> str:
    """A price of a million tokens."""
    text = f"{amount.normalize():f}"
    return f"${text}" if currency == "USD" else f"{text} {currency}"
