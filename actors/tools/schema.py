"""What a tool takes: a JSON Schema for models, and what they write, decoded and checked.

A Python function's parameters become the fields of a Struct, of which msgspec makes the schema and the decoder. What
others declare (an actor, an MCP server) comes as a schema already.
"""

import copy
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from callboard.actors.tools.functions import bound, type_hint_names, underlying
from callboard.protocols.errors import BadTool, InvalidArguments, NotStorable
from callboard.protocols.types import Decode, convert, decoder, is_decodable, json_schema
from callboard.protocols.values import check_depth, encode_value, is_model

HIDDEN: Final = ("idempotency_key", "ctx")  # parameters that a model doesn't see: the runtime gives them
INPUT: Final = "input"  # the one argument of what takes something else than an object
MAX_REASON: Final = 500  # characters of what a validator says: it may quote all of the arguments
ALLOWED: Final = (
    "allowed are bool, int, float, str, bytes, None, Decimal, UUID, dates and times, Literal, enums, list, tuple, set, "
    "dict, TypedDict, dataclasses, Structs, pydantic models, unions of them, and Any"
)
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = Mapping[str, Any]


class Parameters(Protocol):
    """What a tool takes."""

    @property
    def schema(self) -> Schema:
        """A JSON Schema of type object."""
        ...

    def decode(self, arguments: str) -> dict[str, Any]:
        """The arguments out of the JSON that a model wrote, checked; raises InvalidArguments."""
        ...


class FunctionParameters:
    """What a Python function takes. Raises BadTool, with the parameter that no schema can be made for."""

    def __init__(self, tool: str, function: Callable[..., Any], documented: Mapping[str, str] | None = None) -> None:
        self._tool = tool
        fields = _fields(tool, function)
        self._by_pydantic = {name: hint for name, hint, _ in fields if not is_decodable(hint)}
        whole_fields = [(name, Any if name in self._by_pydantic else hint, it) for name, hint, it in fields]
        struct = msgspec.defstruct("Arguments", whole_fields, forbid_unknown_fields=True, kw_only=True)
        self._decode = decoder(struct)
        (whole,), components = json_schema([struct])
        schema = components.pop(whole["$ref"].rpartition("/")[2])
        del schema["title"]
        for name, hint in self._by_pydantic.items():
            (part,), more = json_schema([hint])
            schema["properties"][name].update(part)
            components.update(more)
        for name, text in (documented or {}).items():
            if name in schema["properties"]:
                schema["properties"][name].setdefault("description", text)
        self.schema: Schema = {**schema, "$defs": components} if components else schema

    def decode(self, arguments: str) -> dict[str, Any]:
        """The keyword arguments, with the function's defaults; raises InvalidArguments."""
        try:
            decoded = _decoded(self._decode, arguments)
            given = {name: getattr(decoded, name) for name in decoded.__struct_fields__}
            for name, hint in self._by_pydantic.items():
                given[name] = convert(given[name], hint)
        except (msgspec.DecodeError, NotStorable) as error:
            raise InvalidArguments(self._tool, _shortened(str(error))) from None
        return given


class SchemaParameters:
    """What a JSON Schema says; one that is not of type object becomes the one argument `input`. Raises BadTool.

    Nothing is fetched: a schema that refers to another document can't be used.
    """

    def __init__(self, tool: str, schema: Schema) -> None:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
        from referencing import Registry

        self._tool = tool
        schema = _inlined(schema)
        self.wrapped = schema.get("type") != "object"
        if self.wrapped:
            definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
            bare = {name: value for name, value in schema.items() if name not in definitions}
            schema = {"type": "object", "properties": {INPUT: bare}, "required": [INPUT], **definitions}
        self.schema = schema
        validator = validator_for({"$schema": DIALECT, **schema})
        try:
            validator.check_schema(schema)
        except SchemaError as error:
            raise BadTool(tool, f"its parameters have no valid JSON Schema ({_shortened(error.message)})") from None
        self._validator = validator(schema, registry=Registry())

    def decode(self, arguments: str) -> dict[str, Any]:
        """The arguments as plain data; raises InvalidArguments."""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            decoded = _decoded(decoder(Any), arguments)
            worst = best_match(self._validator.iter_errors(decoded))
        except (msgspec.DecodeError, NotStorable, RecursionError) as error:
            raise InvalidArguments(self._tool, _shortened(str(error))) from None
        except Unresolvable as error:
            raise InvalidArguments(
                self._tool, f"its schema refers to {error.ref!r}, which it doesn't contain"
            ) from None
        if worst is not None:
            raise InvalidArguments(self._tool, f"{_shortened(worst.message)} - at `{worst.json_path}`")
        return dict(decoded)


