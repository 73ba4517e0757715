"""What a tool takes: schemas out of functions, and arguments out of what models write."""

import contextlib
import dataclasses
import datetime
import enum
import functools
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import Context, Struct
from callboard.actors.tools.registry import function_tool
from callboard.actors.tools.schema import FunctionParameters, SchemaParameters, documentation
from callboard.protocols.errors import BadTool, InvalidArguments


class Color(enum.Enum):
    RED = "red"


class Place(Struct):
    city: str
    country: str = "IT"


class Filter(TypedDict, total=False):
    since: datetime.date


@dataclasses.dataclass
class Page:
    number: int


async def search(
    query: str,
    limit: Annotated[int, msgspec.Meta(ge=1, le=50)] = 10,
    where: Place | None = None,
    colors: list[Color] = [Color.RED],  # noqa: B006 - it is what the test is about
    *,
    order: Literal["new", "old"] = "new",
    idempotency_key: str = "",
    ctx: Context | None = None,
) -> list[str]:
    """Search the archive.

    Only what is public is found.

    Args:
        query: What to look for,
            in any language.
        limit: How many to give.

    Returns:
        Titles.
    """
    return []


def parameters(function: Callable[..., Any]) -> FunctionParameters:
    return FunctionParameters("tried", function)


def test_the_docstring_becomes_the_description_without_its_sections() -> None:
    assert function_tool(search).info.description == "Search the archive.\n\nOnly what is public is found."


def test_a_function_s_parameters_become_a_schema_that_says_which_are_required() -> None:
    schema = function_tool(search).info.schema
    assert schema["type"] == "object"
    assert schema["required"] == ["query"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["query"] == {"type": "string", "description": "What to look for, in any language."}
    limit = {"type": "integer", "minimum": 1, "maximum": 50, "default": 10, "description": "How many to give."}
    assert schema["properties"]["limit"] == limit
    assert schema["properties"]["order"] == {"enum": ["new", "old"], "default": "new"}
    assert schema["$defs"]["Place"]["required"] == ["city"]


def test_a_model_sees_neither_the_idempotency_key_nor_the_context() -> None:
    assert set(function_tool(search).info.schema["properties"]) == {"query", "limit", "where", "colors", "order"}


@pytest.mark.parametrize(
    "docstring",
    [
        "Do it.\n\nArgs:\n    path: Where it is.\n",
        "Do it.\n\n:param path: Where it is.\n:returns: nothing\n",
        "Do it.\n\nParameters\n----------\npath : str\n    Where it is.\n",
    ],
    ids=["google", "sphinx", "numpy"],
)
def test_parameters_are_described_by_the_docstring_in_each_of_its_styles(docstring: str) -> None:
    def do(path: str) -> None: ...

    do.__doc__ = docstring
    assert documentation(do) == ("Do it.", {"path": "Where it is."})


def test_arguments_are_decoded_to_the_types_that_the_function_names() -> None:
    def book(at: datetime.datetime, price: Decimal, page: Page, wanted: Filter, place: Place) -> None: ...

    written = (
        '{"at": "2026-11-21T10:00:00Z", "price": "0.10", "page": {"number": 3}, "wanted": {"since": "2026-01-01"},'
        ' "place": {"city": "Rome"}}'
    )
    assert parameters(book).decode(written) == {
        "at": datetime.datetime(2026, 11, 21, 10, tzinfo=datetime.UTC),
        "price": Decimal("0.10"),
        "page": Page(3),
        "wanted": {"since": datetime.date(2026, 1, 1)},
        "place": Place("Rome"),
    }


def test_arguments_that_are_left_out_are_the_function_s_defaults_and_no_two_calls_share_a_list() -> None:
    tool = function_tool(search)
    first, second = tool.decode('{"query": "tides"}'), tool.decode('{"query": "tides"}')
    expected = {"query": "tides", "limit": 10, "where": None, "colors": [Color.RED], "order": "new"}
    assert first == second == expected
    assert first["colors"] is not second["colors"]


def test_nothing_written_is_no_arguments() -> None:
    def now() -> str:
        return ""

    assert parameters(now).decode("") == {}
    assert parameters(now).decode(" {} ") == {}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ('{"query": 5}', "Expected `str`, got `int` - at `$.query`"),
        ("{}", "missing required field `query`"),
        ('{"query": "a", "depth": 1}', "unknown field `depth`"),
        ('{"query": "a", "limit": 99}', "Expected `int` <= 50 - at `$.limit`"),
        ('{"query": "a"', "truncated"),
        ("[]", "Expected `object`, got `array`"),
        ('{"query": "a", "limit": "5"}', "Expected `int`, got `str` - at `$.limit`"),
        ("{'query': 'a'}", "malformed"),
        ("[" * 100_000, "Expected `object`"),
        ('{"query": ' + "[" * 100_000, "Expected `str`"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_what_is_wrong(written: str, says: str) -> None:
    with pytest.raises(InvalidArguments, match=r"^Tool 'search' can't take these arguments: ") as error:
        function_tool(search).decode(written)
    assert says in error.value.reason


def test_what_is_nested_without_end_is_refused() -> None:
    def store(anything: Any) -> None: ...

    with pytest.raises(InvalidArguments):
        parameters(store).decode('{"anything": ' + "[" * 100_000 + "]" * 100_000 + "}")


@given(
    query=st.text(),
    limit=st.integers(1, 50),
    where=st.none() | st.builds(Place, st.text(), st.text()),
    colors=st.lists(st.sampled_from(Color)),
    order=st.sampled_from(["new", "old"]),
)
def test_what_a_function_may_take_comes_out_of_its_json_again(**arguments: Any) -> None:
    assert function_tool(search).decode(msgspec.json.encode(arguments).decode()) == arguments


@given(st.text())
def test_whatever_a_model_writes_is_decoded_or_refused(written: str) -> None:
    names = set()
    with contextlib.suppress(InvalidArguments):
        names = set(function_tool(search).decode(written))
    assert names in (set(), {"query", "limit", "where", "colors", "order"})


class Opaque:
    pass


def _untyped(a): ...  # type: ignore[no-untyped-def]
def _positional(a: int, /) -> None: ...
def _many(*numbers: int) -> None: ...
def _any_names(**options: int) -> None: ...
def _opaque(it: Opaque) -> None: ...
def _callback(done: Callable[[], None]) -> None: ...
def _unresolved(it: "Nowhere") -> None: ...  # type: ignore[name-defined] # noqa: F821
def _ambiguous(it: list[int] | set[int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_untyped, "parameter 'a' has no type: allowed are bool, int"),
        (_positional, "parameter 'a' is positional-only"),
        (_many, "parameter 'numbers' stands for any number of arguments"),
        (_any_names, "parameter 'options' stands for any number of arguments"),
        (_opaque, "parameter 'it' has a type that JSON has none for"),
        (_callback, "parameter 'done' has a type that JSON has none for"),
        (_unresolved, "an annotation can't be resolved (name 'Nowhere' is not defined)"),
        (
            _ambiguous,
            "parameter 'it' has a type that JSON has none for (Type unions may not contain more than one array",
        ),
    ],
)
def test_a_tool_without_a_schema_is_an_error_that_names_tool_and_parameter(
    function: Callable[..., Any], says: str
) -> None:
    with pytest.raises(BadTool) as error:
        function_tool(function)
    assert str(error.value).startswith(f"Tool '{function.__name__}' can't be used: ")
    assert says in str(error.value)


def test_the_types_of_hidden_parameters_need_not_be_importable() -> None:
    def greet(name: str, ctx: "Elsewhere") -> None: ...  # type: ignore[name-defined] # noqa: F821

    assert parameters(greet).decode('{"name": "Ann"}') == {"name": "Ann"}


def test_a_default_that_json_can_not_show_is_a_default_all_the_same() -> None:
    opaque = Opaque()

    def store(where: Any = opaque, above: float = float("inf")) -> None: ...

    compiled = parameters(store)
    assert "default" not in compiled.schema["properties"]["where"]
    assert "default" not in compiled.schema["properties"]["above"]
    assert compiled.decode("{}")["above"] == float("inf")
    assert isinstance(compiled.decode("{}")["where"], Opaque)


class Shelf:
    def put(self, book: str, level: int = 1) -> str:
        """Put a book on the shelf."""
        return f"{book} on {level}"

    def __call__(self, book: str) -> str:
        """Find a book."""
        return book


def test_methods_partial_functions_and_objects_that_can_be_called_are_tools_too() -> None:
    assert function_tool(Shelf().put).decode('{"book": "Emma"}') == {"book": "Emma", "level": 1}
    low = functools.partial(Shelf().put, level=0)
    assert function_tool(low).decode('{"book": "Emma"}') == {"book": "Emma", "level": 0}
    assert parameters(Shelf()).decode('{"book": "Emma"}') == {"book": "Emma"}


# -- schemas that others give -------------------------------------------------------------------------------------


def test_arguments_are_held_against_a_schema_that_was_given() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}, "required": ["n"]}
    given = SchemaParameters("count", schema)
    assert given.schema == schema
    assert given.decode('{"n": 2}') == {"n": 2}
    for written, says in (("{}", "'n' is a required property"), ('{"n": 9}', "9 is greater than the maximum of 3")):
        with pytest.raises(InvalidArguments) as error:
            given.decode(written)
        assert says in error.value.reason
    with pytest.raises(InvalidArguments, match=r"malformed|truncated"):
        given.decode('{"n": ')


