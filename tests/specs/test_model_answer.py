"""A model's answer, put together from its pieces: its text is always one that can be stored."""

from types import SimpleNamespace as It
from typing import Any

import pytest

from callboard.actors.models.answer import Answer, Joined, text_of


def delta(**fields: Any) -> Any:
    return It(usage=None, model="m", choices=[It(finish_reason=None, delta=It(content=None, **fields))])


def test_the_halves_of_a_character_in_two_pieces_are_one_character() -> None:
    text = Joined()
    assert [text.add(piece) for piece in ("hi \ud83d", "\ude00!", "", "\ud83d")] == ["hi ", "\U0001f600!", "", ""]
    assert text.text == "hi \U0001f600!\ufffd"


def test_half_a_character_alone_is_a_replacement_character() -> None:
    text = Joined()
    text.add("a\ude00b\ud83dc")
    assert text.text == "a\ufffdb\ufffdc"


def test_what_a_model_wrote_beside_its_text_can_be_stored_too() -> None:
    answer = Answer()
    for written, thought in (('{"q": "\ud83d', "so \ud83d"), ('\ude00"}', "\ude00")):
        call = It(index=0, id="c", function=It(name="look", arguments=written))
        answer.take(delta(tool_calls=[call], reasoning_content=thought))
    assert answer.tool_calls[0].arguments == '{"q": "\U0001f600"}'
    assert answer.thoughts == "so \U0001f600"
    assert answer.private("p") == {"p": {"reasoning_content": "so \U0001f600"}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "one two"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "output_text", "text": "yes"}], "yes"),
        (["a", {"text": None}, 3], "a"),
        ([], ""),
    ],
)
def test_a_content_in_parts_is_the_text_of_its_parts(content: Any, text: str) -> None:
    assert text_of(content) == text
    answer = Answer()
    message = It(content=content)
    answer.take_whole(It(usage=None, model="m", choices=[It(finish_reason="stop", message=message)]))
    assert answer.text == text


def test_arguments_that_come_as_an_object_are_their_json() -> None:
    answer = Answer()
    call = It(index=0, id="c", function=It(name="look", arguments={"q": "a"}))
    answer.take(delta(tool_calls=[call]))
    assert answer.tool_calls[0].arguments == '{"q":"a"}'
