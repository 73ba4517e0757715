"""Users' values: any of them as JSON, and JSON as a value of a type.

What can be stored is what msgspec encodes (plain data, sets, dates, Decimals, bytes, enums, Structs, dataclasses,
TypedDicts, attrs classes), subclasses of str, int and float, and pydantic models. pydantic is never imported here: a
model can only come from code that has imported it.

Refused, with the place: NaN and the infinities, for which JSON has no form; half surrogates, for which UTF-8 has none;
objects of other classes; and what is nested more than MAX_DEPTH levels deep, or contains itself.
"""

import copy
import dataclasses
import json
import math
import operator
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from callboard.protocols.errors import NotStorable

MAX_DEPTH: Final = 200  # a third of what Python's own recursion limit lets a reader walk
_LEAVES: Final = frozenset({type(None), bool, int, float, str, bytes, Decimal, UUID, datetime, date, time, timedelta})
_SORTED: Final = frozenset({int, float, str, bytes, Decimal, datetime, date, time, timedelta, UUID})
_NOT_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+')
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")


def encode_value(value: object, place: str = "the value") -> bytes:
    """A user's value as JSON. `place` names it in errors. Raises NotStorable, with the path of what can't be stored."""
    try:
        encoded = _encoder.encode(value)
        finite = value is None or b"null" not in encoded or _is_finite(value)
    except (TypeError, ValueError, RecursionError) as error:  # bad text and what pydantic raises are ValueErrors
        raise _refusal(value, place, f"can't be stored ({error})") from error
    if not finite:
        raise _refusal(value, place, "contains NaN or an infinity, for which JSON has no form")
    check_depth(encoded, place)
    return encoded


def check_depth(encoded: bytes, place: str) -> None:
    """Raise NotStorable for JSON that is nested too deeply to be read safely."""
    if encoded.count(b"[") + encoded.count(b"{") <= MAX_DEPTH:
        return
    brackets = _NOT_BRACKETS.sub(b"", encoded).translate(_ONE_KIND)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # the innermost level
    if brackets:
        raise NotStorable(place, TOO_DEEP)


def plain(value: Any) -> Any:
    """What msgspec doesn't know, as something that it does (an `enc_hook`). Raises TypeError."""
    if is_model(type(value)):
        return value.model_dump(mode="json", by_alias=True, round_trip=True, warnings=False)
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"objects of type {type(value).__name__} can't be made JSON")


def whole_text(text: str) -> str:
    """A text from elsewhere that can be stored: the halves of a surrogate pair become the character that they stand
    for, and half a pair becomes U+FFFD.
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_texts(value: Any) -> Any:
    """The same for plain data."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, Mapping):
        return {whole_texts(key): whole_texts(each) for key, each in value.items()}
    return [whole_texts(each) for each in value] if isinstance(value, list | tuple) else value


def is_model(kind: Any) -> bool:
    """Whether a type is a pydantic model."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def canonical(value: Any) -> Any:
    """The value with its sets and dicts in one order, in any nesting. Its JSON is the same in every process; where all
    was in that order already, it is the JSON of the value itself.
    """
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict or isinstance(value, Mapping):
        return dict(sorted(((key, canonical(each)) for key, each in value.items()), key=_key_text))
    if isinstance(value, set | frozenset):
        return _in_order(value)
    if isinstance(value, list | tuple):
        return [each if type(each) in _LEAVES else canonical(each) for each in value]
    names = _field_names(value)
    return value if names is None else _with_fields(value, names)


def in_order(value: Any) -> bool:
    """Whether `canonical` would give the JSON of the value itself. A quick look: it may say no where it would."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is list or kind is tuple:
        return all(type(each) in _LEAVES or in_order(each) for each in value)
    if kind is not dict or (len(value) > 1 and not _keys_in_order(value)):
        return False
    return all(type(each) in _LEAVES or in_order(each) for each in value.values())


