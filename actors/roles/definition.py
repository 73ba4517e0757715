"""What a user writes: an `Actor` class a role, with typed handlers, and what the runtime makes of it.

    class Writer(Actor):
        '''Writes a first draft.'''
        async def handle(self, brief: Brief, ctx: Context) -> str: ...

A handler takes one payload and the context. Further handlers are marked with `@handler`; a message goes to the
handler whose payload type it names or fits, and whose kinds include the message's.
"""

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET

from callboard.actors.state.machine import Machine, role_machine
from callboard.actors.state.policies import Cache, Caps, Memory, Retry, TimeLimits
from callboard.actors.tools.policy import ToolPolicy
from callboard.actors.tools.toolbox import ToolLike, check_tools
from callboard.protocols.a2a import AgentCapabilities, AgentCard, AgentSkill, Part
from callboard.protocols.errors import BadDefinition, BadName, BadPayload, CallboardError, NotStorable
from callboard.protocols.messages import OPENS_TASK, Kind, Message, value_of
from callboard.protocols.names import check_role
from callboard.protocols.ports import Route
from callboard.protocols.types import check_class, convert, decoder, fields_in_words, json_schema, type_name

CARD_VERSION: Final = "1"
_HANDLES: Final = "__callboard_kinds__"
_RETRY: Final = "__callboard_retry__"

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


@typing.dataclass_transform(
    frozen_default=True, field_specifiers=(msgspec.field,)
)  # so that subclasses need no frozen=True
class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payload: fields with types. A field that the type doesn't have is an error, not ignored."""


class Handoff(msgspec.Struct, frozen=True):
    """What a handler returns to give its task over: made by `Context.handoff`."""

    to: str  # the stream of the actor that takes over
    task: str
    payload: Any


class Actor:
    """The base of all roles. One instance lives as long as one task is in memory: keep no state in it.

    `role` defaults to the class's name in kebab-case; the docstring's first line describes the role to others.
    `model` names the model of `ctx.model`, or several, tried in order. `topics` are the broadcasts it takes.
    `states`, `transitions` (dicts for the transitions library) and `initial` declare a machine of the role's own,
    which `ctx.trigger` moves. `on_changed_input` says what to do when a recorded step comes with another input.
    `retry` tells which errors are worth another try, and how often; `limits` how long a task may take; `max_at_work`
    how many of the role's tasks one process works on at a time. `caps` limit what a task may do; `memory` is how much
    of its conversation an actor remembers; `cache` whether answers are used again; with `stream` they come in pieces,
    which people can watch. `tools` are those of `ctx.run_tools`, and `tool_policy` what of them is allowed.
    """

    role: ClassVar[str] = ""
    model: ClassVar[str | Sequence[str]] = ()
    topics: ClassVar[Sequence[str]] = ()
    states: ClassVar[Sequence[str]] = ()
    transitions: ClassVar[Sequence[Mapping[str, Any]]] = ()
    initial: ClassVar[str] = ""
    on_changed_input: ClassVar[Literal["error", "warn"]] = "error"
    retry: ClassVar[Retry] = Retry()
    limits: ClassVar[TimeLimits] = TimeLimits()
    max_at_work: ClassVar[int | None] = None
    stream: ClassVar[bool] = False
    memory: ClassVar[Memory] = Memory()
    cache: ClassVar[Cache | None] = None
    caps: ClassVar[Caps] = Caps()
    tools: ClassVar[Sequence[ToolLike]] = ()
    tool_policy: ClassVar[Sequence[ToolPolicy]] = ()

    def choose_model(self, payload: Any) -> str | Sequence[str]:  # noqa: ARG002 - for those who override it
        """The models or tiers of this task: by default the role's `model`. Override it to choose by the input."""
        return self.model


def handler(*kinds: Kind, retry: Retry | None = None) -> Callable[[Method], Method]:
    """Mark a further handler; with kinds, it takes only messages of these. `retry` takes the place of the role's.

    Raises BadName for an unknown kind.
    """
    for kind in kinds:
        if kind not in OPENS_TASK:
            raise BadName("handler kind", kind, f"one of {', '.join(sorted(OPENS_TASK))}")

    def mark(method: Method) -> Method:
        setattr(method, _HANDLES, frozenset(kinds) or OPENS_TASK)
        setattr(method, _RETRY, retry)
        return method

    return mark


