"""A call in litellm's words."""

from typing import Any

import msgspec
import pytest

from callboard.actors.models.call import Call
from callboard.actors.models.request import OURS, arguments, response_format
from callboard.actors.models.structured import AnswerType

HELLO = ({"role": "user", "content": "Hello."},)


class Point(msgspec.Struct):
    x: int
    y: int


class Shape(msgspec.Struct):
    points: list[Point]
    name: str | None


class Loose(msgspec.Struct):
    x: int = 0


class Mapped(msgspec.Struct):
    by_name: dict[str, int]


def test_nothing_is_tried_again_by_litellm() -> None:
    made = arguments(Call(model="openai/a", messages=HELLO), 60.0)
    assert (made["num_retries"], made["max_retries"], made["timeout"]) == (0, 0, 60.0)
    assert "stream" not in made


def test_a_call_can_t_say_what_is_the_gateway_s_to_say() -> None:
    sneaky = dict.fromkeys(OURS, "sneaky")
    made = arguments(Call(model="openai/a", messages=HELLO, parameters={**sneaky, "temperature": 0.5}), 60.0)
    assert "sneaky" not in made.values()
    assert made["temperature"] == 0.5


def test_a_streamed_call_asks_for_its_usage() -> None:
    made = arguments(Call(model="openai/a", messages=HELLO, stream=True), 60.0)
    assert (made["stream"], made["stream_options"]) == (True, {"include_usage": True})


def test_what_one_provider_gave_for_its_own_use_goes_back_to_it_and_to_no_other() -> None:
    thought = {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    messages = (*HELLO, {"role": "assistant", "content": "Yes?", "private": {"anthropic": thought}}, *HELLO)
    own = arguments(Call(model="anthropic/a", messages=messages), 60.0)["messages"][1]
    other = arguments(Call(model="openai/a", messages=messages), 60.0)["messages"][1]
    assert own == {"role": "assistant", "content": "Yes?", **thought}
    assert other == {"role": "assistant", "content": "Yes?"}


def form(wanted: Any) -> dict[str, Any]:
    formed: dict[str, Any] = response_format(AnswerType(wanted).schema)["json_schema"]
    return formed


def objects(schema: Any) -> list[dict[str, Any]]:
    """All objects in a schema."""
    if isinstance(schema, list):
        return [found for part in schema for found in objects(part)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" else []
    return own + [found for part in schema.values() for found in objects(part)]


@pytest.mark.parametrize("wanted", [Point, Shape, list[Point], str, int])
def test_an_answer_s_form_is_guaranteed_where_the_schema_allows_it(wanted: Any) -> None:
    made = form(wanted)
    assert made["strict"] is True
    assert all(each["additionalProperties"] is False for each in objects(made["schema"]))
    assert objects(made["schema"])


@pytest.mark.parametrize("wanted", [Loose, Mapped, dict[str, int], list[Mapped]])
def test_an_answer_s_form_that_can_t_be_guaranteed_is_sent_as_it_is(wanted: Any) -> None:
    made = form(wanted)
    assert made["strict"] is False
    assert made["schema"] == AnswerType(wanted).schema
