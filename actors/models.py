"""Language models: what a call takes and gives, and the gateway that makes it.

`Gateway` sends a call to litellm, or, for the model named "stand-in", to a stand-in that needs no network and no key.
litellm is imported at the first call that needs it, in a thread: it takes seconds and 160 MB.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol

import anyio
import msgspec

from protocols.errors import ModelFailed
from protocols.events import Cost, Usage

STAND_IN: Final = "stand-in"
# ISO 4217 keeps XTS for tests: a stand-in's prices can never be added to real ones.
DEMO_CURRENCY: Final = "XTS"
DEMO_PRICE_TABLE: Final = "demo"
_DEMO_INPUT_PRICE: Final = Decimal("0.000001")
_DEMO_OUTPUT_PRICE: Final = Decimal("0.000004")
_CHARACTERS_PER_TOKEN: Final = 4
_MAX_STAND_IN_LINES: Final = 6

ChatMessage = Mapping[str, Any]
Prompt = str | Sequence[ChatMessage]


class ModelReply(msgspec.Struct, frozen=True):
    """A model's answer, with what it used and what it cost; `cost` is None where the model has no known price."""

    text: str
    model: str
    usage: Usage
    cost: Cost | None
    finish_reason: str = "stop"
    stand_in: bool = False


class Models(Protocol):
    """What the runtime asks for models: `Gateway`, or a script in tests."""

    def chain(self, models: Sequence[str]) -> tuple[str, ...]:
        """The models that are tried for a call that names these, in order."""
        ...

    async def complete(self, model: str, messages: Sequence[ChatMessage], parameters: Mapping[str, Any]) -> ModelReply:
        """One attempt; raises ModelFailed."""
        ...


