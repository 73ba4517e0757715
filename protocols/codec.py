"""Events to bytes and back, with upcasters for bodies of older schema versions, and messages out of events."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from callboard.protocols import events as e
from callboard.protocols.errors import MessageNotInLog, UnknownEventType
from callboard.protocols.events import BODIES, Body, Event, Meta, NewEvent
from callboard.protocols.ledger import Entry, Hold, Party, RemoveBudget, SetBudget, Settle, TopUp, Warned, attempt_id
from callboard.protocols.messages import Message, encode_json
from callboard.protocols.money import Money
from callboard.protocols.names import message_id

# (type, schema version) -> a pure function from that version's JSON object to the next version's
UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("model.completed", 1): lambda body: {**body, "message": _assistant(body["text"])},
}


def _assistant(text: dict[str, Any]) -> dict[str, Any]:
    """A text that was stored by itself as the message that it was; one in a blob stays there, as a JSON string."""
    return {"inline": {"role": "assistant", "content": text["inline"]}} if "inline" in text else text


_body_decoders: dict[str, msgspec.json.Decoder[Body]] = {
    name: msgspec.json.Decoder(body) for name, body in BODIES.items()
}
_meta_decoder = msgspec.json.Decoder(Meta)


def new_event(body: Body, meta: Meta, stream: str = "") -> NewEvent:
    """An event to append, from its body and meta. `stream` is needed where it concerns the ledger."""
    return NewEvent(
        type=body.TYPE,
        data=encode_json(body),
        meta=meta,
        schema_version=body.SCHEMA_VERSION,
        entry=entry_of(body, stream, meta),
    )


def entry_of(body: Body, stream: str, meta: Meta) -> Entry | None:
    """What an event means for the ledger; None: nothing."""
    make = _ENTRIES.get(type(body))
    return make(body, stream, meta) if make is not None else None


def _hold(body: e.ModelRequested, stream: str, meta: Meta) -> Entry:
    party = Party(run=meta.run, role=meta.role or "", agent=stream, tenant=meta.tenant)
    return Hold(_attempt(body, meta), party, _money(body.hold), body.beyond)


def _settle(body: e.ModelCompleted | e.ModelFailed, _stream: str, meta: Meta) -> Entry | None:
    return None if body.attempt == 0 else Settle(_attempt(body, meta), _money(body.cost))


def _attempt(body: Any, meta: Meta) -> str:
    return attempt_id(meta.task or "", body.step, body.attempt)


def _money(cost: e.Cost | None) -> Money | None:
    return None if cost is None else Money(cost.amount, cost.currency)


_ENTRIES: dict[type[Body], Callable[[Any, str, Meta], Entry | None]] = {
    e.ModelRequested: _hold,
    e.ModelCompleted: _settle,
    e.ModelFailed: _settle,
    e.BudgetSet: lambda body, *_: SetBudget(body.budget, body.limit, body.over),
    e.BudgetToppedUp: lambda body, *_: TopUp(body.budget, body.target, body.amount, body.run),
    e.BudgetWarned: lambda body, *_: Warned(body.budget, body.target, body.window),
    e.BudgetReleased: lambda body, *_: Settle(body.attempt, body.amount),
    e.BudgetRemoved: lambda body, *_: RemoveBudget(body.budget),
}
LEDGER_TYPES = frozenset(body.TYPE for body in _ENTRIES)  # the events that may mean something for the ledger


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
            return decoder.decode(encode_json(raw))  # what is Raw in a body can only come from bytes
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
