"""What an exception comes from, and what kinds of error it is: for any exception whatever, however it is made.

A user's exception may have causes that lead back to itself, and attributes that raise. So what is read here is read
past the exception's own code.
"""

from collections.abc import Iterator
from typing import Any, Final

from callboard.protocols.errors import StepFailed, TaskFailed

MAX_CAUSES: Final = 1000  # of one exception that are looked at

_COMMON: Final = frozenset({"Exception", "BaseException", "object"})
_cause: Any = BaseException.__dict__["__cause__"]
_context: Any = BaseException.__dict__["__context__"]
_members: Any = BaseExceptionGroup.__dict__["exceptions"]


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, its causes, and what the groups among them hold: each once, at most MAX_CAUSES."""
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < MAX_CAUSES:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        further = _cause.__get__(each) or _context.__get__(each)
        left.extend([further] if further is not None else [])
        left.extend(reversed(members(each)))


def members(error: BaseException) -> tuple[BaseException, ...]:
    """What a group of exceptions holds; empty for any other exception."""
    return tuple(_members.__get__(error)) if issubclass(type(error), BaseExceptionGroup) else ()


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group that are no groups, at most MAX_CAUSES; of any other exception, itself."""
    found: list[BaseException] = []
    left = [error]
    while left and len(found) < MAX_CAUSES:
        each = left.pop()
        held = members(each)
        left.extend(reversed(held))
        if not held:
            found.append(each)
    return found


def class_names(error: BaseException) -> list[str]:
    """The names of the classes of an exception, its own first, but for those that all have."""
    names = [name_of(kind) for kind in type(error).__mro__]
    return names[:1] + [name for name in names[1:] if name not in _COMMON]


def name_of(kind: type) -> str:
    """A class's name, whatever its metaclass says."""
    return str(type.__dict__["__name__"].__get__(kind))


def kinds(error: BaseException) -> set[str]:
    """The names of all that an exception is: its classes, and, of a failed step or task, what went wrong there."""
    names = {name_of(kind) for kind in type(error).__mro__}
    if issubclass(type(error), StepFailed | TaskFailed):
        told = vars(error)
        names |= {name for name in (told.get("type"), *(told.get("bases") or ())) if isinstance(name, str)}
    return names
