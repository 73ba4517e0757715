"""Types that users name (of payloads, results, answers, parameters): JSON decoded to them, and their JSON Schema.

msgspec knows most of them. pydantic models are validated by pydantic, and their schemas are pydantic's own; a type that
msgspec can't decode because of a model in it, such as a union of two, goes to pydantic as a whole.
"""

import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from callboard.protocols.errors import NotStorable
from callboard.protocols.values import TOO_DEEP, encode_value, is_model

_PLAIN: Final = (dict, list, str, int, float, bool, type(None))  # what JSON is decoded to
_SCALARS: Final = (str, int, float)
_REFS: Final = "#/$defs/"

Decode = Callable[[bytes | str], Any]


@functools.lru_cache(maxsize=512, typed=True)
def _cached_decoder(wanted: Any) -> Decode:
    return _decoder(wanted)


def decoder(wanted: Any) -> Decode:
    """A function that decodes JSON to a type. Raises TypeError for a type that JSON can't be decoded to.

    The function raises msgspec.DecodeError, also for JSON that is nested too deeply and for text that is no Unicode.
    """
    try:
        return _cached_decoder(wanted)
    except TypeError:  # it may be one that can't be hashed
        return _decoder(wanted)


def decode_as(encoded: bytes | str, wanted: Any = None) -> Any:
    """A value of a type, by default plain data. Raises msgspec.DecodeError, and TypeError as `decoder` does."""
    return decoder(Any if wanted is None else wanted)(encoded)


def is_decodable(wanted: Any) -> bool:
    """Whether msgspec alone decodes to a type, and to what is made of it."""
    try:
        msgspec.json.Decoder(wanted)
    except TypeError:
        return False
    return True


def convert(value: Any, wanted: Any) -> Any:
    """Plain data as a value of a type. Raises as `decode_as` does."""
    try:
        return msgspec.convert(value, wanted, dec_hook=_from_plain)
    except TypeError:
        return decode_as(encode_value(value), wanted)


