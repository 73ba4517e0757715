"""What tokens cost: litellm's cost map, which is a file of its package, and what the settings say instead.

The map is read without importing litellm, which takes seconds. Its floats are taken by their shortest decimal text,
which is what its authors wrote. Prices are those of one token.

A price may depend on how long the prompt is (then all tokens of the call have the dearer price), on the service tier
that the provider served, and on where or how fast it was served. It may not depend on the time of day: the map has
such discounts for a few models, and they are not taken into account. A call with something that has another price
than tokens of text (audio, searches) is unpriced: unknown, and never zero.
"""

import hashlib
import importlib.metadata
import importlib.util
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from callboard.actors.models.call import Call, ChatMessage
from callboard.protocols.events import Cost, Usage
from callboard.protocols.money import EXACT

COST_MAP: Final = "model_prices_and_context_window_backup.json"
MILLION: Final = Decimal(1_000_000)
SERVICE_TIERS: Final = ("", "_flex", "_priority")  # as the map's names of prices end
ASSUMED_MAX_OUTPUT: Final = 128_000  # tokens, of a model that has a price and no known limit

# Of a prompt, in tokens, at most. No tokenizer makes more tokens than there are bytes.
MESSAGE_TOKENS: Final = 16  # around each message
TOOLS_TOKENS: Final = 1_000  # what a provider says itself about tools and about the answer's form
ATTACHMENT_TOKENS: Final = 50_000  # an image, a file or a recording; the largest known image has 48,000

