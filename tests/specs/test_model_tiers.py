"""Which models are tried for a name."""

import logging

import pytest

from callboard.actors.models.prices import PriceTable
from callboard.actors.models.stand_in import STAND_IN
from callboard.actors.models.tiers import KEYS, TIERS, Tiers
from callboard.protocols.errors import MissingKey, UnknownModel

ALL_KEYS = {names[0]: "a key" for names in KEYS.values()}


@pytest.mark.parametrize("tier", TIERS)
def test_the_default_tiers_have_models_with_a_price_and_a_known_key_from_several_providers(tier: str) -> None:
    prices = PriceTable()
    models = TIERS[tier]
    assert len({model.partition("/")[0] for model in models}) == len(models) >= 5
    for model in models:
        assert prices.row(model) is not None, model
        assert Tiers(environ={}).keys(model), model


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("provider", sorted({model.partition("/")[0] for model in TIERS["fast"]}))
def test_one_provider_s_key_is_enough_for_a_tier(tier: str, provider: str) -> None:
    for key in KEYS[provider]:
        (model,) = Tiers(environ={key: "a key"}).chain([tier])
        assert model.startswith(f"{provider}/")


def test_with_all_keys_the_whole_tier_is_tried_in_order() -> None:
    assert Tiers(environ=ALL_KEYS).chain(["fast"]) == TIERS["fast"]


def test_tiers_and_models_may_be_mixed_and_each_model_is_tried_once() -> None:
    tiers = Tiers({"mine": ["openai/b", "openai/a"]}, ALL_KEYS)
    assert tiers.chain(["openai/a", "mine", "openai/c"]) == ("openai/a", "openai/b", "openai/c")


def test_a_tier_of_the_settings_takes_the_place_of_a_default_one() -> None:
    assert Tiers({"fast": ["openai/x"]}, ALL_KEYS).chain(["fast"]) == ("openai/x",)
    assert Tiers({"fast": ["openai/x"]}, ALL_KEYS).chain(["cost_optimized"]) == TIERS["cost_optimized"]


def test_the_stand_in_needs_no_key() -> None:
    assert Tiers(environ={}).chain([STAND_IN]) == (STAND_IN,)


def test_a_provider_whose_keys_are_not_known_is_let_through() -> None:
    assert Tiers(environ={}).chain(["ollama/llama3", "bedrock/x"]) == ("ollama/llama3", "bedrock/x")


def test_no_names_give_no_chain() -> None:
    assert Tiers(environ={}).chain([]) == ()


def test_a_model_without_a_key_is_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tiers = Tiers(environ={"ANTHROPIC_API_KEY": "a key", "OPENAI_API_KEY": ""})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert tiers.chain(["openai/a", "anthropic/b"]) == ("anthropic/b",)
        tiers.chain(["fast"])
    assert caplog.messages == ["openai/a is left out: OPENAI_API_KEY is not set"]


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(MissingKey) as error:
        Tiers(environ={}).chain(["openai/gpt-5"])
    assert (error.value.model, error.value.variables) == ("openai/gpt-5", "OPENAI_API_KEY")
    with pytest.raises(MissingKey, match="OPENAI_API_KEY or ANTHROPIC_API_KEY or"):
        Tiers(environ={}).chain(["fast"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fats", "it has no provider"),
        ("gpt-5", "it has no provider, and may be openai/gpt-5"),
        ("opnai/gpt-5", "litellm knows no provider 'opnai'"),
        ("openai/", "it has no provider"),
        ("", "it has no provider"),
    ],
)
def test_an_unknown_name_is_refused_with_what_there_is(name: str, reason: str) -> None:
    with pytest.raises(UnknownModel, match="Tiers are cost_optimized, fast, high_reasoning;") as error:
        Tiers(environ=ALL_KEYS).chain([name])
    assert (error.value.name, error.value.reason) == (name, reason)
