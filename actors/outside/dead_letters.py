"""Dead letters: edited, and sent again.

A letter is made by one event, `message.dead_lettered`, whose address (stream@version) names it for good. What is done
with it goes into the stream dead/ROLE: edits keep the original, and sending it again handles the address, so that
however often and from however many places it is asked for, one message goes out.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from asyncpg import Pool
from msgspec import Struct

from callboard.actors.roles.directory import Directory
from callboard.actors.roles.inputs import check_payload
from callboard.projections import dead_letters, tasks
from callboard.projections.dead_letters import DeadLetter
from callboard.protocols import events as e
from callboard.protocols.a2a import Part
from callboard.protocols.codec import body_of, new_event
from callboard.protocols.errors import (
    AlreadyHandled,
    AlreadyRedriven,
    AmbiguousId,
    BadName,
    CantRedrive,
    MessageNotInLog,
    UnknownDeadLetter,
    UnknownRole,
    listed,
)
from callboard.protocols.messages import OPENS_TASK, Message, part_of
from callboard.protocols.names import actor_stream, dead_stream, message_id, new_id, parse_message_id
from callboard.protocols.ports import ANY, Bus, EventStore
from callboard.protocols.trace import child_traceparent


class Redriven(Struct, frozen=True, kw_only=True):
    """A dead letter that was sent again: its run, and the task and the message that this made."""

    letter: str
    run: str
    task: str
    actor: str
    message: str


class Letters:
    """Dead letters, to look at. The read models should be at the log's head: where they lag, one may not be found."""

    def __init__(self, pool: Pool, store: EventStore) -> None:
        self._pool = pool
        self._store = store

    async def find(self, given: str) -> DeadLetter:
        """A letter by its id, also with ids in it cut to 8 digits, or by its task's. Raises UnknownDeadLetter,
        CantRedrive for a message that is no dead letter, AmbiguousId.
        """
        found = await dead_letters.find(self._pool, given)
        if not found:
            raise await self._why_not(given)
        if len(found) > 1:
            raise AmbiguousId(given, ", ".join(letter.id for letter in found))
        return found[0]

    async def history(self, letter: DeadLetter) -> list[e.Event]:
        """The event that made it a dead letter, and what was done with it since, in order."""
        stream, _, version = letter.address.rpartition("@")
        made = [
            event async for event in self._store.read_stream(stream, after=int(version) - 1, before=int(version) + 1)
        ]
        return made + (await self._since(letter.role, letter.position)).get(letter.id, [])

    async def message(self, letter: DeadLetter) -> Message:
        """The message itself, as it was sent. Raises CantRedrive for bytes that are none."""
        if not letter.is_message:
            raise CantRedrive(letter.id, "it is no message, only bytes; whoever wrote them has to send it anew")
        return await self._store.message(letter.id)

    async def _since(self, role: str, position: int) -> dict[str, list[e.Event]]:
        """What was done with a role's letters behind a position of the log, by letter, in order."""
        done: dict[str, list[e.Event]] = {}
        async for event in self._store.read_stream(dead_stream(role), backwards=True):
            if event.position <= position:
                break
            if event.type in (e.DeadLetterEdited.TYPE, e.DeadLetterRedriven.TYPE):
                body: Any = body_of(event)
                done.setdefault(body.letter, []).insert(0, event)
        return done

    async def _why_not(self, given: str) -> UnknownDeadLetter | CantRedrive:
        """Why there is no dead letter of this name."""
        try:
            parse_message_id(given)
            message = await self._store.message(given)
        except (BadName, MessageNotInLog):
            return UnknownDeadLetter(given, "no message has died under this name")
        if message.kind not in OPENS_TASK:
            return CantRedrive(given, f"it is a {message.kind}, and no dead letter")
        task = await tasks.of_message(self._pool, given)
        if task is None or task.ended_at is None:
            state = "nobody has handled it yet" if task is None or not task.started_at else "its task is at work"
            return CantRedrive(given, f"it is live: {state} (`callboard run {message.run}`)")
        return CantRedrive(given, f"it is no dead letter: its task has ended, {task.actor_state}")


