"""How long the tasks of a process that is killed stand still, until another process goes on with the first of them.

    uv run python benchmarks/takeover.py [--lease 5 2] [--rounds 5] [--json]

Two real processes serve a role, as `callboard up` starts them, each with a dozen tasks at work. One gets SIGKILL, at
any moment between two of its heartbeats. The time ends when the log has the first step that the other process has done
for one of its tasks. Must be within the lease + 2 s.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import anyio

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import fresh_database, processes, servers
from callboard.actors.roles.definition import Actor
from callboard.actors.task.context import Context
from callboard.bootstrap import Stack, connected, pid_in
from callboard.protocols.events import Event, StepCompleted, TaskResumed
from callboard.services.local import Urls
from callboard.settings import Settings

TASKS: Final = 24
STEP_S: Final = 0.1
STEPS: Final = 1000  # more than are ever done
SLACK_S: Final = 2.0


class Worker(Actor):
    """Goes step by step."""

    async def handle(self, number: int, ctx: Context) -> None:
        for _ in range(STEPS):
            await ctx.step(tick)


async def tick() -> None:
    await asyncio.sleep(STEP_S)


async def shared_evenly(stack: Stack) -> None:
    """Return when both processes have their share of the partitions."""
    with anyio.fail_after(60):
        while True:
            owners = Counter(partition.owner for partition in await stack.leases.partitions())
            if len(set(owners.values())) == 1 and len(owners) == 2:
                return
            await anyio.sleep(0.05)


async def all_work(stack: Stack) -> dict[str, str]:
    """The process that is at each task, once all are at work."""
    at_work: dict[str, str] = {}
    async for page in stack.store.subscribe():
        for event in page:
            if event.type == "task.started":
                at_work[event.stream] = json.loads(event.data)["process"]
        if len(at_work) == TASKS:
            break
    return at_work


async def goes_on(stack: Stack, after: int, streams: set[str]) -> Event:
    """The first step that is done for one of the actors after it was resumed."""
    resumed: set[str] = set()
    async for page in stack.store.subscribe(after=after):
        for event in page:
            if event.type == TaskResumed.TYPE:
                resumed.add(event.stream)
            if event.type == StepCompleted.TYPE and event.stream in resumed & streams:
                return event
    raise AssertionError("a subscription never ends")


async def round_of(where: Urls, lease_s: float, folder: Path) -> float:
    """The seconds that it took, once."""
    async with fresh_database(where.database_url) as database:
        settings = Settings(database_url=database, redis_url=where.redis_url)
        env = {"CALLBOARD_LEASE_S": str(lease_s)}
        async with (
            connected(settings, "benchmark") as stack,
            processes(Path(__file__), {"worker": 2}, settings, env, folder / "log"),
            stack.client() as client,
        ):
            await shared_evenly(stack)
            for number in range(TASKS):
                await client.send("worker", number)
            with anyio.fail_after(60):
                at_work = await all_work(stack)
            victim = random.choice(sorted(set(at_work.values())))
            await asyncio.sleep(random.uniform(0, lease_s))
            position = await stack.store.head()
            os.kill(pid_in(victim), signal.SIGKILL)
            killed_at = datetime.now(UTC)
            with anyio.fail_after(60):
                event = await goes_on(stack, position, {stream for stream, owner in at_work.items() if owner == victim})
            return (event.recorded_at - killed_at).total_seconds()


def main() -> None:
    """Print the times; exit 1 if one was too long."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lease", type=float, nargs="+", default=[Settings().lease_s, 2.0], help="seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    times: dict[float, list[float]] = {}
    with servers() as where, TemporaryDirectory() as folder:
        for lease_s in options.lease:
            times[lease_s] = [asyncio.run(round_of(where, lease_s, Path(folder))) for _ in range(options.rounds)]
    load = os.getloadavg()[0]
    if options.json:
        print(json.dumps({"seconds": {str(lease): each for lease, each in times.items()}, "load": load}))
    else:
        for lease, each in times.items():
            print(f"lease {lease:g} s: median {statistics.median(each):.1f} s, longest {max(each):.1f} s ({load=:.1f})")
    sys.exit(any(max(each) > lease + SLACK_S for lease, each in times.items()))


if __name__ == "__main__":
    main()
