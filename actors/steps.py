"""How a step is known again when its task runs a second time: its key, and a fingerprint of its input.

A key is a name and an occurrence, `fetch#0`, `fetch#1` ..., counted in the order in which a handler reaches its steps.
Branches of `ctx.gather` run in any order, so each counts for itself: `gather#0[2]/fetch#0`.
"""

import hashlib
from contextvars import ContextVar

from protocols.messages import encode_json

_scope: ContextVar[str] = ContextVar("callboard_scope", default="")


def leave_branches() -> None:
    """Count from the task's own level: what begins a task may run in the context of another's branch."""
    _scope.set("")


def fingerprint(value: object) -> str:
    """A short digest of a step's input (BLAKE2b of its JSON, 64 bits). Raises TypeError for what can't be JSON."""
    return hashlib.blake2b(encode_json(value), digest_size=8).hexdigest()


def enter_branch(gather: str, branch: int) -> None:
    """Let the steps of the current asyncio task's context count for themselves."""
    _scope.set(f"{gather}[{branch}]/")


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
