"""Tokens by disjoint buckets, from what a provider reported."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.models.call import Call, ToolCall
from callboard.actors.models.prices import Terms
from callboard.actors.models.usage import BYTES_A_TOKEN, COUNTED_CHARACTERS, estimate, terms_of, usage_of
from callboard.protocols.events import Usage

# As litellm 1.106 makes it of Anthropic's {"input_tokens": 3, "cache_read_input_tokens": 12304, "output_tokens": 550}.
ANTHROPIC = {
    "prompt_tokens": 12_307,
    "completion_tokens": 550,
    "total_tokens": 12_857,
    "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 550},
    "prompt_tokens_details": {"cached_tokens": 12_304, "text_tokens": 3, "cache_creation_tokens": 0},
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 12_304,
}


def test_what_was_read_from_the_cache_is_counted_once() -> None:
    assert usage_of(ANTHROPIC) == Usage(input=3, cached_input=12_304, output=550)


def test_what_was_written_to_the_cache_and_the_reasoning_are_taken_out_of_the_sums() -> None:
    reported = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 20},
    }
    assert usage_of(reported) == Usage(input=10, cached_input=60, cache_write=30, output=30, reasoning=20)


def test_reasoning_that_is_counted_beside_the_completion_is_not_taken_out_of_it() -> None:
    reported = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 115,
        "completion_tokens_details": {"reasoning_tokens": 100},
    }
    assert usage_of(reported) == Usage(input=10, output=5, reasoning=100)


@pytest.mark.parametrize(
    "reported",
    [
        {},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": -5},
        {"prompt_tokens": "10", "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 5.5},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 11}},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -1}},
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 6}},
    ],
)
def test_a_report_that_can_t_be_true_is_none(reported: dict[str, Any]) -> None:
    assert usage_of(reported) is None


@given(*[st.integers(0, 10**7)] * 5)
def test_the_buckets_add_up_to_what_was_reported(
    plain: int, cached: int, written: int, output: int, reasoning: int
) -> None:
    prompt, completion = plain + cached + written, output + reasoning
    reported = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_creation_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    expected = Usage(
        input=plain, cached_input=cached, cache_write=written, output=output, reasoning=reasoning, estimated=False
    )
    assert usage_of(reported) == (expected if prompt else None)


def test_the_terms_of_a_price_are_in_the_report() -> None:
    reported = {
        "service_tier": "priority",
        "prompt_tokens_details": {
            "cache_creation_token_details": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 7},
            "audio_tokens": 3,
        },
        "server_tool_use": {"web_search_requests": 2},
        "inference_geo": "us",
        "speed": None,
    }
    assert terms_of(reported) == Terms(
        service_tier="priority",
        long_cache_write=7,
        surcharges=("us",),
        others=("input_cost_per_audio_token", "search_context_cost_per_query"),
    )


@pytest.mark.parametrize("tier", ["default", "standard", "auto", None, 5])
def test_the_usual_service_tier_is_none(tier: Any) -> None:
    assert terms_of({"service_tier": tier}) == Terms()


class Counter:
    """A tokenizer that makes a token of each character."""

    def __init__(self) -> None:
        self.longest = 0

    def token_counter(self, model: str, text: str) -> int:
        self.longest = max(self.longest, len(text))
        return len(text)


def test_an_estimate_is_marked_and_counts_all_that_is_said() -> None:
    call = Call(model="a/b", messages=({"role": "user", "content": [{"type": "text", "text": "Hello."}]},))
    usage = estimate(Counter(), call, "Yes.", [ToolCall("1", "f", "{}")])
    assert (usage.input > 6, usage.output, usage.estimated) == (True, 7, True)


def test_a_very_long_text_is_counted_by_a_piece_of_it() -> None:
    counter = Counter()
    call = Call(model="a/b", messages=({"role": "user", "content": "x" * 1_000_000},))
    assert estimate(counter, call, "").input == 1_000_000 + 4
    assert counter.longest == COUNTED_CHARACTERS


def test_an_estimate_is_possible_without_a_tokenizer() -> None:
    class Broken:
        def token_counter(self, **_: str) -> int:
            raise RuntimeError("no tokenizer")

    call = Call(model="a/b", messages=({"role": "user", "content": "x" * 400},))
    assert estimate(Broken(), call, "y" * 40).output == 40 // BYTES_A_TOKEN
