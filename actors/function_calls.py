"""One call of `ctx.step` or `ctx.tool`: a function runs, and what becomes of it is recorded."""

import inspect
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from actors.values import store_value
from protocols import events as e
from protocols.errors import StepFailed
from protocols.messages import encode_json, error_info

if TYPE_CHECKING:
    from actors.work import Work


async def call_step(
    work: "Work",
    step: str,
    fingerprint: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> bytes:
    """Run a handler's own function; gives its result as JSON. Raises StepFailed."""
    work.goes_on()
    await work.cell.journal.durable()
    with work.effect():
        try:
            encoded = encode_json(await _call(function, *args, **kwargs))
        except Exception as error:
            info = error_info(error)
            work.write(e.StepFailed(step=step, fingerprint=fingerprint, error=info))
            raise StepFailed(step, info.type, info.message) from error
        result = await store_value(work.store, encoded)
        work.write(e.StepCompleted(step=step, fingerprint=fingerprint, result=result))
    return encoded


async def call_tool(
    work: "Work",
    step: str,
    fingerprint: str,
    tool: str,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    requested: bool,
) -> bytes:
    """Run a tool, whose request is in the log first (it is there already if it was `requested` by a lost process);
    gives its result as JSON. Raises StepFailed.
    """
    idempotency_key = f"{work.message.task}:{step}"
    if not requested:
        stored = await store_value(work.store, encode_json(arguments))
        work.write(
            e.ToolRequested(
                step=step, fingerprint=fingerprint, tool=tool, arguments=stored, idempotency_key=idempotency_key
            )
        )
    await work.cell.journal.durable()
    if "idempotency_key" in inspect.signature(function).parameters:
        arguments = {**arguments, "idempotency_key": idempotency_key}
    begun = time.monotonic()
    with work.effect():
        try:
            encoded = encode_json(await _call(function, **arguments))
        except Exception as error:
            info = error_info(error)
            work.write(e.ToolFailed(step=step, tool=tool, error=info, duration_ms=_ms_since(begun)))
            raise StepFailed(step, info.type, info.message) from error
        result = await store_value(work.store, encoded)
        work.write(e.ToolCompleted(step=step, tool=tool, result=result, duration_ms=_ms_since(begun)))
    return encoded


def return_type(function: Callable[..., Any]) -> Any:
    """The annotated type of a function's result; Any where there is none that can be resolved."""
    try:
        return typing.get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return Any


async def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    result = await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), abandon_on_cancel=True)
    return await result if inspect.isawaitable(result) else result  # a callable object may be asynchronous, too


def _ms_since(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)
