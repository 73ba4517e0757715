"""Answers of a type: the JSON Schema that goes to the provider, and what is done with an answer that doesn't fit."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from callboard.actors.models.call import ChatMessage
from callboard.protocols.errors import BadOption
from callboard.protocols.types import decoder, json_schema, type_name

VALUE: Final = "value"  # providers want an object: any other type is its one field
REPAIR: Final = "Your answer can't be used: {reason}. Answer again, with JSON that fits the schema, and nothing else."


class AnswerType:
    """What `returns` asks for. Raises BadOption for a type that JSON can't be decoded to."""

    def __init__(self, wanted: Any) -> None:
        self.name = type_name(wanted)
        try:
            (schema,), components = json_schema([wanted])
            target = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
            self._wrapped = target.get("type") != "object"
            self._decode = decoder(dict[str, wanted] if self._wrapped else wanted)
        except TypeError as error:
            raise BadOption("returns", self.name, f"it is a type that JSON can be decoded to ({error})") from None
        if self._wrapped:
            schema = {
                "type": "object",
                "properties": {VALUE: schema},
                "required": [VALUE],
                "additionalProperties": False,
            }
        elif "$ref" in schema:
            schema = target
        self.schema: Mapping[str, Any] = {**schema, "$defs": components} if components else schema

    def decode(self, text: str, finish_reason: str) -> Any:
        """The answer; raises msgspec.DecodeError, with what is wrong with it. Half an answer is none."""
        if finish_reason == "length":
            raise msgspec.DecodeError("it was cut off at max_tokens")
        decoded = self._decode(_unfenced(text))
        if not self._wrapped:
            return decoded
        if decoded.keys() != {VALUE}:
            raise msgspec.ValidationError(f"it is an object with one field, {VALUE}")
        return decoded[VALUE]


def repair(messages: Sequence[ChatMessage], answer: str, reason: str) -> list[ChatMessage]:
    """The conversation that asks for a better answer."""
    return [
        *messages,
        {"role": "assistant", "content": answer or "(nothing)"},
        {"role": "user", "content": REPAIR.format(reason=reason)},
    ]


def _unfenced(text: str) -> str:
    """JSON without the Markdown fence that some models put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text[text.index("\n") + 1 : -3]
    return text
