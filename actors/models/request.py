"""A call in litellm's words: the arguments of its `acompletion`."""

from collections.abc import Mapping
from typing import Any, Final

from callboard.actors.models.call import Call
from callboard.actors.models.history import render

# What isn't for a call to say.
OURS: Final = frozenset(
    {"model", "messages", "stream", "stream_options", "timeout", "request_timeout", "num_retries", "max_retries"}
    | {"fallbacks", "context_window_fallback_dict", "caching", "cache", "callbacks", "mock_response", "no-log"}
)
# JSON Schema that OpenAI's strict mode takes; with anything else the schema is a wish, and no guarantee.
STRICT: Final = frozenset(
    {"type", "properties", "required", "items", "enum", "const", "anyOf", "$ref", "$defs", "additionalProperties"}
    | {"title", "description"}
)


def arguments(call: Call, timeout_s: float) -> dict[str, Any]:
    """The call as arguments of `acompletion`; litellm knows what each provider calls them, and what it doesn't."""
    given: dict[str, Any] = {name: value for name, value in call.parameters.items() if name not in OURS}
    given |= {
        "model": call.model,
        "messages": render(call.messages, provider(call.model)),
        "timeout": timeout_s,
        "num_retries": 0,
        "max_retries": 0,
        "no-log": True,
    }
    if call.tools:
        given["tools"] = list(call.tools)
    if call.returns is not None:
        given["response_format"] = response_format(call.returns)
    if call.stream:
        given |= {"stream": True, "stream_options": {"include_usage": True}}
    return given


def provider(model: str) -> str:
    """The provider in a model's name."""
    return model.partition("/")[0]


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The form of the answer, in OpenAI's words: guaranteed, if the schema allows it."""
    closed = _closed(schema)
    form = {"name": "answer", "schema": schema if closed is None else closed, "strict": closed is not None}
    return {"type": "json_schema", "json_schema": form}


def _closed(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema with all its objects closed, as strict mode wants it; None if strict mode doesn't take it."""
    if not schema.keys() <= STRICT or isinstance(schema.get("additionalProperties"), Mapping):
        return None
    closed = dict(schema)
    for name in ("properties", "$defs"):
        parts = {key: _closed(part) for key, part in schema.get(name, {}).items()}
        if None in parts.values():
            return None
        closed |= {name: parts} if parts else {}
    inner = [_closed(part) for part in schema.get("anyOf", ())]
    items = _closed(schema["items"]) if isinstance(schema.get("items"), Mapping) else {}
    if None in inner or items is None:
        return None
    closed |= {"anyOf": inner} if inner else {}
    closed |= {"items": items} if items else {}
    if schema.get("type") == "object":
        if set(schema.get("properties", ())) != set(schema.get("required", ())):
            return None
        closed["additionalProperties"] = False
    return closed