class DeadLetters(Letters):
    """Dead letters, to edit and to send again. Where the read models lag, still nothing is done twice."""

    def __init__(self, pool: Pool, store: EventStore, bus: Bus, directory: Directory) -> None:
        super().__init__(pool, store)
        self._bus = bus
        self._directory = directory

    async def edit(self, letter: DeadLetter, payload: Any, *, by: str, reason: str = "") -> None:
        """Give a letter another content, for when it is sent again; the original stays in the log.

        Raises AlreadyRedriven, CantRedrive, BadPayload, UnknownRole, StoreUnavailable.
        """
        message = await self.message(letter)
        _check_kind(letter, message)
        for event in (await self._since(letter.role, letter.position)).get(letter.id, []):
            _check_not_sent(letter, event)
        await self._check_role(message.role)
        route = self._directory.route(message.role)
        assert route is not None
        check_payload(route, payload)
        body = e.DeadLetterEdited(letter=letter.id, parts=(part_of(payload),), by=by, reason=reason)
        meta = e.Meta(run=message.run, task=message.task, role=message.role)
        await self._store.append(dead_stream(letter.role), [new_event(body, meta)], ANY)

    async def redrive(
        self, letters: Sequence[DeadLetter], *, by: str
    ) -> AsyncIterator[Redriven | AlreadyRedriven | CantRedrive]:
        """Send letters again, each as a new task with the content that it was given last; tells of one after the
        other what became of it. Raises UnknownRole, Busy, StoreUnavailable.
        """
        known: dict[str, dict[str, list[e.Event]]] = {}
        for letter in letters:
            if letter.role not in known:
                oldest = min(each.position for each in letters if each.role == letter.role)
                known[letter.role] = await self._since(letter.role, oldest)
            try:
                yield await self._send_again(letter, known[letter.role].get(letter.id, []), by)
            except (AlreadyRedriven, CantRedrive) as refused:
                yield refused

    async def _send_again(self, letter: DeadLetter, events: Sequence[e.Event], by: str) -> Redriven:
        message = await self.message(letter)
        _check_kind(letter, message)
        parts = message.parts
        for event in events:
            _check_not_sent(letter, event)
            body = body_of(event)
            if isinstance(body, e.DeadLetterEdited):
                parts = body.parts
        await self._check_role(message.role)
        await self._bus.check_room()
        again = _copy(message, parts)
        stream = dead_stream(letter.role)
        meta = e.Meta(
            run=message.run,
            task=message.task,
            role=message.role,
            handles=letter.address,
            sends=(again,),
            causation=message.id,
            traceparent=again.traceparent,
            tenant=message.tenant,
        )
        body_ = e.DeadLetterRedriven(letter=letter.id, by=by)
        try:
            appended = await self._store.append(stream, [new_event(body_, meta)], ANY)
        except AlreadyHandled:
            for event in (await self._since(letter.role, letter.position)).get(letter.id, []):
                _check_not_sent(letter, event)
            raise
        sent = msgspec.structs.replace(again, id=message_id(stream, appended.version, 0))
        self._bus.publish([sent])
        return Redriven(letter=letter.id, run=sent.run, task=sent.task, actor=sent.to, message=sent.id)

    async def _check_role(self, role: str) -> None:
        """Raise UnknownRole for one that was never served: nothing could ever be delivered to it."""
        if self._directory.route(role) is None:
            await self._directory.refresh()
        if self._directory.route(role) is None:
            raise UnknownRole(role, listed(self._directory.roles))


def _check_kind(letter: DeadLetter, message: Message) -> None:
    if message.kind not in OPENS_TASK:
        raise CantRedrive(letter.id, f"it is a {message.kind} for a task that has ended, and opens none")


def _check_not_sent(letter: DeadLetter, event: e.Event) -> None:
    if event.type == e.DeadLetterRedriven.TYPE:
        body: Any = body_of(event)
        raise AlreadyRedriven(letter.id, body.by, event.meta.run)


def _copy(message: Message, parts: Sequence[Part] | None) -> Message:
    """The message as a new task: nobody waits for its reply any more, and its deadline was for the first time."""
    task = new_id()
    role, key = message.role, message.key
    return msgspec.structs.replace(
        message,
        id="",
        task=task,
        to=actor_stream(role, task if key == message.task else key),
        parts=None if parts is None else tuple(parts),
        step=None,
        reply_to=None,
        correlation=None,
        causation=message.id,
        deadline=None,
        due_at=None,
        traceparent=child_traceparent(message.traceparent),
    )
