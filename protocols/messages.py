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
A `context-share`, `artifact` or `feedback` that names a task at work goes to that task (`to_task`); if it has ended,
the message is discarded.
"""

from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from callboard.protocols.a2a import Part
from callboard.protocols.causes import class_names, kinds, leaves, members
from callboard.protocols.errors import BadName
from callboard.protocols.names import check_key, check_role, role_of
from callboard.protocols.redaction import redact
from callboard.protocols.values import encode_value, is_model, plain

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
MAX_ERROR_CHARACTERS: Final = 16 * 1024  # of an error's message, and of its traceback
MAX_NAME_CHARACTERS: Final = 1000  # of an id, a stream or another name in a message
MAX_NAMED: Final = 10  # errors of a group whose messages become part of the group's


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """A failure as a value: the exception's type, its message, and its traceback where one is known.

    `bases` are the names of the classes that the type derives from, but for those that all have.
    """

    type: str
    message: str
    traceback: str = ""
    bases: tuple[str, ...] = ()


def error_info(error: BaseException, traceback: str = "") -> ErrorInfo:
    """Any exception as a value, without secrets: what a group holds is named. What of its text is no UTF-8 is escaped,
    and the text is cut to MAX_ERROR_CHARACTERS.
    """
    names = class_names(error)
    text = _text(error)
    held = members(error) and leaves(error)
    if held:
        told = [f"{class_names(each)[0]}: {_text(each)}" for each in held[:MAX_NAMED]]
        text = "; ".join([f"{text}: {told[0]}", *told[1:], *(["..."] if len(held) > MAX_NAMED else [])])
        shared = set.intersection(*(kinds(each) for each in held))
        names += sorted(shared.difference(names, ("Exception", "BaseException", "object")))
    return ErrorInfo(names[0], _storable(text), _storable(traceback), tuple(names[1:]))


def _text(error: BaseException) -> str:
    """What an exception says."""
    try:
        return "".join(str(error))
    except BaseException as failure:  # noqa: BLE001 - an exception's own code may raise anything, and ends nothing
        return f"its message can't be made: {class_names(failure)[0]}"


def _storable(text: str) -> str:
    """Redacted, then cut: half a key would not be known as one."""
    long = text[: 4 * MAX_ERROR_CHARACTERS].encode(errors="backslashreplace").decode()
    told = redact(long)
    return told if len(told) <= MAX_ERROR_CHARACTERS else told[: MAX_ERROR_CHARACTERS - 4] + " ..."


class ReplyTo(Struct, frozen=True, omit_defaults=True):
    """Who waits for the answer: the actor's stream, its task, and the step of that task."""

    actor: str
    task: str
    step: str


class Message(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One message. Times are UTC and aware.

    `id` is the message's address in the log (see `callboard.protocols.names`); it is empty in the `sends` of an event,
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
    to_task: bool = False  # it is for a task that is at work: it opens none, whatever its kind
    depth: int = 0  # tasks above the one that it opens: each asked for, or told, the next
    handoffs: int = 0  # how often the task that it opens has been handed over

    @property
    def opens_task(self) -> bool:
        """Whether its actor is to begin a task."""
        return self.kind in OPENS_TASK and not self.to_task

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

    The name of a Struct's type, or a pydantic model's, goes along, so that the receiver can choose its handler by it.
    Raises NotStorable.
    """
    if isinstance(value, Part):
        return value
    if isinstance(value, str):
        if not value.isascii():
            encode_value(value, "the text")
        return Part(text=str(value))
    if isinstance(value, bytes):
        return Part(raw=value)
    kind = type(value)
    metadata = {"type": kind.__name__} if isinstance(value, Struct) or is_model(kind) else None
    return Part(data=Raw(encode_value(value, "the payload")), metadata=metadata)


def value_of(part: Part) -> Any:
    """What `part_of` was given, as plain data: text, bytes, or decoded JSON; a URL as text."""
    if part.data is not UNSET:
        return msgspec.json.decode(part.data)
    for content in (part.text, part.raw, part.url):
        if content is not UNSET:
            return content
    raise AssertionError("a part has one content")


_encoder = msgspec.json.Encoder(enc_hook=plain)
_decoder = msgspec.json.Decoder(Message)


def encode_json(value: object) -> bytes:
    """Any value of ours as JSON (msgspec: datetimes as RFC 3339, Decimals as strings, bytes as base64).

    It doesn't look for NaN, which becomes null: what users give goes through `callboard.protocols.values.encode_value`.
    """
    return _encoder.encode(value)


def encode_message(message: Message) -> bytes:
    """A message as JSON, without its parts if these make it too large for the bus."""
    encoded = _encoder.encode(message)
    if len(encoded) > MAX_INLINE_BYTES:
        encoded = _encoder.encode(msgspec.structs.replace(message, parts=None))
    return encoded


def decode_message(encoded: bytes) -> Message:
    """The message; raises msgspec.DecodeError: msgspec.ValidationError for JSON of another form, and for names and
    times that no message has, since nothing could be recorded of it.
    """
    message = _decoder.decode(encoded)
    wrong = _what_is_wrong(message)
    if wrong is not None:
        raise msgspec.ValidationError(wrong)
    return message


def _what_is_wrong(message: Message) -> str | None:
    """Why a message can't be handled by anybody; None if it can."""
    try:
        check_role(message.role)
        check_key(message.key)
    except BadName as error:
        return f"it is addressed to {message.to!r}: {error}"
    there = message.reply_to
    names = {
        "id": message.id,
        "sender": message.sender,
        "run": message.run,
        "task": message.task,
        "parent": message.parent,
        "correlation": message.correlation,
        "causation": message.causation,
        "tenant": message.tenant,
        "traceparent": message.traceparent,
        "reply_to": None if there is None else f"{there.actor} {there.task}",
    }
    for name, value in names.items():
        if value is not None and not (value.isprintable() and len(value) <= MAX_NAME_CHARACTERS):
            return f"its {name} has characters that no name has, or more than {MAX_NAME_CHARACTERS}: {value[:100]!r}"
    if not (message.id and message.task and message.run):
        return "it has no id, no task or no run"
    if "\0" in (message.step or "") or (there is not None and "\0" in there.step):
        return "its step has a NUL in it"
    for moment in (message.deadline, message.due_at):
        if moment is not None and not _is_a_time(moment):
            return f"its deadline or due time {moment.isoformat()} has no time zone, or is beyond all times"
    return None


def _is_a_time(moment: datetime) -> bool:
    try:
        return moment.tzinfo is not None and bool(moment.astimezone(UTC))
    except OverflowError:
        return False
