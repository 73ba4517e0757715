"""Callboard: an event-sourced actor system for LLM agents.

    from callboard import Actor, Context, Struct

What is listed in `__all__` here and in `callboard.testing`, and the classes in `callboard.errors`, is what programs may
import: docs/api.md says what each is. A name is loaded when it is first asked for, so that `import callboard` costs
next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from actors.context import Context, Received
    from actors.definition import Actor, Handoff, Struct, handler
    from actors.models.call import ModelReply
    from actors.policies import Cache, Caps, Memory, Retry, TimeLimits
    from actors.tools.declaration import actor_tool, tool
    from actors.tools.export import to_crewai, to_langchain
    from actors.tools.loop import LoopLimits, ToolAnswer
    from actors.tools.policy import ToolPolicy
    from actors.tools.registry import RegisteredTool, ToolInfo, Tools
    from callboard import errors
    from protocols.messages import Message
    from protocols.money import Money, ValueRule, percent_of, shares
    from protocols.redaction import redactor

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
    "actors.context": ("Context", "Received"),
    "actors.definition": ("Actor", "Handoff", "Struct", "handler"),
    "actors.models.call": ("ModelReply",),
    "actors.policies": ("Cache", "Caps", "Memory", "Retry", "TimeLimits"),
    "actors.tools.declaration": ("actor_tool", "tool"),
    "actors.tools.export": ("to_crewai", "to_langchain"),
    "actors.tools.loop": ("LoopLimits", "ToolAnswer"),
    "actors.tools.policy": ("ToolPolicy",),
    "actors.tools.registry": ("RegisteredTool", "ToolInfo", "Tools"),
    "protocols.messages": ("Message",),
    "protocols.money": ("Money", "ValueRule", "percent_of", "shares"),
    "protocols.redaction": ("redactor",),
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
