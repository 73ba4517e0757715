"""What tokens cost, and what a call can cost at most."""

import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.models.call import Call
from callboard.actors.models.prices import ATTACHMENT_TOKENS, Override, PriceTable, Terms, cost_map, prompt_bound
from callboard.protocols.events import Usage

SONNET = "anthropic/claude-sonnet-4-5"
TIERED = "openai/gpt-5.6"  # dearer above 272,000 tokens, and has service tiers
PRICES = PriceTable()


def amount(usage: Usage, model: str, terms: Terms | None = None, prices: PriceTable = PRICES) -> Decimal | None:
    cost = prices.price(usage, model, terms or Terms())
    return None if cost is None else cost.amount


def call(text: str = "Hello.", model: str = SONNET, **parameters: object) -> Call:
    return Call(model=model, messages=({"role": "user", "content": text},), parameters=parameters)


def price(name: str, model: str = TIERED) -> Decimal:
    """A price as the map has it."""
    row = PRICES.row(model)
    assert row is not None
    return Decimal(str(row._values[name]))


def test_each_bucket_is_billed_once_at_its_own_price() -> None:
    cost = PRICES.price(Usage(input=3, cached_input=12_304, output=550), SONNET)
    assert cost is not None
    assert cost.amount == 3 * Decimal("0.000003") + 12_304 * Decimal("0.0000003") + 550 * Decimal("0.000015")
    assert cost.amount == Decimal("0.0119502")
    assert (cost.currency, cost.price) == ("USD", PRICES.version)
    assert cost.price.startswith("litellm ")


def test_tokens_written_to_the_cache_cost_more_if_they_stay_for_an_hour() -> None:
    usage = Usage(cache_write=1000)
    assert amount(usage, SONNET) == Decimal("0.00375")
    assert amount(usage, SONNET, Terms(long_cache_write=1000)) == Decimal("0.006")
    assert amount(usage, SONNET, Terms(long_cache_write=400)) == 600 * Decimal("0.00000375") + 400 * Decimal("0.000006")


def test_a_million_times_little_is_exact() -> None:
    prices = PriceTable({"openai/tiny": Override(input=Decimal("1.5"), output=Decimal(0))})
    assert amount(Usage(input=1), "openai/tiny", prices=prices) == Decimal("0.0000015")
    assert amount(Usage(input=1_000_000), "openai/tiny", prices=prices) == Decimal("1.5")


@pytest.mark.parametrize("model", ["openai/no-such-model", "hosted_vllm/gpt-4o-mini", "ollama/claude-sonnet-4-5", "x"])
def test_a_model_without_a_price_of_its_own_is_unpriced_and_not_free(model: str) -> None:
    assert PRICES.price(Usage(input=1), model) is None
    assert PRICES.worst_case([SONNET], call(model=model)) is None


def test_a_long_prompt_makes_all_tokens_dearer() -> None:
    short, long = Usage(input=272_000, output=10), Usage(input=200_000, cached_input=72_001, output=10)
    assert amount(short, TIERED) == 272_000 * price("input_cost_per_token") + 10 * price("output_cost_per_token")
    above = "_above_272k_tokens"
    assert amount(long, TIERED) == (
        200_000 * price(f"input_cost_per_token{above}")
        + 72_001 * price(f"cache_read_input_token_cost{above}")
        + 10 * price(f"output_cost_per_token{above}")
    )


def test_a_table_of_steps_prices_the_whole_call_by_the_prompt() -> None:
    model = "dashscope/qwen-flash"
    assert amount(Usage(input=1000, output=1), model) == 1000 * Decimal("5e-8") + Decimal("4e-7")
    assert amount(Usage(input=300_000, output=1), model) == 300_000 * Decimal("2.5e-7") + Decimal("2e-6")


def test_the_service_tier_that_was_served_counts() -> None:
    usage = Usage(input=1000, output=10)
    for tier in ("flex", "priority"):
        expected = 1000 * price(f"input_cost_per_token_{tier}") + 10 * price(f"output_cost_per_token_{tier}")
        assert amount(usage, TIERED, Terms(service_tier=tier)) == expected
    assert amount(usage, TIERED, Terms(service_tier="another")) == amount(usage, TIERED)


def test_a_surcharge_multiplies_the_whole() -> None:
    usage, model = Usage(input=1000, output=10), "anthropic/claude-opus-5"
    plain = amount(usage, model)
    assert plain is not None
    assert amount(usage, model, Terms(surcharges=("us",))) == plain * Decimal("1.1")
    assert amount(usage, model, Terms(surcharges=("elsewhere",))) == plain


def test_what_has_a_price_of_its_own_makes_the_call_unpriced() -> None:
    searched = Terms(others=("search_context_cost_per_query",))
    assert amount(Usage(input=1), SONNET, searched) is None
    assert amount(Usage(input=1), "deepseek/deepseek-v3.2", searched) is not None  # which has no such price


