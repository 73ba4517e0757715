"""The values that events carry: in the event itself, or, where large, in a blob or where they stand already."""

import msgspec
from msgspec import UNSET

from callboard.protocols.a2a import Part
from callboard.protocols.events import Stored
from callboard.protocols.messages import MAX_INLINE_BYTES, Message, encode_json, value_of
from callboard.protocols.ports import EventStore


def large(encoded: bytes) -> bool:
    """Whether a body belongs into a blob."""
    return len(encoded) > MAX_INLINE_BYTES


async def store_value(store: EventStore, encoded: bytes) -> Stored:
    """A value, given as JSON, for an event."""
    if not large(encoded):
        return _inline(encoded)
    [digest] = await store.put_blobs([encoded])
    return Stored(blob=digest)


async def load_value(store: EventStore, stored: Stored) -> bytes:
    """The JSON of a value. Raises BlobMissing, MessageNotInLog, StoreUnavailable."""
    if stored.blob is not None:
        return (await store.get_blobs([stored.blob]))[stored.blob]
    if stored.message is not None:
        message = await store.message(stored.message)
        return part_json(message.parts[0]) if message.parts else b"null"
    return b"null" if stored.inline is UNSET else bytes(stored.inline)


def content_of(message: Message) -> Stored:
    """The content of a message's first part; by reference, if it is large."""
    content = b"null" if not message.parts else part_json(message.parts[0])
    return Stored(message=message.id) if message.parts is None or large(content) else _inline(content)


def part_json(part: Part) -> bytes:
    """A part's content as JSON."""
    return bytes(part.data) if part.data is not UNSET else encode_json(value_of(part))


def _inline(encoded: bytes) -> Stored:
    return Stored(inline=msgspec.Raw(encoded))
