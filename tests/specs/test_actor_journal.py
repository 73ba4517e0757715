"""The journal of an actor: order, one append in flight, company, refusal. And timers, the directory, step keys."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest

from callboard.actors.log.journal import Idle, Journal
from callboard.actors.process.timers import HORIZON, Timers
from callboard.actors.roles.definition import Definition
from callboard.actors.roles.directory import Directory, receiver
from callboard.actors.state.steps import StepCounter, enter_branch, fingerprint, leave_branches
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.errors import BadName, Conflict, UnknownRole, UnknownTopic
from callboard.protocols.events import NewEvent
from callboard.protocols.messages import Message
from callboard.protocols.names import MAX_KEY_LENGTH
from callboard.protocols.ports import Appended
from callboard.testing import ManualClock
from tests.actor_kit import actor

STREAM = "writer/dave"


class HandStore:
    """A store whose appends end when the test says so."""

    def __init__(self) -> None:
        self.appends: list[tuple[list[str], int, asyncio.Future[Appended]]] = []

    def submit(self, stream: str, events: Sequence[NewEvent], expected: Any) -> "asyncio.Future[Appended]":
        outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.appends.append(([it.meta.causation or "" for it in events], expected, outcome))
        return outcome

    def accept(self, place: int) -> None:
        names, expected, outcome = self.appends[place]
        outcome.set_result(Appended(expected + len(names), 0))


class Pen:
    """A journal and what it told."""

    def __init__(self, version: int = 0) -> None:
        self.store = HandStore()
        self.told: list[str] = []
        self.errors: list[BaseException] = []
        self.journal = Journal(
            self.store,  # type: ignore[arg-type]
            Idle(),
            STREAM,
            version,
            lambda events, appended: self.told.append(f"{len(events)} to {appended.version}"),
            self.errors.append,
        )

    def write(self, name: str) -> None:
        body = e.TaskProgressed(step=name, done=1)
        event = new_event(body, e.Meta(run="r", causation=name))
        self.journal.write(event, lambda: self.told.append(name))


async def turns(number: int = 6) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_is_written_together_is_one_append() -> None:
    pen = Pen(7)
    pen.write("a")
    pen.write("b")
    assert not pen.store.appends
    assert repr(pen.journal) == "Journal(writer/dave@7, 2 buffered, 0 in flight)"
    await turns()
    assert [(names, expected) for names, expected, _ in pen.store.appends] == [(["a", "b"], 7)]
    pen.store.accept(0)
    await turns()
    assert pen.told == ["2 to 9", "a", "b"]
    assert pen.journal.clean


async def test_one_append_is_in_flight_at_a_time() -> None:
    pen = Pen()
    pen.write("a")
    pen.journal.flush()
    pen.write("b")
    pen.journal.flush()
    await turns()
    assert len(pen.store.appends) == 1
    pen.write("c")
    pen.store.accept(0)
    await turns()
    assert [(names, expected) for names, expected, _ in pen.store.appends] == [(["a"], 0), (["b", "c"], 1)]
    assert not pen.journal.clean


async def test_durable_returns_when_what_was_written_so_far_is_durable() -> None:
    pen = Pen()
    pen.write("a")
    pen.journal.flush()
    async with anyio.create_task_group() as group:
        done: list[str] = []

        async def wait(name: str) -> None:
            await pen.journal.durable()
            done.append(name)

        group.start_soon(wait, "a")
        await turns()
        pen.write("b")
        group.start_soon(wait, "b")
        await turns()
        assert done == []
        pen.store.accept(0)
        await turns()
        assert done == ["a"]
        pen.store.accept(1)
    assert done == ["a", "b"]
    await pen.journal.durable()  # nothing to wait for


async def test_a_refused_append_is_followed_by_none() -> None:
    pen = Pen()
    pen.write("a")
    pen.journal.flush()
    pen.write("b")
    waiting = asyncio.ensure_future(pen.journal.durable())
    await turns()
    refusal = Conflict(STREAM, "version 0", 3)
    pen.store.appends[0][2].set_exception(refusal)
    await turns()
    assert pen.errors == [refusal]
    assert waiting.cancelled()
    pen.write("c")
    pen.journal.flush()
    await turns()
    assert len(pen.store.appends) == 1
    assert pen.told == []
    with pytest.raises(asyncio.CancelledError):
        await pen.journal.durable()


async def test_who_waits_for_an_append_that_is_refused_is_cancelled() -> None:
    pen = Pen()
    pen.write("a")
    waiting = asyncio.ensure_future(pen.journal.durable())
    await turns()
    pen.store.appends[0][2].set_exception(Conflict(STREAM, "version 0", 3))
    await turns()
    assert waiting.cancelled()


async def test_who_waits_for_an_append_in_a_store_that_is_closed_is_cancelled() -> None:
    pen = Pen()
    pen.write("a")
    pen.journal.flush()  # a handler that waits for what is in flight already ...
    in_flight = asyncio.ensure_future(pen.journal.durable())
    await turns()
    pen.write("b")
    behind = asyncio.ensure_future(pen.journal.durable())  # ... and one that waits for what comes behind it
    await turns()
    pen.store.appends[0][2].cancel()
    await turns()
    assert in_flight.cancelled()
    assert behind.cancelled()
    assert pen.errors == []
    with pytest.raises(asyncio.CancelledError):
        await pen.journal.durable()


async def test_a_closed_journal_tells_nobody_of_what_was_in_flight() -> None:
    for accepted in (True, False):
        pen = Pen()
        pen.write("a")
        pen.journal.flush()
        pen.write("b")
        pen.journal.close()
        if accepted:
            pen.store.accept(0)
        else:
            pen.store.appends[0][2].set_exception(Conflict(STREAM, "version 0", 3))
        await turns()
        assert (pen.told, pen.errors, len(pen.store.appends)) == ([], [], 1)


async def test_a_store_that_closes_leaves_the_journal_closed() -> None:
    pen = Pen()
    pen.write("a")
    pen.journal.flush()
    pen.store.appends[0][2].cancel()
    await turns()
    pen.write("b")
    await turns()
    assert (pen.told, pen.errors, len(pen.store.appends)) == ([], [], 1)


async def test_somebody_who_stops_waiting_stops_nobody_else() -> None:
    pen = Pen()
    pen.write("a")
    first, second = (asyncio.ensure_future(pen.journal.durable()) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    pen.store.accept(0)
    await turns()
    assert second.done()
    assert not second.cancelled()


# -- timers ----------------------------------------------------------------------------------------------------------


def due(clock: ManualClock, name: str, seconds: float) -> Message:
    at = clock.now() + timedelta(seconds=seconds)
    return Message(kind="timer", to=STREAM, sender=STREAM, run="r", task="t", id=name, due_at=at)


async def test_timers_are_delivered_in_the_order_of_their_time_and_once() -> None:
    clock, fired = ManualClock(), []
    timers = Timers(clock, lambda message: fired.append(message.id))
    async with anyio.create_task_group() as group:
        group.start_soon(timers.run)
        await turns()
        timers.add([due(clock, "b", 2), due(clock, "a", 1), due(clock, "b", 2)])
        assert timers.holds("a")
        await turns(20)
        assert fired == []
        clock.advance(1)
        await turns(20)
        assert fired == ["a"]
        timers.add([due(clock, "now", 0)])
        await turns(20)
        clock.advance(1)
        await turns(20)
        assert fired == ["a", "now", "b"]
        assert not timers.holds("a")
        assert repr(timers) == "Timers(0 near)"
        group.cancel_scope.cancel()


async def test_what_is_due_late_is_left_in_the_log() -> None:
    clock = ManualClock()
    timers = Timers(clock, lambda message: None)
    timers.add([due(clock, "far", HORIZON.total_seconds() + 1), due(clock, "near", HORIZON.total_seconds())])
    assert not timers.holds("far")
    assert timers.holds("near")


async def test_a_timer_that_is_added_while_others_sleep_is_not_late() -> None:
    clock, fired = ManualClock(), []
    timers = Timers(clock, lambda message: fired.append(message.id))
    async with anyio.create_task_group() as group:
        group.start_soon(timers.run)
        timers.add([due(clock, "later", 9)])
        await turns(20)
        timers.add([due(clock, "sooner", 3)])
        await turns(20)
        clock.advance(3)
        await turns(20)
        assert fired == ["sooner"]
        group.cancel_scope.cancel()


# -- directory -------------------------------------------------------------------------------------------------------


async def nothing(ctx: Any) -> None: ...


async def two_directories() -> tuple[Directory, Directory]:
    leases = MemoryLeases()
    here, there = Directory(leases), Directory(leases)
    await here.register(Definition(actor("writer", nothing)), 4)
    await there.register(Definition(actor("reader", nothing, topics=("news",))), 2)
    return here, there


async def test_a_role_that_another_process_made_known_is_found() -> None:
    here, _ = await two_directories()
    assert here.route("reader") is None
    assert (await here.resolve_one("reader")).stream.startswith("reader/")
    assert here.roles == ["reader", "writer"]
    assert repr(here) == "Directory(2 roles)"


async def test_a_topic_leads_to_its_subscribers_wherever_they_are() -> None:
    here, _ = await two_directories()
    (found,) = await here.resolve("topic/news")
    assert found.stream == f"reader/{found.task}"


async def test_a_receiver_is_a_fresh_actor_unless_a_key_is_given() -> None:
    here, _ = await two_directories()
    fresh, named, keyed = [await here.resolve_one(*to) for to in (("writer",), ("writer/dave",), ("writer", "dave"))]
    assert fresh.stream == f"writer/{fresh.task}"
    assert named.stream == keyed.stream == "writer/dave"
    assert len({fresh.task, named.task, keyed.task}) == 3


@pytest.mark.parametrize("to", ["Writer", "run/x", "dead/writer", "writer/", "writer/a b", "topic/", "", "/x"])
async def test_a_name_that_can_be_no_receiver_is_an_error(to: str) -> None:
    here, _ = await two_directories()
    with pytest.raises((BadName, UnknownTopic)):
        await here.resolve(to)


async def test_unknown_roles_and_topics_are_errors_that_name_the_known_ones() -> None:
    here, _ = await two_directories()
    with pytest.raises(UnknownRole, match="reader, writer"):
        await here.resolve("nobody")
    with pytest.raises(UnknownTopic, match="news"):
        await here.resolve("topic/olds")


def test_a_key_has_its_bounds() -> None:
    assert receiver("writer", "x" * MAX_KEY_LENGTH)
    for key in ("x" * (MAX_KEY_LENGTH + 1), "a b", "a@b", "a\nb", "a\0"):
        with pytest.raises(BadName):
            receiver("writer", key)


# -- steps -----------------------------------------------------------------------------------------------------------


def test_keys_count_names_in_their_branch() -> None:
    counter = StepCounter()
    assert [counter.next("a"), counter.next("b"), counter.next("a")] == ["a#0", "b#0", "a#1"]
    enter_branch("gather#0", 2)
    assert [counter.next("a"), counter.next("a")] == ["gather#0[2]/a#0", "gather#0[2]/a#1"]
    leave_branches()
    assert counter.next("a") == "a#2"


def test_fingerprints_tell_inputs_apart() -> None:
    assert fingerprint({"a": 1}) == fingerprint({"a": 1})
    assert len({fingerprint(value) for value in (None, 0, "", [], {}, "0", [0], (1, {}), ((1,), {}))}) == 9
    with pytest.raises(TypeError):
        fingerprint(object())
