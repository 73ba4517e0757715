"""Callboard: an event-sourced actor system for LLM agents.

from callboard import Actor, Context, Struct
"""

from actors.context import Context, Received
from actors.definition import Actor, Handoff, Struct, handler
from actors.models import ModelReply
from protocols import errors
from protocols.messages import Message

__all__ = ["Actor", "Context", "Handoff", "Message", "ModelReply", "Received", "Struct", "errors", "handler"]
