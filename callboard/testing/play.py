"""Actors in memory, on the real runtime, and the means to send to them and to look at their log."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import UNSET
from msgspec.structs import replace

from callboard.actors.models.call import Call
from callboard.actors.outside.client import Sent
from callboard.actors.process.runtime import Runtime
from callboard.actors.roles.definition import Actor, define
from callboard.actors.roles.directory import Directory
from callboard.actors.state.fold import fold
from callboard.actors.state.machine import LIFECYCLE_MACHINE
from callboard.actors.tools.mcp import McpSessions
from callboard.actors.tools.mcp_server import McpServer
from callboard.actors.tools.policy import ToolPolicy
from callboard.actors.tools.toolbox import Toolbox
from callboard.bus.memory import MemoryBus
from callboard.bus.memory_throttle import MemoryThrottle
from callboard.eventstore.memory import MemoryEventStore
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, new_event, sent_messages
from callboard.protocols.errors import TaskCanceled, TaskFailed
from callboard.protocols.messages import Kind, Message, part_of
from callboard.protocols.names import event_id, message_id, new_id, role_of, run_stream
from callboard.protocols.ports import ANY, Lease, Tenure, Undecodable
from callboard.protocols.states import RUNNING
from callboard.protocols.types import decode_as
from callboard.testing.clock import ManualClock
from callboard.testing.expectations import Expected, difference, fits
from callboard.testing.models import ScriptedModels

WITHIN_S: Final = 30.0  # real seconds, for what takes none: only what is stuck takes longer
# A message takes fewer turns of the event loop than this from one actor to the next.
QUIET_TURNS: Final = 20
BUSY_TURNS: Final = 200  # after so many turns without rest, something real is waited for: stop spinning


class LoggedAnswers:
    """`callboard.protocols.ports.Answers` of a log in memory."""

    def __init__(self, store: MemoryEventStore) -> None:
        self._store = store

    async def find(self, key: str, since: datetime) -> str | None:
        """The newest answer that was asked for under this key."""
        asked: set[tuple[str | None, str, int]] = set()
        found = None
        for it in self._store.events:
            body = body_of(it)
            if isinstance(body, e.ModelRequested) and body.cache == key:
                asked.add((it.meta.task, body.step, body.attempt))
            elif isinstance(body, e.ModelCompleted) and (it.meta.task, body.step, body.attempt) in asked:
                found = event_id(it.stream, it.version) if it.recorded_at >= since else found
        return found


class Play:
    """What `spec` gives: actors in memory, and the means to send to them and to look at their log."""

    def __init__(
        self,
        actors: Sequence[type[Actor]],
        models: ScriptedModels,
        *,
        slots: int,
        store: type[MemoryEventStore],
        mcp: Mapping[str, McpServer] | None = None,
        tool_policies: Sequence[ToolPolicy] = (),
    ) -> None:
        self.clock = ManualClock()
        self.store = store(self.clock)
        self.models = models
        self.undecodable: list[Undecodable] = []  # what came over the bus and is no message
        leases = MemoryLeases(self.clock)
        self.throttle = MemoryThrottle(self.clock)
        self.answers = LoggedAnswers(self.store)
        self.directory = Directory(leases)
        self.bus = MemoryBus(self.directory.route)
        self.runtime: Runtime
        self._definitions = define(actors)
        self._slots = slots
        self._mcp = mcp or {}
        self._tool_policies = tool_policies
        self._epoch = 0
        self._process = AsyncExitStack()
        self._mark = 0  # `then` looks at the log behind this position
        self._subject = ""  # the actor that `then` looks at

    def __repr__(self) -> str:
        return f"Play({', '.join(self._definitions)}: {len(self.log)} events, {self.runtime})"

    # -- given ---------------------------------------------------------------------------------------------------

    async def given(self, to: str, payload: Any, *past: e.Body, key: str | None = None, kind: Kind = "assign") -> Sent:
        """The actor began a task with this payload, and this is what happened since; then its process was lost.

        A step's event without a fingerprint fits any input. The task goes on before this returns.
        """
        (sent,) = await self._append(to, payload, key=key, kind=kind)
        events = [*self._events(sent.actor)]
        actor = fold(events)
        begun = e.TaskStarted(process="before", role_state=actor.role_state)
        new = []
        for body in (begun, *past):
            opened = body is begun
            meta = e.Meta(
                run=sent.run, task=sent.task, role=role_of(sent.actor), handles=sent.message if opened else None
            )
            source = actor.state
            actor.take(body, meta.task, meta.handles)
            trigger = "start" if opened else actor.current.working_state()[0] if actor.current else ""
            change = LIFECYCLE_MACHINE.fire(trigger, source)
            if change.dest != source:
                actor.state = change.dest
                meta = replace(meta, state=change)
            new.append(new_event(body, meta))
        await self.store.append(sent.actor, new, ANY)
        await self.crash()
        return self._look_at(sent)

    async def given_log(self, events: Sequence[e.Event]) -> None:
        """This is the log of a former process, from its beginning, which was lost. What it left undone goes on."""
        for event in events:
            new = e.NewEvent(type=event.type, data=event.data, meta=event.meta, schema_version=event.schema_version)
            await self.store.append(event.stream, [new], ANY)
        await self.crash()

    # -- when ----------------------------------------------------------------------------------------------------

    async def when(self, to: str, payload: Any, **options: Any) -> Sent:
        """Send a message from outside (see `send`), and return when the actors have nothing more to do."""
        sent = await self.send(to, payload, **options)
        await self.quiet()
        return sent

    async def send(
        self, to: str, payload: Any, *, key: str | None = None, kind: Kind = "assign", **fields: Any
    ) -> Sent:
        """Send a message from outside, and don't wait. `to` is a role, role/key or topic/NAME; `fields` are those of
        a Message: `task`, `step`, `deadline` (...). Gives what was sent, to a topic the first of it.
        """
        sent = await self._append(to, payload, key=key, kind=kind, **fields)
        for message in sent:
            self.bus.publish([await self.store.message(message.message)])
        return self._look_at(sent[0])

    async def again(self, sent: Sent) -> None:
        """Deliver a message once more, as a bus may that lost track of it."""
        self.bus.publish([await self.store.message(sent.message)], again=True)
        await self.quiet()

    async def cancel(self, sent: Sent, reason: str = "no longer needed") -> Sent:
        """Ask the actor to stop a task."""
        return await self.when(sent.actor, reason, kind="cancel", task=sent.task, run=sent.run)

    async def advance(self, seconds: float) -> None:
        """Turn the clock, stopping wherever a timer of an actor is due."""
        await self.quiet()
        until = self.clock.now() + timedelta(seconds=seconds)
        while True:
            due = sorted(message.due_at for message in self._open() if message.due_at is not None)
            moment = max(min([*due[:1], until]), self.clock.now())
            self.clock.advance((moment - self.clock.now()).total_seconds())
            self._add_timers()
            before = len(self.log)
            await self.quiet()
            if moment >= until and len(self.log) == before:
                return

    async def crash(self, *, bus_too: bool = False) -> None:
        """End the process as kill -9 would: nothing is flushed, nothing settled. Go on in a new one on the same log.

        With `bus_too` the bus loses everything as well.
        """
        await self.kill()
        await self.restart(bus_too=bus_too)

    async def kill(self) -> None:
        """End the process as kill -9 would."""
        await self._process.aclose()

    async def restart(self, *, bus_too: bool = False, wait: bool = True, clean: bool = False) -> None:
        """Begin a process after `kill`, and `wait` until it has nothing more to do.

        `clean`: as if the one before had ended in good order, and handed its partitions over.
        """
        if bus_too:
            self.bus.lose()
        self._mark = len(self.log)
        await self._start(clean=clean)
        if wait:
            await self.quiet()

    def passivate(self) -> int:
        """Drop from memory all actors that only wait; gives how many. What they wait for brings them back."""
        return self.runtime.passivate(older_than_s=0)

    async def quiet(self, within_s: float = WITHIN_S) -> None:
        """Return when no actor has anything to do but to wait for messages. Raises TimeoutError after real seconds."""
        end = time.monotonic() + within_s
        turns = calm = 0
        seen = -1
        while calm < QUIET_TURNS:
            await asyncio.sleep(0 if turns < BUSY_TURNS else 0.001)
            idle = self.runtime.at_rest()
            calm = calm + 1 if idle and seen == len(self.log) else 0
            seen = len(self.log)
            turns += 1
            if time.monotonic() > end:
                raise TimeoutError(f"after {within_s} s still at work: {self.runtime}")

    async def until(self, type_: str, times: int = 1, *, within_s: float = WITHIN_S) -> None:
        """Return when the log has so many events of a type. Raises TimeoutError after real seconds."""
        end = time.monotonic() + within_s
        while self.types().count(type_) < times:
            await asyncio.sleep(0)
            if time.monotonic() > end:
                raise TimeoutError(f"no {type_} within {within_s} s; the log has {self.types()}")

    # -- then ----------------------------------------------------------------------------------------------------

    def then(self, *expected: Expected, of: str | None = None) -> None:
        """Assert that these, and no others, are the actor's events since the last `given`, `when` or `then`.

        The actor is the one that the last message went to, or `of`: a role or role/key. An expected event is a type's
        name, a class of `callboard.protocols.events`, one of its instances (compared whole), or `event(...)`.
        """
        __tracebackhide__ = True
        happened = [it for it in self._events(of or self._subject) if it.position > self._mark]
        self._mark = len(self.log)
        as_expected = len(happened) == len(expected) and all(map(fits, happened, expected))
        assert as_expected, difference(happened, expected)

    async def result(self, sent: Sent, *, returns: Any = Any) -> Any:
        """What became of a task, or of the one that it was handed to. Raises TaskFailed, TaskCanceled."""
        await self.quiet()
        task, actor = sent.task, sent.actor
        for it in self.log:
            if it.meta.task != task or it.type not in e.ENDS_TASK:
                continue
            body = body_of(it)
            if isinstance(body, e.TaskFailed):
                raise TaskFailed(task, actor, body.error.type, body.error.message, body.error.traceback)
            if isinstance(body, e.MessageDeadLettered):
                raise TaskFailed(task, actor, type(body).__name__, body.reason)
            if isinstance(body, e.TaskCanceled):
                raise TaskCanceled(task, actor, body.reason)
            if isinstance(body, e.TaskHandedOff):
                task, actor = body.task, body.to
            elif isinstance(body, e.TaskCompleted):
                return decode_as(b"null" if body.result is UNSET else bytes(body.result), returns)
        raise AssertionError(f"task {task} of {actor} has not ended; its events: {self.types(actor)}")

    @property
    def log(self) -> Sequence[e.Event]:
        """All events, in order."""
        return self.store.events

    def types(self, of: str | None = None) -> list[str]:
        """The types of all events (of a role, or of role/key), in order."""
        return [it.type for it in self._events(of)]

    def bodies(self, of: str | None = None) -> list[e.Body]:
        """The bodies of all events (of a role, or of role/key), in order."""
        return [body_of(it) for it in self._events(of)]

    # -- inside --------------------------------------------------------------------------------------------------

    def _events(self, of: str | None) -> list[e.Event]:
        return [it for it in self.log if of is None or of in (it.stream, role_of(it.stream))]

    def _look_at(self, sent: Sent) -> Sent:
        self._subject = sent.actor
        self._mark = max(self._mark, sent.position)
        return sent

    async def _append(self, to: str, payload: Any, *, key: str | None, kind: Kind, **fields: Any) -> list[Sent]:
        """Put a message from outside into the log; it is not on the bus yet."""
        receivers = await self.directory.resolve(to, key)
        run, task = fields.pop("run", None), fields.pop("task", None)
        new = run is None
        stream = run_stream(run or new_id())
        run = stream.partition("/")[2]
        sends = tuple(
            Message(
                kind=kind,
                to=there.stream,
                sender=stream,
                run=run,
                task=task or there.task,
                parts=(part_of(payload),),
                to_task=task is not None and any(it.meta.task == task for it in self.log),
                **fields,
            )
            for there in receivers
        )
        first = receivers[0]
        body: e.Body = e.RunStarted(task=first.task, to=first.stream) if new else e.RunContinued()
        appended = await self.store.append(stream, [new_event(body, e.Meta(run=run, sends=sends))], ANY)
        return [
            Sent(m.run, m.task, m.to, message_id(stream, appended.version, place), appended.position)
            for place, m in enumerate(sends)
        ]

    def _open(self) -> list[Message]:
        """The messages to these actors that nobody has handled, in order."""
        handled = {it.meta.handles for it in self.log}
        sent = (message for it in self.log for message in sent_messages(it))
        return [message for message in sent if message.id not in handled and message.role in self._definitions]

    def _add_timers(self) -> None:
        self.runtime.timers.add(m for m in self._open() if not self.runtime.holds(m, m.to))

    async def _start(self, *, clean: bool = False) -> None:
        """Begin a process, and let it take over what the log says is undone, as `callboard.actors.process.recovery`
        does.
        """
        self._epoch += 1
        sessions = await self._process.enter_async_context(McpSessions(self._mcp))
        runtime = self.runtime = Runtime(
            self.store,
            self.bus,
            self.directory,
            self._definitions,
            self.models,
            process=f"test-{self._epoch}",
            slots=self._slots,
            clock=self.clock,
            throttle=self.throttle,
            answers=self.answers,
            toolbox=Toolbox(self.directory, policies=self._tool_policies, mcp=sessions),
        )
        for definition in self._definitions.values():
            await self.directory.register(definition, 1)
        await self._process.enter_async_context(runtime)
        consumer = self.bus.consumer(runtime.process, runtime.deliver, self.undecodable.append, runtime.gate.capacity)
        await self._process.enter_async_context(consumer)
        runtime.on_settle, runtime.on_capacity = consumer.settle, consumer.wake
        tenures: dict[str, Tenure] = {}
        for role in self._definitions:
            tenure = tenures[role] = runtime.partitions.begin(Lease(role, 0, self._epoch, partitions=1, clean=clean))
            on_bus = await self.bus.waiting(role, 0)
            lost = [m for m in self._open() if m.role == role and m.due_at is None and m.id not in on_bus]
            self.bus.publish(lost, again=True)
            await consumer.take(tenure)
            tenure.serve()
        self._add_timers()
        for stream in dict.fromkeys(it.stream for it in self.log if role_of(it.stream) in self._definitions):
            actor = fold(self._events(stream))
            if actor.at_work and actor.state in RUNNING:
                runtime.activate(stream, tenures[role_of(stream)])


@asynccontextmanager
async def spec(
    *actors: type[Actor],
    models: ScriptedModels | Sequence[object] | Callable[[Call], object] = (),
    store: type[MemoryEventStore] = MemoryEventStore,
    slots: int = 64,
    mcp: Mapping[str, McpServer] | None = None,
    tool_policies: Sequence[ToolPolicy] = (),
) -> AsyncIterator[Play]:
    """A play of these actors. `models` is a `ScriptedModels`, or what one is made of; `slots` is how many tasks may
    be at work at the same time; `store` is the class of the log; `mcp` and `tool_policies` are what the configuration
    says of tools. Raises BadDefinition.
    """
    scripted = models if isinstance(models, ScriptedModels) else ScriptedModels(models)
    play = Play(actors, scripted, slots=slots, store=store, mcp=mcp, tool_policies=tool_policies)
    try:
        await play._start()
        yield play
    finally:
        await play._process.aclose()
