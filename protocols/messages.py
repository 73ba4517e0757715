"""The envelope: what travels from actor to actor, around A2A parts.

Kinds that open a task in the actor they are addressed to:
    assign            do this, and reply
    handoff           take this task over, and reply to whoever asked its former holder
    query             answer this, without being given work to own
    review-request    look at this; the reply is `feedback`
    context-share     know this; nobody waits for a reply
    artifact          here is something that was made; nobody waits for a reply
Kinds that concern a task at work (`task` names it; `step` the step that waits for it, if one does):
    reply, feedback   the answer to a question
    cancel            stop this task
    decision          a person's decision that the task waits for
    timer             a due time that the task set for itself
A `context-share`, `artifact` or `feedback` that names a task at work goes to that task.
"""

from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from protocols.a2a import Part
from protocols.names import role_of
from protocols.redaction import redact

Kind = Literal[
    "assign",
    "handoff",
    "query",
    "review-request",
    "context-share",
    "artifact",
    "reply",
    "feedback",
    "cancel",
    "decision",
    "timer",
]
Priority = Literal["high", "normal", "low"]

OPENS_TASK: Final = frozenset({"assign", "handoff", "query", "review-request", "context-share", "artifact"})

# A message above this size in JSON goes over the bus without its parts; the receiver reads them from the log.
MAX_INLINE_BYTES: Final = 16 * 1024


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """A failure as a value: the exception's type, its message, and its traceback where one is known.

    `bases` are the names of the classes that the type derives from, but for those that all have.
    """

    type: str
    message: str
    traceback: str = ""
    bases: tuple[str, ...] = ()


def error_info(error: BaseException, traceback: str = "") -> ErrorInfo:
    """An exception as a value, without secrets. What of its text is no UTF-8 is escaped."""
    try:
        text = str(error)
    except BaseException as failure:  # noqa: BLE001 - an exception's own code may raise anything
        text = f"its message can't be made: {type(failure).__name__}"
    kinds = [kind.__name__ for kind in type(error).__mro__[1:] if kind not in (Exception, BaseException, object)]
    return ErrorInfo(type(error).__name__, _storable(text), _storable(traceback), tuple(kinds))


def _storable(text: str) -> str:
    return redact(text.encode(errors="backslashreplace").decode())


class ReplyTo(Struct, frozen=True, omit_defaults=True):
    """Who waits for the answer: the actor's stream, its task, and the step of that task."""

    actor: str
    task: str
    step: str


class Message(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One message. Times are UTC and aware.

    `id` is the message's address in the log (see `protocols.names`); it is empty in the `sends` of an event,
    where the place tells it, and set everywhere else. `to` is an actor's stream.
    """

    kind: Kind
    to: str
    sender: str
    run: str
    task: str
    id: str = ""
    parts: tuple[Part, ...] | None = ()  # None: too large for the bus, read it from the log
    error: ErrorInfo | None = None  # in a reply: the task failed
    step: str | None = None
    parent: str | None = None  # the task that asked for the task that this message opens
    reply_to: ReplyTo | None = None
    correlation: str | None = None  # in an answer: the id of the message that it answers
    causation: str | None = None  # the id of the message whose handling sent this one
    deadline: datetime | None = None
    due_at: datetime | None = None  # not to be delivered before
    priority: Priority = "normal"
    traceparent: str | None = None  # W3C Trace Context
    tenant: str | None = None

    @property
    def role(self) -> str:
        """The role that it is addressed to."""
        return role_of(self.to)

    @property
    def key(self) -> str:
        """The key of the actor that it is addressed to."""
        return self.to.partition("/")[2]


def part_of(value: object) -> Part:
    """A value as an A2A part: text for a string, bytes as raw, anything else msgspec can encode as data.

    The name of a Struct's type goes along, so that the receiver can choose its handler by it.
    Raises TypeError for what can't be JSON, UnicodeEncodeError for text that can't be UTF-8.
    """
    if isinstance(value, Part):
        return value
    if isinstance(value, str):
        if not value.isascii():
            value.encode()
        return Part(text=value)
    if isinstance(value, bytes):
        return Part(raw=value)
    metadata = {"type": type(value).__name__} if isinstance(value, Struct) else None
    return Part(data=Raw(encode_json(value)), metadata=metadata)


def value_of(part: Part) -> Any:
    """What `part_of` was given, as plain data: text, bytes, or decoded JSON; a URL as text."""
    if part.data is not UNSET:
        return msgspec.json.decode(part.data)
    for content in (part.text, part.raw, part.url):
        if content is not UNSET:
            return content
    raise AssertionError("a part has one content")


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Message)


def encode_json(value: object) -> bytes:
    """Any value of ours as JSON (msgspec: datetimes as RFC 3339, Decimals as strings, bytes as base64)."""
    return _encoder.encode(value)


def encode_message(message: Message) -> bytes:
    """A message as JSON, without its parts if these make it too large for the bus."""
    encoded = _encoder.encode(message)
    if len(encoded) > MAX_INLINE_BYTES:
        encoded = _encoder.encode(msgspec.structs.replace(message, parts=None))
    return encoded


def decode_message(encoded: bytes) -> Message:
    """The message; raises msgspec.DecodeError (msgspec.ValidationError for JSON of another form)."""
    return _decoder.decode(encoded)
