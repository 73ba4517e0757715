"""What the specs of the actors share: handlers written in place, pieces of logs, and stores that misbehave."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from callboard import Actor, Context
from callboard.eventstore.memory import MemoryEventStore
from callboard.protocols.codec import body_of
from callboard.protocols.events import Body, Event, NewEvent
from callboard.protocols.ports import Appended, ExpectedVersion
from callboard.testing import spec

Todo = Callable[..., Any]


class Echo(Actor):
    """Gives back what it gets."""

    async def handle(self, payload: Any, ctx: Context) -> Any:
        return payload


class _Scripted(Actor):
    todo: Any = None

    async def handle(self, payload: Any, ctx: Context) -> Any:
        todo = type(self).todo
        return await (todo(ctx) if todo.__code__.co_argcount == 1 else todo(payload, ctx))


def actor(role: str, todo: Todo, **declared: Any) -> type[Actor]:
    """A role whose handler is a coroutine function of (ctx) or (payload, ctx)."""
    return type(role.title(), (_Scripted,), {"role": role, "todo": staticmethod(todo), **declared})


def worker(todo: Todo, **declared: Any) -> type[Actor]:
    """The role "worker", with this handler."""
    return actor("worker", todo, **declared)


async def result_of(todo: Todo, payload: Any = None, *others: type[Actor], **options: Any) -> Any:
    """What a worker with this handler gives."""
    async with spec(worker(todo), *others, **options) as play:
        return await play.result(await play.when("worker", payload))


async def log_of(todo: Todo, payload: Any = None, *others: type[Actor], **options: Any) -> list[Event]:
    """The log of one task of a worker with this handler."""
    async with spec(worker(todo), *others, **options) as play:
        await play.when("worker", payload)
        return list(play.log)


def up_to(log: Sequence[Event], type_: str) -> list[Event]:
    """The beginning of a log, up to the first event of a type."""
    return list(log[: next(place for place, it in enumerate(log) if it.type == type_) + 1])


def bodies(log: Sequence[Event], kind: type[Body] = Body) -> list[Any]:
    """The bodies of a class, in order."""
    return [body for body in map(body_of, log) if isinstance(body, kind)]


def double(number: int) -> int:
    """The simplest step."""
    return 2 * number


async def cancel_a_call(ctx: Context) -> str:
    """A handler one of whose branches fails while the other asks a model."""

    async def failing() -> None:
        raise ValueError("no")

    try:
        await ctx.gather(ctx.model("?"), failing())
    except ValueError:
        return "caught"
    return ""


class SlowStore(MemoryEventStore):
    """Tells the outcome of an append some turns of the loop later, as a store over a network does."""

    TURNS = 5

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        outcome = super().submit(stream, events, expected)
        later: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        _after(self.TURNS, lambda: _tell(outcome, later))
        return later


def _after(turns: int, call: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(_after, turns - 1, call) if turns else call()


def _tell(outcome: "asyncio.Future[Appended]", later: "asyncio.Future[Appended]") -> None:
    error = outcome.exception()
    if later.done():
        return
    if error is None:
        later.set_result(outcome.result())
    else:
        later.set_exception(error)
