"""The processes of one scenario: real ones, started, watched, stopped, frozen and killed by their pids.

They are forked from a process that has imported everything, so that a start takes a tenth of a second. (Forking the
test's own process would take its event loop and its sockets along.)
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from multiprocessing.context import ForkServerContext
from typing import Any

import anyio
import msgspec

from tests.faults.crew import DIED
from tests.faults.process import Plan, run

KILLED = (DIED, -signal.SIGKILL, -signal.SIGSEGV)


@cache
def _forking() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.process", "callboard.bus.redis"])
    return context


class Member:
    """One process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._process = _forking().Process(target=run, args=(msgspec.json.encode(plan),), name=plan.name)
        self._process.start()
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._process.sentinel, self._ends)

    def __repr__(self) -> str:
        return f"<Member {self.plan.name}, pid {self.pid}, exit code {self.code}>"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            if not self._ended.is_set():
                os.kill(self.pid, number)

    async def ended(self) -> int:
        """Wait for its end; gives the exit code."""
        await self._ended.wait()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def _ends(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        self._ended.set()


class Troupe:
    """All processes of a scenario, and what happens to them meanwhile; leaving it kills those that still run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.members: list[Member] = []
        self._group = anyio.create_task_group()
        self._scopes: list[anyio.CancelScope] = []

    @property
    def deaths(self) -> int:
        """How many were killed, or killed themselves."""
        return sum(member.code in KILLED for member in self.members)

    def start(self, name: str, **changes: Any) -> Member:
        """Start a process by the common plan, with some changes."""
        member = Member(msgspec.structs.replace(self.plan, name=name, **changes))
        self.members.append(member)
        return member

    def meanwhile(self, todo: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do something beside the scenario, until the end."""
        self._group.start_soon(self._do, todo, *arguments)

    async def _do(self, todo: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        scope = anyio.CancelScope()  # the group's own would take the test along
        self._scopes.append(scope)
        with scope:
            await todo(*arguments)

    async def keep_up(self, name: str, **changes: Any) -> None:
        """Run one process after the other, each as soon as the former was killed; until cancelled."""
        while True:
            code = await self.start(name, **changes).ended()
            assert code in KILLED, f"{name} ended by itself, with {code}: see {self.plan.log}"

    async def end(self) -> None:
        """End what happens meanwhile, and kill the processes that still run."""
        for scope in self._scopes:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            running = [member for member in self.members if member.code is None]
            for member in running:
                member.signal(signal.SIGKILL)
            for member in running:
                await member.ended()

    async def __aenter__(self) -> "Troupe":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.end()
        await self._group.__aexit__(*exc)
