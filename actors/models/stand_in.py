"""A model that needs no network and no key, for trying things out."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from callboard.actors.models.call import Call, ChatMessage, Live, ModelReply
from callboard.protocols.events import Cost, Usage
from callboard.protocols.messages import encode_json

STAND_IN: Final = "stand-in"
# ISO 4217 keeps XTS for tests: a stand-in's prices can never be added to real ones.
DEMO_CURRENCY: Final = "XTS"
DEMO_PRICE_TABLE: Final = "demo"
_DEMO_INPUT_PRICE: Final = Decimal("0.000001")
_DEMO_OUTPUT_PRICE: Final = Decimal("0.000004")
_CHARACTERS_PER_TOKEN: Final = 4
_MAX_STAND_IN_LINES: Final = 6


class StandIn:
    """Answers from the prompt alone, for trying things out: no network, no key, the same answer every time.

    It puts the prompt's `name: value` lines into a remark, or else gives back the prompt's first sentence. Lines named
    problem, where, file, line, measured, limit, hint and others make sentences. Tokens are estimated at four
    characters each; the price is a demo price in the test currency XTS. An answer of a type has the remark in each of
    its texts, true for what may be so, and else the least that is allowed.
    """

    def worst_case(self, call: Call) -> Cost:
        """The most that a call can cost: what it says is made of the prompt, and is bounded by its length."""
        prompt = _prompt(call.messages)
        return _cost(_tokens(prompt), len(self._answer(call)))

    async def complete(self, call: Call, live: Live | None = None) -> ModelReply:
        """The answer."""
        prompt = _prompt(call.messages)
        text = self._answer(call)
        if live is not None:
            live(text)
        usage = Usage(input=_tokens(prompt), output=_tokens(text), estimated=True)
        cost = _cost(usage.input, usage.output)
        return ModelReply(text=text, model=call.model, usage=usage, cost=cost, stand_in=True)

    def _answer(self, call: Call) -> str:
        remark = f"[{STAND_IN}] {_remark(_prompt(call.messages))}"
        if call.returns is None:
            return remark
        return encode_json(_filled(call.returns, call.returns.get("$defs", {}), remark)).decode()


def _prompt(messages: Sequence[ChatMessage]) -> str:
    return "\n".join(str(message.get("content", "")) for message in messages)


def _filled(schema: Mapping[str, Any], definitions: Mapping[str, Any], text: str) -> Any:
    """A value that fits a JSON Schema as msgspec makes them."""
    if "$ref" in schema:
        return _filled(definitions[schema["$ref"].rpartition("/")[2]], definitions, text)
    if "anyOf" in schema:
        return _filled(schema["anyOf"][0], definitions, text)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: _filled(fields[name], definitions, text) for name in schema.get("required", ())}
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items") or {}] * schema.get("minItems", 0)
        return [_filled(item, definitions, text) for item in items]
    least = schema.get("minimum", 0)
    return {"string": text, "boolean": True, "integer": least, "number": least}.get(str(kind))


def _cost(input_tokens: int, output_tokens: int) -> Cost:
    amount = input_tokens * _DEMO_INPUT_PRICE + output_tokens * _DEMO_OUTPUT_PRICE
    return Cost(amount=amount, currency=DEMO_CURRENCY, price=DEMO_PRICE_TABLE)


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
