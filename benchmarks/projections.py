"""Folding the log into all projections, against reading the log alone.

    uv run python benchmarks/projections.py [--json]

It needs PostgreSQL: at CALLBOARD_TEST_DATABASE_URL, or a local one of its own. Two logs are written first,
by as many runs at a time as a busy process has: hand-offs through three roles without any effect (7 events a run), and
agents that call models and tools and ask each other (24 events a run). Then each is read alone, and folded from zero.
All measurements of a round run one after the other, so that their ratios say something on a noisy machine too; the
median round is shown. CPU time is this process's, of folding less of reading.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Final

from msgspec import Raw, Struct, to_builtins

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kit import fresh_database, servers
from callboard import projections
from callboard.eventstore import PostgresEventStore
from callboard.projections.runner import Runner
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Body, Meta
from callboard.protocols.messages import Message, ReplyTo, part_of
from callboard.protocols.names import actor_stream, message_id, new_id, run_stream
from callboard.protocols.ports import ANY
from callboard.protocols.states import StateChange

RUNS_AT_A_TIME: Final = 50
PAGE: Final = 1750  # what 35,000 events/s give in the runner's pause of 50 ms
TARGET_CPU_US: Final = 10.0  # per event, for all projections together
VALUE: Final = e.Stored(inline=Raw(b'{"text": "' + b"x" * 200 + b'"}'))
PART: Final = part_of({"draft": "x" * 100})


class Run:
    """One run, as its actors write it."""

    def __init__(self, store: PostgresEventStore) -> None:
        self.store, self.id = store, new_id()

    async def write(
        self, stream: str, body: Body, task: str | None, sends: tuple[Message, ...] = (), **more: str | None
    ) -> str:
        """Append an event; gives the id of the first message that it sends."""
        state = more.pop("state", None)
        change = StateChange("think", "thinking", state) if state else None
        meta = Meta(run=self.id, task=task, sends=sends, state=change, **more)  # type: ignore[arg-type]
        appended = await self.store.append(stream, [new_event(body, meta)], ANY)
        return message_id(stream, appended.version, 0)

    def message(self, kind: str, to: str, task: str, sender: str, **more: object) -> Message:
        return Message(kind=kind, to=to, sender=sender, run=self.id, task=task, parts=(PART,), **more)  # type: ignore[arg-type]

    async def start(self, role: str) -> tuple[str, str, str]:
        """The run's first event; gives the task, its actor and its message."""
        task, stream = new_id(), run_stream(self.id)
        actor = actor_stream(role, task)
        first = self.message("assign", actor, task, stream)
        return task, actor, await self.write(stream, e.RunStarted(task=task, to=actor), None, (first,))

    async def hand_off(self) -> None:
        """Through three roles: 7 events."""
        task, actor, message = await self.start("planner")
        for role in ("writer", "editor"):
            await self.write(actor, e.TaskStarted(process="p"), task, handles=message, state="thinking")
            successor = new_id()
            to = actor_stream(role, successor)
            over = self.message("handoff", to, successor, actor)
            message = await self.write(actor, e.TaskHandedOff(to=to, task=successor), task, (over,), state="completed")
            task, actor = successor, to
        await self.write(actor, e.TaskStarted(process="p"), task, handles=message, state="thinking")
        await self.write(actor, e.TaskCompleted(), task, state="completed")

    async def consult(self) -> None:
        """A writer that calls models and tools and asks two reviewers, who call models: 24 events."""
        task, actor, message = await self.start("writer")
        await self.write(actor, e.TaskStarted(process="p"), task, handles=message, state="thinking")
        await self.call_model(actor, task)
        await self.call_tool(actor, task)
        for step in ("first", "second"):
            other = new_id()
            to = actor_stream("reviewer", other)
            ask = self.message("query", to, other, actor, parent=task, reply_to=ReplyTo(actor, task, step))
            asked = e.QuestionAsked(step=step, fingerprint="f", to=to, task=other)
            message = await self.write(actor, asked, task, (ask,), state="blocked")
            await self.write(to, e.TaskStarted(process="p"), other, handles=message, state="thinking")
            await self.call_model(to, other)
            reply = self.message("reply", actor, task, to, step=step)
            message = await self.write(to, e.TaskCompleted(), other, (reply,), state="completed")
            answer = e.QuestionAnswered(step=step, result=VALUE)
            await self.write(actor, answer, task, handles=message, state="thinking")
        await self.call_model(actor, task)
        await self.call_tool(actor, task)
        await self.write(actor, e.TaskProgressed(step="s", done=1), task)
        await self.write(actor, e.TaskCompleted(), task, state="completed")

    async def call_model(self, actor: str, task: str) -> None:
        request = e.ModelRequested(step="m", fingerprint="f" * 64, attempt=1, model="gpt-5", messages=("d" * 64,) * 4)
        await self.write(actor, request, task)
        completed = e.ModelCompleted(
            step="m",
            attempt=1,
            model="gpt-5",
            message=VALUE,
            usage=e.Usage(input=812, cached_input=128, output=301),
            cost=e.Cost(Decimal("0.004027"), "USD", "2030-01"),
            finish_reason="stop",
            duration_ms=1830,
        )
        await self.write(actor, completed, task)

    async def call_tool(self, actor: str, task: str) -> None:
        request = e.ToolRequested(step="t", fingerprint="f" * 64, tool="search", arguments=VALUE, idempotency_key="k")
        await self.write(actor, request, task, state="executing")
        completed = e.ToolCompleted(step="t", tool="search", result=VALUE, duration_ms=40)
        await self.write(actor, completed, task, state="thinking")


