"""Conversations as providers take them: valid whatever became of them, and whoever they go to."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.models.history import GOES_ON, UNANSWERED, about_tokens, newest, render, shorten

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What time is it in Oslo?"}
CALL = {"id": "toolu_01A+b/c=", "type": "function", "function": {"name": "clock", "arguments": '{"city":"Oslo"}'}}
TURN = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "toolu_01A+b/c=", "content": "12:00"}
ANSWER = {"role": "assistant", "content": "Noon."}


IDS = {"mistral": "[a-zA-Z0-9]{9}"}


def assert_valid(messages: list[dict[str, Any]], provider: str = "openai") -> None:
    """What OpenAI, Anthropic and Mistral ask of a conversation, as their references have it."""
    spoken = [it for it in messages if it["role"] != "system"]
    assert spoken, "a conversation says something"
    assert spoken[0]["role"] == "user"
    waiting: list[str] = []
    for message in messages:
        assert "private" not in message
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting, "a result stands right behind its call"
            waiting.remove(message["tool_call_id"])
            assert message["content"]
            continue
        assert not waiting, "every call has a result"
        for call in message.get("tool_calls") or ():
            assert re.fullmatch(IDS.get(provider, "[a-zA-Z0-9_-]{1,40}"), call["id"])
            assert isinstance(msgspec.json.decode(call["function"]["arguments"]), dict)
            waiting.append(call["id"])
        assert message.get("content") or waiting, "no message is empty"
        assert len(set(waiting)) == len(waiting)
    assert not waiting


def test_a_whole_turn_stays_as_it_is_but_for_its_ids() -> None:
    rendered = render([SYSTEM, USER, TURN, RESULT, ANSWER], "openai")
    assert_valid(rendered)
    assert [it["role"] for it in rendered] == ["system", "user", "assistant", "tool", "assistant"]
    assert rendered[2]["tool_calls"][0]["function"] == CALL["function"]
    assert rendered[2]["content"] is None
    assert rendered[3]["content"] == "12:00"


@pytest.mark.parametrize(
    ("id_", "provider", "kept"),
    [
        ("call_7", "openai", True),
        ("call_7", "anthropic", True),
        ("call_7", "mistral", False),
        ("a/b+c=", "openai", False),
        ("x" * 41, "openai", False),
        ("call_7__thought__a/b+c=", "gemini", True),
    ],
)
def test_an_id_is_kept_where_the_provider_takes_it(id_: str, provider: str, kept: bool) -> None:
    turn = {**TURN, "tool_calls": [{**CALL, "id": id_}]}
    rendered = render([USER, turn, {**RESULT, "tool_call_id": id_}], provider)
    assert (rendered[1]["tool_calls"][0]["id"] == id_) is kept
    assert rendered[2]["tool_call_id"] == rendered[1]["tool_calls"][0]["id"]


def test_an_unanswered_call_is_closed() -> None:
    rendered = render([USER, TURN], "anthropic")
    assert_valid(rendered)
    assert rendered[-1]["content"] == UNANSWERED


def test_a_result_that_came_behind_another_message_goes_to_its_call() -> None:
    rendered = render([USER, TURN, {"role": "user", "content": "Hello?"}, RESULT], "openai")
    assert_valid(rendered)
    assert [it["role"] for it in rendered] == ["user", "assistant", "tool", "user"]


def test_a_result_without_its_call_is_left_out() -> None:
    assert render([USER, RESULT, ANSWER], "openai") == [USER, ANSWER]


def test_of_two_results_the_first_counts() -> None:
    rendered = render([USER, TURN, RESULT, {**RESULT, "content": "13:00"}], "openai")
    assert_valid(rendered)
    assert rendered[-1]["content"] == "12:00"


def test_calls_side_by_side_are_answered_in_their_order() -> None:
    turn = {"role": "assistant", "content": "Two.", "tool_calls": [{**CALL, "id": "a"}, {**CALL, "id": "b"}]}
    results = [{**RESULT, "tool_call_id": "b", "content": "2"}, {**RESULT, "tool_call_id": "a", "content": "1"}]
    rendered = render([USER, turn, *results], "openai")
    assert_valid(rendered)
    assert [it["content"] for it in rendered[2:]] == ["1", "2"]


@pytest.mark.parametrize("arguments", ['{"city": "Os', "", "[1]", '"Oslo"', "not JSON"])
def test_arguments_that_are_no_object_are_wrapped(arguments: str) -> None:
    turn = {**TURN, "tool_calls": [{**CALL, "function": {"name": "clock", "arguments": arguments}}]}
    assert_valid(render([USER, turn, RESULT], "anthropic"))


def test_arguments_that_are_nested_too_deeply_to_be_read_are_wrapped() -> None:
    call = {**CALL, "function": {"name": "clock", "arguments": '{"city":' + "[" * 100_000}}
    assert_valid(render([USER, {**TURN, "tool_calls": [call]}, RESULT], "openai"))


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("clock", "clock"),
        ("functions.clock<|channel|>x", "functions_clock__channel__x"),
        ("a" * 80, "a" * 64),
        ("\u00fcber", "_ber"),
        ("", "unnamed"),
    ],
)
def test_a_name_that_no_provider_takes_back_is_made_legal(name: str, legal: str) -> None:
    call = {**CALL, "function": {"name": name, "arguments": "{}"}}
    turn = render([USER, {**TURN, "tool_calls": [call]}, RESULT], "openai")[1]
    assert turn["tool_calls"][0]["function"]["name"] == legal


def test_what_a_provider_gave_for_its_own_use_goes_back_to_it_and_to_no_other() -> None:
    thoughts = {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}
    answer = {**ANSWER, "private": {"anthropic": thoughts}}
    assert render([USER, answer], "anthropic")[1] == {**ANSWER, **thoughts}
    assert render([USER, answer], "openai")[1] == ANSWER


def test_a_conversation_that_begins_with_the_assistant_gets_a_first_word() -> None:
    assert render([SYSTEM, ANSWER], "anthropic") == [SYSTEM, {"role": "user", "content": GOES_ON}, ANSWER]
    assert_valid(render([SYSTEM], "anthropic"))


def test_a_message_that_says_nothing_is_left_out() -> None:
    assert render([USER, {"role": "assistant", "content": ""}, USER], "openai") == [USER, USER]


TURNS = st.lists(
    st.one_of(
        st.builds(lambda text: {"role": "user", "content": text}, st.text(max_size=5)),
        st.builds(lambda text: {"role": "assistant", "content": text}, st.text(max_size=5)),
        st.builds(
            lambda ids, text, arguments: {
                "role": "assistant",
                "content": text,
                "tool_calls": [
                    {"id": id_, "type": "function", "function": {"name": "f", "arguments": arguments}} for id_ in ids
                ],
                "private": {"anthropic": {"thinking_blocks": []}},
            },
            st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3, unique=True),
            st.text(max_size=3),
            st.sampled_from(["{}", '{"a": 1}', '{"a', "", "7"]),
        ),
        st.builds(
            lambda id_, text: {"role": "tool", "tool_call_id": id_, "content": text},
            st.sampled_from("abcdef"),
            st.text(max_size=3),
        ),
    ),
    max_size=12,
)


@given(TURNS, st.sampled_from(["openai", "anthropic", "mistral", "gemini"]))
def test_whatever_was_said_is_rendered_so_that_every_provider_takes_it(turns: list[Any], provider: str) -> None:
    assert_valid(render(turns, provider), provider)


@given(TURNS, st.integers(0, 5))
def test_however_often_it_is_shortened_it_stays_valid_and_keeps_its_system_message(
    turns: list[Any], times: int
) -> None:
    shorter = shorten([SYSTEM, *turns], times)
    assert shorter[0] == SYSTEM
    assert len(shorter) <= len(turns) + 1
    assert_valid(render(shorter, "openai"))


def test_shortening_leaves_out_the_oldest_half() -> None:
    turns = [{"role": "user", "content": str(number)} for number in range(8)]
    assert shorten(turns, 0) == turns
    assert shorten(turns, 1) == turns[4:]
    assert shorten(turns, 2) == turns[6:]
    assert shorten(turns[:1], 3) == turns[:1]


def test_a_window_begins_at_a_users_message() -> None:
    turns = [USER, ANSWER, USER, TURN, RESULT, ANSWER]
    assert newest(turns, last=5) == 2
    assert newest(turns, last=2) == 4, "where there is none, at what fits"
    assert newest(turns, tokens=0) == 5, "the last message is always in it"
    assert newest(turns, tokens=sum(map(about_tokens, turns))) == 0