def test_an_override_takes_the_place_of_what_litellm_knows() -> None:
    prices = PriceTable({SONNET: Override(input=Decimal(10), output=Decimal(20), currency="EUR")})
    cost = prices.price(Usage(input=1, cached_input=1, cache_write=1, output=1, reasoning=1), SONNET)
    assert cost is not None
    assert (cost.amount, cost.currency) == (Decimal("0.00007"), "EUR")  # 3 at 10, and 2 at 20, a million
    assert cost.price != PRICES.version
    assert cost.price.startswith(PRICES.version)


def test_the_version_names_the_overrides_by_what_they_say() -> None:
    one, same, other = (
        PriceTable({"openai/a": Override(input=Decimal(price), output=Decimal(1))}) for price in ("1", "1", "2")
    )
    assert one.version == same.version != other.version


# -- at most ---------------------------------------------------------------------------------------------------

MODELS = (SONNET, TIERED, "dashscope/qwen-flash", "gemini/gemini-2.5-pro", "anthropic/claude-opus-5", "openai/gpt-4o")


@given(
    text=st.text(max_size=2000),
    repeats=st.sampled_from([1, 300]),
    model=st.sampled_from(MODELS),
    limit=st.integers(1, 4000),
    shares=st.tuples(*[st.floats(0, 1)] * 5),
    tier=st.sampled_from(["", "flex", "priority"]),
)
def test_no_call_costs_more_than_its_worst_case(
    text: str, repeats: int, model: str, limit: int, shares: tuple[float, ...], tier: str
) -> None:
    tokens = len(text.encode()) * repeats  # no tokenizer makes more
    parameters = {"max_tokens": limit} | ({"service_tier": tier} if tier else {})
    made = call(text * repeats, model, **parameters)
    worst = PRICES.worst_case([model], made)
    assert worst is not None
    read = int(tokens * shares[0])
    written = int((tokens - read) * shares[1])
    reasoning = int(limit * shares[2])
    usage = Usage(
        input=tokens - read - written,
        cached_input=read,
        cache_write=written,
        output=limit - reasoning,
        reasoning=reasoning,
    )
    row = PRICES.row(model)
    longest = row.limit("max_input_tokens") if row else None
    if longest is None or tokens <= longest:  # a longer prompt is refused
        cost = PRICES.price(usage, model, Terms(service_tier=tier, long_cache_write=int(written * shares[3])))
        assert cost is not None
        assert cost.amount <= worst.amount


def test_the_dearest_model_of_the_chain_counts_and_those_without_a_price_do_not() -> None:
    cheap, dear = "openai/gpt-4o-mini", "openai/gpt-4o"
    made = call(model=cheap, max_tokens=100)
    worst = PRICES.worst_case([cheap, dear, "openai/no-such-model"], made)
    assert worst == PRICES.worst_case([dear], call(model=dear, max_tokens=100))
    assert worst != PRICES.worst_case([cheap], made)


def test_another_currency_is_left_out() -> None:
    prices = PriceTable({"openai/yen": Override(input=Decimal(10**9), output=Decimal(10**9), currency="JPY")})
    made = call(model="openai/gpt-4o", max_tokens=100)
    assert prices.worst_case(["openai/gpt-4o", "openai/yen"], made) == prices.worst_case(["openai/gpt-4o"], made)


def test_without_a_limit_the_model_s_own_limit_counts() -> None:
    worst = PRICES.worst_case([SONNET], call())
    assert worst is not None
    prompt = prompt_bound(call()) * Decimal("0.000006")  # as if it were all written to the cache for an hour
    assert worst.amount == prompt + 64_000 * Decimal("0.000015")


def test_several_choices_are_several_answers() -> None:
    one, three = (PRICES.worst_case([SONNET], call("", max_tokens=10_000, n=n)) for n in (1, 3))
    assert one is not None
    assert three is not None
    assert three.amount - one.amount == 20_000 * Decimal("0.000015")


def test_an_attachment_counts_a_fixed_number_and_not_its_bytes() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    content = [{"type": "text", "text": "What is this?"}, image, image]
    tokens = prompt_bound(Call(model=SONNET, messages=({"role": "user", "content": content},)))
    assert 2 * ATTACHMENT_TOKENS < tokens < 2 * ATTACHMENT_TOKENS + 200


def test_tools_and_the_answer_s_form_count() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 5000}}
    with_tools = Call(model=SONNET, messages=call().messages, tools=(tool,), returns={"type": "object"})
    assert prompt_bound(with_tools) > prompt_bound(call()) + 5000


def test_every_row_of_the_map_can_be_read() -> None:
    usage = Usage(input=10**6, cached_input=1, cache_write=1, output=1, reasoning=1)
    priced = 0
    for name in cost_map():
        cost = PRICES.price(usage, name, Terms(service_tier="priority", surcharges=("us",)))
        if cost is not None:
            priced += 1
            worst = PRICES.worst_case([name], call(model=name, max_tokens=10))
            assert cost.amount >= 0
            assert worst is not None
    assert priced > 2000


def test_prices_are_read_without_litellm_itself() -> None:
    code = (
        "import sys; from callboard.actors.models.gateway import Gateway;"
        "from callboard.actors.models.call import Call;"
        f"call = Call(model={SONNET!r}, messages=({{'role': 'user', 'content': 'x'}},));"
        f"assert Gateway().worst_case([{SONNET!r}], call); assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
