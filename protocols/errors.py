"""Every error that Callboard raises. A class's docstring is its message; the values are its attributes."""

from collections.abc import Sequence
from dataclasses import dataclass


class CallboardError(Exception):
    """Something went wrong."""

    def __str__(self) -> str:
        return " ".join((self.__doc__ or "").split()).format_map(vars(self))


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
class NotStorable(UserError, TypeError, ValueError):
    """{place} {reason}."""

    place: str
    reason: str


@dataclass(eq=False)
class BadSetting(UserError):
    """{name}={value!r} can't be used: {allowed}."""

    name: str
    value: str
    allowed: str


@dataclass(eq=False)
class UnreadableConfig(UserError):
    """The configuration {path} can't be read: {reason}."""

    path: str
    reason: str


@dataclass(eq=False)
class BadConfig(UserError):
    """{path}: {key} = {value} can't be used: {reason}."""

    path: str
    key: str
    value: str
    reason: str


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
class DatabaseRefuses(DatabaseUnavailable):
    """PostgreSQL at {url} refuses its work now: {reason}. {advice}"""

    advice: str


@dataclass(eq=False)
class DatabaseUnfit(UserError):
    """PostgreSQL at {url} can't be used: {reason}. {advice}"""

    url: str
    reason: str
    advice: str


@dataclass(eq=False)
class TooFewConnections(UserError):
    """{processes} processes need at least {needed} connections to PostgreSQL, and {free} of its {most} are free: raise
    its max_connections to at least {enough}, start fewer processes, or put PgBouncer in front of it."""

    processes: int
    needed: int
    free: int
    most: int
    enough: int


@dataclass(eq=False)
class RedisUnavailable(UserError):
    """Redis at {url} can't be reached: {reason}. Is CALLBOARD_REDIS_URL right, and the server up?"""

    url: str
    reason: str


@dataclass(eq=False)
class RedisRefuses(RedisUnavailable):
    """Redis at {url} takes no commands now: {reason}. {advice}"""

    advice: str


@dataclass(eq=False)
class RedisUnfit(UserError):
    """Redis at {url} can't be used: {reason}. {advice}"""

    url: str
    reason: str
    advice: str


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


@dataclass(eq=False)
class Busy(CallboardError):
    """Redis is full and takes no more messages; those that it has are being worked at. Nothing was sent: try again
    in {retry_after_s:g} s."""

    retry_after_s: float


@dataclass(eq=False)
class NameTaken(UserError):
    """A process named {name!r} serves {role!r} already: {process}. Give this one another --name."""

    name: str
    role: str
    process: str


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
    """The projections have not reached position {position} within {within_s} s; {why}."""

    position: int
    within_s: float
    why: str  # who runs them, or which are stopped


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
    """Step {step!r} was recorded with another input: {reason}. Give the step a new name, or set
    `on_changed_input = "warn"` on the actor to go on with the recorded result."""

    step: str
    reason: str = "the code changed while its task was at work"


@dataclass(eq=False)
class TaskFailed(CallboardError):
    """Task {task} of {actor} failed: {type}: {message}"""

    task: str
    actor: str
    type: str
    message: str
    traceback: str = ""
    bases: tuple[str, ...] = ()
    step: str = ""  # of the task that asked


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
    bases: tuple[str, ...] = ()


@dataclass(eq=False)
class ResultNotStored(StepFailed):
    """Step {step!r} has run, and its result can't be stored: {message} It is not called again, for what it did is done.
    Let it return plain data, a Struct, a dataclass or a pydantic model."""


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
class TimeLimitExceeded(CallboardError):
    """{what} was {state} for more than {limit_s:g} s. The role's limits.{state}_s sets how long it may be."""

    what: str
    state: str
    limit_s: float


@dataclass(eq=False)
class Deadlock(CallboardError):
    """These wait for each other, and none could ever go on: {cycle}. So the last question was refused."""

    cycle: str


@dataclass(eq=False)
class UnknownDeadLetter(UserError):
    """There is no dead letter {letter!r}: {reason}. `callboard dead` lists them."""

    letter: str
    reason: str


@dataclass(eq=False)
class AlreadyRedriven(UserError):
    """Dead letter {letter!r} was sent again already, by {by}: `callboard run {run}` shows what became of it."""

    letter: str
    by: str
    run: str


@dataclass(eq=False)
class CantRedrive(UserError):
    """Dead letter {letter!r} can't be sent again: {reason}."""

    letter: str
    reason: str


@dataclass(eq=False)
class NothingToResolve(UserError):
    """Task {task!r} has no tool call with an unknown outcome: {reason}. `callboard doctor` lists those that do."""

    task: str
    reason: str


@dataclass(eq=False)
class NothingToApprove(UserError):
    """Task {task!r} waits for nobody's approval: {reason}. `callboard approvals` lists those that do."""

    task: str
    reason: str


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

    model: str  # the last one that was tried
    type: str
    message: str
    step: str = ""
    kind: str = "unknown"  # as in docs/models.md


@dataclass(eq=False)
class UnknownModel(UserError):
    """There is no model or tier {name!r}: {reason}. Tiers are {tiers}; a model is named provider/model, such as
    openai/gpt-5."""

    name: str
    reason: str
    tiers: str


@dataclass(eq=False)
class MissingKey(UserError):
    """Model {model!r} needs a key: set {variables} in the environment of the process that serves the role."""

    model: str
    variables: str


