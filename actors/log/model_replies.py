"""A model's answers as the log has them: what a handler is given, the first time and whenever it runs again."""

from typing import Any

import msgspec

from callboard.actors.log.values import load_value
from callboard.actors.models.call import ModelReply, ToolCall
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.messages import encode_json
from callboard.protocols.names import parse_event_id
from callboard.protocols.ports import EventStore
from callboard.protocols.redaction import redact_json


async def completed_at(store: EventStore, address: str) -> e.ModelCompleted | None:
    """The answer in an event, by its address (stream@version); None if it has none."""
    stream, version = parse_event_id(address)
    async for event in store.read_stream(stream, after=version - 1, before=version + 1):
        body = body_of(event)
        return body if isinstance(body, e.ModelCompleted) else None
    return None


async def reply_of(store: EventStore, completed: e.ModelCompleted) -> ModelReply:
    """A recorded answer. Raises BlobMissing, StoreUnavailable."""
    text, tool_calls, private = _parts_of(msgspec.json.decode(await load_value(store, completed.message)))
    return ModelReply(
        text=text,
        tool_calls=tool_calls,
        private=private,
        model=completed.model,
        usage=completed.usage,
        cost=completed.cost,
        reported=completed.reported,
        finish_reason=completed.finish_reason,
        first_token_ms=completed.first_token_ms,
        stand_in=completed.stand_in,
        cached=bool(completed.cached),
    )


def as_stored(reply: ModelReply) -> ModelReply:
    """The answer as a later run of the handler finds it in the log: without secrets. So it gets the same the first
    time.
    """
    text, tool_calls, private = _parts_of(msgspec.json.decode(redact_json(encode_json(reply.message))))
    return msgspec.structs.replace(reply, text=text, tool_calls=tool_calls, private=private)


def _parts_of(message: Any) -> tuple[str, tuple[ToolCall, ...], Any]:
    """The text, the tool calls and the provider's own part of an assistant's message, as it is stored."""
    if isinstance(message, str):  # of an event of version 1
        return message, (), None
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    )
    return message["content"], calls, message.get("private")