def test_a_schema_that_is_no_object_is_the_one_argument_input() -> None:
    given = SchemaParameters(
        "say", {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/N"}], "$defs": {"N": {"type": "integer"}}}
    )
    assert given.wrapped
    assert given.schema["required"] == ["input"]
    assert given.decode('{"input": 5}') == {"input": 5}
    with pytest.raises(InvalidArguments):
        given.decode('{"input": []}')


def test_a_schema_that_is_one_reference_is_put_in_its_place() -> None:
    place = {"type": "object", "properties": {"city": {"type": "string"}}}
    given = SchemaParameters("go", {"$ref": "#/$defs/Place", "$defs": {"Place": place}})
    assert given.schema["properties"] == place["properties"]
    assert not given.wrapped


@pytest.mark.parametrize("schema", [{"type": "no such type"}, {"type": "object", "properties": {"a": 5}}])
def test_what_is_no_json_schema_is_an_error_that_names_the_tool(schema: dict[str, Any]) -> None:
    with pytest.raises(BadTool, match="Tool 'odd' can't be used: its parameters have no valid JSON Schema"):
        SchemaParameters("odd", schema)


def test_a_schema_never_has_another_document_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", fetched.append)
    given = SchemaParameters("odd", {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema"}}})
    with pytest.raises(InvalidArguments, match=r"refers to 'http://127\.0\.0\.1:9/schema'"):
        given.decode('{"a": 1}')
    assert fetched == []


def test_what_a_validator_says_is_shortened() -> None:
    given = SchemaParameters("say", {"type": "object", "properties": {"text": {"type": "integer"}}})
    with pytest.raises(InvalidArguments) as error:
        given.decode(msgspec.json.encode({"text": "a" * 10_000}).decode())
    assert len(str(error.value)) < 700
