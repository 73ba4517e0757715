"""Processes that die at every boundary of the protocol, again and again, while others take over."""

import asyncio
import os
import random
import sys
from pathlib import Path

import anyio
import msgspec
import pytest

from actors.client import Client
from callboard.bootstrap import Stack, connected
from callboard.settings import Settings
from projections import mailbox, timers
from tests.faults.checker import check
from tests.faults.process import BOUNDARIES, DIED, Boundary, Effect, Plan
from tests.host_kit import becomes

RUNS = int(os.environ.get("CALLBOARD_FAULT_RUNS", "30"))
DEATHS = int(os.environ.get("CALLBOARD_FAULT_DEATHS", "6"))
SEED = int(os.environ.get("CALLBOARD_FAULT_SEED", random.SystemRandom().randrange(2**32)))
LONGEST_S = 60.0
ROLES = ("writer", "reviewer", "editor")


class Supervisor:
    """Two processes, each started again whenever it dies; the first so many times with a boundary to die at."""

    def __init__(self, plan: Plan, boundary: Boundary, seed: int) -> None:
        self._plan = plan
        self._boundary = boundary
        self._random = random.Random(seed)
        self._fused = 0
        self.deaths = 0

    async def keep_up(self, name: str) -> None:
        """Run one process after the other, until cancelled."""
        while True:
            plan = msgspec.structs.replace(self._plan, name=name)
            if self._fused < DEATHS:
                self._fused += 1
                plan = msgspec.structs.replace(plan, boundary=self._boundary, nth=self._random.randint(1, 25))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.faults.process", msgspec.json.encode(plan).decode()
            )
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    with anyio.CancelScope(shield=True):
                        await process.wait()
            assert code == DIED, f"a process ended by itself, with {code}"
            self.deaths += 1


@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_nothing_is_lost_or_done_twice_when_processes_die(
    boundary: Boundary, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    print(f"CALLBOARD_FAULT_SEED={SEED}")  # noqa: T201 - shown where the test fails
    effects = tmp_path / "effects"
    plan = Plan(name="", database_url=database_url, redis_url=redis_url, effects=str(effects))
    supervisor = Supervisor(plan, boundary, SEED)
    async with connected(Settings(database_url=database_url, redis_url=redis_url), "client") as stack:
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.keep_up, "a")
            group.start_soon(supervisor.keep_up, "b")
            await becomes(lambda: serves(stack))
            async with Client.open(stack.store, stack.bus, stack.directory) as client:
                with anyio.fail_after(LONGEST_S):
                    sent = [(await client.send("writer", number))[0] for number in range(RUNS)]
                    results = [await client.wait(it) for it in sent]
            assert results == [str(number) for number in range(RUNS)]
            await becomes(lambda: at_rest(stack))
            group.cancel_scope.cancel()
        log = [it async for page in stack.store.read_all() for it in page]
        lines = [msgspec.json.decode(line, type=Effect) for line in effects.read_bytes().splitlines()]
        check(log, lines, runs=RUNS, deaths=supervisor.deaths)
        assert supervisor.deaths >= 2, "the processes did not die: the test showed nothing"
        if boundary == "after an effect":  # what was in flight is the one thing that may repeat, and does
            assert len(lines) > len({it.key for it in lines})


async def serves(stack: Stack) -> bool:
    await stack.directory.refresh()
    return set(ROLES) <= set(stack.directory.roles)


async def at_rest(stack: Stack) -> bool:
    """Nothing is on the bus, in the mailbox, or due."""
    backlog = [sum((await stack.bus.backlog(role)).values()) for role in ROLES]
    opened = await mailbox.list_open(stack.store.pool)
    due = await timers.list_timers(stack.store.pool)
    reached = await stack.runner.reached(await stack.store.head())
    return reached and not any(backlog) and not opened and not due