class Handler:
    """One handler method: what it takes and what it gives."""

    def __init__(self, name: str, method: Callable[..., Awaitable[Any]], payload: Any, returns: Any) -> None:
        self.name = name
        self.method = method
        self.payload = payload
        self.returns = returns
        self.kinds: frozenset[str] = getattr(method, _HANDLES, OPENS_TASK)
        self.retry: Retry | None = getattr(method, _RETRY, None)
        self.type_names = {t.__name__ for t in (typing.get_args(payload) or (payload,)) if isinstance(t, type)}
        self._decode = decoder(payload if payload is not Message else Any)

    def decode(self, message: Message) -> Any:
        """The payload for this handler; raises msgspec.ValidationError or DecodeError where it doesn't fit."""
        if self.payload is Message:
            return message
        if len(message.parts or ()) > 1:
            raise msgspec.ValidationError("a message of several parts needs a handler that takes a Message")
        return self._decode_part(message.parts[0]) if message.parts else convert(None, self.payload)

    def _decode_part(self, part: Part) -> Any:
        return self._decode(bytes(part.data)) if part.data is not UNSET else convert(value_of(part), self.payload)

    def accepted(self) -> str:
        """What it takes, for people: a type's name and its fields."""
        fields = None if self.payload is Message else fields_in_words(self.payload)
        return type_name(self.payload) if fields is None else f"{self.payload.__name__}({', '.join(fields)})"


class Definition:
    """An Actor class, checked and compiled. Raises BadDefinition."""

    def __init__(self, actor: type[Actor]) -> None:
        self.actor = actor
        try:
            self.role = check_role(actor.role or _kebab(actor.__name__))
        except BadName as error:
            raise BadDefinition(actor.__name__, str(error)) from None
        self.handlers = [
            _handler(actor, name, method)
            for name, method in inspect.getmembers(actor, inspect.isfunction)
            if name == "handle" or hasattr(method, _HANDLES)
        ]
        if not self.handlers:
            raise BadDefinition(actor.__name__, "it has no `async def handle(self, payload, ctx)`")
        self.models = _names(actor, "model", (actor.model,) if isinstance(actor.model, str) else actor.model)
        self.topics = _names(actor, "topics", actor.topics)
        if actor.on_changed_input not in ("error", "warn"):
            raise BadDefinition(
                actor.__name__, f"its on_changed_input is {actor.on_changed_input!r}, not 'error' or 'warn'"
            )
        self.limits = actor.limits
        self.max_at_work = actor.max_at_work
        _check_policies(actor)
        self.machine: Machine | None = role_machine(actor.__name__, actor.states, actor.transitions, actor.initial)
        self.description = (inspect.getdoc(actor) or self.role).partition("\n")[0]
        self._input_schema = _input_schema(actor.__name__, self.handlers)

    def retry(self, handler: Handler | None) -> Retry:
        """What a handler declares about retries, or else the role."""
        return self.actor.retry if handler is None or handler.retry is None else handler.retry

    def __repr__(self) -> str:
        return f"Definition({self.role}: {', '.join(h.name for h in self.handlers)})"

    def select(self, message: Message) -> tuple[Handler, Any]:
        """The handler for a message, and its decoded payload; raises BadPayload."""
        candidates = [h for h in self.handlers if message.kind in h.kinds]
        named = _type_name(message)
        candidates = [h for h in candidates if named in h.type_names] or candidates
        reasons = []
        for candidate in candidates:
            try:
                return candidate, candidate.decode(message)
            except msgspec.DecodeError as error:
                reasons.append(str(error))
        reason = "; ".join(reasons) or f"no handler takes the kind {message.kind!r}"
        raise BadPayload(self.role, reason, self.accepted())

    def accepted(self) -> str:
        """What the role takes, for people."""
        return " or ".join(handler.accepted() for handler in self.handlers)

    def card(self) -> AgentCard:
        """The role's agent card (A2A 1.0): a skill a handler."""
        return AgentCard(
            name=self.role,
            description=self.description,
            version=CARD_VERSION,
            supported_interfaces=(),
            capabilities=AgentCapabilities(),
            default_input_modes=("application/json", "text/plain"),
            default_output_modes=("application/json", "text/plain"),
            skills=tuple(
                AgentSkill(
                    id=h.name,
                    name=h.name.replace("_", " "),
                    description=(inspect.getdoc(h.method) or self.description).partition("\n")[0],
                    tags=tuple(sorted(h.kinds)),
                    examples=(h.accepted(),),
                )
                for h in self.handlers
            ),
        )

    def route(self, partitions: int) -> Route:
        """How the role is made known."""
        return Route(
            role=self.role,
            partitions=partitions,
            topics=self.topics,
            card=self.card(),
            input_schema=self._input_schema,
        )


