"""What the gateway loads, and when."""

from collections.abc import Sequence

import pytest

from callboard.actors.models import library
from callboard.actors.models.gateway import Gateway

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.mark.parametrize(
    ("models", "override", "loads"),
    [
        (("openai/gpt-4o",), None, True),
        (("stand-in", "openai/gpt-4o"), None, True),
        (("fast",), None, True),
        (("stand-in",), None, False),
        (("fast",), "stand-in", False),
        (("anthropic/claude-sonnet-4-5",), None, False),  # its key is missing: the call will say so
        (("fastest",), None, False),  # there is none: the call will say so
    ],
)
async def test_litellm_is_loaded_for_models_that_can_be_called_by_it(
    models: Sequence[str], override: str | None, loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-spec")
    loaded: list[None] = []

    async def load() -> None:
        loaded.append(None)

    monkeypatch.setattr(library, "load", load)
    await Gateway(override).prepare(models)
    assert bool(loaded) is loads
