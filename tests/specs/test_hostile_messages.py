"""Messages that no actor of ours sends: each ends as a dead letter or is discarded, and nothing else happens."""

import asyncio
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import Context
from callboard.protocols.events import ENDS_TASK
from callboard.protocols.messages import Message, decode_message, encode_message, part_of
from callboard.protocols.names import MAX_KEY_LENGTH
from callboard.testing import Play, spec
from tests.actor_kit import Echo, actor

GOOD: dict[str, Any] = {
    "kind": "assign",
    "to": "clerk/zzz",
    "sender": "run/r",
    "run": "r",
    "task": "zzz",
    "id": "run/r@1.0",
    "parts": [{"data": 1}],
}
# Fields that are wrong, and what of them is no message at all
BROKEN: list[dict[str, Any]] = [
    {"kind": "cancel", "parts": [{}]},
    {"kind": "reply", "parts": [{}], "step": "a#0"},
    {"parts": [{}]},
    {"parts": [{"text": "a", "data": 1}]},
    {"id": "run/r\0@1.0"},
    {"id": ""},
    {"id": "run/r\n@1.0"},
    {"task": "z\0z"},
    {"task": ""},
    {"run": ""},
    {"run": "r\0"},
    {"sender": "run/\0"},
    {"to": "clerk/a\nb"},
    {"to": "clerk/a b"},
    {"to": "clerk/a\0b"},
    {"to": "clerk/"},
    {"to": "clerk"},
    {"to": "run/r"},
    {"to": "clerk/" + "x" * (MAX_KEY_LENGTH + 1)},
    {"parent": "\0"},
    {"causation": "\x1b[31m"},
    {"correlation": "\0"},
    {"tenant": "a\0b"},
    {"traceparent": "\r\n"},
    {"step": "a\0b"},
    {"reply_to": {"actor": "x/\0", "task": "t", "step": "s"}},
    {"reply_to": {"actor": "x/y", "task": "t", "step": "\0"}},
    {"deadline": "2030-01-01T00:00:00"},
    {"deadline": "0001-01-01T00:00:00+14:00"},
    {"due_at": "2030-01-01T00:00:00"},
    {"task": "z" * 5000},
]
# What is a message, but makes no sense
ODD: list[dict[str, Any]] = [
    {"parts": [{"data": 1, "metadata": {"type": ["x"]}}]},
    {"parts": [{"data": 1, "metadata": {"type": {"a": 1}}}]},
    {"parts": [{"data": 1, "metadata": {"type": 3}}]},
    {"kind": "cancel", "parts": []},
    {"kind": "cancel", "parts": [{"raw": "AAAA"}]},
    {"kind": "decision", "parts": [], "step": "nothing#0"},
    {"kind": "timer"},
    {"kind": "reply"},
    {"kind": "reply", "step": "nothing#0"},
    {"kind": "feedback"},
    {"kind": "handoff", "depth": -1, "handoffs": -5},
    {"parts": None},
    {"priority": "high", "deadline": "1970-01-01T00:00:00Z"},
]


async def clerk(payload: Any, ctx: Context) -> Any:
    return payload


async def deliver(play: Play, content: bytes, role: str = "clerk") -> None:
    route = play.directory.route(role)
    assert route is not None
    play.bus.add(route, 0, content)
    for _ in range(100):
        await asyncio.sleep(0)
    await play.quiet()


@pytest.mark.parametrize("fields", BROKEN)
async def test_what_is_no_message_becomes_a_dead_letter(fields: dict[str, Any]) -> None:
    async with spec(actor("clerk", clerk), Echo) as play:
        await deliver(play, msgspec.json.encode({**GOOD, **fields}))
        assert len(play.undecodable) == 1
        assert not play.log
        assert await play.result(await play.when("echo", "still here")) == "still here"


@pytest.mark.parametrize("fields", ODD)
async def test_what_makes_no_sense_ends_in_the_log(fields: dict[str, Any]) -> None:
    async with spec(actor("clerk", clerk), Echo) as play:
        await deliver(play, msgspec.json.encode({**GOOD, **fields}))
        assert not play.undecodable
        handled = [it for it in play.log if it.meta.handles == GOOD["id"]]
        assert len(handled) == 1
        started = [it for it in play.log if it.type == "task.started"]
        assert len(started) == len([it for it in play.log if it.type in ENDS_TASK])
        assert len(play.log) < 5
        assert await play.result(await play.when("echo", "still here")) == "still here"


@pytest.mark.parametrize("kind", ["assign", "cancel", "decision", "feedback"])
@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 900 + b"]" * 900, b"1e999", b'"\\u0000"'])
async def test_content_that_python_can_not_take_ends_its_task_alone(kind: str, content: bytes) -> None:
    async def listen(ctx: Context) -> Any:
        return (await ctx.receive("feedback")).content

    async with spec(actor("clerk", clerk), actor("waiter", listen), Echo) as play:
        sent = await play.when("waiter/w", 1)
        whole = {**GOOD, "kind": kind, "parts": [{"data": 0}]}
        role = "clerk" if kind == "assign" else "waiter"
        there = {"to": "waiter/w", "task": sent.task, "step": "receive:feedback#0"} if kind != "assign" else {}
        await deliver(play, msgspec.json.encode({**whole, **there}).replace(b'"data":0', b'"data":' + content), role)
        assert await play.result(await play.when("echo", "still here")) == "still here"


@given(st.text(max_size=30), st.sampled_from(["id", "task", "run", "to", "sender", "parent", "causation"]))
def test_any_name_is_taken_or_refused(name: str, field: str) -> None:
    encoded = msgspec.json.encode({**GOOD, field: name})
    try:
        message = decode_message(encoded)
    except msgspec.ValidationError:
        return
    assert "\0" not in name
    assert name.isprintable()
    assert decode_message(encode_message(message)) == message


def test_a_message_of_ours_comes_back() -> None:
    message = Message(
        kind="assign",
        to="clerk/a-b_c.d:e",
        sender="writer/dave",
        run="r",
        task="t",
        id="writer/dave@7.0",
        parts=(part_of("x"),),
        deadline=datetime.fromisoformat("2030-01-01T00:00:00+02:00"),
        depth=3,
        handoffs=2,
    )
    assert decode_message(encode_message(message)).depth == 3
