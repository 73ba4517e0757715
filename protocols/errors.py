"""Every error that Callboard raises. A class's docstring is its message; the values are its attributes."""

from collections.abc import Sequence
from dataclasses import dataclass


class CallboardError(Exception):
    """Something went wrong."""

    def __str__(self) -> str:
        return (self.__doc__ or "").format_map(vars(self))


class UserError(CallboardError):
    """What the user gave can't be taken: the command line ends with exit code 2."""


# -- names and input ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadName(UserError):
    """{name!r} is not a legal {what}: {allowed}."""

    what: str
    name: str
    allowed: str


@dataclass(eq=False)
class UnknownRole(UserError):
    """No process has ever served a role {role!r}. Known roles: {known}. Start one with `callboard up APP`."""

    role: str
    known: str


@dataclass(eq=False)
class UnknownTopic(UserError):
    """No role subscribes to the topic {topic!r}. Known topics: {known}."""

    topic: str
    known: str


@dataclass(eq=False)
class UnknownRun(UserError):
    """There is no run {run!r}. `callboard runs` lists them."""

    run: str


@dataclass(eq=False)
class UnknownTask(UserError):
    """There is no task {task!r}. `callboard tasks` lists them."""

    task: str


@dataclass(eq=False)
class UnknownStream(UserError):
    """There is no stream {stream!r}. Streams are named role/key, or run/ID."""

    stream: str


@dataclass(eq=False)
class AmbiguousId(UserError):
    """{given!r} could be any of {candidates}: give more of it."""

    given: str
    candidates: str


@dataclass(eq=False)
class BadPayload(UserError):
    """The payload doesn't fit role {role!r}: {reason}. It takes {accepted}."""

    role: str
    reason: str
    accepted: str


@dataclass(eq=False)
class BadSetting(UserError):
    """{name}={value!r} can't be used: {allowed}."""

    name: str
    value: str
    allowed: str


@dataclass(eq=False)
class BadOption(UserError):
    """{option} {value!r} can't be used: {reason}."""

    option: str
    value: str
    reason: str


@dataclass(eq=False)
class BadApp(UserError):
    """{app!r} is not an app: {reason}. An app is a Python file or module with at least one Actor class."""

    app: str
    reason: str


@dataclass(eq=False)
class BadDefinition(UserError):
    """Actor {actor} can't be used: {reason}."""

    actor: str
    reason: str


# -- servers -----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DatabaseUnavailable(UserError):
    """PostgreSQL at {url} can't be reached: {reason}. Is CALLBOARD_DATABASE_URL right, and the server up?"""

    url: str
    reason: str


@dataclass(eq=False)
class RedisUnavailable(UserError):
    """Redis at {url} can't be reached: {reason}. Is CALLBOARD_REDIS_URL right, and the server up?"""

    url: str
    reason: str


@dataclass(eq=False)
class WrongEvictionPolicy(UserError):
    """Redis at {url} has maxmemory-policy {policy!r} and might drop messages: set it to 'noeviction'."""

    url: str
    policy: str


@dataclass(eq=False)
class SchemaTooNew(UserError):
    """The database's schema is version {found}, and this Callboard knows only {known}: upgrade Callboard."""

    found: int
    known: int


@dataclass(eq=False)
class ServicesFailed(UserError):
    """The local {service} failed: {reason}. Its log: {log}"""

    service: str
    reason: str
    log: str


@dataclass(eq=False)
class ServicesMissing(UserError):
    """There is no {service} to start: {reason}. Set CALLBOARD_DATABASE_URL and CALLBOARD_REDIS_URL to servers that
    run already, or install {remedy}."""

    service: str
    reason: str
    remedy: str


@dataclass(eq=False)
class BadFolder(UserError):
    """The folder {path} can't be used: {reason}."""

    path: str
    reason: str


@dataclass(eq=False)
class ProcessGaveUp(UserError):
    """Process {process} can't run: {reason}"""

    process: str
    reason: str


