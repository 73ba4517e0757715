"""A process that serves the crew of the fault tests, and ends itself like kill -9 at a given boundary.

python -m tests.faults.process PLAN       a Plan as JSON
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

from actors.definition import define
from callboard import Actor, Context, Handoff
from callboard.bootstrap import connected
from callboard.settings import Settings
from protocols.ports import Appended, Consumer, EventStore, ExpectedVersion, NewEvent

Boundary = Literal["before a commit", "after a commit", "after an effect", "before settling", "none"]
BOUNDARIES: tuple[Boundary, ...] = ("before a commit", "after a commit", "after an effect", "before settling")
DIED = 9


class Plan(msgspec.Struct, frozen=True):
    """What one process is to do: serve, and die when it comes to the boundary for the `nth` time."""

    name: str
    database_url: str
    redis_url: str
    effects: str  # a file; a line for each effect
    boundary: Boundary = "none"
    nth: int = 0


class Effect(msgspec.Struct, frozen=True):
    """One line of the file of effects: what was done, for which step's idempotency key, and when."""

    key: str
    at: float  # Unix time


class Fuse:
    """Ends the process at one place."""

    def __init__(self, plan: Plan) -> None:
        self._boundary = plan.boundary
        self._left = plan.nth

    def at(self, boundary: Boundary) -> None:
        """The process is at a boundary."""
        if boundary == self._boundary:
            self._left -= 1
            if self._left == 0:
                os._exit(DIED)


class Store:
    """An event store with a fuse. What it doesn't know, the real one does."""

    def __init__(self, store: EventStore, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        self._fuse.at("before a commit")
        outcome = self._store.submit(stream, events, expected)
        outcome.add_done_callback(lambda _: self._fuse.at("after a commit"))  # before any callback of the actor
        return outcome


class Settling:
    """A consumer with a fuse."""

    def __init__(self, consumer: Consumer, fuse: Fuse) -> None:
        self._consumer = consumer
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def settle(self, delivery: Any) -> None:
        self._fuse.at("before settling")
        self._consumer.settle(delivery)

    async def __aenter__(self) -> "Settling":
        await self._consumer.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._consumer.__aexit__(*exc)


class Bus:
    """A bus whose consumers have a fuse."""

    def __init__(self, bus: Any, fuse: Fuse) -> None:
        self._bus = bus
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def consumer(self, *arguments: Any) -> Settling:
        return Settling(self._bus.consumer(*arguments), self._fuse)


def crew(act: Callable[[str], str]) -> list[type[Actor]]:
    """Three roles that ask each other, sleep, and hand over. `act` does an effect for a key."""

    def pay(amount: int, idempotency_key: str) -> str:
        return act(idempotency_key)

    class Writer(Actor):
        model = "stand-in"

        async def handle(self, number: int, ctx: Context) -> Handoff:
            paid = await ctx.tool(pay, amount=number)
            draft = await ctx.model(f"Write about {number}.")
            await ctx.gather(*(ctx.ask("reviewer", f"{number} {place} {len(draft.text)}") for place in range(2)))
            await ctx.sleep(0.05)
            return await ctx.handoff("editor", f"{number} {paid}", key=f"desk-{number % 3}")

    class Reviewer(Actor):
        async def handle(self, draft: str, ctx: Context) -> str:
            return str(await ctx.step(act, f"{ctx.task}:act#0"))

    class Editor(Actor):
        async def handle(self, draft: str, ctx: Context) -> str:
            await ctx.tool(pay, amount=1)
            return draft.split(maxsplit=1)[0]

    return [Writer, Reviewer, Editor]


async def main(plan: Plan) -> None:
    """Serve until killed."""
    fuse = Fuse(plan)
    file = os.open(Path(plan.effects), os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def act(key: str) -> str:
        os.write(file, msgspec.json.encode(Effect(key, time.time())) + b"\n")
        fuse.at("after an effect")
        return "done"

    settings = Settings(database_url=plan.database_url, redis_url=plan.redis_url, lease_s=1.0, partitions=4, slots=16)
    async with connected(settings, plan.name) as stack:
        stack = msgspec.structs.replace(stack, store=Store(stack.store, fuse), bus=Bus(stack.bus, fuse))  # type: ignore[arg-type]
        await stack.host(define(crew(act))).run(anyio.Event())


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))
