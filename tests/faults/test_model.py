"""The store, the mailbox and the leases on PostgreSQL against their twins in memory: random work, broken connections,
lost processes, and after every step both say the same.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asyncpg import Connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from callboard.eventstore import MemoryEventStore, MemoryLeases, PostgresEventStore
from callboard.eventstore.appender import Appender, Batch, Written
from callboard.projections import mailbox
from callboard.projections.base import fact_of
from callboard.projections.runner import Runner
from callboard.protocols.codec import sent_messages
from callboard.protocols.errors import CallboardError
from callboard.protocols.events import Event, Meta, NewEvent
from callboard.protocols.messages import Message, part_of
from callboard.protocols.ports import ANY, NO_STREAM, STREAM_EXISTS, EventStore, ExpectedVersion, Lease, Leases, Route
from tests.contracts.test_leases import LEASE_S, SetClock, bench_on
from tests.host_kit import becomes

STREAMS: Final = ("writer/a", "writer/b", "run/r")
ROLES: Final = ("reviewer", "writer")
PROCESSES: Final = ("p1", "p2", "p3")
BAD_IDS: Final = {"NUL": "a\0b", "long": "a" * 1001, "surrogate": "\ud800", "none": ""}
KILL_WAITING: Final = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query ~ 'append_batch|lock_log'
"""


class Wanted(NamedTuple):
    """An append, before it is known where the streams stand."""

    stream: str
    expected: str
    handles: Sequence[str]  # of each event
    sends: int  # by its first event


WANTED: Final = st.builds(
    Wanted,
    stream=st.sampled_from((*STREAMS, "bad\0stream")),
    expected=st.sampled_from(("right", "right", "next", "next", "stale", "ahead", "any", "none", "exists")),
    handles=st.lists(
        st.sampled_from(("nothing", "nothing", "open", "open", "handled", "unknown", *BAD_IDS)), min_size=0, max_size=3
    ),
    sends=st.integers(0, 2),
)

Given = tuple[str, Sequence[NewEvent], ExpectedVersion]


class World:
    """Both stores, one log in each."""

    def __init__(self, portal: BlockingPortal, store: PostgresEventStore, leases: Leases, pass_time: Any) -> None:
        self.portal = portal
        self.store = store
        self.leases = leases
        self.pass_time = pass_time
        self.runner = Runner(store.pool, store, [mailbox.PROJECTION], "model")
        self.examples = 0

    async def append(self, given: Sequence[Given], breaks: str) -> list[object]:
        """What becomes of appends that are submitted at once, while the appender's connection may break."""
        if breaks == "reply":
            self._lose_reply()
        if breaks != "batch":
            return await outcomes(self.store, given)
        async with self.store.pool.acquire() as holder, holder.transaction():
            await holder.execute("select from head for update")
            futures = [self.store.submit(*each) for each in given]
            await becomes(lambda: self._killed(futures))
        return [await outcome_of(future) for future in futures]

    async def _killed(self, futures: Sequence[Any]) -> bool:
        """Whether the batch is lost in the middle; or there is none, as all of it was refused before."""
        killed = await self.store.pool.fetch(KILL_WAITING)
        return bool(killed) or all(each.done() for each in futures)

    def _lose_reply(self) -> None:
        """The next batch is committed, if it goes the fast way, and its reply is lost."""
        appender = self.store._appender

        async def send(connection: Connection, batch: Batch) -> Written:
            del appender._send  # type: ignore[method-assign] # once only
            written = await Appender._send(appender, connection, batch)
            if not connection.is_in_transaction():
                raise ConnectionResetError("the reply is lost")
            return written

        appender._send = send  # type: ignore[method-assign]


async def outcomes(store: EventStore, given: Sequence[Given]) -> list[object]:
    futures = [store.submit(*each) for each in given]
    return [await outcome_of(future) for future in futures]


async def outcome_of(work: Any) -> object:
    """A result that can be compared: an error by its type and message."""
    try:
        return await work
    except CallboardError as error:
        return type(error), str(error)


async def log_of(store: EventStore, after: int) -> list[Event]:
    return [event async for page in store.read_all(after=after) for event in page]


