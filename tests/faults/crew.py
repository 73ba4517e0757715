"""The actors that the fault tests put on stage. Each effect that they have is a request to the payment server."""

import asyncio
import ctypes
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from callboard import Actor, Context, Handoff
from tests.faults.payments import Receipt

DESKS: Final = 3
PER_MANAGER: Final = 1000
DIED: Final = 9  # the exit code of a process that ends itself


class Till:
    """Where the effects of this process go: `charge` asks for one by an idempotency key."""

    charge: Callable[[str], Awaitable[Receipt]]


async def pay(amount: int, idempotency_key: str) -> int:
    """A tool that takes an idempotency key."""
    return (await Till.charge(idempotency_key)).number


async def charge(key: str) -> int:
    """A step."""
    return (await Till.charge(key)).number


class Writer(Actor):
    """Pays, calls a model, asks twice at a time, sleeps, and tells one of a few editors twice, the second time handing
    over to it: what comes first has to be begun first.
    """

    model = "stand-in"

    async def handle(self, number: int, ctx: Context) -> Handoff:
        paid = await ctx.tool(pay, amount=number)
        draft = await ctx.model(f"Write about {number}.")
        await ctx.gather(*(ctx.ask("reviewer", f"{number} {place} {len(draft.text)}") for place in range(2)))
        await ctx.sleep(0.05)
        desk = f"desk-{number % DESKS}"
        await ctx.tell("editor", f"{number} will come", key=desk)
        return await ctx.handoff("editor", f"{number} {paid}", key=desk)


class Reviewer(Actor):
    """Answers, after an effect of its own."""

    async def handle(self, draft: str, ctx: Context) -> str:
        return str(await ctx.step(charge, f"{ctx.task}:charge#0"))


class Editor(Actor):
    """Ends a run: gives back its number."""

    async def handle(self, draft: str, ctx: Context) -> int:
        await ctx.tool(pay, amount=1)
        return int(draft.split(maxsplit=1)[0])


class Clerk(Actor):
    """Pays once, and gives back its number: the shortest task that has an effect."""

    async def handle(self, number: int, ctx: Context) -> int:
        await ctx.tool(pay, amount=number)
        return number


class Sleeper(Actor):
    """Pays, and is at work for so many seconds in one call."""

    async def handle(self, seconds: float, ctx: Context) -> float:
        await ctx.step(long_charge, f"{ctx.task}:long_charge#0", seconds)
        return seconds


async def long_charge(key: str, seconds: float) -> int:
    receipt = await Till.charge(key)
    await asyncio.sleep(seconds)
    return receipt.number


class Blocker(Actor):
    """Blocks the event loop of its process for so many seconds, the first time that it is at it."""

    async def handle(self, seconds: float, ctx: Context) -> float:
        await ctx.step(blocking_charge, f"{ctx.task}:blocking_charge#0", seconds)
        return seconds


async def blocking_charge(key: str, seconds: float) -> int:
    receipt = await Till.charge(key)
    if receipt.times == 1:
        time.sleep(seconds)  # noqa: ASYNC251 - the fault
    return receipt.number


class Manager(Actor):
    """Has so many clerks asked, all at a time; of more than a thousand, by further managers."""

    async def handle(self, clerks: int, ctx: Context) -> int:
        if clerks > PER_MANAGER:
            below = (ctx.ask("manager", PER_MANAGER) for _ in range(clerks // PER_MANAGER))
            return PER_MANAGER * len(await ctx.gather(*below))
        return len(await ctx.gather(*(ctx.ask("clerk", number) for number in range(clerks))))


class Bomb(Actor):
    """Ends its process, in the way that it is told; or nothing happens."""

    async def handle(self, how: str, ctx: Context) -> str:
        match how:
            case "exit":
                os._exit(DIED)
            case "segfault":
                ctypes.string_at(0)
            case "memory":  # what the kernel does to who takes too much of it
                resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
                try:
                    hoard = [bytearray(1 << 26) for _ in range(1 << 10)]
                    return str(len(hoard))
                except MemoryError:
                    os.kill(os.getpid(), signal.SIGKILL)
            case _:
                await ctx.tool(pay, amount=1)
        return how


class Bank(Actor):
    """Calls a tool that is not safe to call twice, and is lost in mid-call the first time."""

    async def handle(self, amount: int, ctx: Context) -> int:
        await ctx.tool(wire, task=ctx.task)
        return amount


async def wire(task: str) -> int:
    """A tool that takes no idempotency key. It makes one up, so that it is known what it was called for."""
    receipt = await Till.charge(f"{task}:wire#0")
    if receipt.times == 1:
        os._exit(DIED)
    return receipt.number


class Boss(Actor):
    """Has so many walkers at work."""

    async def handle(self, walkers: int, ctx: Context) -> int:
        return sum(await ctx.gather(*(ctx.ask("walker", 1000) for _ in range(walkers))))


class Walker(Actor):
    """Pays again and again."""

    async def handle(self, times: int, ctx: Context) -> int:
        for _ in range(times):
            await ctx.tool(pay, amount=1)
        return times


class Teller(Actor):
    """Tells a clerk two numbers, one after the other; a second passes before and after the first."""

    async def handle(self, number: int, ctx: Context) -> int:
        await ctx.step(long_charge, f"{ctx.task}:long_charge#0", 1.0)
        await ctx.tell("clerk", number, key="window", kind="artifact")
        await ctx.step(long_charge, f"{ctx.task}:long_charge#1", 1.0)
        await ctx.tell("clerk", number, key="window", kind="artifact")
        return number


ROLES: Final[tuple[type[Actor], ...]] = (
    Writer,
    Reviewer,
    Editor,
    Clerk,
    Sleeper,
    Blocker,
    Manager,
    Bomb,
    Bank,
    Boss,
    Walker,
    Teller,
)