def define(actors: Sequence[type[Actor]]) -> dict[str, Definition]:
    """Definitions by role; raises BadDefinition, also where two classes claim one role."""
    definitions: dict[str, Definition] = {}
    for actor in actors:
        definition = Definition(actor)
        if definition.role in definitions:
            other = definitions[definition.role].actor.__name__
            raise BadDefinition(actor.__name__, f"its role {definition.role!r} is {other}'s already")
        definitions[definition.role] = definition
    return definitions


def _handler(actor: type[Actor], name: str, method: Callable[..., Any]) -> Handler:
    what = f"{actor.__name__}.{name}"
    if not inspect.iscoroutinefunction(method):
        raise BadDefinition(what, "a handler is an `async def`")
    parameters = list(inspect.signature(method).parameters.values())
    if len(parameters) != 3:
        raise BadDefinition(what, "a handler takes (self, payload, ctx)")
    try:
        hints = typing.get_type_hints(method)
        returns = hints.get("return", Any)
        if returns is not Handoff:
            check_class(returns, f"what {what} returns")
        return Handler(name, method, hints.get(parameters[1].name, Any), returns)
    except NotStorable as error:
        raise BadDefinition(what, str(error)) from None
    except NameError as error:
        raise BadDefinition(what, f"an annotation can't be resolved ({error})") from error
    except TypeError as error:
        raise BadDefinition(what, f"its payload type can't come from JSON ({error})") from error


def _check_policies(actor: type[Actor]) -> None:
    for name, kind in (("retry", Retry), ("limits", TimeLimits), ("memory", Memory), ("caps", Caps), ("cache", Cache)):
        given = getattr(actor, name)
        if not isinstance(given, kind) and not (name == "cache" and given is None):
            raise BadDefinition(actor.__name__, f"its {name} is {given!r}, not a {kind.__name__}(...)")
    if not all(isinstance(policy, ToolPolicy) for policy in actor.tool_policy):
        raise BadDefinition(actor.__name__, f"its tool_policy is {actor.tool_policy!r}, not a list of ToolPolicy(...)")
    try:
        check_tools(actor.tools)
    except CallboardError as error:
        raise BadDefinition(actor.__name__, str(error)) from None
    most = actor.max_at_work
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise BadDefinition(actor.__name__, f"its max_at_work is {most!r}, not a whole number from 1 on, or None")


def _names(actor: type[Actor], what: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise BadDefinition(actor.__name__, f"its {what} is {given!r}, not a list of names")
    return tuple(given)


def _input_schema(actor: str, handlers: Sequence[Handler]) -> bytes | None:
    """The JSON Schema (2020-12) of everything that the handlers take; None where one takes any message.

    Raises BadDefinition where JSON has no schema for it.
    """
    payloads = [h.payload for h in handlers]
    if any(p is Any or p is Message for p in payloads):
        return None
    try:
        schemas, components = json_schema(payloads)
    except TypeError as error:
        reason = str(error).replace("\n", " ").partition(" requires either:")[0]
        told = " or ".join(type_name(payload) for payload in payloads)
        raise BadDefinition(actor, f"its payload type {told} can't come from JSON ({reason})") from None
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    return msgspec.json.encode({**schema, "$defs": components})


def _type_name(message: Message) -> str | None:
    for part in message.parts or ():
        if part.metadata:
            named = part.metadata.get("type")
            return named if isinstance(named, str) else None
    return None


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()
