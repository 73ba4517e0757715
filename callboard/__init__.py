"""Callboard: an event-sourced actor system for LLM agents.

from callboard import Actor, Context, Struct
"""

from actors.context import Context, Received
from actors.definition import Actor, Handoff, Struct, handler
from actors.models.call import ModelReply
from actors.policies import Cache, Caps, Memory, Retry, TimeLimits
from actors.tools.declaration import actor_tool, tool
from actors.tools.loop import LoopLimits, ToolAnswer
from actors.tools.policy import ToolPolicy
from protocols import errors
from protocols.messages import Message
from protocols.money import Money, ValueRule, percent_of, shares

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
    "Retry",
    "Struct",
    "TimeLimits",
    "ToolAnswer",
    "ToolPolicy",
    "ValueRule",
    "actor_tool",
    "errors",
    "handler",
    "percent_of",
    "shares",
    "tool",
]
