"""Types of payloads, results, answers and parameters: what is decoded to them, and their JSON Schema."""

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from callboard.actors.models.structured import AnswerType
from callboard.actors.tools.registry import function_tool
from callboard.protocols.errors import BadTool, InvalidArguments, NotStorable
from callboard.protocols.types import check_class, check_type, decode_as, fields_in_words, json_schema


class Item(pydantic.BaseModel):
    name: str
    tags: set[str] = set()


class Order(pydantic.BaseModel):
    number: int = pydantic.Field(alias="orderNumber", ge=1)
    items: list[Item] = []


class Click(pydantic.BaseModel):
    kind: Literal["click"]
    x: int


class Key(pydantic.BaseModel):
    kind: Literal["key"]
    code: str


class Note(TypedDict):
    item: Item
    text: NotRequired[str]


@dataclasses.dataclass
class Parcel:
    order: Order
    weight: float = 1.0


class Left(msgspec.Struct):
    a: int


class Right(msgspec.Struct):
    b: int


class Opaque:
    pass


Event = Annotated[Click | Key, pydantic.Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("encoded", "wanted", "value"),
    [
        (b'{"orderNumber": 7, "items": [{"name": "cup", "tags": ["a"]}]}', Order, "Order"),
        (b'{"order": {"orderNumber": 7}}', Parcel, "Parcel"),
        (b'{"item": {"name": "cup"}}', Note, "dict"),
        (b'[{"name": "cup"}]', list[Item], "list"),
        (b"null", Item | None, "NoneType"),
        (b'{"kind": "key", "code": "a"}', Event, "Key"),
        (b'{"kind": "click", "x": 1}', Click | Key, "Click"),
    ],
)
def test_models_are_decoded_in_any_nesting(encoded: bytes, wanted: Any, value: str) -> None:
    assert type(decode_as(encoded, wanted)).__name__ == value


def test_what_does_not_fit_a_model_is_said_in_a_line() -> None:
    with pytest.raises(msgspec.ValidationError, match="orderNumber: Input should be greater than or equal to 1"):
        decode_as(b'{"orderNumber": 0}', Order)
    with pytest.raises(msgspec.ValidationError, match=r"name: Field required - at `\$\.item`"):
        decode_as(b'{"item": {}}', Note)
    with pytest.raises(msgspec.ValidationError, match=r"click\.x: "):
        decode_as(b'{"kind": "click", "x": "far"}', Event)


def test_json_that_can_not_be_read_is_a_decode_error() -> None:
    for encoded in (b"[" * 100_000, '"\ud83d"', b'"\xff"', b'"\\ud83d"'):
        with pytest.raises(msgspec.DecodeError):
            decode_as(encoded)


def test_definitions_in_a_models_schema_are_those_of_the_whole() -> None:
    (parcel, event), definitions = json_schema([Parcel, Event])
    assert parcel == {"$ref": "#/$defs/Parcel"}
    assert {"Parcel", "Item", "Click", "Key"} <= set(definitions)
    assert definitions["Parcel"]["properties"]["order"]["properties"]["items"]["items"] == {"$ref": "#/$defs/Item"}
    assert event["discriminator"]["propertyName"] == "kind"


def test_two_definitions_of_one_name_are_kept_apart() -> None:
    def lamp() -> Any:
        class Item(pydantic.BaseModel):
            watts: int

        class Lamp(pydantic.BaseModel):
            items: list[Item]

        return Lamp

    (order, shop), definitions = json_schema([Order, lamp()])
    assert order["properties"]["items"]["items"] == {"$ref": "#/$defs/Item"}
    assert shop["properties"]["items"]["items"] == {"$ref": "#/$defs/Lamp.Item"}
    assert "watts" in definitions["Lamp.Item"]["properties"]


@pytest.mark.parametrize(
    "wanted", [Opaque, list[Opaque], Left | Right, Iterator[int], complex, dict[str, Opaque | None]]
)
def test_a_type_that_no_json_can_be_is_refused_by_its_name(wanted: Any) -> None:
    with pytest.raises(NotStorable, match=r"the result is of type .*, which can't be made of JSON"):
        check_type(wanted, "the result")


@pytest.mark.parametrize(
    "wanted", [Any, None, object, Order, Click | Key, Iterable[int], dict[str, Item], Parcel, Note]
)
def test_a_type_that_json_can_be_is_taken(wanted: Any) -> None:
    check_type(wanted, "the result")


def test_a_union_that_can_not_be_told_apart_can_still_be_stored() -> None:
    check_class(Left | Right, "the result")


def test_fields_are_told_in_words() -> None:
    assert fields_in_words(Order) == ["orderNumber: int", "items?: list"]
    assert fields_in_words(Parcel) == ["order: Order", "weight?: float"]
    assert fields_in_words(Note) == ["item: Item", "text?: str"]
    assert fields_in_words(int) is None


def test_an_answer_may_be_a_model_or_one_of_several() -> None:
    order = AnswerType(Order)
    assert order.schema["properties"]["orderNumber"]["type"] == "integer"
    assert order.decode('{"orderNumber": 3}', "stop").number == 3
    either = AnswerType(Click | Key)
    assert either.decode('{"value": {"kind": "key", "code": "a"}}', "stop") == Key(kind="key", code="a")
    with pytest.raises(msgspec.DecodeError, match="nested more than"):
        AnswerType(list[Any]).decode('{"value": ' + "[" * 100_000, "stop")


def test_a_tools_parameters_may_be_models() -> None:
    def handle(order: Order, event: Click | Key, note: Note | None = None) -> str:
        """Handle an order."""
        return ""

    it = function_tool(handle)
    schema = it.info.schema
    assert schema["required"] == ["order", "event"]
    assert schema["properties"]["event"]["anyOf"] == [{"$ref": "#/$defs/Click"}, {"$ref": "#/$defs/Key"}]
    assert {"Item", "Click", "Key"} <= set(schema["$defs"])
    given = it.decode('{"order": {"orderNumber": 1}, "event": {"kind": "click", "x": 2}}')
    assert given == {"order": Order(orderNumber=1), "event": Click(kind="click", x=2), "note": None}
    with pytest.raises(InvalidArguments, match="orderNumber: Field required"):
        it.decode('{"order": {}, "event": {"kind": "click", "x": 2}}')
    with pytest.raises(InvalidArguments, match="Field required"):
        it.decode('{"order": {"orderNumber": 1}, "event": {"kind": "click"}}')


def test_arguments_that_are_nested_too_deeply_to_be_stored_are_refused() -> None:
    def keep(value: Any) -> None:
        """Keep it."""

    it = function_tool(keep)
    for levels in (300, 100_000):
        with pytest.raises(InvalidArguments, match="nested more than 200 levels"):
            it.decode('{"value": ' + "[" * levels + "]" * levels + "}")


def test_a_tool_whose_result_can_be_no_json_is_refused_before_it_runs() -> None:
    def make() -> Opaque:
        return Opaque()

    with pytest.raises(BadTool, match="what it returns is of type Opaque, which can't be made of JSON"):
        function_tool(make)


def test_a_model_that_holds_itself_has_a_schema() -> None:
    assert typing.get_type_hints(Tree)["children"] == list[Tree]
    (schema,), definitions = json_schema([Tree])
    assert schema == {"$ref": "#/$defs/Tree"}
    assert definitions["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert AnswerType(Tree).decode('{"children": [{}]}', "stop") == Tree(children=[Tree()])


class Tree(pydantic.BaseModel):
    children: list["Tree"] = []
