"""The memory of actors that wait: 10,000 of them, for a timer and for a reply, in memory and passivated.

    uv run python benchmarks/memory.py [--actors 10000] [--json]

A process of its own serves the roles; its resident memory is read before and after. "Passivated" is a process that
drops idle actors after half a second. Also: how long `import callboard` takes, and what it must not import.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import asyncpg

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import fresh_database, servers
from callboard.actors.outside.client import Client
from callboard.actors.roles.definition import Actor, define
from callboard.actors.task.context import Context
from callboard.bootstrap import connected
from callboard.settings import Settings

DAY_S: Final = 86_400.0
TARGET_MB: Final = 100
SETTLED_S: Final = 2.0  # resident memory that did not change for so long is final
HEAVY: Final = ("litellm", "opentelemetry.exporter", "opentelemetry.sdk", "redis", "asyncpg")


class Sleeper(Actor):
    """Waits for a timer."""

    async def handle(self, payload: int, ctx: Context) -> None:
        await ctx.sleep(DAY_S + payload)


class Asker(Actor):
    """Waits for an answer that never comes."""

    async def handle(self, payload: int, ctx: Context) -> None:
        await ctx.ask("silent", payload)


class Silent(Actor):
    """Is known, and served by nobody."""

    async def handle(self, payload: int, ctx: Context) -> None: ...


async def serve(settings: Settings) -> None:
    """The measured process: serves until its standard input ends."""
    async with connected(settings, "benchmark") as stack, anyio.create_task_group() as group:
        stop = anyio.Event()
        await group.start(stack.host(define([Sleeper, Asker])).run, stop)
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        stop.set()


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[int]:
    """A process that serves; gives its pid."""
    command = [sys.executable, __file__, "--serve", json.dumps(_plain(settings))]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout
        await process.stdout.receive()  # "ready"
        try:
            yield process.pid
        finally:
            process.kill()


def resident_mb(pid: int) -> float:
    """The resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def final_mb(pid: int) -> float:
    """The resident memory, once it no longer changes by more than 1 %."""
    last, since = resident_mb(pid), time.monotonic()
    while time.monotonic() - since < SETTLED_S:
        await anyio.sleep(0.1)
        now = resident_mb(pid)
        if abs(now - last) > last / 100:
            last, since = now, time.monotonic()
    return last


async def measure(role: str, actors: int, *, passivated: bool) -> dict[str, Any]:
    """Have so many actors wait, and tell what they take: above a process that had one, or, if they are passivated,
    above one that had as many before (what it took to handle them stays with the process).
    """
    with servers() as where:
        async with fresh_database(where.database_url) as database:
            after_s = 0.5 if passivated else DAY_S
            settings = Settings(database_url=database, redis_url=where.redis_url, passivate_after_s=after_s)
            async with connected(settings, "sender") as stack:
                await stack.directory.register(define([Silent])["silent"], 8)
                async with served(settings) as pid, stack.client() as client:
                    first = actors if passivated else 1
                    await start(client, role, first)
                    await waiting(stack.store.pool, role, first)
                    idle_mb = await final_mb(pid)
                    await start(client, role, actors)
                    await waiting(stack.store.pool, role, first + actors)
                    taken_mb = await final_mb(pid) - idle_mb
    state = "passivated" if passivated else "in memory"
    return {"role": role, "state": state, "actors": actors, "idle_mb": idle_mb, "taken_mb": taken_mb}


async def start(client: Client, role: str, actors: int) -> None:
    """Start a run an actor."""
    async with asyncio.TaskGroup() as group:
        for number in range(actors):
            group.create_task(client.send(role, number))


async def waiting(pool: asyncpg.Pool, role: str, count: int) -> None:
    """Return when so many tasks of a role wait."""
    query = "select count(*) from tasks where role = $1 and actor_state = 'blocked'"
    while await pool.fetchval(query, role) < count:  # noqa: ASYNC110 - another process makes it so
        await anyio.sleep(0.1)


def imports() -> dict[str, Any]:
    """How long the import takes (the median of five processes), and what heavy it brings along."""
    code = f"import sys, callboard; print([m for m in {HEAVY!r} if m in sys.modules])"
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare = time.perf_counter() - begun
        begun = time.perf_counter()
        heavy = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        took.append(time.perf_counter() - begun - bare)
    return {"import_s": sorted(took)[2], "heavy": heavy}


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("database_url", "redis_url", "passivate_after_s")}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--actors", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        await serve(Settings(**json.loads(options.serve)))
        return
    rows = [
        await measure(role, options.actors, passivated=passivated)
        for role in ("sleeper", "asker")
        for passivated in (False, True)
    ]
    if options.json:
        print(json.dumps({"waiting": rows, **imports()}))
        return
    for row in rows:
        print(
            f"{row['actors']} {row['role']}s {row['state']}: {row['taken_mb']:.1f} MB above an idle process of "
            f"{row['idle_mb']:.0f} MB (in memory: below {TARGET_MB})"
        )
    found = imports()
    print(f"import callboard: {found['import_s']:.2f} s (below 0.3); of {', '.join(HEAVY)} it imports {found['heavy']}")


if __name__ == "__main__":
    asyncio.run(main())
