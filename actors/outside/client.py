"""The outside: starts runs, sends further messages into them, and waits for their results."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from callboard.actors.roles.directory import Directory
from callboard.actors.roles.inputs import check_kind, check_payload, times
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, new_event
from callboard.protocols.errors import AlreadyHandled, TaskCanceled, TaskFailed, UnknownRun
from callboard.protocols.messages import OPENS_TASK, Kind, Message, Priority, part_of
from callboard.protocols.names import check_tenant, message_id, new_id, role_of, run_stream
from callboard.protocols.ports import ANY, NO_STREAM, Bus, Clock, EventStore, Expected, SystemClock
from callboard.protocols.trace import root_traceparent
from callboard.protocols.types import decode_as


class Sent(msgspec.Struct, frozen=True):
    """What became of a sent message: its run, the task that it opens, the actor it went to, its id and position."""

    run: str
    task: str
    actor: str
    message: str
    position: int


class Target(msgspec.Struct, frozen=True):
    """A task that a message is for. `opening` is the id of the message that opens it, where that is only due later."""

    task: str
    actor: str
    opening: str | None = None


class Client:
    """Sends from outside; made by `open`, which owns the one reader of the log that all waits share."""

    def __init__(
        self, store: EventStore, bus: Bus, directory: Directory, group: asyncio.TaskGroup, clock: Clock
    ) -> None:
        self._store = store
        self._bus = bus
        self._directory = directory
        self._group = group
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[Any]] = {}  # by the id of the task that will answer
        self._tail: asyncio.Task[None] | None = None
        self._seen = 0  # the tail has read the log up to here

    @classmethod
    @asynccontextmanager
    async def open(
        cls, store: EventStore, bus: Bus, directory: Directory, clock: Clock | None = None
    ) -> AsyncIterator["Client"]:
        """A client; on leaving, its reader ends and waits are cancelled."""
        async with asyncio.TaskGroup() as group:
            client = cls(store, bus, directory, group, clock or SystemClock())
            try:
                yield client
            finally:
                for waiting in client._waiting.values():
                    waiting.cancel()
                if client._tail is not None:
                    client._tail.cancel()

    async def send(
        self,
        to: str,
        payload: Any,
        *,
        key: str | None = None,
        run: str | None = None,
        task: str | None = None,
        kind: Kind = "assign",
        priority: Priority = "normal",
        delay_s: float | None = None,
        deadline: datetime | None = None,
        tenant: str | None = None,
        origin: str = "python",
    ) -> list[Sent]:
        """Send a message, in a new run or in one that exists; it is in the log on return, one for each receiver.

        `to` is a role, role/key, or topic/NAME. `task` addresses a task at work of the actor role/key. A payload for
        a new task is checked against what the role says it takes. It is delivered after `delay_s` seconds, and its
        task fails at its `deadline`, which is aware. Raises BadName, UnknownRole, UnknownTopic, UnknownRun,
        BadPayload, BadOption, Busy, StoreUnavailable.
        """
        due_at, deadline = times(self._clock.now(), delay_s, deadline)
        if tenant is not None:
            check_tenant(tenant)
        if task is None:
            check_kind(kind, None, OPENS_TASK)
        receivers = await self._directory.resolve(to, key)
        part = part_of(payload)
        if task is None:
            for there in receivers:
                route = self._directory.route(role_of(there.stream))
                if route is not None:
                    check_payload(route, payload)
        stream = run_stream(run or new_id())
        run_id = stream.partition("/")[2]
        first = Message(
            kind=kind,
            to="",
            sender=stream,
            run=run_id,
            task="",
            parts=(part,),
            priority=priority,
            deadline=deadline,
            due_at=due_at,
            traceparent=root_traceparent(run_id),
            tenant=tenant,
            to_task=task is not None,
        )
        await self._bus.check_room()
        sends = [msgspec.structs.replace(first, to=there.stream, task=task or there.task) for there in receivers]
        if run is not None:
            return await self._append(stream, sends, e.RunContinued(origin=origin))
        first_there = receivers[0]
        body = e.RunStarted(task=first_there.task, to=first_there.stream, origin=origin)
        return await self._append(stream, sends, body, expected=NO_STREAM)

    async def cancel(self, run: str, task: str, actor: str, reason: str) -> Sent:
        """Ask an actor to stop a task; what the task asked others for is stopped too. Raises UnknownRun."""
        message = self._to_task(run, Target(task, actor), "cancel", reason)
        return (await self._append(run_stream(run), [message], e.RunContinued()))[0]

    async def cancel_all(self, run: str, tasks: Sequence[Target], reason: str) -> None:
        """Ask for the end of some tasks of a run, in one commit; what they asked others for is stopped too.

        A task whose opening message is only due later is ended here and now: a message is handled once, so either
        this ends it, or its actor has begun it in the meantime, and is asked. Raises UnknownRun.
        """
        queued = {target.opening: target for target in tasks if target.opening is not None}
        while True:
            asked = [target for target in tasks if target.opening not in queued]
            sends = [self._to_task(run, target, "cancel", reason) for target in asked]
            ended = [
                new_event(e.TaskCanceled(reason=reason), e.Meta(run=run, task=target.task, handles=opening))
                for opening, target in queued.items()
            ]
            try:
                await self._append(run_stream(run), sends, e.RunContinued(), *ended)
            except AlreadyHandled as begun:
                del queued[begun.message]
            else:
                return

    async def decide(self, run: str, task: str, actor: str, step: str, decision: object) -> Sent:
        """Give a task at work the decision that one of its steps waits for. Raises UnknownRun."""
        message = self._to_task(run, Target(task, actor), "decision", decision, step=step)
        return (await self._append(run_stream(run), [message], e.RunContinued()))[0]

    async def wake(self, run: str, task: str, actor: str, step: str) -> Sent:
        """Let a task look again at what it waits for in this step, though its time has not come. Raises UnknownRun."""
        message = self._to_task(run, Target(task, actor), "timer", None, step=step)
        return (await self._append(run_stream(run), [message], e.RunContinued()))[0]

    def _to_task(self, run: str, target: Target, kind: Kind, payload: object, step: str | None = None) -> Message:
        return Message(
            kind=kind,
            to=target.actor,
            sender=run_stream(run),
            run=run,
            task=target.task,
            step=step,
            parts=(part_of(payload),),
            priority="high",
            traceparent=root_traceparent(run),
        )

    async def wait(self, sent: Sent, *, returns: Any = None) -> Any:
        """The result of the task, once it (or whoever it was handed to) has ended.

        It is given as `returns`, by default as plain data. Raises TaskFailed, TaskCanceled.
        """
        waiting = self._waiting.get(sent.task)
        if waiting is None:
            waiting = self._waiting[sent.task] = asyncio.get_running_loop().create_future()
            if self._tail is None:
                self._seen = sent.position
                self._tail = self._group.create_task(self._follow(sent.position))
            elif sent.position <= self._seen:
                await self._look_back(sent)
        encoded = await asyncio.shield(waiting)
        return decode_as(encoded, returns)

    async def call(self, to: str, payload: Any, *, returns: Any = None, **options: Any) -> Any:
        """Send and wait: `send`'s options, `wait`'s result."""
        (sent, *_) = await self.send(to, payload, **options)
        return await self.wait(sent, returns=returns)

    async def _append(
        self,
        stream: str,
        sends: Sequence[Message],
        body: e.Body,
        *more: e.NewEvent,
        expected: Expected = ANY,
    ) -> list[Sent]:
        """Append an event that sends these messages, and others, to the run's stream. Raises UnknownRun."""
        run = stream.partition("/")[2]
        if expected is ANY and not [event async for event in self._store.read_stream(stream, before=2)]:
            raise UnknownRun(run)
        events = list(more)
        if sends:
            meta = e.Meta(run=run, sends=tuple(sends), traceparent=sends[0].traceparent, tenant=sends[0].tenant)
            events.insert(0, new_event(body, meta))
        appended = await self._store.append(stream, events, expected)
        version = appended.version - len(more)
        sent = [
            msgspec.structs.replace(message, id=message_id(stream, version, place))
            for place, message in enumerate(sends)
        ]
        self._bus.publish(message for message in sent if message.due_at is None)
        return [Sent(m.run, m.task, m.to, m.id, appended.position) for m in sent]

    async def _look_back(self, sent: Sent) -> None:
        """A task may have ended before anybody waited for it, and before the point from which the log is followed."""
        for stream in (sent.actor, run_stream(sent.run)):
            async for event in self._store.read_stream(stream):
                if event.meta.task == sent.task and event.type in e.ENDS_TASK:
                    moved = self._ended(event)
                    if moved is not None:
                        await self._look_back(moved)

    async def _follow(self, after: int) -> None:
        async for page in self._store.subscribe(after=after):
            for event in page:
                if event.type in e.ENDS_TASK and event.meta.task in self._waiting:
                    self._ended(event)
            self._seen = page[-1].position

    def _ended(self, event: e.Event) -> Sent | None:
        """Give whoever waits the outcome; if the task was handed off, tell where to."""
        waiting = self._waiting.pop(event.meta.task or "", None)
        if waiting is None:
            return None
        body = body_of(event)
        if isinstance(body, e.TaskHandedOff):
            self._waiting[body.task] = waiting
            return Sent(event.meta.run, body.task, body.to, "", event.position)
        if not waiting.done():
            error = _error(event, body)
            if error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(_result(body))
        return None


def _error(event: e.Event, body: e.Body) -> Exception | None:
    task, actor = event.meta.task or "", event.stream
    if isinstance(body, e.TaskFailed):
        return TaskFailed(task, actor, body.error.type, body.error.message, body.error.traceback)
    if isinstance(body, e.TaskCanceled):
        return TaskCanceled(task, actor, body.reason)
    if isinstance(body, e.MessageDeadLettered):
        return TaskFailed(task, actor, "MessageDeadLettered", body.reason)
    return None


def _result(body: e.Body) -> bytes:
    if isinstance(body, e.TaskCompleted) and body.result is not UNSET:
        return bytes(body.result)
    return b"null"
