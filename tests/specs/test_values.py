"""Users' values as JSON: what is refused, with its place; and the one form that fingerprints are made of."""

import dataclasses
import enum
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from callboard.actors.state.steps import counted_as, fingerprint, same_input
from callboard.protocols.errors import NotStorable
from callboard.protocols.messages import part_of
from callboard.protocols.values import MAX_DEPTH, canonical, encode_value


class Brief(msgspec.Struct, frozen=True):
    topic: str
    words: int = 300


class Tagged(msgspec.Struct, frozen=True):
    tags: frozenset[Any]


@dataclasses.dataclass
class Point:
    x: float
    y: float


class Receipt(pydantic.BaseModel):
    id: int
    tags: set[str] = set()
    total: float = 0.0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "result is NaN"),
        ({"items": [1, None, {"score": float("nan")}]}, "result.items[2].score is NaN"),
        ({"a key": (1.0, float("-inf"))}, "result['a key'][1] is -Infinity"),
        ([Point(1, float("inf"))], "result[0].y is Infinity"),
        ({"paid": Receipt(id=1, total=float("nan"))}, "result.paid.total is NaN"),
        (["fine", "\ud83d"], "result[1] has half a surrogate pair"),
        ({"\ud83d": 1}, "a key of result has half a surrogate pair"),
        ({"at": [object()]}, "result.at[0] is of type object"),
        ({"at": range(3)}, "result.at is of type range"),
        ({(1, 2): 3}, "a key of result is of type tuple"),
        ({"at": {None: 3}}, "a key of result.at is of type NoneType"),
        (endless(), "result is nested more than"),
        (nested(MAX_DEPTH + 1), "result is nested more than"),
        (nested(5000), "result is nested more than"),
    ],
)
def test_what_json_has_no_form_for_is_refused_with_its_place(value: object, says: str) -> None:
    with pytest.raises(NotStorable) as error:
        encode_value(value, "result")
    assert str(error.value).startswith(says)


def test_brackets_in_texts_are_no_levels() -> None:
    value = ["[" * 500, '\\"' + "{" * 500, *[{}] * 500, nested(MAX_DEPTH - 1)]
    assert msgspec.json.decode(encode_value(value)) == value


def test_models_and_subclasses_of_scalars_are_json() -> None:
    class Name(str):
        __slots__ = ()

    value = {"who": Name("Emma"), "paid": [Receipt(id=1, tags={"a"})]}
    assert encode_value(value) == b'{"who":"Emma","paid":[{"id":1,"tags":["a"],"total":0.0}]}'
    part = part_of(Receipt(id=2))
    assert part.metadata == {"type": "Receipt"}
    with pytest.raises(NotStorable, match=r"the payload\.total is NaN"):
        part_of(Receipt(id=1, total=float("nan")))


# Recorded tasks have these fingerprints in the log: they must stay.
@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (((), {}), "c3228f8cf811caaf"),
        ((("tides", 3), {"limit": 2, "over": None}), "306cf86de80583ed"),
        (Brief("tides"), "aac7cc30b52719f6"),
        ([Point(1, 2)], "adf0a69349d8d2ab"),
        (Colour.RED, "230b6d8034c9aba1"),
        (Decimal("1.50"), "1bffa9c91d7c9c15"),
        (datetime(2030, 1, 31, 9, tzinfo=UTC), "1262850b24edaab1"),
        (b"bytes", "3cf7cc0b4d8c5afa"),
        ({1, 2, 10}, "0b9385b44daa7c6d"),
        ({"one"}, "886a588ec0a69adc"),
        (frozenset(), "71857576257465c7"),
        ({1: "a", 2: ["b"]}, "e4ece9f18beaa89a"),
        (1.5, "7a148f2c63572d35"),
        (float("nan"), "7376b2cbfa0ad26e"),
        ("Grüße", "7e3cfd9c8e5733fc"),
        (UUID(int=7), "d6ba332b6a9b6525"),
        (timedelta(seconds=5), "9d93ec78cff186d8"),
        (("clerk", None, "assign", {"draft": "text", "round": 1}), "7f8a0db4c10b76a9"),
    ],
)
def test_fingerprints_stay_as_they_are_in_the_log(value: object, recorded: str) -> None:
    assert fingerprint(value) == recorded


def test_a_dict_in_another_order_is_the_same_input_and_so_is_what_was_recorded_of_it_before() -> None:
    one, other = fingerprint([{"role": "user", "content": "x"}]), fingerprint([{"content": "x", "role": "user"}])
    before = one.partition(".")[0]
    assert same_input(one, other)
    assert same_input(other, one)
    assert same_input(before, one)
    assert counted_as(one) == counted_as(other)
    assert not same_input(one, fingerprint([{"content": "y", "role": "user"}]))


SETS = """
import enum, sys
from dataclasses import dataclass
from typing import Any
import msgspec, pydantic
from callboard.actors.state.steps import fingerprint

class Tagged(msgspec.Struct, frozen=True):
    tags: frozenset[Any]

class Labels(pydantic.BaseModel):
    all: set[str]
    more: list[set[str]] = []

@dataclass
class Crew:
    names: set[str]

class Colour(enum.Enum):
    RED, BLUE, GREEN = "red", "blue", "green"

words = {"alpha", "beta", "gamma", "delta", "epsilon"}
for value in (
    words,
    {"tags": [words, frozenset(words)]},
    Tagged(frozenset(frozenset({word, word.upper()}) for word in words)),
    Labels(all=words, more=[words]),
    [Crew(words)],
    set(Colour),
    {*words, 1, None, 2.5, Colour.RED},
    {frozenset(words), frozenset({"alpha", "beta"}), frozenset({"alpha"})},
    {word: len(word) for word in words},
    {(word, 1) for word in words},
):
    print(fingerprint(value))
"""


def test_a_set_is_the_same_input_in_a_process_with_another_hash_seed() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", SETS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert len(told[0]) == 10
    assert [same_input(one, other) for one, other in zip(*told, strict=True)] == [True] * 10


def test_the_canonical_form_leaves_the_value_alone() -> None:
    value = Tagged(frozenset({"b", "a"}))
    assert canonical(value).tags == ["a", "b"]
    assert value.tags == {"a", "b"}
    assert canonical({"b": 1, "a": Brief("x")}) == {"a": Brief("x"), "b": 1}


def test_sets_that_differ_are_told_apart() -> None:
    assert not same_input(fingerprint({"a", "b"}), fingerprint({"a", "c"}))
    assert not same_input(fingerprint(Tagged(frozenset({"a", "b"}))), fingerprint(Tagged(frozenset({"a", "b", "c"}))))
