"""What comes from outside: messages with a due time or a deadline, decisions, and the end of whole runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from callboard.actors.outside.client import Client, Sent, Target
from callboard.actors.roles.directory import Directory
from callboard.actors.roles.inputs import times
from callboard.bus.memory import MemoryBus
from callboard.eventstore.memory import MemoryEventStore
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.protocols import events as e
from callboard.protocols.codec import body_of, new_event, sent_messages
from callboard.protocols.errors import BadOption, Busy, TaskCanceled, TaskFailed, UnknownRun
from callboard.protocols.messages import value_of
from callboard.protocols.names import partition_of
from callboard.protocols.ports import ANY, Route
from callboard.testing.clock import ManualClock

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Outside:
    """A client without any actors, and what it writes to."""

    def __init__(self, client: Client, store: MemoryEventStore, bus: MemoryBus, clock: ManualClock) -> None:
        self.client, self.store, self.bus, self.clock = client, store, bus, clock

    async def send(self, **options: Any) -> Sent:
        (sent,) = await self.client.send("writer", "tides", **options)
        return sent

    async def on_bus(self, sent: Sent) -> bool:
        key = sent.actor.partition("/")[2]
        return sent.message in await self.bus.waiting("writer", partition_of(key, 8))


@asynccontextmanager
async def outside() -> AsyncIterator[Outside]:
    clock = ManualClock(NOW)
    store, leases = MemoryEventStore(clock), MemoryLeases(clock)
    await leases.register(Route("writer", 8))
    directory = Directory(leases)
    await directory.refresh()
    bus = MemoryBus(directory.route)
    async with Client.open(store, bus, directory, clock) as client:
        yield Outside(client, store, bus, clock)


# -- due times and deadlines -----------------------------------------------------------------------------------


def test_a_delay_is_a_due_time_and_a_deadline_is_told_in_utc() -> None:
    there = timezone(timedelta(hours=2))
    assert times(NOW, None, None) == (None, None)
    due_at, deadline = times(NOW, 90.0, NOW.astimezone(there) + timedelta(hours=1))
    assert due_at == NOW + timedelta(seconds=90)
    assert (deadline, deadline and deadline.tzinfo) == (NOW + timedelta(hours=1), UTC)


@pytest.mark.parametrize(
    ("delay_s", "deadline", "words"),
    [
        (-1, None, "delay '-1' can't be used: it is not from 0 to"),
        (float("nan"), None, "delay 'nan' can't be used"),
        (float("inf"), None, "delay 'inf' can't be used"),
        (None, NOW, "it is past: now it is 2030-01-01T12:00:00+00:00"),
        (None, NOW - timedelta(days=1), "deadline '2029-12-31T12:00:00+00:00' can't be used: it is past"),
        (None, NOW.replace(tzinfo=None), "it has no time zone"),
        (60, NOW + timedelta(seconds=60), "it is over before the delay is"),
    ],
)
async def test_times_that_cannot_be_met_are_refused_and_nothing_is_written(
    delay_s: float | None, deadline: datetime | None, words: str
) -> None:
    async with outside() as it:
        with pytest.raises(BadOption, match=words.replace("+", r"\+")):
            await it.send(delay_s=delay_s, deadline=deadline)
        assert it.store.events == []


async def test_what_is_due_later_is_in_the_log_and_not_on_the_bus() -> None:
    async with outside() as it:
        later, now = await it.send(delay_s=5), await it.send()
        message = await it.store.message(later.message)
        assert message.due_at == NOW + timedelta(seconds=5)
        assert (await it.on_bus(later), await it.on_bus(now)) == (False, True)


async def test_a_full_bus_is_told_before_anything_is_written() -> None:
    async with outside() as it:
        it.bus.full = True
        with pytest.raises(Busy, match="Redis is full"):
            await it.send()
        assert it.store.events == []


# -- the end of tasks ------------------------------------------------------------------------------------------


async def test_all_tasks_of_a_run_are_canceled_in_one_commit() -> None:
    async with outside() as it:
        first = await it.send()
        second = await it.send(run=first.run, delay_s=60)
        targets = [Target(first.task, first.actor), Target(second.task, second.actor, second.message)]
        await it.client.cancel_all(first.run, targets, "enough")
        asked, ended = it.store.events[-2:]
        (cancel,) = sent_messages(asked)
        assert (cancel.kind, cancel.to, cancel.task, cancel.priority) == ("cancel", first.actor, first.task, "high")
        assert (body_of(ended), ended.meta.task) == (e.TaskCanceled(reason="enough"), second.task)
        assert (ended.stream, ended.meta.handles) == (f"run/{first.run}", second.message)
        for _ in range(2):  # whoever waits from before it, or from after it
            with pytest.raises(TaskCanceled, match="enough"):
                await it.client.wait(second)


async def test_a_task_that_has_begun_meanwhile_is_asked_to_stop_and_not_ended_from_outside() -> None:
    async with outside() as it:
        sent = await it.send(delay_s=60)
        begun = e.Meta(run=sent.run, task=sent.task, handles=sent.message)
        await it.store.append(sent.actor, [new_event(e.TaskStarted(process="p"), begun)], ANY)
        await it.client.cancel_all(sent.run, [Target(sent.task, sent.actor, sent.message)], "enough")
        (cancel,) = sent_messages(it.store.events[-1])
        assert (cancel.kind, cancel.task) == ("cancel", sent.task)
        assert e.TaskCanceled.TYPE not in [event.type for event in it.store.events]


async def test_a_run_that_there_is_not_can_not_be_canceled() -> None:
    async with outside() as it:
        with pytest.raises(UnknownRun):
            await it.client.cancel_all("f" * 32, [Target("t", "writer/t")], "enough")


async def test_a_decision_names_the_step_that_waits_for_it() -> None:
    async with outside() as it:
        sent = await it.send()
        decision = {"outcome": "happened", "result": 7, "by": "ann"}
        told = await it.client.decide(sent.run, sent.task, sent.actor, "pay#0", decision)
        message = await it.store.message(told.message)
        assert (message.kind, message.step, message.to, message.task) == ("decision", "pay#0", sent.actor, sent.task)
        assert message.parts is not None
        assert value_of(message.parts[0]) == decision


async def test_whoever_waits_for_a_task_that_becomes_a_dead_letter_is_told_why() -> None:
    async with outside() as it:
        sent = await it.send()
        died = e.MessageDeadLettered(to=sent.actor, reason="it kills its process", message=sent.message)
        await it.store.append(sent.actor, [new_event(died, e.Meta(run=sent.run, task=sent.task))], ANY)
        with pytest.raises(TaskFailed, match="MessageDeadLettered: it kills its process"):
            await it.client.wait(sent)
