"""How a step is known again when its task runs a second time: its key, and a fingerprint of its input.

A key is a name and an occurrence, `fetch#0`, `fetch#1` ..., counted in the order in which a handler reaches its steps.
Branches of `ctx.gather` run in any order, so each counts for itself: `gather#0[2]/fetch#0`. Steps in asyncio tasks of
the handler's own (`asyncio.gather`, `asyncio.create_task`) have no such place: they count in the order in which they
come, which may be another one the next time.
"""

import asyncio
import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final
from weakref import ref

from callboard.protocols.errors import NotStorable
from callboard.protocols.messages import encode_json
from callboard.protocols.values import canonical, encode_value, in_order

_scope: ContextVar[str] = ContextVar("callboard_scope", default="")
# The asyncio task that counts here. Held weakly: a task holds its context, and would be left to the collector.
_owner: ContextVar["ref[asyncio.Task[Any]] | None"] = ContextVar("callboard_scope_owner", default=None)
_apart: ContextVar[bool] = ContextVar("callboard_scope_apart", default=False)
_OTHER_ORDER: Final = "."  # between the two digests of an input whose order is not fixed


def leave_branches() -> None:
    """Count from the task's own level: what begins a task may run in the context of another's branch."""
    _owner.set(_current())
    if _scope.get():
        _scope.set("")
    if _apart.get():
        _apart.set(False)


def fingerprint(value: object) -> str:
    """A short digest of a step's input: BLAKE2b of its JSON, 64 bits. NaN and the infinities count as null there.

    Of an input with sets or dicts that are not in canonical order, a second digest follows, of its canonical form, so
    that it is known again in another order: sets of texts have another one in each process. Raises NotStorable.
    """
    return _digests(value, encode_json, lambda encoded: hashlib.blake2b(encoded, digest_size=8).hexdigest())


def ordered_fingerprint(value: object) -> str:
    """The first digest of `fingerprint` alone, as the keys of steps have it."""
    return fingerprint(value).partition(_OTHER_ORDER)[0]


def content_mark(content: object, encode: Callable[[Any], bytes]) -> str:
    """The same as `fingerprint` for something that is kept, encoded so: SHA-256. Raises NotStorable."""
    return _digests(content, encode, lambda encoded: hashlib.sha256(encoded).hexdigest())


def same_input(recorded: str, mark: str) -> bool:
    """Whether two fingerprints are of equal inputs; an event without one fits any input."""
    return recorded in (mark, "") or not set(recorded.split(_OTHER_ORDER)).isdisjoint(mark.split(_OTHER_ORDER))


def counted_as(mark: str) -> str:
    """The part of a fingerprint that is the same for equal inputs, within a process."""
    return mark.rpartition(_OTHER_ORDER)[2]


def _current() -> "ref[asyncio.Task[Any]] | None":
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return None
    return None if task is None else ref(task)


def _digests(value: object, encode: Callable[[object], bytes], digest: Callable[[bytes], str]) -> str:
    try:
        encoded = encode(value)
    except NotStorable:
        raise
    except (TypeError, ValueError, RecursionError):
        encode_value(value, "the input")  # raises, with the place
        raise
    try:
        ordered = encoded if in_order(value) else encode(canonical(value))
    except (TypeError, RecursionError):  # it has no other order that could be told
        return digest(encoded)
    return digest(encoded) if ordered == encoded else f"{digest(encoded)}{_OTHER_ORDER}{digest(ordered)}"


def enter_branch(gather: str, branch: int, *, apart: bool = False) -> None:
    """Let the steps of the current asyncio task's context count for themselves. `apart`: the gather itself is in an
    asyncio task of the handler's own.
    """
    _scope.set(f"{gather}[{branch}]/")
    _owner.set(_current())
    _apart.set(apart)


def in_own_task() -> bool:
    """Whether what runs is in an asyncio task that the handler made itself, beside `ctx.gather`."""
    return _apart.get() or _owner.get() != _current()


class StepCounter:
    """Gives the steps of one task their keys."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def next(self, name: str) -> str:
        """The key of the next step of this name in the current branch."""
        scoped = _scope.get() + name
        occurrence = self._seen.get(scoped, 0)
        self._seen[scoped] = occurrence + 1
        return f"{scoped}#{occurrence}"
