"""One call of `ctx.step` or `ctx.tool`: a function runs, and what becomes of it is recorded."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import msgspec

from callboard.actors.log.values import load_value, store_value
from callboard.actors.state.steps import fingerprint
from callboard.actors.task.attempt import Attempt
from callboard.actors.tools.declaration import declared
from callboard.actors.tools.functions import bound, is_async, takes
from callboard.protocols import events as e
from callboard.protocols.errors import CircuitOpen, McpFailed, NotStorable, OutcomeUnknown, ResultNotStored, StepFailed
from callboard.protocols.messages import ErrorInfo, error_info
from callboard.protocols.ports import Breaker
from callboard.protocols.redaction import redact_json
from callboard.protocols.values import encode_value

# What says that a tool is out of order, and not that it was asked for the wrong thing.
SICK: Final = (ConnectionError, TimeoutError, McpFailed, OutcomeUnknown)
BREAKER: Final = Breaker()


class _Unstorable(Exception):
    """A result can't be stored."""


def step_failed(step: str, error: ErrorInfo) -> StepFailed:
    """The error that a failed step raises."""
    kind = ResultNotStored if error.type == ResultNotStored.__name__ else StepFailed
    return kind(step, error.type, error.message, error.bases)


async def call_step(
    work: Attempt,
    step: str,
    mark: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bytes:
    """Run a handler's own function; gives its result as JSON. Raises StepFailed."""
    work.goes_on()
    await work.journal.durable()
    with work.effect():
        try:
            encoded = _result(await _call(function, *args, **kwargs))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # also what is no Exception: a panic of native code, sys.exit
            info = _info(error)
            work.write(e.StepFailed(step=step, fingerprint=mark, error=info))
            raise step_failed(step, info) from error
        result = await store_value(work.store, encoded)
        work.write(e.StepCompleted(step=step, fingerprint=mark, result=result))
    return encoded


def step_mark(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, named: bool) -> str:
    """The fingerprint of a step's input. What a partial gives belongs to it, as far as it can be JSON, where the step
    goes by the function's own name. Raises NotStorable.
    """
    given, options = ((), {}) if named else bound(function)
    if given or options:
        with contextlib.suppress(NotStorable):  # a connection, say
            return fingerprint(((*given, *args), {**options, **kwargs}))
    try:
        return fingerprint((tuple(args), dict(kwargs)))
    except NotStorable:
        encode_value({"args": args, **kwargs}, "the step's input")  # raises, with a better place
        raise


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a tool. `call` is the id of the model's tool call that it answers, where a model asked for it."""

    tool: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    repeatable: bool
    untrusted: bool = False
    call: str = ""
    server: str = ""  # of MCP, that has the tool

    @property
    def target(self) -> str:
        """What its circuit breaker guards: a server as a whole."""
        return f"mcp:{self.server}" if self.server else f"tool:{self.tool}"

    @property
    def fingerprint(self) -> str:
        """Of what it is called with."""
        return fingerprint(self.arguments)


async def use_tool(work: Attempt, step: str, use: ToolUse, ctx: Any) -> bytes:
    """The recorded result of a tool, or what it gives now, as JSON. Its request is in the log before it runs.

    Where it is not known whether it was called (the process was lost, or the tool itself says so), a repeatable one is
    called again, and with any other the task waits for a person to say it. Raises StepFailed, LimitReached.
    """
    record = work.fold.steps.get(step)
    if record is None or record.again:
        work.check_caps(use.tool, use.fingerprint)
        await _let_in(work, step, use)
        key = f"{work.message.task}:{step}"
        # Only people read them there; what a tool gives is given to the handler again, and stays as it is.
        stored = await store_value(work.store, redact_json(encode_value(use.arguments, f"the arguments of {use.tool}")))
        work.write(
            e.ToolRequested(
                step=step,
                fingerprint=use.fingerprint,
                tool=use.tool,
                arguments=stored,
                idempotency_key=key,
                call=use.call,
            )
        )
    elif not record.done and not use.repeatable:
        await _reviewed(work, step, use.tool)
    while not (record := work.fold.steps[step]).done:
        try:
            return await _run(work, step, use, ctx)
        except OutcomeUnknown:
            await _reviewed(work, step, use.tool)
    if record.error is not None:
        raise step_failed(step, record.error)
    assert isinstance(record.result, e.ToolCompleted)
    return await load_value(work.store, record.result.result)


def refuse_tool(work: Attempt, step: str, tool: str, error: ErrorInfo) -> StepFailed:
    """Record that a call was not made; gives the error that says so."""
    work.write(e.ToolFailed(step=step, tool=tool, error=error, duration_ms=0))
    return StepFailed(step, error.type, error.message, error.bases)


async def _let_in(work: Attempt, step: str, use: ToolUse) -> None:
    """Ask the tool's circuit breaker; raises StepFailed."""
    wait_s = await work.services.throttle.enter(use.target, BREAKER)
    if wait_s:
        what = f"MCP server {use.server!r}" if use.server else f"Tool {use.tool!r}"
        raise refuse_tool(work, step, use.tool, error_info(CircuitOpen(what, wait_s)))


async def _reviewed(work: Attempt, step: str, tool: str) -> None:
    """Return when a person has decided on a call that may or may not have happened."""
    if work.fold.steps[step].form != "review":
        work.write(e.ToolOutcomeUnknown(step=step, tool=tool))
    await work.wait(step)


async def _run(work: Attempt, step: str, use: ToolUse, ctx: Any) -> bytes:
    """Call the tool, and record what becomes of it. Raises StepFailed, OutcomeUnknown."""
    await work.journal.durable()
    given = {"idempotency_key": f"{work.message.task}:{step}", "ctx": ctx}
    arguments = {**use.arguments, **{name: given[name] for name in given if takes(use.function, name)}}
    begun = time.monotonic()
    with work.effect():
        try:
            encoded = _result(await _call(use.function, **arguments))
        except asyncio.CancelledError:  # it is given up: if it was the probe of a breaker, another call may be
            if not work.ended:
                work.services.spawn(work.services.throttle.leave(use.target))
            raise
        except BaseException as error:  # as in `call_step`
            unknown = issubclass(type(error), OutcomeUnknown) and not use.repeatable
            info = _info(error)
            if not unknown:  # recorded before anything else is waited for
                work.write(e.ToolFailed(step=step, tool=use.tool, error=info, duration_ms=ms_since(begun)))
            await work.services.throttle.report(use.target, BREAKER, ok=not issubclass(type(error), SICK))
            if unknown:
                raise
            raise step_failed(step, info) from error
        duration_ms = ms_since(begun)
        result = await store_value(work.store, encoded)
        work.write(
            e.ToolCompleted(step=step, tool=use.tool, result=result, duration_ms=duration_ms, untrusted=use.untrusted)
        )
        await work.services.throttle.report(use.target, BREAKER, ok=True)
    return encoded


def repeatable(function: Callable[..., Any]) -> bool:
    """Whether a tool may be called again when it is not known whether it was called."""
    return declared(function)[0].idempotent or takes(function, "idempotency_key")


def _info(error: BaseException) -> ErrorInfo:
    if issubclass(type(error), _Unstorable):  # an exception may lie about its class
        return ErrorInfo(type=ResultNotStored.__name__, message=str(error), bases=(StepFailed.__name__,))
    return error_info(error)


def _result(value: Any) -> bytes:
    """A result as JSON. Raises _Unstorable: the function has run, and what it did must not be done again."""
    try:
        return encode_value(value, "result")
    except NotStorable as error:
        raise _Unstorable(str(error)) from error


async def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if is_async(function):
        return await function(*args, **kwargs)
    result, closing = await anyio.to_thread.run_sync(lambda: _outcome(function, args, kwargs), abandon_on_cancel=True)
    if closing is not None:
        raise closing
    return await result if inspect.isawaitable(result) else result  # a function may give what a coroutine does


def _outcome(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, GeneratorExit | None]:
    """What a function gives. A GeneratorExit is a value here: a future that has it closes the coroutine that awaits."""
    try:
        return function(*args, **kwargs), None
    except GeneratorExit as error:
        return None, error


def ms_since(begun: float) -> int:
    """Milliseconds since a reading of `time.monotonic`."""
    return round((time.monotonic() - begun) * 1000)