# name -> what a run writes, how many runs
LOGS: Final[dict[str, tuple[Callable[[Run], Awaitable[None]], int]]] = {
    "hand-off": (Run.hand_off, 6000),
    "models and tools": (Run.consult, 1600),
}


class Result(Struct):
    """One log, in one round."""

    log: str
    events: int
    read_per_s: float
    fold_per_s: float
    ratio_to_reading: float
    cpu_us_per_event: float  # of folding, less of reading


async def write(store: PostgresEventStore, behave: Callable[[Run], Awaitable[None]], runs: int) -> None:
    left = iter(range(runs))

    async def work() -> None:
        for _ in left:
            await behave(Run(store))

    async with asyncio.TaskGroup() as workers:
        for _ in range(RUNS_AT_A_TIME):
            workers.create_task(work())


async def measured(work: Awaitable[None]) -> tuple[float, float]:
    """Seconds, and seconds of CPU."""
    begun, cpu = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - begun, time.process_time() - cpu


async def read(store: PostgresEventStore) -> None:
    async for _ in store.read_all(page=PAGE):
        pass


async def one_log(server: str, log: str) -> Result:
    async with fresh_database(server) as url, PostgresEventStore.open(url) as store:
        await write(store, *LOGS[log])
        events = await store.head()
        runner = Runner(store.pool, store, projections.ALL, "benchmark", page=PAGE)
        await runner.prepare()
        await read(store)
        read_s, read_cpu = await measured(read(store))
        fold_s, fold_cpu = await measured(runner.catch_up())
    return Result(log, events, events / read_s, events / fold_s, read_s / fold_s, (fold_cpu - read_cpu) / events * 1e6)


async def one_round(server: str) -> list[Result]:
    return [await one_log(server, log) for log in LOGS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with servers() as running:
        rounds = [asyncio.run(one_round(running.database_url)) for _ in range(options.rounds)]
    median = [
        min(each, key=lambda one: abs(one.cpu_us_per_event - statistics.median(r.cpu_us_per_event for r in each)))
        for each in map(list, zip(*rounds, strict=True))
    ]
    missed = [one for one in median if one.cpu_us_per_event > TARGET_CPU_US]
    if options.json:
        print(json.dumps({"median": to_builtins(median), "rounds": to_builtins(rounds), "holds": not missed}))
    else:
        print(f"{len(projections.ALL)} projections, pages of {PAGE} events, median of {options.rounds} rounds")
        for one in median:
            print(
                f"{one.log:17} {one.events:7,} events: read {one.read_per_s:9,.0f}/s, fold {one.fold_per_s:7,.0f}/s "
                f"({one.ratio_to_reading:.2f} of reading), {one.cpu_us_per_event:.1f} us CPU per event "
                f"(at most {TARGET_CPU_US:.0f})"
            )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
