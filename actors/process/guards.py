"""What keeps tasks from waiting, or running, for ever: the time limits of their roles, and the search for deadlocks.
And who warns of budgets that are nearly used up.
"""

import logging
from collections.abc import Iterable
from typing import Final

import asyncpg

from callboard.actors.outside.budgets import warn_of_budgets
from callboard.actors.process.cell import Cell
from callboard.actors.process.runtime import Runtime
from callboard.eventstore.ledger_tables import PostgresLedger
from callboard.projections import tasks, waits
from callboard.projections.waits import Waiting
from callboard.protocols.errors import Deadlock, TimeLimitExceeded
from callboard.protocols.names import actor_stream
from callboard.protocols.ports import Tenure

log = logging.getLogger("callboard.actors")

QUIET_S: Final = 2.0  # an actor that has been blocked for so long, with tasks in its queue, may be in a cycle


def forgive(runtime: Runtime, seconds: float) -> None:
    """The event loop stood still for so long: that is no time that a task took."""
    for cell in runtime.cells():
        if cell.work is not None:
            cell.work.since += seconds
            if cell.work.canceled_at is not None:
                cell.work.canceled_at += seconds


class Guards:
    """Guards the actors of one process."""

    def __init__(self, pool: asyncpg.Pool, runtime: Runtime) -> None:
        self._pool = pool
        self._runtime = runtime
        self._ledger = PostgresLedger(pool)

    async def warn_of_budgets(self) -> None:
        """Record that budgets are nearly used up."""
        await warn_of_budgets(self._runtime.store, self._ledger)

    async def count_tasks(self) -> None:
        """Count the tasks of the runs that have opened some here, all processes together."""
        runs = self._runtime.services.run_tasks.to_count()
        if runs:
            for run, number in (await tasks.count_by_run(self._pool, runs)).items():
                self._runtime.services.run_tasks.counted(run, number)

    def end_overdue(self) -> None:
        """End the tasks at work here that have done nothing for longer than their role allows."""
        now = self._runtime.clock.monotonic()
        for cell in list(self._runtime.busy.values()):
            work = cell.work
            if work is None or work.ended or not work.claimed:
                continue
            limits, state = cell.definition.limits, work.actor_fold.state
            if work.fold.cancel is not None:
                if work.canceled_at is not None and now - work.canceled_at > limits.cancel_s:
                    work.warn("is ended: what it does since it was canceled takes too long")
                    work.end_canceled(work.fold.cancel)
                continue
            limit_s = {"thinking": limits.thinking_s, "executing": limits.executing_s}.get(state)
            if limit_s is not None and now - work.since > limit_s:
                work.fail(TimeLimitExceeded(str(work), state, limit_s))

    async def end_blocked(self, tenures: Iterable[Tenure]) -> None:
        """End the tasks that wait for an answer for longer than their role allows, in memory or not."""
        by_role: dict[str, dict[int, Tenure]] = {}
        for tenure in tenures:
            by_role.setdefault(tenure.lease.role, {})[tenure.lease.partition] = tenure
        for role, owned in by_role.items():
            limit_s = self._runtime.definitions[role].limits.blocked_s
            if limit_s is None:
                continue
            count = next(iter(owned.values())).lease.partitions
            for row in await waits.blocked(self._pool, role, count, list(owned), limit_s):
                stream = actor_stream(role, row.key)
                if await self._is_as_it_was(stream, row):
                    error = TimeLimitExceeded(f"{role}<{row.task}>", "blocked", limit_s)
                    self._runtime.expire(stream, owned[row.key_hash % count], row.task, error)

    async def _is_as_it_was(self, stream: str, row: waits.Blocked) -> bool:
        """Whether the log has nothing of a task that is newer than what the projection has."""
        async for event in self._runtime.store.read_stream(stream, backwards=True):
            if event.meta.task == row.task:
                return event.recorded_at <= row.updated_at
        return False

    async def refuse_deadlocks(self) -> None:
        """Refuse questions that wait for each other in a circle. Whoever owns the actor of the newest one does."""
        now = self._runtime.clock.monotonic()
        for cell in list(self._runtime.cells()):
            work = cell.work
            if work is None or not cell.queued or not work.parked or now - work.since < QUIET_S:
                continue
            for message in cell.queued:
                if message.reply_to is not None:
                    await self._refuse_if_newest(cell, message.task)

    async def _refuse_if_newest(self, cell: Cell, task: str) -> None:
        found = await waits.cycle(self._pool, task)
        if found and task == max(waiting.task for waiting in found if waiting.queued):
            error = Deadlock(_in_words(found))
            log.warning("%s: %s", cell.stream, error)
            if not cell.dropped and task in (message.task for message in cell.queued):
                cell.refuse(task, error)


def _in_words(found: list[Waiting]) -> str:
    """The actors of a cycle: a question that is queued is one at the actor that it waits for."""
    actors = [f"{waiting.actor} (task {waiting.task})" for waiting in found if not waiting.queued]
    return " -> ".join([*actors, actors[0]])
