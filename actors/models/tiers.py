"""Which models are tried for a name: a model is provider/model, and a tier is a name for a list of them.

The tiers mix providers, so that whichever one's key is set works. A model whose provider's key is not set is left out
where others of the list can be called.
"""

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from callboard.actors.models.prices import cost_map, provider_in_map
from callboard.actors.models.stand_in import STAND_IN
from callboard.protocols.errors import MissingKey, UnknownModel, listed

TIERS: Final[Mapping[str, tuple[str, ...]]] = {
    "high_reasoning": (
        "anthropic/claude-opus-5-5",
        "openai/gpt-6-sol",
        "gemini/gemini-4-argon",
        "xai/grok-4.7",
        "deepseek/deepseek-v4-pro",
        "mistral/mistral-large-4",
        "groq/openai/gpt-oss-120b",
    ),
    "fast": (
        "openai/gpt-6-luna",
        "anthropic/claude-haiku-5-5",
        "gemini/gemini-3.8-flash",
        "groq/openai/gpt-oss-120b",
        "mistral/mistral-small-latest",
        "deepseek/deepseek-v4-flash",
        "xai/grok-4.20-non-reasoning",
    ),
    "cost_optimized": (
        "openai/gpt-6-luna",
        "anthropic/claude-haiku-5-5",
        "groq/openai/gpt-oss-20b",
        "mistral/mistral-small-latest",
        "gemini/gemini-3.1-flash-lite",
        "deepseek/deepseek-v4-flash",
        "xai/grok-4.20-non-reasoning",
    ),
}

# Any one of these variables has a provider's key, as litellm looks for it. Providers that are not here may need no key
# (servers of one's own), or more than one variable: for them it is litellm that tells, at the first call.
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("COHERE_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "perplexity": ("PERPLEXITYAI_API_KEY",),
    "together_ai": ("TOGETHERAI_API_KEY",),
    "xai": ("XAI_API_KEY",),
}
_MORE: Final = ("vertex_ai_beta", "sagemaker_nova")  # which no listing in litellm's package has

log = logging.getLogger(__name__)


class Tiers:
    """Resolves names of models and tiers. `given` are the settings' tiers, on top of `TIERS`."""

    def __init__(
        self, given: Mapping[str, Sequence[str]] | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self.tiers: Mapping[str, tuple[str, ...]] = {**TIERS, **{name: tuple(it) for name, it in (given or {}).items()}}
        self._environ = os.environ if environ is None else environ
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"Tiers({listed(list(self.tiers))})"

    def chain(self, names: Sequence[str]) -> tuple[str, ...]:
        """The models to try, in order, each once. Raises UnknownModel, and MissingKey if none of them can be called."""
        models = list(dict.fromkeys(model for name in names for model in self.models(name)))
        able = [model for model in models if self.has_key(model)]
        if models and not able:
            variables = dict.fromkeys(variable for model in models for variable in self.keys(model)[:1])
            raise MissingKey(", ".join(names), " or ".join(variables))
        for model in set(models) - set(able) - self._told:
            self._told.add(model)
            if model in names:
                log.warning("%s is left out: %s is not set", model, " or ".join(self.keys(model)))
        return tuple(able)

    def models(self, name: str) -> tuple[str, ...]:
        """The models of a tier; or a model by itself. Raises UnknownModel."""
        if name in self.tiers:
            return self.tiers[name]
        if name != STAND_IN:
            self.check(name)
        return (name,)

    def check(self, model: str) -> None:
        """Raises UnknownModel for what is no provider/model of a provider that litellm knows."""
        provider, _, rest = model.partition("/")
        if not rest:
            owner = provider_in_map(model)
            reason = f"it has no provider, and may be {owner}/{model}" if owner else "it has no provider"
            raise UnknownModel(model, reason, listed(list(self.tiers)))
        if provider not in providers():
            raise UnknownModel(model, f"litellm knows no provider {provider!r}", listed(list(self.tiers)))

    def keys(self, model: str) -> tuple[str, ...]:
        """The variables of which one must be set; none where no key is needed, or where that is not known."""
        return KEYS.get(model.partition("/")[0], ())

    def has_key(self, model: str) -> bool:
        """Whether the model's key is set, as far as that is known."""
        keys = self.keys(model)
        return not keys or any(self._environ.get(key) for key in keys)


@cache
def providers() -> frozenset[str]:
    """The providers that litellm knows, read from its package without importing it."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    listing = msgspec.json.decode((package / "provider_endpoints_support_backup.json").read_bytes())
    alike = msgspec.json.decode((package / "llms/openai_like/providers.json").read_bytes())
    in_map = {msgspec.json.decode(row, type=_Owner).litellm_provider for row in cost_map().values()}
    return frozenset(
        {*listing["providers"], *alike, *in_map, *(it.name for it in (package / "llms").iterdir()), *_MORE}
    )


class _Owner(msgspec.Struct):
    litellm_provider: str = ""