INPUT: Final = "input_cost_per_token"
OUTPUT: Final = "output_cost_per_token"
# Each bucket's prices in the map, the first one that there is.
CACHED: Final = ("cache_read_input_token_cost", INPUT)
WRITE: Final = ("cache_creation_input_token_cost", INPUT)
LONG_WRITE: Final = ("cache_creation_input_token_cost_above_1hr", *WRITE)
REASONING: Final = ("output_cost_per_reasoning_token", OUTPUT)
BUCKETS: Final = ((INPUT,), CACHED, WRITE, LONG_WRITE, (OUTPUT,), REASONING)
_ABOVE: Final = re.compile(r"_above_(\d+)(k?)_tokens")


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's prices as the settings give them: for a million tokens. What is left out costs what `input`, or
    `output`, does. It takes the place of all that litellm knows of the model's prices.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    currency: str = "USD"
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None

    def row(self) -> "Row":
        """The same in the form of litellm's map."""
        prices = {
            INPUT: self.input,
            OUTPUT: self.output,
            CACHED[0]: self.cached_input,
            WRITE[0]: self.cache_write,
            REASONING[0]: self.reasoning,
        }
        values: dict[str, Any] = {}
        with localcontext(EXACT):
            values |= {name: price / MILLION for name, price in prices.items() if price is not None}
        limits = {"max_input_tokens": self.max_input_tokens, "max_output_tokens": self.max_output_tokens}
        return Row(values | {name: limit for name, limit in limits.items() if limit is not None}, self.currency)


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What else a price depends on. `long_cache_write` of the tokens written to the cache stay for an hour;
    `surcharges` are names of the map's factors ("us", "fast"); `others` the map's names of prices of other things.
    """

    service_tier: str = ""
    long_cache_write: int = 0
    surcharges: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


PLAIN: Final = Terms()


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """The plain prices of a million tokens, for a short prompt, and the limits, for people."""

    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    reasoning: Decimal
    currency: str
    max_input_tokens: int | None
    max_output_tokens: int | None


class Row:
    """The prices of one model: a row of the map."""

    def __init__(self, values: Mapping[str, Any], currency: str = "USD") -> None:
        self.currency = currency
        self._values = values
        found = {match[0]: int(match[1]) * (1000 if match[2] else 1) for match in map(_ABOVE.search, values) if match}
        self._above = sorted(found.items(), key=lambda it: it[1], reverse=True)  # the dearest first
        factors = values.get("provider_specific_entry") or {}
        self._factors = {name: _decimal(it) for name, it in factors.items() if isinstance(it, int | float) and it > 1}
        self._steps: Sequence[Mapping[str, Any]] = values.get("tiered_pricing") or ()

    @property
    def priced(self) -> bool:
        """Whether there are prices for what goes in and for what comes out."""
        steps = self._steps or (self._values,)
        return all(step.get(name) is not None or name in self for step in steps for name in (INPUT, OUTPUT))

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def plain(self) -> Prices:
        """The prices as people want to see them."""
        with localcontext(EXACT):
            prices = [Decimal(f"{(MILLION * self.price(it, 0, '')).normalize():f}") for it in BUCKETS]
        input_, cached, write, _, output, reasoning = prices
        return Prices(
            input=input_,
            cached_input=cached,
            cache_write=write,
            output=output,
            reasoning=reasoning,
            currency=self.currency,
            max_input_tokens=self.limit("max_input_tokens"),
            max_output_tokens=self.limit("max_output_tokens"),
        )

    def limit(self, name: str) -> int | None:
        """max_input_tokens or max_output_tokens."""
        value = self._values.get(name)
        return int(value) if isinstance(value, int | float) and value > 0 else None

    def amount(self, usage: Usage, terms: Terms) -> Decimal | None:
        """What a call cost; None where it had something that has a price of its own."""
        plain = (self._values.get(INPUT), self._values.get(OUTPUT), None)
        if any(self._values.get(name) not in plain for name in terms.others):
            return None
        prompt = usage.input + usage.cached_input + usage.cache_write
        long_write = min(max(terms.long_cache_write, 0), usage.cache_write)
        tokens = (usage.input, usage.cached_input, usage.cache_write - long_write, long_write)
        tier = f"_{terms.service_tier}"
        with localcontext(EXACT):
            prices = [self.price(bucket, prompt, tier) for bucket in BUCKETS]
            amounts = map(operator.mul, prices, (*tokens, usage.output, usage.reasoning))
            return sum(amounts, Decimal()) * self._factor(terms.surcharges)

    def worst(self, prompt: int, output: int, *, special: bool) -> Decimal:
        """The most that so many tokens can cost; `special`: the call asks for a tier or a place of its own."""
        tiers = SERVICE_TIERS if special else ("",)
        marks = [above for _, above in self._above] + [int(step["range"][1]) for step in self._steps]
        prompts = {prompt, *(mark for mark in marks if mark < prompt)}

        def dearest(buckets: Iterable[Sequence[str]]) -> Decimal:
            return max(self.price(bucket, at, tier) for bucket in buckets for at in prompts for tier in tiers)

        with localcontext(EXACT):
            amount = prompt * dearest(BUCKETS[:4]) + output * dearest(BUCKETS[4:])
            return amount * max(self._factors.values(), default=1) if special else amount

    def price(self, bucket: Sequence[str], prompt: int, tier: str) -> Decimal:
        """A token's price in a bucket, for a prompt of so many tokens."""
        values = self._step(prompt) if self._steps else self._values
        above = [name for name, tokens in self._above if prompt > tokens]
        for name in bucket:
            for key in (*(f"{name}{it}{end}" for it in above for end in (tier, "")), f"{name}{tier}", name):
                if (value := values.get(key)) is not None:
                    return _decimal(value)
        return _decimal(self._values[bucket[-1]])  # a step may leave out the output

    def _step(self, prompt: int) -> Mapping[str, Any]:
        return next((step for step in self._steps if prompt <= step["range"][1]), self._steps[-1])

    def _factor(self, surcharges: Iterable[str]) -> Decimal:
        factor = Decimal(1)
        for name in surcharges:
            factor *= self._factors.get(name, 1)
        return factor