def json_schema(wanted: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A JSON Schema (2020-12) for each type, and the definitions that they refer to as #/$defs/NAME. Raises TypeError
    for a type that JSON has none for.
    """
    definitions: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for each in wanted:
        try:
            (schema,), components = msgspec.json.schema_components(
                [each], schema_hook=functools.partial(_schema_of, definitions), ref_template=_REFS + "{name}"
            )
            _add(definitions, components)
        except TypeError:
            if not _mentions_model(each):
                raise
            adapter = _pydantic().TypeAdapter(each)
            schema = _hoisted(definitions, "Union", functools.partial(_adapted, adapter))
        found.append(dict(schema))
    return found, definitions


def check_type(wanted: Any, place: str) -> None:
    """Raise NotStorable for a type that no JSON can be decoded to; `place` names what is of that type."""
    try:
        fits = wanted is Any or _fits(wanted)
    except TypeError:  # it may be one that can't be hashed
        fits = False
    if not fits:
        _check_type(wanted, place)


@functools.lru_cache(maxsize=512, typed=True)
def _fits(wanted: Any) -> bool:
    """Whether a type passes: to look takes some tens of microseconds, and each step asks."""
    try:
        _check_type(wanted, "")
    except NotStorable:
        return False
    return True


def _check_type(wanted: Any, place: str) -> None:
    try:
        decoder(wanted)
    except TypeError as error:
        raise _no_type(wanted, place, _line(error)) from None
    check_class(wanted, place)


def check_class(wanted: Any, place: str) -> None:
    """Raise NotStorable for a type whose values can't be JSON, whatever they are."""
    try:
        info = msgspec.inspect.type_info(wanted)
    except TypeError:
        return  # a union that can't be told apart when it is decoded
    for kind in _custom_classes(info, set()):
        if not _comes_from_json(kind):
            raise _no_type(wanted, place, f"{type_name(kind)} is a class that can't")


def type_name(wanted: Any) -> str:
    """A type's name, for people."""
    return wanted.__name__ if isinstance(wanted, type) and not typing.get_args(wanted) else str(wanted)


def fields_of(kind: Any) -> list[tuple[str, Any, bool]] | None:
    """The fields of a type that has some, as JSON has them: name, type, and whether it must be given; else None."""
    if is_model(kind):
        return [(it.alias or name, it.annotation, it.is_required()) for name, it in kind.model_fields.items()]
    try:
        info = msgspec.inspect.type_info(kind)
        hints = typing.get_type_hints(kind) if hasattr(info, "fields") else {}
    except (TypeError, NameError):
        return None
    if not hasattr(info, "fields"):
        return None
    return [(it.encode_name, hints.get(it.name, Any), it.required) for it in info.fields]


def fields_in_words(kind: Any) -> list[str] | None:
    """The same for people: each as `name: type`, with `?` where it may be left out."""
    fields = fields_of(kind)
    if fields is None:
        return None
    return [f"{name}{'' if required else '?'}: {getattr(it, '__name__', it)}" for name, it, required in fields]


# -- inside ------------------------------------------------------------------------------------------------------------


def _decoder(wanted: Any) -> Decode:
    decode: Callable[[Any], Any]
    try:
        decode = msgspec.json.Decoder(wanted, dec_hook=_from_plain).decode
    except TypeError:
        if not _mentions_model(wanted):
            raise
        decode = functools.partial(_validated, _pydantic().TypeAdapter(wanted))

    def decoded(encoded: bytes | str) -> Any:
        try:
            return decode(encoded)
        except RecursionError:
            raise msgspec.DecodeError(f"it {TOO_DEEP}") from None
        except UnicodeError as error:
            raise msgspec.DecodeError(f"it is no UTF-8 at position {getattr(error, 'start', 0)}") from None

    return decoded


def _from_plain(kind: Any, value: Any) -> Any:
    """A value of a type that msgspec doesn't know, from plain data (a `dec_hook`)."""
    if is_model(kind):
        try:
            return kind.model_validate_json(encode_value(value))
        except _pydantic().ValidationError as error:
            raise ValueError(_told(error)) from None
    origin = typing.get_origin(kind) or kind
    if isinstance(origin, type) and isinstance(value, _SCALARS) and issubclass(origin, type(value)):
        return origin(value)
    if isinstance(value, origin):
        return value
    raise TypeError(f"Expected `{type_name(kind)}`, got `{type(value).__name__}`")


def _validated(adapter: Any, encoded: bytes | str) -> Any:
    try:
        return adapter.validate_json(encoded)
    except _pydantic().ValidationError as error:
        raise msgspec.ValidationError(_told(error)) from None


def _told(error: Any) -> str:
    """What pydantic says, in a line, without the values."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" if it["loc"] else it["msg"] for it in faults)


def _adapted(adapter: Any, refs: str) -> dict[str, Any]:
    schema: dict[str, Any] = adapter.json_schema(ref_template=refs)
    return schema


def _schema_of(definitions: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The schema of a type that msgspec doesn't know (a `schema_hook`)."""
    if is_model(kind):
        return _hoisted(definitions, kind.__name__, lambda refs: kind.model_json_schema(ref_template=refs))
    for scalar, name in ((str, "string"), (int, "integer"), (float, "number")):
        if isinstance(kind, type) and issubclass(kind, scalar):
            return {"type": name}
    raise NotImplementedError


def _hoisted(definitions: dict[str, Any], name: str, make: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """A schema whose definitions are moved to those of the whole, under names that are free there."""
    schema = make(_REFS + "{model}")
    own = schema.pop("$defs", {})
    if any(definitions.get(each, it) != it for each, it in own.items()):
        schema = make(f"{_REFS}{name}.{{model}}")
        own = {f"{name}.{each}": it for each, it in schema.pop("$defs").items()}
    _add(definitions, own)
    return schema


def _add(definitions: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, schema in more.items():
        if definitions.setdefault(name, schema) != schema:
            raise TypeError(f"two types are named {name}: give one of them another name")


def _mentions_model(wanted: Any) -> bool:
    return is_model(wanted) or any(map(_mentions_model, typing.get_args(wanted)))


def _pydantic() -> types.ModuleType:
    return sys.modules["pydantic"]


def _no_type(wanted: Any, place: str, reason: str) -> NotStorable:
    return NotStorable(place, f"is of type {type_name(wanted)}, which can't be made of JSON ({reason})")


def _comes_from_json(kind: Any) -> bool:
    try:
        return is_model(kind) or any(issubclass(plain, kind) for plain in _PLAIN) or (issubclass(kind, _SCALARS))
    except TypeError:  # a protocol: any class may have it
        return True


def _custom_classes(info: Any, seen: set[int]) -> list[Any]:
    """The classes in a type that msgspec doesn't know, by what it says of the type."""
    if id(info) in seen:
        return []
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType):
        return [info.cls]
    inner = info if isinstance(info, tuple) else ()
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        inner = tuple(getattr(info, name) for name in info.__struct_fields__)
    return [kind for each in inner for kind in _custom_classes(each, seen)]


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
