"""Conversations as providers take them. Pure.

The log may end in mid-turn, a window may begin in one, and a conversation may go from one provider to another. What is
sent must be valid all the same, or a provider answers with 400:

    every tool call has one result, right behind it         an unanswered one is closed; a result without a call goes
    ids of tool calls are such as the provider takes         others are made anew
    names of tool calls are such as providers take           what they don't take in them is replaced
    arguments of tool calls are JSON objects                 what a model wrote wrongly is wrapped
    what one provider gave for its own use goes to no other  signed thoughts and the like
    no message is empty, and the first one is the user's
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from callboard.actors.models.call import ChatMessage

UNANSWERED: Final = "(There is no result: the call was interrupted.)"
GOES_ON: Final = "(The conversation goes on.)"
ID_LENGTH: Final = 9  # Mistral takes no other, and everybody takes this one
TAKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")  # by OpenAI and Anthropic
MAX_NAME: Final = 64
LEGAL_NAME: Final = re.compile(rf"[a-zA-Z0-9_-]{{1,{MAX_NAME}}}")  # of a tool: all providers take it
OWN_IDS: Final = ("gemini", "vertex_ai")  # litellm hides in them what these want back
OVERHEAD_BYTES: Final = 16  # of a message, beside its text
OURS: Final = ("private", "untrusted", "tool_calls")  # what of a message goes to no provider as it is
BYTES_A_TOKEN: Final = 3  # an estimate for windows: English has 4 to 5, code 3


def render(messages: Sequence[ChatMessage], provider: str) -> list[dict[str, Any]]:
    """A conversation for a provider ("openai", "anthropic" ...), valid whatever became of it."""
    rendered: list[dict[str, Any]] = []
    results: dict[str, ChatMessage] = {}
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            continue  # each goes right behind its call
        if role == "assistant" and message.get("tool_calls"):
            results = _results(messages[place + 1 :])
            rendered += _turn(message, results, provider)
        elif message.get("content"):
            rendered.append(_plain(message, provider))
    first = next((place for place, it in enumerate(rendered) if it["role"] != "system"), None)
    if first is None or rendered[first]["role"] != "user":
        rendered.insert(len(rendered) if first is None else first, {"role": "user", "content": GOES_ON})
    return rendered


def _results(following: Iterable[ChatMessage]) -> dict[str, ChatMessage]:
    """The results that stand behind a turn with tool calls, up to the next one that speaks; the first of each call."""
    results: dict[str, ChatMessage] = {}
    for message in following:
        if message["role"] == "tool":
            results.setdefault(str(message.get("tool_call_id", "")), message)
        elif message["role"] == "assistant":
            break
    return results


def _turn(message: ChatMessage, results: Mapping[str, ChatMessage], provider: str) -> list[dict[str, Any]]:
    """An assistant's message with tool calls, and a result for each of them."""
    calls, answers = [], []
    for place, call in enumerate(message["tool_calls"]):
        own = str(call.get("id") or place)
        id_ = _id(own, provider)
        function = call["function"]
        arguments = _object(function.get("arguments", ""))
        calls.append(
            {"id": id_, "type": "function", "function": {"name": _name(function["name"]), "arguments": arguments}}
        )
        answer = results.get(own)
        content = (answer.get("content") or "(empty)") if answer is not None else UNANSWERED
        answers.append({"role": "tool", "tool_call_id": id_, "content": content})
    turn = _plain(message, provider)
    turn["content"] = turn.get("content") or None
    return [{**turn, "tool_calls": calls}, *answers]


def _plain(message: ChatMessage, provider: str) -> dict[str, Any]:
    """A message with what its provider gave for its own use, if it goes back there, and without it if not."""
    own = (message.get("private") or {}).get(provider) or {}
    return {**{name: value for name, value in message.items() if name not in OURS}, **own}


def _id(id_: str, provider: str) -> str:
    """An id that a provider takes: the same for the same one, in whichever call it occurs."""
    if provider in OWN_IDS or (provider != "mistral" and TAKEN.fullmatch(id_)):
        return id_
    return base64.b32encode(hashlib.blake2b(id_.encode(), digest_size=8).digest()).decode()[:ID_LENGTH].lower()


def _name(name: str) -> str:
    """A tool's name that providers take: a model may have called one by another, and been told that there is none."""
    return name if LEGAL_NAME.fullmatch(name) else (re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:MAX_NAME] or "unnamed")


def _object(arguments: str) -> str:
    """Arguments as a JSON object: what is none is wrapped, so that the model sees what it wrote."""
    try:
        msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return msgspec.json.encode({"invalid": arguments}).decode()
    return arguments or "{}"


# -- length ----------------------------------------------------------------------------------------------------


def about_tokens(message: ChatMessage) -> int:
    """An estimate of a message's tokens, good for windows and rates; what counts is what the provider reports."""
    return (len(msgspec.json.encode(message)) + OVERHEAD_BYTES) // BYTES_A_TOKEN


def split_system(messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[ChatMessage]]:
    """The system messages that a conversation begins with, and the rest."""
    place = next((n for n, it in enumerate(messages) if it["role"] != "system"), len(messages))
    return list(messages[:place]), list(messages[place:])


def newest(messages: Sequence[ChatMessage], *, last: int | None = None, tokens: int | None = None) -> int:
    """Where a window begins that holds so many of the last messages at most, and so many tokens; the last message is
    always in it. It begins at a user's message if it can: never between a tool call and its result.
    """
    begin = max(len(messages) - last, 0) if last is not None else 0
    if tokens is not None:
        room = tokens
        for place in range(len(messages) - 1, begin - 1, -1):
            room -= about_tokens(messages[place])
            if room < 0:
                begin = place + 1
                break
    begin = min(begin, len(messages) - 1)
    return next((place for place in range(begin, len(messages)) if messages[place]["role"] == "user"), begin)


def shorten(messages: Sequence[ChatMessage], times: int) -> list[ChatMessage]:
    """A conversation whose oldest half is left out, so many times; the system's messages and the last one stay."""
    system, rest = split_system(messages)
    if not times or len(rest) < 2:
        return list(messages)
    return system + rest[newest(rest, last=max(len(rest) >> times, 1)) :]