class PriceTable:
    """Prices of models, by their names (provider/model). `version` names litellm's map and what was changed in it."""

    def __init__(self, overrides: Mapping[str, Override] | None = None) -> None:
        self._overrides = dict(overrides or {})
        self._rows: dict[str, Row | None] = {}
        self.version = f"litellm {importlib.metadata.version('litellm')}"
        if overrides:
            told = msgspec.json.encode(sorted(self._overrides.items()))
            self.version += f" + {hashlib.sha256(told).hexdigest()[:8]}"

    def __repr__(self) -> str:
        return f"PriceTable({self.version})"

    def price(self, usage: Usage, model: str, terms: Terms = PLAIN) -> Cost | None:
        """What these tokens cost at a model; None: not known."""
        row = self.row(model)
        amount = row.amount(usage, terms) if row is not None else None
        return None if amount is None or row is None else Cost(amount, row.currency, self.version)

    def worst_case(self, chain: Sequence[str], call: Call) -> Cost | None:
        """The most that the call can cost at any model of the chain; None if `call.model` has no known price.

        Prices in another currency than that of `call.model` can't be compared, and are left out.
        """
        own = self._worst(call.model, call)
        if own is None:
            return None
        others = [self._worst(model, call) for model in chain if model != call.model]
        return max((own, *(it for it in others if it and it.currency == own.currency)), key=lambda it: it.amount)

    def row(self, model: str) -> Row | None:
        """A model's prices; None where they are not known."""
        if model not in self._rows:
            override = self._overrides.get(model)
            self._rows[model] = override.row() if override else _known(model)
        return self._rows[model]

    def _worst(self, model: str, call: Call) -> Cost | None:
        row = self.row(model)
        if row is None:
            return None
        prompt = prompt_bound(call)
        if (longest := row.limit("max_input_tokens")) is not None:
            prompt = min(prompt, longest)
        asked = [call.parameters.get(name) for name in ("max_tokens", "max_completion_tokens")]
        limits = [int(it) for it in asked if isinstance(it, int | float)]
        output = min(limits) if limits else row.limit("max_output_tokens") or ASSUMED_MAX_OUTPUT
        choices = call.parameters.get("n")
        output *= choices if isinstance(choices, int) and choices > 1 else 1
        special = not {"service_tier", "speed", "inference_geo"}.isdisjoint(call.parameters)
        return Cost(row.worst(prompt, output, special=special), row.currency, self.version)


def prompt_bound(call: Call) -> int:
    """The most tokens that the prompt of a call can have."""
    tokens = sum(MESSAGE_TOKENS + _bound(message) for message in call.messages)
    if call.tools or call.returns:
        tokens += TOOLS_TOKENS + len(msgspec.json.encode((call.tools, call.returns)))
    return tokens


def _bound(message: ChatMessage) -> int:
    """A token a byte; attachments, whose bytes are not text, count a fixed number."""
    content = message.get("content")
    if not isinstance(content, list):
        return len(msgspec.json.encode(message))
    attached = [part for part in content if isinstance(part, Mapping) and part.get("type", "text") != "text"]
    if not attached:
        return len(msgspec.json.encode(message))
    text = [part for part in content if part not in attached]
    return len(msgspec.json.encode({**message, "content": text})) + len(attached) * ATTACHMENT_TOKENS


@cache
def cost_map() -> Mapping[str, msgspec.Raw]:
    """litellm's rows, each still as JSON (3 MB in all, read in 10 ms, once a process)."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    return msgspec.json.decode(Path(spec.origin).with_name(COST_MAP).read_bytes(), type=dict[str, msgspec.Raw])


def provider_in_map(model: str) -> str | None:
    """The provider of a model that the map knows by this very name."""
    row = _row(model)
    return None if row is None else str(row.get("litellm_provider", "")) or None


def _known(model: str) -> Row | None:
    """The map has most models by the name that we use, and some without the provider, whose column then names it."""
    provider, _, name = model.partition("/")
    values = _row(model)
    if values is None and name:
        values = _row(name)
        owner = str(values.get("litellm_provider", "")) if values is not None else ""
        if owner != provider and not owner.startswith((f"{provider}_", f"{provider}-")):
            return None
    if values is None:
        return None
    row = Row(values)
    return row if row.priced else None


def _row(name: str) -> dict[str, Any] | None:
    raw = cost_map().get(name)
    return None if raw is None else msgspec.json.decode(raw, type=dict[str, Any])


def _decimal(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))
