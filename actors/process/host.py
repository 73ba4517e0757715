"""One process that serves roles: it owns partitions, reads their messages, and runs their actors.

    heartbeat   renews the leases; a partition that is new is taken over, one that is lost is abandoned at once, one
                that is surplus is handed over when its tasks have come to rest
    reconcile   every few seconds: what got lost on the way (callboard.actors.process.recovery)
    guards      time limits, deadlocks, and warnings of budgets (callboard.actors.process.guards)
    projections one runner among all processes folds the log; the others stand by

A process that can't renew its leases in time stops acting by itself (it *fences* itself) and begins anew; the versions
of the streams would refuse it anyway. While its event loop is blocked, a thread renews them
(callboard.actors.process.lifeline). While the log can't be written, it reads nothing and begins nothing.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import anyio.abc
import anyio.lowlevel
import asyncpg
import msgspec

from callboard.actors.models.call import Models
from callboard.actors.process.ending import LAST_S, Ending
from callboard.actors.process.guards import Guards, forgive
from callboard.actors.process.lifeline import BEATS_PER_LEASE, Lifeline, OpenAside
from callboard.actors.process.ownership import GONE, Ownership
from callboard.actors.process.recovery import Recovery
from callboard.actors.process.runtime import Runtime
from callboard.actors.process.watch import LoopWatch
from callboard.actors.process.working_tables import PostgresTables
from callboard.actors.roles.definition import Definition
from callboard.actors.roles.directory import Directory
from callboard.actors.task.bounds import RUN_TASKS
from callboard.actors.tools.mcp import McpSessions
from callboard.actors.tools.mcp_server import McpServer
from callboard.actors.tools.policy import ToolPolicy
from callboard.actors.tools.toolbox import Toolbox
from callboard.eventstore.database import reason_of
from callboard.projections import WORKING
from callboard.projections.runner import Runner
from callboard.protocols.errors import StoreUnavailable
from callboard.protocols.ports import Answers, Bus, Clock, EventStore, Leases, SystemClock, Tenure, Throttle

log = logging.getLogger("callboard.actors")

RECONCILE_EVERY_S = 2.0
WITHOUT_BUS_EVERY_S = 0.25  # then this is how messages arrive
GUARD_EVERY_S = 1.0
LOOK_EVERY_S = 5.0  # into the projections, for tasks that wait too long
CONFIRM_AGAIN_S = 0.1
LEAVE_S = 4.0  # to hand over


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How one process behaves; see the settings of the same names."""

    lease_s: float = 5.0
    partitions: int = 8
    slots: int = 64
    run_slots: int = 48
    run_tasks: int = RUN_TASKS
    ahead: int = 4096
    passivate_after_s: float = 60.0
    grace_s: float = 10.0


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a host is made of. `pool` is the database of the projections; `aside` opens the log and the leases in
    another event loop; `ending` ends this process, if it is the host's to end.
    """

    store: EventStore
    leases: Leases
    directory: Directory
    bus: Bus
    pool: asyncpg.Pool
    gateway: Models
    throttle: Throttle
    answers: Answers
    runner: Runner
    aside: OpenAside
    ending: Ending | None = None
    mcp: Mapping[str, McpServer] = {}
    tool_policies: Sequence[ToolPolicy] = ()
    set_clock: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint  # by the time that all processes share


class Host:
    """Serves roles until it is told to stop. `process` names it, and must be unique to each start."""

    def __init__(
        self,
        parts: Parts,
        definitions: Mapping[str, Definition],
        limits: Limits,
        process: str,
        clock: Clock | None = None,
    ) -> None:
        self._parts = parts
        self._definitions = definitions
        self._limits = limits
        self._process = process
        self._clock = clock or SystemClock()
        self._mcp = McpSessions(parts.mcp)
        self.runtime = Runtime(
            parts.store,
            parts.bus,
            parts.directory,
            definitions,
            parts.gateway,
            process=process,
            slots=limits.slots,
            run_slots=limits.run_slots,
            run_tasks=limits.run_tasks,
            ahead=limits.ahead,
            passivate_after_s=limits.passivate_after_s,
            clock=self._clock,
            throttle=parts.throttle,
            answers=parts.answers,
            toolbox=Toolbox(parts.directory, policies=parts.tool_policies, mcp=self._mcp),
        )
        tables = PostgresTables(parts.pool, parts.runner)
        self._lifeline = Lifeline(
            self.runtime,
            parts.aside,
            lease_s=limits.lease_s,
            renewed=lambda begun: setattr(self, "_renewed", max(self._renewed, begun)),
            ending=parts.ending,
        )
        self._watch = LoopWatch(limits.lease_s / BEATS_PER_LEASE, self._stood_still, self._lifeline.hold)
        self._group: anyio.abc.TaskGroup
        self._ownership = Ownership(
            self.runtime,
            parts.bus,
            parts.leases,
            lambda consumer: Recovery(tables, self.runtime, consumer),
            self._clock,
            lease_s=limits.lease_s,
            grace_s=limits.grace_s,
        )
        self._renewed = 0.0
        self._draining = False
        self._left = False

    def __repr__(self) -> str:
        return f"Host({self._process}: {self.runtime.partitions}, {self.runtime})"

    async def run(
        self, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop` is set, then drain: finish or park the tasks at work within the grace period, hand
        over and return. `task_status` tells when the roles are known and the first partitions are owned.
        """
        for models in {it.models for it in self._definitions.values() if it.models}:
            await self._parts.gateway.prepare(models)  # before there is a lease that it could be in the way of
        for definition in self._definitions.values():
            await self._parts.directory.register(definition, self._limits.partitions)
        await self._parts.directory.refresh()
        await self._parts.runner.prepare()
        self.runtime.confirm = self._confirm
        async with self._mcp, self.runtime, self._ownership.running(), anyio.create_task_group() as self._group:
            self._group.start_soon(self._parts.runner.run)
            try:
                await self._beat()
                self._group.start_soon(self._heartbeats)
                self._group.start_soon(self._reconciliations)
                self._group.start_soon(self._guard)
                self._group.start_soon(self._watch.run)
                task_status.started()
                await stop.wait()
                await self._drain()
            finally:
                await self._let_go(told=stop.is_set())
            self._group.cancel_scope.cancel()

    # -- leases -------------------------------------------------------------------------------------------------------

    async def _heartbeats(self) -> None:
        while True:
            await self._clock.sleep(self._limits.lease_s / BEATS_PER_LEASE)
            try:
                await self._beat()
                await self._parts.set_clock()
            except StoreUnavailable as error:
                log.warning("host<%s> could not renew its leases: %s", self._process, error)
                self.runtime.gate.pause(paused=True)
                if self._left_s() <= 0:
                    await self._ownership.let_go_of_all()

    def _left_s(self) -> float:
        """Seconds until the leases expire, as far as this process knows."""
        return self._renewed + self._limits.lease_s - self._clock.monotonic()

    async def _beat(self) -> None:
        """Renew the leases, and act on what has changed. Raises StoreUnavailable."""
        async with self._ownership.leasing:
            if not self._left:
                await self._renew()

    async def _renew(self) -> None:
        begun = self._clock.monotonic()
        lease_s, left_s = self._limits.lease_s, self._left_s()
        try:
            with anyio.fail_after(left_s if left_s > 0 else lease_s):
                leases = await self._parts.leases.heartbeat(
                    self._process, list(self._definitions), lease_s=lease_s, progress=self.runtime.progress
                )
        except TimeoutError:
            raise StoreUnavailable("the leases could not be renewed in time") from None
        if self._clock.monotonic() - begun >= lease_s:  # it stood still meanwhile: what this says may be over
            raise StoreUnavailable("the leases could not be renewed in time")
        self._renewed = max(self._renewed, begun)
        if self.runtime.gate.paused:
            self.runtime.gate.pause(paused=False)
        await self._ownership.apply(leases, draining=self._draining)

    async def _stood_still(self, seconds: float) -> None:
        """The event loop was blocked, or the whole process was stopped. If the leases ran out meanwhile, others may
        have taken the partitions: let go of all. In either case ask who owns them.
        """
        forgive(self.runtime, seconds)
        if self._draining:
            return
        if self._left_s() <= 0:
            log.error("host<%s> stood still for %.1f s: it lets go of what it does", self._process, seconds)
            await self._ownership.let_go_of_all()
        else:
            log.warning("host<%s> stood still for %.1f s, and kept its leases", self._process, seconds)
        try:
            await self._beat()
        except StoreUnavailable as error:
            log.warning("host<%s> could not renew its leases: %s", self._process, error)

    async def _confirm(self, tenure: Tenure) -> bool:
        """Whether the store says that a partition is still this process's, as soon as it says anything."""
        while tenure.held:
            try:
                await self._beat()
            except StoreUnavailable as error:
                log.warning("host<%s> could not ask who owns its partitions: %s", self._process, error)
                await self._clock.sleep(CONFIRM_AGAIN_S)
            else:
                break
        return tenure.held

    async def _drain(self) -> None:
        self._draining = True
        await self._ownership.leave()
        await self._leave()

    async def _let_go(self, *, told: bool) -> None:
        """The end, in order or not: a host that was `told` to end hands over what it still has, and one that broke
        leaves it to others to find its tasks lost. From here on nothing may keep the process for long.
        """
        if self._parts.ending is not None:
            self._parts.ending.within(LAST_S)
        if told and not self._left:
            with anyio.CancelScope(shield=True):
                await self._ownership.let_go_of_all()
            await self._leave()
        self._left = self._lifeline.over = True

    async def _leave(self) -> None:
        """Hand over, also when the process is told to end at once."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_S):
            async with self._ownership.leasing:
                self._left = self._lifeline.over = True
                try:
                    await self._parts.leases.leave(self._process)
                except StoreUnavailable as error:
                    log.warning("host<%s> could not hand over, its leases will expire: %s", self._process, error)

    # -- what got lost ----------------------------------------------------------------------------------------------

    async def _reconciliations(self) -> None:
        while True:
            await self._clock.sleep(WITHOUT_BUS_EVERY_S if self._parts.bus.away else RECONCILE_EVERY_S)
            try:
                await self._parts.directory.refresh()
                for name, error in (await self._parts.runner.stopped(WORKING)).items():
                    log.error("host<%s> can't recover what is lost: %s is stopped: %s", self._process, name, error)
                if not self._draining:
                    await self._ownership.reconcile()
            except GONE as error:
                log.warning("host<%s> could not look for lost messages: %s", self._process, reason_of(error))

    async def _guard(self) -> None:
        guards = Guards(self._parts.pool, self.runtime)
        looked = self._clock.monotonic()
        while True:
            await self._clock.sleep(GUARD_EVERY_S)
            if not self._watch.behind:
                guards.end_overdue()
            try:
                await guards.refuse_deadlocks()
                if self._clock.monotonic() - looked >= LOOK_EVERY_S:
                    looked = self._clock.monotonic()
                    await guards.end_blocked(self.runtime.partitions.serving)
                    await guards.warn_of_budgets()
                    await guards.count_tasks()
            except GONE as error:
                log.warning("host<%s> could not look for what is overdue: %s", self._process, reason_of(error))