def documentation(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a function's docstring says of it, and of each parameter (Google, NumPy, or Sphinx style)."""
    text = inspect.getdoc(underlying(function)) or ""
    if not text:
        return "", {}
    import docstring_parser  # 40 ms, and only who has tools needs it

    parsed = docstring_parser.parse(text)
    described = {
        each.arg_name: " ".join(each.description.split()) for each in parsed.params if each.description is not None
    }
    whole = "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)
    return whole, described


def _fields(tool: str, function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """A Struct's fields for a function's parameters."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise BadTool(tool, f"its parameters can't be seen ({error})") from None
    seen = {name: it for name, it in parameters.items() if name not in HIDDEN}
    hints = _hints(tool, function, seen)
    given = bound(function)[1]  # by a partial: what has no type that JSON has is no business of a model's
    seen = {name: it for name, it in seen.items() if name not in given or (name in hints and _has_schema(hints[name]))}
    for name, parameter in seen.items():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise BadTool(tool, f"its parameter {name!r} is positional-only: models give arguments by name")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise BadTool(tool, f"its parameter {name!r} stands for any number of arguments: name each of them")
        if name not in hints:
            raise BadTool(tool, f"its parameter {name!r} has no type: {ALLOWED}")
        try:
            json_schema([hints[name]])
        except TypeError as error:
            reason = str(error).replace("\n", " ").partition(" requires either:")[0]
            raise BadTool(
                tool, f"its parameter {name!r} has a type that JSON has none for ({reason}): {ALLOWED}"
            ) from None
    return [(name, hints[name], _default(it.default)) for name, it in seen.items()]


def _has_schema(hint: Any) -> bool:
    try:
        json_schema([hint])
    except TypeError:
        return False
    return True


def _hints(tool: str, function: Callable[..., Any], seen: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The types of the parameters that a model sees; those of the others need not even be importable."""
    given = {name: it.annotation for name, it in seen.items() if it.annotation is not inspect.Parameter.empty}
    names = type_hint_names(function)
    try:
        shell = types.SimpleNamespace(__annotations__=given)
        return typing.get_type_hints(shell, globalns=names, include_extras=True)
    except NameError as error:
        raise BadTool(tool, f"an annotation can't be resolved ({error})") from None
    except (TypeError, SyntaxError) as error:
        raise BadTool(tool, f"an annotation is no type ({error})") from None


def _default(default: Any) -> Any:
    """A parameter's default for a field. What the schema can't show, or a call might change, is made anew each time."""
    if default is inspect.Parameter.empty:
        return msgspec.NODEFAULT
    try:
        hash(default)
        encode_value(default)
        plain = not is_model(type(default))
    except TypeError:
        plain = False
    return default if plain else msgspec.field(default_factory=lambda: copy.deepcopy(default))


def _inlined(schema: Schema) -> Schema:
    """A schema whose whole content is a reference to one of its definitions, with that in its place."""
    reference = str(schema.get("$ref", ""))
    place, _, name = reference.rpartition("/")
    if place not in ("#/$defs", "#/definitions"):
        return schema
    definitions = schema.get(place.removeprefix("#/"), {})
    if name not in definitions or "$ref" in definitions[name]:
        return schema
    return {**definitions[name], **{other: value for other, value in schema.items() if other != "$ref"}}


def _decoded(decode: Decode, arguments: str) -> Any:
    """What a model wrote. Raises msgspec.DecodeError, and NotStorable for what is nested too deeply."""
    arguments = arguments.strip() or "{}"
    decoded = decode(arguments)
    check_depth(arguments.encode(), "the whole")
    return decoded


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_REASON else text[:MAX_REASON] + " ..."