class Model(RuleBasedStateMachine):
    """Both sides, from a place in the real log on; names of streams, roles and processes are this example's own."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.examples += 1
        self.prefix = f"e{world.examples}-"
        self.clock = SetClock()
        self.memory = MemoryEventStore()
        self.memory_leases = MemoryLeases(self.clock)
        self.given: dict[str, list[Lease]] = {process: [] for process in PROCESSES}
        self.begin: int = self.call(world.store.head)
        for role in ROLES:
            self.both_leases("register", Route(self.prefix + role, 3))

    def call(self, work: Any, *arguments: Any) -> Any:
        return self.world.portal.call(work, *arguments)

    # -- the log -------------------------------------------------------------------------------------------

    @rule(wanted=st.lists(WANTED, min_size=1, max_size=4), breaks=st.sampled_from(("", "", "", "batch", "reply")))
    def append(self, wanted: Sequence[Wanted], breaks: str) -> None:
        heads: dict[str, int] = {}
        for event in self.memory.events:
            heads[event.stream] = event.version
        following = dict(heads)
        given = [self._append(each, heads, following) for each in wanted]
        real = self.call(self.world.append, given, breaks)
        model = self.call(outcomes, self.memory, given)
        assert [self._relative(each) for each in real] == model

    def _append(self, wanted: Wanted, heads: dict[str, int], following: dict[str, int]) -> Given:
        stream = self.prefix + wanted.stream
        head, following_head = heads.get(stream, 0), following.get(stream, 0)
        following[stream] = following_head + len(wanted.handles)
        expected: dict[str, ExpectedVersion] = {
            "right": head,
            "next": following_head,
            "stale": max(head - 1, 0),
            "ahead": head + 7,
            "any": ANY,
            "none": NO_STREAM,
            "exists": STREAM_EXISTS,
        }
        sends = tuple(
            Message(
                kind="assign", to=f"{self.prefix}writer/k{n}", sender=stream, run="r", task="t", parts=(part_of(n),)
            )
            for n in range(wanted.sends)
        )
        events = [
            NewEvent(
                type="message.discarded",
                data=b"%d" % place,
                meta=Meta(run="r", handles=self._message(handles), sends=sends if place == 0 else ()),
            )
            for place, handles in enumerate(wanted.handles)
        ]
        return stream, events, expected[wanted.expected]

    def _message(self, kind: str) -> str | None:
        """The id of a message of this kind, if there is one."""
        handled = [event.meta.handles for event in self.memory.events if event.meta.handles]
        sent = [message.id for event in self.memory.events for message in sent_messages(event)]
        if kind == "open":
            return next((message for message in sent if message not in handled), None)
        if kind == "handled":
            return handled[0] if handled else None
        if kind == "unknown":
            return f"{self.prefix}x/y@1.0"
        return BAD_IDS.get(kind)

    def _relative(self, outcome: Any) -> Any:
        """An outcome on PostgreSQL as it would be if the log began with this example."""
        if isinstance(outcome, tuple):
            return outcome
        return type(outcome)(outcome.version, outcome.position - self.begin)

    @invariant()
    def the_logs_agree(self) -> None:
        real = self.call(log_of, self.world.store, self.begin)
        assert [(it.position - self.begin, *told(it)) for it in real] == [
            (it.position, *told(it)) for it in self.memory.events
        ]

    @invariant()
    def the_mailbox_has_what_is_open(self) -> None:
        opened = mailbox.fold([fact_of(event) for event in self.memory.events]).opened
        self.call(self.world.runner.catch_up)
        found = self.call(mailbox.open_messages, self.world.store.pool, f"{self.prefix}writer", 4, range(4))
        assert [(it.id, it.key, it.position - self.begin, it.place) for it in found] == [
            (it.id, it.key, it.position, it.place) for it in opened.values()
        ]

    # -- the leases ----------------------------------------------------------------------------------------

    def both_leases(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What both say, which is the same."""

        async def ask(leases: Leases) -> object:
            outcome = await outcome_of(getattr(leases, method)(*arguments, **options))
            return outcome[0] if isinstance(outcome, tuple) else outcome  # the known roles are another example's, too

        real, model = self.call(ask, self.world.leases), self.call(ask, self.memory_leases)
        assert real == model, method
        return model

    @rule(
        process=st.sampled_from(PROCESSES),
        roles=st.sets(st.sampled_from(ROLES), min_size=1),
        progress=st.integers(0, 2),
    )
    def heartbeat(self, process: str, roles: set[str], progress: int) -> None:
        names = [self.prefix + role for role in roles]
        self.given[process] += self.both_leases(
            "heartbeat", self.prefix + process, names, lease_s=LEASE_S, progress=progress
        )

    @rule(process=st.sampled_from(PROCESSES), data=st.data())
    def release(self, process: str, data: st.DataObject) -> None:
        """Leases that it was ever given: it may have lost them, or given them back."""
        given = self.given[process]
        if given:
            self.both_leases("release", self.prefix + process, data.draw(st.lists(st.sampled_from(given[-8:]))))

    @rule(process=st.sampled_from(PROCESSES))
    def leave(self, process: str) -> None:
        self.both_leases("leave", self.prefix + process)

    @rule(role=st.sampled_from((*ROLES, "nobody")), partitions=st.sampled_from((0, 1, 2, 3, 5, 257)))
    def repartition(self, role: str, partitions: int) -> None:
        self.both_leases("repartition", self.prefix + role, partitions)

    @rule(role=st.sampled_from(ROLES), partitions=st.integers(1, 5))
    def register(self, role: str, partitions: int) -> None:
        self.both_leases("register", Route(self.prefix + role, partitions))

    @rule(seconds=st.sampled_from((11, LEASE_S + 1)))
    def time_passes(self, seconds: float) -> None:
        self.call(self.world.pass_time, seconds)
        self.clock.seconds += seconds

    @invariant()
    def the_leases_agree(self) -> None:
        partitions, members = self.call(self._state, self.world.leases)
        known_partitions, known_members = self.call(self._state, self.memory_leases)
        assert partitions == known_partitions
        assert [it[:2] for it in members] == [it[:2] for it in known_members]
        assert [it[2] for it in members] == pytest.approx([it[2] for it in known_members], abs=8)

    async def _state(self, leases: Leases) -> Any:
        partitions = [
            (it.role, it.partition, it.epoch, it.owner)
            for it in await leases.partitions()
            if it.role.startswith(self.prefix)
        ]
        members = [(it.role, it.process, it.idle_s) for it in await leases.members() if it.role.startswith(self.prefix)]
        return partitions, members


def told(event: Event) -> tuple[object, ...]:
    return event.stream, event.version, event.type, event.data, event.meta


@asynccontextmanager
async def world_on(database_url: str, portal: BlockingPortal) -> AsyncIterator[World]:
    async with PostgresEventStore.open(database_url) as store, bench_on(database_url) as bench:
        yield World(portal, store, bench.leases, bench.pass_time)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(world_on(database_url, portal)) as world,
    ):
        yield world


def test_postgres_and_memory_agree_after_every_step(world: World, long: bool) -> None:
    run_state_machine_as_test(
        lambda: Model(world),
        settings=settings(
            max_examples=300 if long else 16,
            stateful_step_count=60 if long else 30,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # what fails is short as it is, and shrinking it takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
