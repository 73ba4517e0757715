"""The outside: starts runs, sends further messages into them, and waits for their results."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET

from actors.directory import Directory, Receiver
from protocols import events as e
from protocols.codec import body_of, new_event
from protocols.errors import BadPayload, TaskCanceled, TaskFailed, UnknownRun
from protocols.messages import Kind, Message, Priority, encode_json, part_of
from protocols.names import message_id, new_id, role_of, run_stream
from protocols.ports import ANY, NO_STREAM, Bus, EventStore, Route
from protocols.trace import root_traceparent


class Sent(msgspec.Struct, frozen=True):
    """What became of a sent message: its run, the task that it opens, the actor it went to, its id and position."""

    run: str
    task: str
    actor: str
    message: str
    position: int


class Client:
    """Sends from outside; made by `open`, which owns the one reader of the log that all waits share."""

    def __init__(self, store: EventStore, bus: Bus, directory: Directory, group: asyncio.TaskGroup) -> None:
        self._store = store
        self._bus = bus
        self._directory = directory
        self._group = group
        self._waiting: dict[str, asyncio.Future[Any]] = {}  # by the id of the task that will answer
        self._tail: asyncio.Task[None] | None = None
        self._seen = 0  # the tail has read the log up to here

    @classmethod
    @asynccontextmanager
    async def open(cls, store: EventStore, bus: Bus, directory: Directory) -> AsyncIterator["Client"]:
        """A client; on leaving, its reader ends and waits are cancelled."""
        async with asyncio.TaskGroup() as group:
            client = cls(store, bus, directory, group)
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
        deadline: datetime | None = None,
        tenant: str | None = None,
        origin: str = "python",
    ) -> list[Sent]:
        """Send a message, in a new run or in one that exists; it is in the log on return, one for each receiver.

        `to` is a role, role/key, or topic/NAME. `task` addresses a task at work of the actor role/key. A payload for
        a new task is checked against what the role says it takes. Raises BadName, UnknownRole, UnknownTopic,
        UnknownRun, BadPayload, StoreUnavailable.
        """
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
            traceparent=root_traceparent(run_id),
            tenant=tenant,
        )
        sends = [msgspec.structs.replace(first, to=there.stream, task=task or there.task) for there in receivers]
        return await self._append(stream, sends, receivers[0], origin=origin, new=run is None)

    async def cancel(self, run: str, task: str, actor: str, reason: str) -> Sent:
        """Ask an actor to stop a task; what the task asked others for is stopped too. Raises UnknownRun."""
        message = Message(
            kind="cancel",
            to=actor,
            sender=run_stream(run),
            run=run,
            task=task,
            parts=(part_of(reason),),
            priority="high",
            traceparent=root_traceparent(run),
        )
        return (await self._append(run_stream(run), [message], Receiver(actor, task), origin="", new=False))[0]

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
        return msgspec.json.decode(encoded, type=Any if returns is None else returns)

    async def call(self, to: str, payload: Any, *, returns: Any = None, **options: Any) -> Any:
        """Send and wait: `send`'s options, `wait`'s result."""
        (sent, *_) = await self.send(to, payload, **options)
        return await self.wait(sent, returns=returns)

    async def _append(
        self, stream: str, sends: list[Message], first: Receiver, *, origin: str, new: bool
    ) -> list[Sent]:
        meta = e.Meta(run=sends[0].run, sends=tuple(sends), traceparent=sends[0].traceparent, tenant=sends[0].tenant)
        body: e.Body
        if new:
            body = e.RunStarted(task=first.task, to=first.stream, origin=origin)
        else:
            body = e.RunContinued(origin=origin)
            if not [event async for event in self._store.read_stream(stream, before=2)]:
                raise UnknownRun(sends[0].run)
        appended = await self._store.append(stream, [new_event(body, meta)], NO_STREAM if new else ANY)
        sent = [
            msgspec.structs.replace(message, id=message_id(stream, appended.version, place))
            for place, message in enumerate(sends)
        ]
        self._bus.publish(sent)
        return [Sent(m.run, m.task, m.to, m.id, appended.position) for m in sent]

    async def _look_back(self, sent: Sent) -> None:
        """A task may have ended before anybody waited for it, and before the point from which the log is followed."""
        stream, task = sent.actor, sent.task
        async for event in self._store.read_stream(stream):
            if event.meta.task == task and event.type in e.ENDS_TASK:
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


def check_payload(route: Route, payload: Any) -> None:
    """Raise BadPayload if a role's handlers say that they don't take this."""
    if route.input_schema is None:
        return
    validator = _validator(route.input_schema)
    plain = msgspec.json.decode(encode_json(payload))  # as it will arrive: a tuple is an array
    if not validator.is_valid(plain):
        from jsonschema.exceptions import best_match

        accepted = " or ".join(skill.examples[0] for skill in route.card.skills) if route.card else "another form"
        raise BadPayload(route.role, best_match(validator.iter_errors(plain)).message, accepted)


@cache
def _validator(schema: bytes) -> Any:
    from jsonschema import Draft202012Validator  # 70 ms, and only who sends needs it

    return Draft202012Validator(msgspec.json.decode(schema))


def _error(event: e.Event, body: e.Body) -> Exception | None:
    task, actor = event.meta.task or "", event.stream
    if isinstance(body, e.TaskFailed):
        return TaskFailed(task, actor, body.error.type, body.error.message, body.error.traceback)
    if isinstance(body, e.TaskCanceled):
        return TaskCanceled(task, actor, body.reason)
    return None


def _result(body: e.Body) -> bytes:
    if isinstance(body, e.TaskCompleted) and body.result is not UNSET:
        return bytes(body.result)
    return b"null"