def chat(prompt: Prompt) -> list[ChatMessage]:
    """A prompt as chat messages."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


class Gateway:
    """Real models through litellm, and the stand-in. `override`, if set, takes the place of every other model."""

    def __init__(self, override: str | None = None) -> None:
        self._override = override
        self._stand_in = StandIn()
        self._litellm: Any = None

    def __repr__(self) -> str:
        return f"Gateway({self._override or 'as the roles say'}, litellm {'loaded' if self._litellm else 'not loaded'})"

    def chain(self, models: Sequence[str]) -> tuple[str, ...]:
        """The models that are tried for a call, in order."""
        return (self._override,) if self._override else tuple(models)

    async def complete(self, model: str, messages: Sequence[ChatMessage], parameters: Mapping[str, Any]) -> ModelReply:
        """One attempt; raises ModelFailed."""
        if model == STAND_IN:
            return await self._stand_in.complete(model, messages, parameters)
        if self._litellm is None:
            # Without this, litellm fetches its price table from the network at import.
            os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            self._litellm = await anyio.to_thread.run_sync(importlib.import_module, "litellm")
        try:
            response = await self._litellm.acompletion(
                model=model, messages=list(messages), num_retries=0, **parameters
            )
        except Exception as error:
            raise ModelFailed(model, type(error).__name__, str(error)) from error
        return self._reply(model, messages, response)

    def _reply(self, model: str, messages: Sequence[ChatMessage], response: Any) -> ModelReply:
        choice = response.choices[0]
        text = choice.message.content or ""
        usage = _usage(response)
        if usage is None:
            count = self._litellm.token_counter
            usage = Usage(
                input=count(model=model, messages=list(messages)), output=count(model=model, text=text), estimated=True
            )
        prices = self._litellm.model_cost.get(model) or self._litellm.model_cost.get(model.partition("/")[2])
        table = f"litellm {importlib.import_module('importlib.metadata').version('litellm')}"
        return ModelReply(
            text=text,
            model=response.model or model,
            usage=usage,
            cost=price(usage, prices, table),
            finish_reason=choice.finish_reason or "",
        )


def price(usage: Usage, prices: Mapping[str, Any] | None, table: str) -> Cost | None:
    """What tokens cost by a row of litellm's price table (US dollars a token); None where it has no such row.

    The table's floats are taken by their shortest decimal text, which is what its authors wrote.
    """
    if not prices or "input_cost_per_token" not in prices or "output_cost_per_token" not in prices:
        return None

    def of(name: str, otherwise: str) -> Decimal:
        value = prices.get(name)
        return Decimal(str(prices[otherwise] if value is None else value))

    amount = (
        usage.input * of("input_cost_per_token", "input_cost_per_token")
        + usage.cached_input * of("cache_read_input_token_cost", "input_cost_per_token")
        + usage.cache_write * of("cache_creation_input_token_cost", "input_cost_per_token")
        + usage.output * of("output_cost_per_token", "output_cost_per_token")
        + usage.reasoning * of("output_cost_per_reasoning_token", "output_cost_per_token")
    )
    return Cost(amount=amount, currency="USD", price=table)


def _usage(response: Any) -> Usage | None:
    """Disjoint buckets from an OpenAI-style usage, whose prompt tokens include the cached ones; None if it has none."""
    usage = getattr(response, "usage", None)
    if usage is None or not usage.prompt_tokens:
        return None
    prompt_details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(prompt_details, "cached_tokens", None) or 0
    written = getattr(usage, "cache_creation_input_tokens", None) or 0
    reasoning = getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", None) or 0
    return Usage(
        input=usage.prompt_tokens - cached - written,
        cached_input=cached,
        cache_write=written,
        output=usage.completion_tokens - reasoning,
        reasoning=reasoning,
    )


class StandIn:
    """Answers from the prompt alone, for trying things out: no network, no key, the same answer every time.

    It puts the prompt's `name: value` lines into a remark, or else gives back the prompt's first sentence. Lines named
    problem, where, file, line, measured, limit, hint and others make sentences. Tokens are estimated at four
    characters each; the price is a demo price in the test currency XTS.
    """

    async def complete(self, model: str, messages: Sequence[ChatMessage], _parameters: Mapping[str, Any]) -> ModelReply:
        """The answer."""
        prompt = "\n".join(str(message.get("content", "")) for message in messages)
        text = f"[{STAND_IN}] {_remark(prompt)}"
        usage = Usage(input=_tokens(prompt), output=_tokens(text), estimated=True)
        amount = usage.input * _DEMO_INPUT_PRICE + usage.output * _DEMO_OUTPUT_PRICE
        cost = Cost(amount=amount, currency=DEMO_CURRENCY, price=DEMO_PRICE_TABLE)
        return ModelReply(text=text, model=model, usage=usage, cost=cost, stand_in=True)


def _remark(prompt: str) -> str:
    # Code and data that the prompt quotes have lines of this form too: what counts stands before the first fence.
    pairs = [line.partition(": ") for line in prompt.partition("```")[0].splitlines()]
    facts = {name.strip(): value.strip() for name, colon, value in pairs if colon and name.strip().isidentifier()}
    if "problem" in facts:
        return _finding(facts)
    if facts:
        return "; ".join([f"{name} {value}" for name, value in facts.items()][:_MAX_STAND_IN_LINES]) + "."
    return prompt.strip().partition(". ")[0].partition("\n")[0].rstrip(".") + "."


def _finding(facts: Mapping[str, str]) -> str:
    """A finding in sentences: what is wrong and where, by how much over which limit, and what the prompt knows more."""
    place = ":".join(facts[name] for name in ("file", "line") if name in facts)
    where = f" ({facts['where']})" if "where" in facts else ""
    over = _percent_over(facts.get("measured", ""), facts.get("limit", ""))
    first = f"{place}{where}: {facts['problem']}{over}".removeprefix(": ")
    more = [facts[name] for name in ("hint", "others") if facts.get(name)]
    return " ".join([f"{first}.", *(f"{text[0].upper()}{text[1:]}." for text in more)])


def _percent_over(measured: str, limit: str) -> str:
    if not (measured.isdecimal() and limit.isdecimal() and int(limit)):
        return ""
    return f", {(int(measured) - int(limit)) * 100 // int(limit)} % over the limit of {limit}"


def _tokens(text: str) -> int:
    return max(1, len(text) // _CHARACTERS_PER_TOKEN)
