"""What an attempt used: tokens in disjoint buckets, from the usage that the provider reported.

litellm brings all providers' reports into OpenAI's form, in which the prompt's tokens include those read from the cache
and those written to it, and the completion's tokens include the reasoning. (Anthropic's own form doesn't include them;
litellm adds them up.) Where no report came, or one that can't be true, tokens are estimated, and marked so.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from callboard.actors.models.call import Call, ToolCall
from callboard.actors.models.prices import Terms
from callboard.protocols.events import Usage

# A tokenizer is quadratic at worst (a text without a space), so a long text is counted by a piece of it.
COUNTED_CHARACTERS: Final = 100_000
MESSAGE_TOKENS: Final = 4  # of a message's frame, on average
BYTES_A_TOKEN: Final = 4  # where there is no tokenizer

# Counts in a report that have prices of their own in litellm's map, by their names there.
OTHERS: Final = {
    ("prompt_tokens_details", "audio_tokens"): "input_cost_per_audio_token",
    ("prompt_tokens_details", "video_tokens"): "input_cost_per_video_token",
    ("prompt_tokens_details", "image_tokens"): "input_cost_per_image_token",
    ("prompt_tokens_details", "web_search_requests"): "search_context_cost_per_query",
    ("server_tool_use", "web_search_requests"): "search_context_cost_per_query",
    ("completion_tokens_details", "audio_tokens"): "output_cost_per_audio_token",
    ("completion_tokens_details", "image_tokens"): "output_cost_per_image_token",
}


def usage_of(reported: Mapping[str, Any]) -> Usage | None:
    """Disjoint buckets of a report in OpenAI's form; None where it can't be true."""
    prompt, completion = _count(reported, "prompt_tokens"), _count(reported, "completion_tokens")
    read = _either(reported, "cached_tokens", "cache_read_input_tokens")
    written = _either(reported, "cache_creation_tokens", "cache_creation_input_tokens")
    reasoning = _count(reported, "completion_tokens_details", "reasoning_tokens")
    if prompt is None or completion is None or read is None or written is None or reasoning is None:
        return None
    if not prompt or read + written > prompt:
        return None
    if reasoning and _count(reported, "total_tokens") == prompt + completion + reasoning:
        completion += reasoning  # some count it beside the completion
    if reasoning > completion:
        return None
    return Usage(
        input=prompt - read - written,
        cached_input=read,
        cache_write=written,
        output=completion - reasoning,
        reasoning=reasoning,
    )


def terms_of(reported: Mapping[str, Any]) -> Terms:
    """What else a report says that the price depends on."""
    tier = reported.get("service_tier")
    details = _at(reported, "prompt_tokens_details", "cache_creation_token_details")
    surcharges = [reported.get("inference_geo"), reported.get("speed")]
    return Terms(
        service_tier=tier if isinstance(tier, str) and tier not in ("default", "standard", "auto") else "",
        long_cache_write=(_count(details, "ephemeral_1h_input_tokens") or 0) if isinstance(details, Mapping) else 0,
        surcharges=tuple(it for it in surcharges if isinstance(it, str)),
        others=tuple(sorted({name for path, name in OTHERS.items() if _count(reported, *path)})),
    )


def report(usage: Any, service_tier: Any = None) -> dict[str, Any] | None:
    """What litellm handed on of the provider's report (a pydantic model, or a mapping), without what is not told."""
    if usage is None:
        return None
    told = dict(usage) if isinstance(usage, Mapping) else usage.model_dump(mode="json", exclude_none=True)
    told.pop("cost", None)  # litellm's own reckoning
    if isinstance(service_tier, str):
        told["service_tier"] = service_tier
    return told


def raw(reported: Mapping[str, Any] | None) -> Raw | UnsetType:
    """The report, as an event keeps it."""
    return UNSET if reported is None else Raw(msgspec.json.encode(reported))


def estimate(litellm: Any, call: Call, text: str, tool_calls: Sequence[ToolCall] = ()) -> Usage:
    """Tokens as the model's tokenizer counts them, or one like it. Long texts take milliseconds: use a thread."""
    prompt = "\n".join(_text(message) for message in call.messages)
    if call.tools or call.returns:
        prompt += msgspec.json.encode((call.tools, call.returns)).decode()
    answer = text + "".join(f"{it.name}{it.arguments}" for it in tool_calls)
    return Usage(
        input=_tokens(litellm, call.model, prompt) + MESSAGE_TOKENS * len(call.messages),
        output=_tokens(litellm, call.model, answer),
        estimated=True,
    )


def _tokens(litellm: Any, model: str, text: str) -> int:
    if not text:
        return 0
    piece = text[:COUNTED_CHARACTERS]
    try:
        counted = int(litellm.token_counter(model=model, text=piece))
    except Exception:  # noqa: BLE001  # whatever a tokenizer trips over, an estimate is possible
        counted = len(piece.encode()) // BYTES_A_TOKEN
    return max(1, counted * len(text) // len(piece))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    calls = message.get("tool_calls")
    return f"{content or ''}{msgspec.json.encode(calls).decode() if calls else ''}"


def _at(reported: Mapping[str, Any], *path: str) -> Any:
    value: Any = reported
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _either(reported: Mapping[str, Any], detail: str, name: str) -> int | None:
    """A count of the prompt's tokens, from its details, or else from where Anthropic has it."""
    told = _count(reported, "prompt_tokens_details", detail)
    return _count(reported, name) if told == 0 else told


def _count(reported: Mapping[str, Any], *path: str) -> int | None:
    """A count, 0 where none is told; None for what is no count."""
    value = _at(reported, *path)
    if value is None:
        return 0
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