@dataclass(eq=False)
class NotServed(CallboardError):
    """Not served: {what}."""

    what: str


# -- event store -------------------------------------------------------------------------------------------


class AppendRefused(CallboardError):
    """The store refused an append; nothing of it was written."""


@dataclass(eq=False)
class Conflict(AppendRefused):
    """Stream {stream!r} is at version {actual}, and the append expected {expected}."""

    stream: str
    expected: str
    actual: int


@dataclass(eq=False)
class AlreadyHandled(AppendRefused):
    """Message {message!r} has been handled already: {stream!r} can't handle it again."""

    stream: str
    message: str


@dataclass(eq=False)
class BadEvent(AppendRefused):
    """An event for stream {stream!r} can't be stored: {reason}."""

    stream: str
    reason: str


@dataclass(eq=False)
class StoreUnavailable(CallboardError):
    """The event store did not answer ({reason}): whether the append was written is not known."""

    reason: str


@dataclass(eq=False)
class UnknownEventType(CallboardError):
    """Event {stream}@{version} is {type!r} of schema version {schema_version}, which this Callboard doesn't know."""

    stream: str
    version: int
    type: str
    schema_version: int


@dataclass(eq=False)
class MessageNotInLog(CallboardError):
    """The log has no message {message!r}."""

    message: str


@dataclass(eq=False)
class BlobMissing(CallboardError):
    """The store has no blob {digest}."""

    digest: str


# -- projections -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class NotProjected(CallboardError):
    """Projection {projection!r} can't take event {stream}@{version} ({type}, position {position}): {reason}."""

    projection: str
    stream: str
    version: int
    type: str
    position: int
    reason: str


@dataclass(eq=False)
class ProjectionsBehind(CallboardError):
    """The projections have not reached position {position} within {within_s} s; {holder} runs them."""

    position: int
    within_s: float
    holder: str


# -- tasks and steps ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class IllegalTrigger(CallboardError):
    """{machine} can't {trigger!r} in state {state!r}; allowed there: {allowed}."""

    machine: str
    trigger: str
    state: str
    allowed: str


@dataclass(eq=False)
class StepInputChanged(CallboardError):
    """Step {step!r} was recorded with another input: the code changed while its task was at work. Give the step
    a new name, or set `on_changed_input = "warn"` on the actor to go on with the recorded result."""

    step: str


@dataclass(eq=False)
class TaskFailed(CallboardError):
    """Task {task} of {actor} failed: {type}: {message}"""

    task: str
    actor: str
    type: str
    message: str
    traceback: str = ""


@dataclass(eq=False)
class TaskCanceled(CallboardError):
    """Task {task} of {actor} was canceled: {reason}"""

    task: str
    actor: str
    reason: str


@dataclass(eq=False)
class StepFailed(CallboardError):
    """Step {step!r} failed: {type}: {message}"""

    step: str
    type: str
    message: str


@dataclass(eq=False)
class DeadlineExceeded(CallboardError):
    """{what} did not end before its deadline, {deadline}."""

    what: str
    deadline: str


@dataclass(eq=False)
class StillAtWork(CallboardError):
    """Task {task} has not ended within {within_s:g} s. It goes on: `callboard run {run}` shows how far it is."""

    task: str
    run: str
    within_s: float


@dataclass(eq=False)
class Detached(CallboardError):
    """Task {task} no longer runs here; its context can't be used any more."""

    task: str


@dataclass(eq=False)
class NoModel(CallboardError):
    """Role {role!r} names no model: set `model` on the actor, give ctx.model a `model`, or start with --model."""

    role: str


@dataclass(eq=False)
class ModelFailed(CallboardError):
    """Model {model!r} gave no answer: {type}: {message}"""

    model: str
    type: str
    message: str


def listed(names: Sequence[str]) -> str:
    """Names for an error message: sorted, or 'none'."""
    return ", ".join(sorted(names)) or "none"
