"""How a tool is declared: a Python function, or an actor that is asked.

    @tool(idempotent=True)
    async def search(query: str, limit: int = 10) -> list[str]:
        '''Search the archive.

        Args:
            query: What to look for.
        '''

A function without a mark is a tool, too: one that writes, that may not be called twice, and that anybody may use.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec

from callboard.actors.tools.functions import trait

Function = TypeVar("Function", bound=Callable[..., Any])

_TRAITS: Final = "__callboard_tool__"


class Traits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is true of a tool, beside what it does.

    idempotent   called twice with the same arguments, it does no more than when called once
    writes       it changes something outside, so that a misled model could do harm with it
    parallel     it may run at the same time as other calls of the same turn
    untrusted    its results may contain what strangers wrote, such as web pages and mails
    approval     a person has to approve each call, where no policy says otherwise
    roles        who may use it; nobody named: everybody
    """

    idempotent: bool = False
    writes: bool = True
    parallel: bool = False
    untrusted: bool = False
    approval: bool = False
    roles: tuple[str, ...] = ()


UNMARKED: Final = (Traits(), "")


class ActorTool(msgspec.Struct, frozen=True, kw_only=True):
    """An actor as a tool: a call asks it, and its answer is the result. Made by `actor_tool`."""

    role: str
    name: str
    key: str | None = None
    kind: Literal["assign", "query", "review-request"] = "assign"
    description: str = ""
    timeout_s: float | None = None
    traits: Traits


def tool(
    *,
    idempotent: bool = False,
    writes: bool | None = None,
    parallel: bool | None = None,
    untrusted: bool = False,
    approval: bool = False,
    roles: Sequence[str] = (),
    name: str = "",
) -> Callable[[Function], Function]:
    """Mark a function with what is true of it as a tool; see `Traits`.

    A tool writes unless it says that it is idempotent, or `writes=False`; what doesn't write may run in parallel.
    `name` is its name for models, by default the function's.
    """
    if isinstance(roles, str):
        raise TypeError(f"roles={roles!r}: a list of names, such as [{roles!r}]")
    writes = not idempotent if writes is None else writes
    traits = Traits(
        idempotent=idempotent,
        writes=writes,
        parallel=not writes if parallel is None else parallel,
        untrusted=untrusted,
        approval=approval,
        roles=tuple(roles),
    )

    def mark(function: Function) -> Function:
        setattr(function, _TRAITS, (traits, name))
        return function

    return mark


def declared(function: Callable[..., Any]) -> tuple[Traits, str]:
    """What `tool` says of a function, or of that in a partial: its traits, and its name if it has one of its own."""
    found: tuple[Traits, str] | None = trait(function, _TRAITS)
    return found or UNMARKED


def actor_tool(
    role: str,
    description: str = "",
    *,
    name: str = "",
    key: str | None = None,
    kind: Literal["assign", "query", "review-request"] = "assign",
    timeout_s: float | None = None,
    writes: bool = True,
    parallel: bool = True,
    untrusted: bool = False,
    approval: bool = False,
    roles: Sequence[str] = (),
) -> ActorTool:
    """An actor, or a workflow, as a tool: `ctx.ask(role, arguments, key=key, kind=kind, timeout_s=timeout_s)`.

    Its arguments are what the role's handlers take. `description` is by default what the role's card says. A role that
    reads what strangers wrote and repeats it is `untrusted`, as a function would be.
    """
    traits = Traits(writes=writes, parallel=parallel, untrusted=untrusted, approval=approval, roles=tuple(roles))
    return ActorTool(
        role=role, name=name or role, key=key, kind=kind, description=description, timeout_s=timeout_s, traits=traits
    )
