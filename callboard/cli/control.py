"""`resolve`, `cancel` and `partitions`: what people decide while a system runs."""

from collections.abc import Sequence
from typing import Any, Final

import anyio
from msgspec import Struct

from callboard.actors.outside.client import Target
from callboard.cli.output import write_json, write_text
from callboard.cli.send import payload_of
from callboard.cli.session import Desk, act, catch_up, waited, who
from callboard.cli.words import count, short
from callboard.projections import tasks as tasks_
from callboard.projections import timers
from callboard.projections.tasks import Task, Waiting
from callboard.protocols.errors import (
    BadOption,
    NothingToResolve,
    StillAtWork,
    UnknownRole,
    UnknownRun,
    UnknownTask,
    listed,
)
from callboard.protocols.names import actor_stream
from callboard.protocols.ports import Route

AT_ONCE: Final = 5_000  # tasks that one commit cancels
MAX_TASKS: Final = 1_000_000  # of one run
POLL_S: Final = 0.1


# -- resolve ---------------------------------------------------------------------------------------------------


class Resolved(Struct, frozen=True, kw_only=True):
    """What `resolve --json` shows."""

    run: str
    task: str
    step: str
    tool: str
    outcome: str  # happened, or run
    by: str


def resolve(given: str, *, happened: str | None, run: bool, step: str | None, by: str | None, as_json: bool) -> None:
    """Tell a task what became of a tool call."""
    if run == (happened is not None):
        reason = "say either --happened RESULT or --run"
        raise BadOption("resolve", given, reason)
    decision: dict[str, Any] = {"outcome": "run" if run else "happened", "by": who(by)}
    if happened is not None:
        decision["result"] = payload_of(happened)

    async def work(desk: Desk) -> Resolved:
        task = await desk.task(given)
        wait = unknown_outcome(task, step)
        await desk.client.decide(task.run, task.task, actor_stream(task.role, task.key), wait.step, decision)
        return Resolved(
            run=task.run,
            task=task.task,
            step=wait.step,
            tool=wait.unknown_tool or "",
            outcome=decision["outcome"],
            by=decision["by"],
        )

    done = act(work, "resolve")
    if as_json:
        write_json(done)
    else:
        what = "is called again" if run else "counts as done"
        write_text(f"{done.tool} {what}: `callboard run {short(done.run)}` shows how its task goes on.")


def unknown_outcome(task: Task, step: str | None) -> Waiting:
    """The wait of a task that is to be resolved. Raises NothingToResolve; BadOption where several could be meant."""
    waits = [wait for wait in task.waiting if wait.unknown_tool is not None]
    if not waits:
        waiting = ", ".join(wait.on for wait in task.waiting)
        state = f"it has ended, {task.actor_state}" if task.ended_at else f"it waits for {waiting}" if waiting else None
        raise NothingToResolve(task.task, state or "it is at work")
    chosen = [wait for wait in waits if step in (None, wait.step)]
    if len(chosen) != 1:
        steps = listed([wait.step for wait in waits])
        raise BadOption("--step", step or "not given", f"these steps have an unknown outcome: {steps}")
    return chosen[0]


# -- cancel ----------------------------------------------------------------------------------------------------


class Canceled(Struct, frozen=True, kw_only=True):
    """What `cancel --json` shows: the tasks that are to stop. `ended` only where it was waited for."""

    run: str
    tasks: tuple[str, ...]
    ended: bool


def cancel(given: str, *, reason: str, wait_s: float | None, by: str | None, as_json: bool) -> None:
    """Stop a run or a task."""
    why = reason or f"canceled by {who(by)}"

    async def work(desk: Desk) -> Canceled:
        run, live = await _live(desk, given)
        due = {timer.id for timer in await timers.list_timers(desk.pool, run=run, limit=MAX_TASKS)}
        targets = [target(task, due) for task in live]
        for first in range(0, len(targets), AT_ONCE):
            await desk.client.cancel_all(run, targets[first : first + AT_ONCE], why)
        if wait_s is not None:
            only = None if len(live) > 1 else live[0].task
            await waited("Waiting for the end of it", _until_ended(desk, run, only, wait_s))
        return Canceled(run=run, tasks=tuple(task.task for task in live), ended=wait_s is not None)

    done = act(work, "cancel")
    if as_json:
        write_json(done)
    elif done.ended:
        write_text(f"{count(len(done.tasks), 'task')} of run {short(done.run)} ended.")
    else:
        told = f"{count(len(done.tasks), 'task')} of run {short(done.run)} {'is' if len(done.tasks) == 1 else 'are'}"
        write_text(f"{told} to stop: `callboard run {short(done.run)}` shows when.")


async def _live(desk: Desk, given: str) -> tuple[str, list[Task]]:
    """A run, and those of its tasks that have not ended; or one task, and its run. Raises UnknownRun, AmbiguousId,
    BadOption where all has ended.
    """
    try:
        found = await desk.run(given)
    except UnknownRun:
        try:
            task = await desk.task(given)
        except UnknownTask:
            raise UnknownRun(given) from None
        if task.ended_at is not None:
            raise BadOption("TASK", given, f"it has ended, {task.actor_state}") from None
        return task.run, [task]
    live = [task for task in await tasks_.open_tasks(desk.pool, run=found.run, limit=MAX_TASKS) if not task.ended_at]
    if not live:
        raise BadOption("RUN", given, "all its tasks have ended")
    return found.run, live


def target(task: Task, due: set[str]) -> Target:
    """A task that is to stop; `due` has the messages that are to be delivered later."""
    opening = task.message if task.started_at is None and task.message in due else None
    return Target(task.task, actor_stream(task.role, task.key), opening)


async def _until_ended(desk: Desk, run: str, only: str | None, within_s: float) -> None:
    """Return when a run, or one task of it, has ended. Raises StillAtWork."""
    live: Sequence[Task] = ()
    with anyio.move_on_after(within_s):
        while True:
            await catch_up(desk.runner)
            live = await tasks_.open_tasks(desk.pool, run=run, limit=MAX_TASKS)
            live = [task for task in live if not task.ended_at and only in (None, task.task)]
            if not live:
                return
            await anyio.sleep(POLL_S)
    raise StillAtWork(live[0].task if live else only or "", run, within_s)


# -- partitions ------------------------------------------------------------------------------------------------


def partitions(role: str, number: int, *, as_json: bool) -> None:
    """Count a role's partitions anew."""

    async def work(desk: Desk) -> tuple[Route, Route]:
        before = desk.directory.route(role)
        if before is None:
            raise UnknownRole(role, listed(desk.directory.roles))
        return before, await desk.leases.repartition(role, number)

    before, after = act(work, "partitions")
    if as_json:
        write_json({"role": role, "partitions": after.partitions, "generation": after.generation})
    elif after.generation == before.generation:
        write_text(f"{role} has {count(number, 'partition')} already.")
    else:
        counted = f"{count(after.partitions, 'partition')} instead of {before.partitions}"
        write_text(
            f"{role} gets {counted}, as generation {after.generation}.\n"
            "Its processes finish or park what they work on, hand the old ones over, and share the new ones.\n"
            f"Messages wait in the log meanwhile: `callboard lag --role {role}` shows who owns what."
        )
