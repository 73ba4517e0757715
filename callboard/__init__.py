"""Callboard: an event-sourced actor system for LLM agents.

    from callboard import Actor, Context, Struct

What is listed in `__all__` here and in `callboard.testing`, and the classes in `callboard.errors`, is what programs may
import: docs/api.md says what each is. A name is loaded when it is first asked for, so that `import callboard` costs
next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from callboard import errors
    from callboard.actors.models.call import ModelReply
    from callboard.actors.roles.definition import Actor, Handoff, Struct, handler
    from callboard.actors.state.policies import Cache, Caps, Memory, Retry, TimeLimits
    from callboard.actors.task.context import Context, Received
    from callboard.actors.tools.declaration import actor_tool, tool
    from callboard.actors.tools.export import to_crewai, to_langchain
    from callboard.actors.tools.loop import LoopLimits, ToolAnswer
    from callboard.actors.tools.policy import ToolPolicy
    from callboard.actors.tools.registry import RegisteredTool, ToolInfo, Tools
    from callboard.protocols.messages import Message
    from callboard.protocols.money import Money, ValueRule, percent_of, shares
    from callboard.protocols.redaction import redactor

__all__ = [
    "Actor",
    "Cache",
    "Caps",
    "Context",
    "Handoff",
    "LoopLimits",
    "Memory",
    "Message",
    "ModelReply",
    "Money",
    "Received",
    "RegisteredTool",
    "Retry",
    "Struct",
    "TimeLimits",
    "ToolAnswer",
    "ToolInfo",
    "ToolPolicy",
    "Tools",
    "ValueRule",
    "actor_tool",
    "errors",
    "handler",
    "percent_of",
    "redactor",
    "shares",
    "to_crewai",
    "to_langchain",
    "tool",
]

# The imports above once more, for the interpreter: tests/specs/test_public_names.py holds that they are the same.
_NAMES: Final = {
    "callboard.actors.task.context": ("Context", "Received"),
    "callboard.actors.roles.definition": ("Actor", "Handoff", "Struct", "handler"),
    "callboard.actors.models.call": ("ModelReply",),
    "callboard.actors.state.policies": ("Cache", "Caps", "Memory", "Retry", "TimeLimits"),
    "callboard.actors.tools.declaration": ("actor_tool", "tool"),
    "callboard.actors.tools.export": ("to_crewai", "to_langchain"),
    "callboard.actors.tools.loop": ("LoopLimits", "ToolAnswer"),
    "callboard.actors.tools.policy": ("ToolPolicy",),
    "callboard.actors.tools.registry": ("RegisteredTool", "ToolInfo", "Tools"),
    "callboard.protocols.messages": ("Message",),
    "callboard.protocols.money": ("Money", "ValueRule", "percent_of", "shares"),
    "callboard.protocols.redaction": ("redactor",),
}
_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name == "errors":
        return import_module("callboard.errors")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