# -- inside ------------------------------------------------------------------------------------------------------------

TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} levels deep, or contains itself: that can't be stored"
_encoder: Final = msgspec.json.Encoder(enc_hook=plain)


def _is_finite(value: object) -> bool:
    try:
        json.dumps(msgspec.to_builtins(value, enc_hook=plain), allow_nan=False)
    except ValueError:
        return False
    return True


def _refusal(value: object, place: str, reason: str) -> NotStorable:
    """What can't be stored of a value, found by its path."""
    for path, each, depth in _leaves(value, place):
        if depth > MAX_DEPTH:
            return NotStorable(place, TOO_DEEP)
        fault = _fault(each)
        if fault:
            return NotStorable(path, fault)
    return NotStorable(place, reason)


def _fault(leaf: object) -> str:
    if isinstance(leaf, float) and not math.isfinite(leaf):
        name = "NaN" if math.isnan(leaf) else "Infinity" if leaf > 0 else "-Infinity"
        return f"is {name}, for which JSON has no form: leave it out, or give a text or a Decimal"
    try:
        _encoder.encode(leaf)
    except UnicodeEncodeError as error:
        return f"has half a surrogate pair at position {error.start}: that is no Unicode, and can't be stored"
    except (TypeError, ValueError, RecursionError) as error:
        kind = type(next(iter(leaf)) if isinstance(leaf, dict) else leaf).__name__  # a dict stands for its one key
        return f"is of type {kind}: it can't be stored ({str(error).partition(chr(10))[0]})"
    return ""


def _leaves(value: object, place: str) -> Iterator[tuple[str, object, int]]:
    """Each value that has no parts, and each key, with its path and depth; one for what is too deep."""
    stack: list[tuple[str, Any, int]] = [(place, value, 0)]
    while stack:
        path, it, depth = stack.pop()
        parts = _parts(it) if depth <= MAX_DEPTH else None
        if parts is None:
            yield path, it, depth
            continue
        if isinstance(it, Mapping):
            yield from ((f"a key of {path}", key if isinstance(key, str) else {key: 0}, depth) for key in it)
        stack += reversed([(path + label, each, depth + 1) for label, each in parts])


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, Mapping):
        return [(_label(key), each) for key, each in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{number}]", each) for number, each in enumerate(value)]
    names = _field_names(value)
    return None if names is None else [(f".{name}", getattr(value, name, None)) for name in names]


def _label(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _field_names(value: Any) -> list[str] | None:
    """The fields of an object that has some: a Struct, a dataclass, an attrs class, a pydantic model."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    if is_model(kind):
        return [*kind.model_fields, *(value.__pydantic_extra__ or ())]
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else [attribute.name for attribute in attributes]


def _with_fields(value: Any, names: list[str]) -> Any:
    """A copy of an object with its fields in canonical form. Nothing of its class is called."""
    changed = {}
    for name in names:
        field = getattr(value, name, None)
        ordered = canonical(field)
        if ordered is not field:
            changed[name] = ordered
    if not changed:
        return value
    if is_model(type(value)):
        return value.model_copy(update=changed)
    twin = copy.copy(value)
    put = msgspec.structs.force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    for name, ordered in changed.items():
        put(twin, name, ordered)
    return twin


def _in_order(values: Any) -> list[Any]:
    kinds = {type(each) for each in values}
    if len(kinds) == 1 and kinds <= _SORTED:
        return sorted(values)
    return sorted((canonical(each) for each in values), key=_encoder.encode)


def _keys_in_order(value: dict[Any, Any]) -> bool:
    keys = list(value)
    return all(type(key) is str for key in keys) and all(map(operator.lt, keys, keys[1:]))


def _key_text(entry: tuple[Any, Any]) -> str:
    """A key as JSON has it: always a text."""
    key = entry[0]
    return key if type(key) is str else _encoder.encode({key: 0}).decode()[2:-4]
