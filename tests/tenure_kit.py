"""Processes on the twins, whose partitions move, fence themselves, lose their bus and stall at any await of the way.

A `Simulation` runs a teller, which tells one named actor numbers, on processes that share a log and a bus in memory. At
each await on the way of a message (the log's reads, the read models', the bus's takes) it comes by a *point*, where its
script may let something happen.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from contextvars import copy_context
from datetime import datetime
from typing import Any, NamedTuple

from callboard import Context
from callboard.actors.process.ownership import Ownership
from callboard.actors.process.recovery import Recovery
from callboard.actors.process.runtime import Runtime
from callboard.actors.roles.definition import define
from callboard.actors.roles.directory import Directory
from callboard.bus.memory import MemoryBus
from callboard.bus.memory_throttle import MemoryThrottle
from callboard.eventstore.memory import MemoryEventStore
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.projections.mailbox import Backlog, OpenMessage
from callboard.protocols import events as e
from callboard.protocols.codec import new_event, sent_messages
from callboard.protocols.errors import RedisUnavailable
from callboard.protocols.events import Event
from callboard.protocols.messages import Message, part_of
from callboard.protocols.names import key_hash, message_id, new_id, role_of, run_stream
from callboard.protocols.ports import NO_STREAM, Consumer, Delivery, Lease, Tenure
from callboard.testing import ScriptedModels
from callboard.testing.clock import ManualClock
from callboard.testing.play import LoggedAnswers
from tests.actor_kit import actor

TURNS_A_ROUND = 12
ROUND_S = 0.1
MAX_ROUNDS = 400
RECONCILE_EVERY = 20  # rounds

Point = Callable[[], Any]


class Stuck(AssertionError):
    """Not all was done in the time that a simulation has."""


class _Log(MemoryEventStore):
    """A log whose reads come by a point."""

    point: Point

    async def message(self, message: str) -> Message:
        found = await super().message(message)
        await self.point()
        return found

    async def head(self) -> int:
        head = await super().head()
        await self.point()
        return head

    async def read_stream(self, stream: str, **options: Any) -> AsyncIterator[Event]:  # type: ignore[override]
        await self.point()
        async for event in super().read_stream(stream, **options):
            yield event
        await self.point()


class _AtWork(NamedTuple):
    key: str
    key_hash: int


class _Tables:
    """The read models, folded anew from the log at each question, as fresh as the log."""

    def __init__(self, log: _Log) -> None:
        self._log = log

    async def caught_up(self, position: int) -> None:
        await self._log.point()

    async def open_messages(
        self, role: str, partitions: int, numbers: Sequence[int], *, after: tuple[int, int], limit: int
    ) -> list[OpenMessage]:
        rows = [row for row in self._open() if row.role == role and row.key_hash % partitions in numbers]
        await self._log.point()
        return [row for row in rows if (row.position, row.place) > after][:limit]

    async def open_to(self, role: str, key: str, upto: tuple[int, int]) -> list[OpenMessage]:
        rows = [row for row in self._open() if (row.role, row.key) == (role, key) and row.key != row.task]
        await self._log.point()
        return [row for row in rows if (row.position, row.place) <= upto]

    async def open_from(self, sender: str) -> list[OpenMessage]:
        rows = [row for row in self._open() if row.sender == sender and row.key != row.task]
        await self._log.point()
        return rows

    async def backlog(self, role: str, partitions: int) -> dict[int, Backlog]:
        found: dict[int, list[OpenMessage]] = {}
        for row in self._open():
            if row.role == role:
                found.setdefault(row.key_hash % partitions, []).append(row)
        await self._log.point()
        return {number: Backlog(len(rows), rows[0].opened_at) for number, rows in found.items()}

    async def timers_due(self, role: str, partitions: int, numbers: Sequence[int], before: datetime) -> list[Any]:
        return []

    async def at_work(self, role: str, partitions: int, numbers: Sequence[int]) -> list[_AtWork]:
        state: dict[str, str] = {}
        at_work: set[str] = set()
        for event in self._log.events:
            if role_of(event.stream) != role:
                continue
            if event.meta.state is not None:
                state[event.stream] = event.meta.state.dest
            if event.type == e.TaskStarted.TYPE:
                at_work.add(event.stream)
            elif event.type in e.ENDS_TASK:
                at_work.discard(event.stream)
        await self._log.point()
        keys = [stream.partition("/")[2] for stream in state if stream in at_work]
        return [_AtWork(key, key_hash(key)) for key in keys if state[f"{role}/{key}"] in ("thinking", "executing")]

    def _open(self) -> list[OpenMessage]:
        handled = {event.meta.handles for event in self._log.events}
        rows = []
        for event in self._log.events:
            for place, sent in enumerate(sent_messages(event)):
                if sent.id not in handled and sent.due_at is None:
                    role, _, key = sent.to.partition("/")
                    rows.append(
                        OpenMessage(
                            *(sent.id, role, key, key_hash(key), sent.kind, sent.run, sent.task, sent.sender),
                            *(sent.priority, event.position, place, event.recorded_at),
                        )
                    )
        return rows


class _Consumer:
    """A consumer whose takes come by a point, before and after."""

    def __init__(self, consumer: Consumer, point: Point) -> None:
        self._consumer = consumer
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    async def take(self, tenure: Tenure) -> None:
        await self._point()
        await self._consumer.take(tenure)
        await self._point()


class _Strict(Ownership):
    """Nothing may lose track of an entry; in a process such a one is delivered again."""

    def _deliver_again(self, tenure: Tenure) -> None:
        lost = [it for it in tenure.entries.values() if isinstance(it, Delivery) and not self._runtime.has(it)]
        assert not lost, f"{tenure} has lost track of {lost}"


class Process:
    """A process that serves both roles, as far as it is given their partitions."""

    def __init__(self, simulation: "Simulation", name: str) -> None:
        it = simulation
        self.runtime = Runtime(
            it.log,
            it.bus,
            it.directory,
            it.definitions,
            ScriptedModels(()),
            process=name,
            clock=it.clock,
            throttle=MemoryThrottle(it.clock),
            answers=LoggedAnswers(it.log),
        )
        self.ownership = _Strict(
            self.runtime,
            it.bus,
            it.leases,
            lambda consumer: Recovery(it.tables, self.runtime, _Consumer(consumer, it.point)),
            it.clock,
            lease_s=5.0,
            grace_s=1.0,
        )
        self.runtime.confirm = self._confirm

    async def _confirm(self, tenure: Tenure) -> bool:
        return tenure.held


class Simulation:
    """One run of `numbers` messages to one actor. `script` says what happens at which point."""

    def __init__(self, script: "Script", numbers: int = 12, processes: int = 2) -> None:
        async def tell(ctx: Context) -> None:
            for number in range(numbers):
                await ctx.tell("sink/x", number)
                if number % 4 == 3:
                    await ctx.step(self.point, name="pause")

        async def note(payload: int, ctx: Context) -> None:
            await ctx.step(self.point, name="look")

        self.numbers = numbers
        self._context = copy_context()
        self.clock = ManualClock()
        self.log = _Log(self.clock)
        self.log.point = self.point
        self.tables = _Tables(self.log)
        self.leases = MemoryLeases(self.clock)
        self.directory = Directory(self.leases)
        self.bus = MemoryBus(self.directory.route)
        self.definitions = define([actor("teller", tell), actor("sink", note)])
        self.points = 0
        self._script = script
        self._acting = False
        self._processes = [Process(self, f"p{number}") for number in range(processes)]
        self._owner = 0
        self._epoch = 1
        self._later: list[asyncio.Task[None]] = []

    # -- what may happen at a point ----------------------------------------------------------------------------------

    async def point(self) -> None:
        """An await of the way."""
        self.points += 1
        action = None if self._acting else self._script.at(self.points)
        if action is not None:
            self._acting = True
            acting = asyncio.create_task(self._act(action), context=self._context.copy())  # no part of what runs here
            self._later.append(acting)
            await asyncio.shield(acting)  # what awaits here may be cancelled by it

    async def _act(self, action: str) -> None:
        try:
            await ACTIONS[action](self)
        finally:
            self._acting = False

    async def stall(self) -> None:
        """Whatever awaits here stands still, while others go on."""
        for _ in range(60):
            await asyncio.sleep(0)

    async def fence(self) -> None:
        """The owner lets go of all, and gets the same leases back."""
        ownership = self._processes[self._owner].ownership
        await ownership.let_go_of_all()
        await ownership.apply(self._leases(), draining=False)

    async def fence_and_stall(self) -> None:
        """The same, and what awaits here wakes up much later."""
        await self.fence()
        await self.stall()

    async def lose(self) -> None:
        """The bus loses all it has."""
        self.bus.lose()

    async def again(self) -> None:
        """All open messages are published once more."""
        rows = self.tables._open()
        self.bus.publish([await MemoryEventStore.message(self.log, row.id) for row in rows], again=True)

    async def away(self) -> None:
        """The bus is away for a while, and what is published is lost."""
        self.bus.away = True
        await self.stall()
        self.bus.away = False

    async def move(self) -> None:
        """Another process takes over; the former one does not know of it for a while."""
        former, self._owner = self._owner, (self._owner + 1) % len(self._processes)
        self._epoch += 1
        await self._processes[self._owner].ownership.apply(self._leases(), draining=False)
        self._later.append(asyncio.create_task(self._let_go(former)))

    async def _let_go(self, former: int) -> None:
        await self.stall()
        if former != self._owner:
            await self._processes[former].ownership.let_go_of_all()

    def _leases(self) -> list[Lease]:
        return [Lease(role, 0, self._epoch, partitions=1) for role in self.definitions]

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run it to its end. Raises Stuck."""
        async with AsyncExitStack() as exits:
            for definition in self.definitions.values():
                await self.directory.register(definition, 1)
            for process in self._processes:
                await exits.enter_async_context(process.runtime)
                await exits.enter_async_context(process.ownership.running())
            await self._begin()
            stuck = "it was cancelled"
            try:
                stuck = await self._go_on()
            finally:
                self._script = Script()
                for task in self._later:
                    task.cancel()
        if stuck:
            raise Stuck(stuck)

    async def sent(self, role: str, payload: Any = None) -> Message:
        """A message from outside to a fresh actor; it is in the log, and not on the bus."""
        run, task = new_id(), new_id()
        first = Message(
            kind="assign", to=f"{role}/{task}", sender=run_stream(run), run=run, task=task, parts=(part_of(payload),)
        )
        body = e.RunStarted(task=task, to=first.to)
        await self.log.append(run_stream(run), [new_event(body, e.Meta(run=run, sends=(first,)))], NO_STREAM)
        return await MemoryEventStore.message(self.log, message_id(run_stream(run), 1, 0))

    async def _begin(self) -> None:
        self.bus.publish([await self.sent("teller")])
        await self._processes[0].ownership.apply(self._leases(), draining=False)

    async def _go_on(self) -> str:
        """Go on until all is done; gives what is not, if it takes too long."""
        for number in range(1, MAX_ROUNDS):
            for _ in range(TURNS_A_ROUND):
                await asyncio.sleep(0)
            self.clock.advance(ROUND_S)
            if number % RECONCILE_EVERY == 0:
                await self._reconcile()
            if self._done() and await self._settled():
                await self._reconcile()
                return ""
        here = self._processes[self._owner].runtime
        on_bus = {role: await self.bus.waiting(role, 0) for role in self.definitions}
        return f"{self.begun} begun; {here}; {[*here.partitions]}; on the bus: {on_bus}; {self.tables._open()}"

    async def _reconcile(self) -> None:
        with suppress(RedisUnavailable):
            await self._processes[self._owner].ownership.reconcile()

    def _done(self) -> bool:
        return not self.tables._open() and len(self.begun) >= self.numbers and self.bus.away is False

    async def _settled(self) -> bool:
        return not any([any((await self.bus.backlog(role)).values()) for role in self.definitions])

    @property
    def begun(self) -> list[int]:
        """The numbers whose tasks began, in order."""
        bodies = {}
        for event in self.log.events:
            for sent in sent_messages(event):
                if role_of(sent.to) == "sink" and sent.parts:
                    bodies[sent.id] = int(bytes(sent.parts[0].data))  # type: ignore[arg-type]
        started = [it for it in self.log.events if it.stream == "sink/x" and it.type == e.TaskStarted.TYPE]
        return [bodies[it.meta.handles or ""] for it in started]

    def in_memory(self) -> int:
        """The entries of the bus that the owner has and has not settled."""
        return sum(len(tenure.entries) for tenure in self._processes[self._owner].runtime.partitions)


ACTIONS: Mapping[str, Callable[[Simulation], Any]] = {
    "stall": Simulation.stall,
    "fence": Simulation.fence,
    "fence and stall": Simulation.fence_and_stall,
    "lose": Simulation.lose,
    "again": Simulation.again,
    "away": Simulation.away,
    "move": Simulation.move,
}


class Script:
    """What happens at which points."""

    def __init__(self, *actions: tuple[int, str]) -> None:
        self._actions = dict(actions)

    def __repr__(self) -> str:
        return f"Script({self._actions})"

    def at(self, point: int) -> str | None:
        """What happens at this point."""
        return self._actions.get(point)


def script_of(seed: int, *, most: int = 120, actions: int = 12) -> Script:
    """A script of several actions, at points that the seed draws."""
    draw = random.Random(seed)
    return Script(*[(draw.randint(1, most), draw.choice(list(ACTIONS))) for _ in range(draw.randint(2, actions))])
