"""`callboard models`, from outside. It needs no servers."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from callboard.actors.models.tiers import KEYS, TIERS
from tests.cli_kit import Callboard, command_in
from tests.forking import Forks


@pytest.fixture
def callboard(forks: Forks, tmp_path: Path) -> Callboard:
    secret = {name for names in KEYS.values() for name in names}
    kept = {name: it for name, it in os.environ.items() if name not in secret and not name.startswith("CALLBOARD_")}
    return command_in({**kept, "COLUMNS": "160", "PWD": str(tmp_path)}, forks)


def found(done: subprocess.CompletedProcess[str]) -> Mapping[str, dict[str, object]]:
    assert (done.returncode, done.stderr) == (0, "")
    return {each["model"]: each for each in json.loads(done.stdout)}


def test_all_tiers_are_listed_with_prices_and_keys(callboard: Callboard, tmp_path: Path) -> None:
    models = found(callboard("models", "--json", OPENAI_API_KEY="sk-canary-0123456789"))
    assert set(models) == {model for tier in TIERS.values() for model in tier}
    assert models["openai/gpt-6-luna"]["key"] == "set"
    assert models["anthropic/claude-opus-5-5"]["key"] == "missing"
    assert models["openai/gpt-6-luna"]["tiers"] == ["fast", "cost_optimized"]
    prices = models["openai/gpt-6-luna"]["prices"]
    assert isinstance(prices, dict)
    assert (prices["input"], prices["output"], prices["currency"]) == ("0.1", "0.5", "USD")


def test_for_people_there_is_a_table_without_keys(callboard: Callboard, tmp_path: Path) -> None:
    done = callboard("models", "cost_optimized", OPENAI_API_KEY="sk-canary-0123456789")
    assert done.returncode == 0
    assert "OPENAI_API_KEY set" in done.stdout
    assert "ANTHROPIC_API_KEY missing" in done.stdout
    assert "canary" not in done.stdout
    assert "claude-opus" not in done.stdout


def test_a_model_without_a_price_is_unpriced(callboard: Callboard, tmp_path: Path) -> None:
    (model,) = found(callboard("models", "hosted_vllm/mine", "--json")).values()
    assert (model["prices"], model["key"], model["tiers"]) == (None, "none", [])
    assert "unpriced" in callboard("models", "hosted_vllm/mine").stdout


def test_the_configuration_counts(callboard: Callboard, tmp_path: Path) -> None:
    config = tmp_path / "callboard.toml"
    config.write_text('[tiers]\nfast = ["hosted_vllm/mine"]\n[prices."hosted_vllm/mine"]\ninput = 0.25\noutput = 10\n')
    (model,) = found(callboard("models", "fast", "--json", CALLBOARD_CONFIG=str(config))).values()
    prices = model["prices"]
    assert isinstance(prices, dict)
    assert (prices["input"], prices["cached_input"], prices["output"]) == ("0.25", "0.25", "10")
    assert str(model["price_table"]).startswith("litellm ")
    assert " + " in str(model["price_table"])


def test_bad_input_is_told_by_name(callboard: Callboard, tmp_path: Path) -> None:
    unknown = callboard("models", "fats")
    assert unknown.returncode == 2
    assert "'fats'" in unknown.stderr
    assert "cost_optimized, fast, high_reasoning" in unknown.stderr
    config = tmp_path / "callboard.toml"
    config.write_text("[deadlines]\ntotal = 5\n")
    for arguments in (("models",), ("up", "app.py")):
        (tmp_path / "app.py").write_text(
            "from callboard import Actor, Context\n"
            "class Echo(Actor):\n"
            "    async def handle(self, text: str, ctx: Context) -> str:\n"
            "        return text\n"
        )
        bad = callboard(*arguments, CALLBOARD_CONFIG=str(config), CALLBOARD_HOME=str(tmp_path / "home"))
        assert bad.returncode == 2
        assert "deadlines.total = 5 can't be used: there is no such key; is it total_s?" in bad.stderr.replace(
            "\n", " "
        )
