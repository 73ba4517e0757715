"""Events to bytes and back, with upcasters for bodies of older schema versions, and messages out of events."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from protocols.errors import MessageNotInLog, UnknownEventType
from protocols.events import BODIES, Body, Event, Meta, NewEvent
from protocols.messages import Message, encode_json
from protocols.names import message_id

# (type, schema version) -> a pure function from that version's JSON object to the next version's
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}

_body_decoders: dict[str, msgspec.json.Decoder[Body]] = {
    name: msgspec.json.Decoder(body) for name, body in BODIES.items()
}
_meta_decoder = msgspec.json.Decoder(Meta)


def new_event(body: Body, meta: Meta) -> NewEvent:
    """An event to append, from its body and meta."""
    return NewEvent(type=body.TYPE, data=encode_json(body), meta=meta, schema_version=body.SCHEMA_VERSION)


def decode_meta(encoded: bytes) -> Meta:
    """Meta from its JSON."""
    return _meta_decoder.decode(encoded)


def body_of(event: Event | NewEvent) -> Body:
    """The event's body, upcast to this Callboard's schema version; raises UnknownEventType."""
    decoder = _body_decoders.get(event.type)
    if decoder is not None:
        current = BODIES[event.type].SCHEMA_VERSION
        if event.schema_version == current:
            return decoder.decode(event.data)
        if event.schema_version < current:
            raw = msgspec.json.decode(event.data)
            for version in range(event.schema_version, current):
                raw = UPCASTERS[event.type, version](raw)
            return msgspec.convert(raw, BODIES[event.type])
    stream, at = (event.stream, event.version) if isinstance(event, Event) else ("(new)", 0)
    raise UnknownEventType(stream, at, event.type, event.schema_version)


def sent_messages(event: Event) -> Iterator[Message]:
    """The messages that an event sends, each with its id."""
    for index, message in enumerate(event.meta.sends):
        yield msgspec.structs.replace(message, id=message_id(event.stream, event.version, index))


def sent_message(event: Event, index: int) -> Message:
    """The message at one place of an event; raises MessageNotInLog."""
    if index >= len(event.meta.sends):
        raise MessageNotInLog(message_id(event.stream, event.version, index))
    return msgspec.structs.replace(event.meta.sends[index], id=message_id(event.stream, event.version, index))


def digest(content: bytes) -> str:
    """The address of a blob: SHA-256 of its bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
