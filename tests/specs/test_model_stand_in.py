"""The stand-in gives answers of a type, so that what asks for them runs without a key."""

from typing import Any, Literal

import msgspec
import pytest

from callboard.actors.models.call import Call
from callboard.actors.models.stand_in import STAND_IN, StandIn
from callboard.actors.models.structured import AnswerType


class Part(msgspec.Struct):
    """A part."""

    name: str
    kind: Literal["a", "b"]


class Whole(msgspec.Struct):
    """A type with everything in it."""

    text: str
    good: bool
    score: int
    share: float
    parts: list[Part]
    first: Part
    pair: tuple[int, str]
    nothing: None = None
    more: str = "default"


@pytest.mark.parametrize("wanted", [Whole, Part, int, str, bool, list[Part], str | None, dict[str, int], float])
async def test_an_answer_of_a_type_fits_it(wanted: Any) -> None:
    answer = AnswerType(wanted)
    call = Call(model=STAND_IN, messages=({"role": "user", "content": "Review tides."},), returns=answer.schema)
    reply = await StandIn().complete(call)
    msgspec.convert(answer.decode(reply.text, reply.finish_reason), wanted)
    worst = StandIn().worst_case(call)
    assert reply.cost is not None
    assert reply.cost.amount <= worst.amount