@dataclass(eq=False)
class BadAnswer(CallboardError):
    """Model {model!r} gave no answer of type {wanted} in {attempts} attempts; the last one: {reason}"""

    model: str
    wanted: str
    attempts: int
    reason: str
    step: str = ""


@dataclass(eq=False)
class CallRefused(CallboardError):
    """The call {step} was not made: {message}"""

    step: str
    type: str  # BudgetExceeded, Unpriced, NotApproved
    message: str


@dataclass(eq=False)
class LimitReached(CallboardError):
    """{what} has reached its limit of {limit} {of}, which the role's `caps` sets."""

    what: str
    limit: str
    of: str


@dataclass(eq=False)
class TooManyHandoffs(CallboardError):
    """{what} has been handed over {limit} times, and is not handed over again: do roles give it to each other in a
    circle? The role's `caps` sets how often it may be: Caps(handoffs=...)."""

    what: str
    limit: int


@dataclass(eq=False)
class TooDeep(CallboardError):
    """{what} is {limit} tasks below the first task of its run, and may ask for none below it: do roles ask each other,
    or themselves, in a circle? The role's `caps` sets how deep it may go: Caps(depth=...)."""

    what: str
    limit: int


@dataclass(eq=False)
class TooManyTasks(CallboardError):
    """Run {run} has {limit} tasks, or more, and may have no more. CALLBOARD_RUN_TASKS sets how many it may have."""

    run: str
    limit: int


@dataclass(eq=False)
class NotApproved(CallboardError):
    """{what} was not approved: {by} said no. {reason}"""

    what: str
    by: str
    reason: str
    step: str = ""


@dataclass(eq=False)
class CircuitOpen(CallboardError):
    """{target} failed too often, and is not asked for another {wait_s:.1f} s."""

    target: str
    wait_s: float


# -- tools -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadTool(UserError):
    """Tool {tool!r} can't be used: {reason}."""

    tool: str
    reason: str


@dataclass(eq=False)
class DuplicateTool(UserError):
    """Tool {tool!r} is declared twice: {first}, and {second}. Give one of them another name, as in
    @tool(name="...")."""

    tool: str
    first: str
    second: str


@dataclass(eq=False)
class UnknownTool(UserError):
    """There is no tool {tool!r} that role {role!r} may use. It may use {known}."""

    tool: str
    role: str
    known: str


@dataclass(eq=False)
class InvalidArguments(CallboardError):
    """Tool {tool!r} can't take these arguments: {reason}"""

    tool: str
    reason: str


@dataclass(eq=False)
class ToolLoopFailed(CallboardError):
    """The model came to no answer in {turns} turns with {calls} tool calls: {reason}"""

    turns: int
    calls: int
    reason: str


@dataclass(eq=False)
class McpFailed(CallboardError):
    """MCP server {server!r} {reason}"""

    server: str
    reason: str


@dataclass(eq=False)
class UnknownMcpServer(UserError):
    """There is no MCP server {server!r} in the configuration. There are {known}."""

    server: str
    known: str


@dataclass(eq=False)
class OutcomeUnknown(CallboardError):
    """Whether tool {tool!r} did what it was called for is not known: {reason}"""

    tool: str
    reason: str


@dataclass(eq=False)
class ExtraMissing(UserError):
    """{what} need the package {package}, which is not installed: pip install 'callboard[{extra}]'."""

    what: str
    package: str
    extra: str


# -- money -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadAmount(UserError):
    """{given} is no such amount: {allowed}."""

    given: str
    allowed: str


@dataclass(eq=False)
class CurrencyMismatch(CallboardError):
    """{one} and {other} are of two currencies: convert one of them first."""

    one: str
    other: str


class NotAdmitted(AppendRefused):
    """The ledger admits no such call. Nothing was written, and what the actor knows of its stream is still true."""


@dataclass(eq=False)
class BudgetExceeded(NotAdmitted):
    """The budget of {scope} {target} ({window}) has {left} left of {limit} {currency}, and the call may cost
    {needed}."""

    scope: str
    target: str
    period: str
    window: str
    currency: str
    limit: str
    left: str
    needed: str
    over: str = "refuse"  # what the budget says is to be done


@dataclass(eq=False)
class Unpriced(NotAdmitted):
    """Model call without a known price, and {scope} {target} has a budget: give the model a price in the settings."""

    scope: str
    target: str


@dataclass(eq=False)
class ValueRefused(CallboardError):
    """The value {given!r} for {name} is refused: {reason}. It is to be {rule}."""

    name: str
    given: str
    reason: str
    rule: str
    step: str = ""


@dataclass(eq=False)
class UnknownBudget(UserError):
    """There is no budget {budget}. `callboard budgets` lists them."""

    budget: str


@dataclass(eq=False)
class BadBudget(UserError):
    """{value!r} is no {what} of a budget: {allowed}."""

    what: str
    value: str
    allowed: str


@dataclass(eq=False)
class UnknownAttempt(UserError):
    """No attempt {attempt!r} holds anything. `callboard budgets --holds` lists those that do."""

    attempt: str


@dataclass(eq=False)
class StillUnderWay(UserError):
    """Attempt {attempt} is under way since {since}: when it ends, it is settled with what it cost. If its process is
    lost, the next one to take its task over counts it as lost; to release it before, say so: --held."""

    attempt: str
    since: str


def listed(names: Sequence[str]) -> str:
    """Names for an error message: sorted, or 'none'."""
    return ", ".join(sorted(names)) or "none"
