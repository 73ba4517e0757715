"""How litellm is loaded and set up, and what we say about it without loading it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from callboard.actors.models import library
from callboard.actors.models.tiers import KEYS, TIERS, providers

COLD_START = """
import asyncio, os, sys
from callboard.actors.models import library
from callboard.actors.models.call import Call
from callboard.actors.models.gateway import Gateway
from tests.fake_provider import FakeProvider

async def main():
    async with FakeProvider.open() as provider:
        os.environ.update(provider.env)
        gateway = Gateway()
        assert "litellm" not in sys.modules
        await library.load()
        for model in ("openai/gpt-4o-mini", "anthropic/claude-sonnet-4-5"):
            for stream in (False, True):
                known = set(sys.modules)
                messages = ({"role": "user", "content": "Hello."},)
                await gateway.complete(Call(model=model, messages=messages, stream=stream))
                print(len(set(sys.modules) - known))
        await gateway.aclose()

asyncio.run(main())
"""


def python(code: str, folder: Path) -> str:
    """What a fresh process prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_call_imports_next_to_nothing_on_the_event_loop(tmp_path: Path) -> None:
    imported = [int(line) for line in python(COLD_START, tmp_path).splitlines()]
    assert len(imported) == 4
    assert max(imported) < 12  # of some 2,500 that litellm has


def test_loading_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CANARY_API_KEY=from-a-file\n")
    code = (
        "import os; from callboard.actors.models import library; library.load_now();"
        "print(os.environ.get('CANARY_API_KEY'))"
    )
    assert python(code, tmp_path) == "None\n"


async def test_what_we_do_ourselves_is_switched_off() -> None:
    litellm = await library.load()
    assert litellm is await library.load()
    assert litellm.num_retries == 0
    assert not litellm.telemetry
    assert litellm.cache is None
    assert not litellm.callbacks
    assert not litellm.success_callback
    assert litellm.disable_hf_tokenizer_download


# Services that litellm lists as providers, and that have no models to talk to.
NO_MODELS = {
    *("a2a_agent", "aws_textract", "azure_speech", "charity_engine", "dotprompt", "humanloop", "langfuse"),
    "litellm_agent",
}


async def test_every_provider_that_litellm_knows_is_known() -> None:
    litellm = await library.load()
    assert {_name(provider) for provider in litellm.provider_list} - providers() <= NO_MODELS


def _name(provider: object) -> str:
    return str(getattr(provider, "value", provider))


@pytest.mark.parametrize("provider", KEYS)
async def test_a_provider_s_key_is_what_litellm_looks_for(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    litellm = await library.load()
    for name in {name for names in KEYS.values() for name in names}:
        monkeypatch.delenv(name, raising=False)
    model = f"{provider}/a-model"
    assert litellm.validate_environment(model)["missing_keys"]
    monkeypatch.setenv(KEYS[provider][0], "a key")
    assert not litellm.validate_environment(model)["missing_keys"]


@pytest.mark.parametrize("model", sorted({model for models in TIERS.values() for model in models}))
async def test_litellm_takes_the_tiers_models_for_those_of_their_providers(model: str) -> None:
    litellm = await library.load()
    name, provider, _, _ = litellm.get_llm_provider(model=model)
    assert f"{provider}/{name}" == model
