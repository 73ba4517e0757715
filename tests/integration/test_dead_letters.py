"""Dead letters, edited and sent again, on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from callboard import projections
from callboard.actors.outside.client import Client, Sent
from callboard.actors.outside.dead_letters import DeadLetters, Redriven
from callboard.actors.roles.directory import Directory
from callboard.bus.memory import MemoryBus
from callboard.eventstore import PostgresEventStore
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.projections.dead_letters import DeadLetter
from callboard.projections.runner import Runner
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.errors import (
    AlreadyRedriven,
    AmbiguousId,
    BadPayload,
    Busy,
    CantRedrive,
    UnknownDeadLetter,
    UnknownRole,
)
from callboard.protocols.messages import Message, part_of, value_of
from callboard.protocols.ports import ANY, Route

SCHEMA = b'{"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}'


class Desk:
    """Where dead letters are dealt with: a log with some, and no actors."""

    def __init__(self, store: PostgresEventStore, bus: MemoryBus, client: Client, letters: DeadLetters) -> None:
        self.store, self.bus, self.client, self.letters = store, bus, client, letters
        self.runner = Runner(store.pool, store, projections.ALL, "test", pause_s=0.01)

    async def dead(self, topic: str = "tides", **options: Any) -> DeadLetter:
        """A message that has died."""
        (sent,) = await self.client.send("writer", {"topic": topic}, **options)
        return await self.die(sent)

    async def die(self, sent: Sent | Redriven) -> DeadLetter:
        """Make a message a dead letter."""
        body = e.MessageDeadLettered(to=sent.actor, reason="it kills its process", attempts=5, message=sent.message)
        meta = e.Meta(run=sent.run, task=sent.task, handles=sent.message)
        await self.store.append(sent.actor, [new_event(body, meta)], ANY)
        await self.runner.catch_up()
        return await self.letters.find(sent.message)

    async def again(self, letter: DeadLetter) -> Redriven:
        """Send one letter again; raises what the one outcome is."""
        (outcome,) = [each async for each in self.letters.redrive([letter], by="ann")]
        if not isinstance(outcome, Redriven):
            raise outcome
        return outcome


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Desk]:
    leases = MemoryLeases()
    await leases.register(Route("writer", 8, input_schema=SCHEMA))
    directory = Directory(leases)
    await directory.refresh()
    bus = MemoryBus(directory.route)
    async with PostgresEventStore.open(database_url) as store, Client.open(store, bus, directory) as client:
        yield Desk(store, bus, client, DeadLetters(store.pool, store, bus, directory))


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    async with opened(database_url) as made:
        yield made


async def test_a_letter_is_sent_again_as_a_new_task_of_its_run(desk: Desk) -> None:
    letter = await desk.dead()
    original = await desk.letters.message(letter)
    sent = await desk.again(letter)
    message = await desk.store.message(sent.message)
    assert (sent.run, message.run, message.parts) == (original.run, original.run, original.parts)
    assert message.task == sent.task == message.key != original.task
    assert message.causation == letter.id
    await desk.runner.catch_up()
    letter = await desk.letters.find(letter.id)
    assert (letter.redriven_by, letter.redriven_task) == ("ann", sent.task)


async def test_a_named_actor_s_letter_goes_to_the_same_actor_without_deadline_and_reply(desk: Desk) -> None:
    letter = await desk.dead(key="dave")
    message = await desk.store.message((await desk.again(letter)).message)
    assert message.to == "writer/dave"
    assert (message.deadline, message.due_at, message.reply_to) == (None, None, None)


async def test_a_redrive_twice_has_one_effect_a_generation(desk: Desk) -> None:
    letter = await desk.dead()
    sent = await desk.again(letter)  # the read model has not seen it yet
    with pytest.raises(AlreadyRedriven, match="sent again already, by ann"):
        await desk.again(letter)
    await desk.runner.catch_up()
    with pytest.raises(AlreadyRedriven):
        await desk.again(await desk.letters.find(letter.id))
    second = await desk.die(sent)
    assert (await desk.again(second)).task != sent.task


async def test_of_many_who_send_a_letter_again_at_once_one_does(desk: Desk) -> None:
    letter = await desk.dead()
    outcomes: list[Any] = []

    async def one() -> None:
        outcomes.extend([each async for each in desk.letters.redrive([letter], by="ann")])

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)
    assert sorted(type(each).__name__ for each in outcomes) == ["AlreadyRedriven"] * 7 + ["Redriven"]
    sent = [event async for event in desk.store.read_stream("dead/writer")]
    assert len(sent) == 1


async def test_what_is_sent_again_has_the_content_that_it_was_given_last(desk: Desk) -> None:
    letter = await desk.dead("tides")
    await desk.letters.edit(letter, {"topic": "moon"}, by="ann")
    await desk.letters.edit(letter, {"topic": "sun"}, by="bob", reason="shorter")
    history = await desk.letters.history(letter)
    assert [event.type for event in history] == ["message.dead_lettered", "dead_letter.edited", "dead_letter.edited"]
    message = await desk.store.message((await desk.again(letter)).message)
    assert message.parts is not None
    assert value_of(message.parts[0]) == {"topic": "sun"}
    original = await desk.letters.message(letter)
    assert original.parts == (part_of({"topic": "tides"}),)
    with pytest.raises(AlreadyRedriven):
        await desk.letters.edit(letter, {"topic": "moon"}, by="ann")


async def test_a_content_that_the_role_does_not_take_is_refused(desk: Desk) -> None:
    letter = await desk.dead()
    with pytest.raises(BadPayload, match="3 is not of type 'string'"):
        await desk.letters.edit(letter, {"topic": 3}, by="ann")
    assert [event async for event in desk.store.read_stream("dead/writer")] == []


async def test_many_are_sent_again_and_each_tells_what_became_of_it(desk: Desk) -> None:
    letters = [await desk.dead(str(number)) for number in range(3)]
    await desk.again(letters[1])
    outcomes = [each async for each in desk.letters.redrive(letters, by="bob")]
    assert [type(each) for each in outcomes] == [Redriven, AlreadyRedriven, Redriven]


async def test_bytes_that_are_no_message_can_not_be_sent_again(desk: Desk) -> None:
    body = e.MessageDeadLettered(to="writer", reason="no JSON", entry=b"{", at="bus")
    await desk.store.append("dead/writer", [new_event(body, e.Meta(run=""))], ANY)
    await desk.runner.catch_up()
    letter = await desk.letters.find("dead/writer@1")
    for attempt in (desk.again(letter), desk.letters.edit(letter, {"topic": "x"}, by="ann")):
        with pytest.raises(CantRedrive, match="it is no message, only bytes"):
            await attempt


async def test_a_live_message_is_said_to_be_live(desk: Desk) -> None:
    (sent,) = await desk.client.send("writer", {"topic": "x"})
    await desk.runner.catch_up()
    with pytest.raises(CantRedrive, match="it is live: nobody has handled it yet"):
        await desk.letters.find(sent.message)
    meta = e.Meta(run=sent.run, task=sent.task, handles=sent.message)
    await desk.store.append(sent.actor, [new_event(e.TaskStarted(process="p"), meta)], ANY)
    await desk.runner.catch_up()
    with pytest.raises(CantRedrive, match="it is live: its task is at work"):
        await desk.letters.find(sent.message)
    await desk.store.append(sent.actor, [new_event(e.TaskCompleted(), e.Meta(run=sent.run, task=sent.task))], ANY)
    await desk.runner.catch_up()
    with pytest.raises(CantRedrive, match="it is no dead letter: its task has ended, completed"):
        await desk.letters.find(sent.message)


@pytest.mark.parametrize("given", ["run/x@1.0", "nonsense", "writer/a@9.9"])
async def test_an_unknown_letter_is_named(desk: Desk, given: str) -> None:
    await desk.runner.catch_up()
    with pytest.raises(UnknownDeadLetter, match=given):
        await desk.letters.find(given)


async def test_an_id_that_could_be_of_two_is_not_guessed(desk: Desk) -> None:
    for _ in range(2):
        (sent,) = await desk.client.send("writer", {"topic": "x"}, key="dave")
        body = e.MessageDeadLettered(to="writer/dave", reason="no", message=sent.message)
        await desk.store.append("writer/dave", [new_event(body, e.Meta(run=sent.run, task="t"))], ANY)
    await desk.runner.catch_up()
    with pytest.raises(AmbiguousId):
        await desk.letters.find("t")


async def test_a_full_bus_takes_no_letters(desk: Desk) -> None:
    letter = await desk.dead()
    desk.bus.full = True
    with pytest.raises(Busy):
        await desk.again(letter)
    desk.bus.full = False
    await desk.again(letter)


async def test_a_role_that_was_never_served_gets_none(desk: Desk) -> None:
    strange = Message(kind="assign", to="poet/x", sender="a/b", run="r", task="x")
    meta = e.Meta(run="r", sends=(strange,))
    await desk.store.append("a/b", [new_event(e.MessageSent(step="s", fingerprint="f"), meta)], ANY)
    letter = await desk.die(Sent("r", "x", "poet/x", "a/b@1.0", 0))
    with pytest.raises(UnknownRole):
        await desk.again(letter)
