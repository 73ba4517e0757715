"""The operator's file: what it may say, and what is said about it when it can't be used."""

from decimal import Decimal
from pathlib import Path

import pytest

from callboard.actors.models.call import Call, Rates
from callboard.actors.models.deadlines import Deadlines
from callboard.config import Config
from callboard.protocols.errors import BadConfig, UnreadableConfig
from callboard.protocols.ports import Breaker

WHOLE = """
[tiers]
fast = ["hosted_vllm/qwen3", "stand-in"]

[prices."hosted_vllm/qwen3"]
input = 0.1
output = "0.30"
currency = "EUR"
max_output_tokens = 1000

[rates."hosted_vllm/qwen3"]
requests = 500
tokens = 200_000

[rates."openai/gpt-4o"]
requests = 5

[rates."openai/gpt-4o".breaker]
threshold = 2

[deadlines]
first_token_s = 120

[breaker]
threshold = 3

[mcp.clock]
preset = "time"

[[tools.policies]]
tool = "clock__*"
action = "approve"
"""


def load(tmp_path: Path, content: str) -> Config:
    (tmp_path / "callboard.toml").write_text(content)
    return Config.load(tmp_path / "callboard.toml")


def test_without_a_file_all_is_as_it_is_by_default() -> None:
    assert Config.load(None) == Config()


def test_every_section_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, WHOLE)
    assert config.tiers == {"fast": ("hosted_vllm/qwen3", "stand-in")}
    assert config.deadlines == Deadlines(first_token_s=120)
    assert config.breaker == Breaker(threshold=3)
    assert config.mcp["clock"].preset == "time"
    assert config.tools.policies[0].action == "approve"


def test_a_gateway_goes_by_the_file(tmp_path: Path) -> None:
    gateway = load(tmp_path, WHOLE).gateway()
    assert gateway.chain(["fast"]) == ("hosted_vllm/qwen3", "stand-in")
    assert gateway.rates("hosted_vllm/qwen3") == Rates(requests=500, tokens=200_000, breaker=Breaker(threshold=3))
    assert gateway.rates("openai/gpt-4o") == Rates(requests=5, breaker=Breaker(threshold=2))
    assert gateway.rates("openai/another") == Rates(breaker=Breaker(threshold=3))
    call = Call(model="hosted_vllm/qwen3", messages=({"role": "user", "content": ""},))
    worst = gateway.worst_case(["hosted_vllm/qwen3", "stand-in"], call)
    assert worst is not None
    assert worst.currency == "EUR"
    assert worst.amount > 1000 * Decimal("0.0000003")


def test_a_price_is_the_number_that_is_written(tmp_path: Path) -> None:
    prices = load(tmp_path, WHOLE).prices["hosted_vllm/qwen3"]
    assert (prices.input, prices.output) == (Decimal("0.1"), Decimal("0.30"))


def test_the_override_of_the_model_goes_before_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE).gateway("stand-in").chain(["fast"]) == ("stand-in",)


PRICED = '[prices."openai/a"]\n'
RATED = '[rates."openai/a"]\n'


@pytest.mark.parametrize(
    ("content", "key", "reason"),
    [
        ("[tirs]\nx = 1", "tirs = {'x': 1}", "there is no such key; is it tiers? There are tiers, prices, rates,"),
        ("tiers = 3", "tiers = 3", "it is a table"),
        ('[tiers]\nfast = "openai/a"', "tiers.fast = 'openai/a'", "it is a list of models"),
        ("[tiers]\nfast = []", "tiers.fast = []", "it is a list of models"),
        ('[tiers]\n"a/b" = ["openai/a"]', "tiers.\"a/b\" = ['openai/a']", "a tier's name is letters"),
        ('[tiers]\nfast = ["gpt-5"]', "tiers.fast = 'gpt-5'", "it has no provider, and may be openai/gpt-5"),
        ('[tiers]\nfast = ["opnai/a"]', "tiers.fast = 'opnai/a'", "litellm knows no provider 'opnai'"),
        (f"{PRICED}input = 1", "prices.\"openai/a\" = {'input': 1}", "Object missing required field `output`"),
        (f"{PRICED}input = -1\noutput = 1", 'prices."openai/a".input = -1', "it is a number from 0"),
        (f"{PRICED}input = nan\noutput = 1", 'prices."openai/a".input = NaN', "it is a number from 0"),
        (f'{PRICED}input = "x"\noutput = 1', "prices.\"openai/a\".input = 'x'", "it is a decimal number, such as 0.25"),
        (f'{PRICED}input = 1\noutput = 1\ncurrency = "$"', "currency = '$'", "it is three capital letters"),
        ("[prices.gpt-5]\ninput = 1\noutput = 1", "prices.gpt-5 = 'gpt-5'", "it has no provider"),
        (f"{RATED}reqests = 1", "reqests = 1", "there is no such key; is it requests? There are requests, tokens"),
        (f"{RATED}requests = 0", 'rates."openai/a".requests = 0', "it is a number above 0"),
        (f"{RATED}breaker.threshold = 0", 'rates."openai/a".breaker.threshold = 0', "it is a number above 0"),
        ("[deadlines]\nconnect_s = -1", "deadlines.connect_s = -1.0", "it is a number above 0"),
        ("[deadlines]\ntotal_s = inf", "deadlines.total_s = inf", "it is a number above 0"),
        ('[breaker]\nthreshold = "3"', "breaker.threshold = '3'", "Expected `int`, got `str`"),
        ('[mcp.x]\npreset = "tim"', "mcp.x = ***", "there is no preset 'tim'"),
        ('[mcp.x]\ncommand = "x"\nenv = {KEY = 5}', "mcp.x.env[...] = ***", "Expected `str`, got `int`"),
        (
            '[[tools.policies]]\naction = "alow"',
            "tools.policies[0].action = 'alow'",
            "it is one of allow, approve, deny",
        ),
    ],
)
def test_what_can_t_be_used_is_told_with_its_file_key_and_value(
    tmp_path: Path, content: str, key: str, reason: str
) -> None:
    with pytest.raises(BadConfig) as error:
        load(tmp_path, content)
    told = str(error.value)
    assert told.startswith(f"{tmp_path / 'callboard.toml'}: ")
    assert f"{key} can't be used: " in told
    assert reason in told


def test_what_may_be_secret_is_not_shown(tmp_path: Path) -> None:
    for content in ('url = "https://x"\nheaders = "Bearer c"', 'command = "x"\nargs = "canary"', 'canary = "canary"'):
        with pytest.raises(BadConfig) as error:
            load(tmp_path, f"[mcp.x]\n{content}")
        assert "'canary" not in str(error.value)
        assert "Bearer" not in str(error.value)


def test_a_file_that_can_t_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableConfig, match=r"missing\.toml can't be read"):
        Config.load(tmp_path / "missing.toml")
    with pytest.raises(UnreadableConfig, match="it is no TOML"):
        load(tmp_path, "x")
    (tmp_path / "latin").write_bytes(b'x = "\xe9"')
    with pytest.raises(UnreadableConfig, match="latin can't be read"):
        Config.load(tmp_path / "latin")
