"""What the rooms ask of each other, as protocols: the event store, the leases, the bus, and the clock.

Each has a real implementation and an in-memory twin, held to the same contract by the same tests.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Protocol

import anyio
from msgspec import Struct

from callboard.protocols.a2a import AgentCard
from callboard.protocols.events import Event, NewEvent
from callboard.protocols.ledger import Account, Charge, SetBudget
from callboard.protocols.messages import Message


class Clock(Protocol):
    """Wall-clock time, injectable."""

    def now(self) -> datetime:
        """The time, UTC and aware."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


# -- event store -------------------------------------------------------------------------------------------


class Expected(Enum):
    """What an append may expect of its stream other than a version that was read from it."""

    NO_STREAM = "no stream"
    STREAM_EXISTS = "that the stream exists"
    ANY = "any version"


NO_STREAM: Final = Expected.NO_STREAM
STREAM_EXISTS: Final = Expected.STREAM_EXISTS
ANY: Final = Expected.ANY

ExpectedVersion = int | Expected


class Appended(Struct, frozen=True):
    """Where the last event of an append stands."""

    version: int
    position: int


class EventStore(Protocol):
    """An append-only log of events in streams, with one order over all of them.

    Positions and versions begin at 1 and have no gaps. A reader that has seen position n has seen all events
    up to n: no smaller position appears later.
    """

    async def append(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> Appended:
        """Append one or more events to a stream, all or none; durable on return.

        `expected` is the version that was read from the stream (0 is NO_STREAM), or one of `Expected`.
        Raises Conflict; AlreadyHandled if the log has an event that handles the same message; BudgetExceeded and
        Unpriced if the ledger doesn't admit what an event reserves; BadEvent for what can't be stored;
        StoreUnavailable, after which it is not known whether it was written.
        """
        ...

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        """Queue what `append` would append; the future has its outcome. Cancelling the future doesn't undo it."""
        ...

    def read_stream(
        self, stream: str, *, after: int = 0, before: int | None = None, backwards: bool = False
    ) -> AsyncIterator[Event]:
        """The events of a stream with `after < version < before`, by version; newest first if backwards."""
        ...

    def read_all(
        self, *, after: int = 0, page: int = 1000, types: Collection[str] | None = None
    ) -> AsyncIterator[list[Event]]:
        """The log behind a position, up to the head at the time of the call, in pages that are never empty.

        `types`: only the events of these types.
        """
        ...

    def subscribe(self, *, after: int = 0, page: int = 1000) -> AsyncIterator[list[Event]]:
        """Like read_all, and then on and on as events are appended. The iterator never ends by itself."""
        ...

    async def head(self) -> int:
        """The position of the newest event; 0 if there is none."""
        ...

    async def message(self, message: str) -> Message:
        """A message by its id, whole; raises MessageNotInLog."""
        ...

    async def put_blobs(self, contents: Sequence[bytes]) -> list[str]:
        """Store bodies by content; gives their digests (`callboard.protocols.codec.digest`), in order."""
        ...

    async def get_blobs(self, digests: Sequence[str]) -> dict[str, bytes]:
        """The bodies; raises BlobMissing."""
        ...


class LedgerView(Protocol):
    """What the event store's ledger says (see callboard.protocols.ledger). Who only looks doesn't wait for who
    writes.
    """

    async def budgets(self) -> list[SetBudget]:
        """All budgets as they are set now, by name."""
        ...

    async def accounts(self, now: datetime) -> list[Account]:
        """The accounts of windows that are not over, by budget; those with the least left in proportion first."""
        ...

    async def due(self) -> list[Account]:
        """The accounts that are near their limits and were not warned of."""
        ...

    async def open_charges(self) -> list[Charge]:
        """The attempts that hold something: under way, or lost; the oldest first."""
        ...


# -- roles and their partitions ----------------------------------------------------------------------------


class Route(Struct, frozen=True):
    """How a role's messages are spread: so many partitions, counted anew with each generation."""

    role: str
    partitions: int
    generation: int = 1
    topics: tuple[str, ...] = ()
    card: AgentCard | None = None
    input_schema: bytes | None = None  # the JSON Schema of what its handlers take


class Lease(Struct, frozen=True):
    """A partition that a process owns. `surplus`: it should hand this one over, as it has more than its share, or as
    the role's partitions are being counted anew.
    """

    role: str
    partition: int
    epoch: int
    surplus: bool = False
    partitions: int = 8  # of the role, when this lease was given: partition_of(key, partitions) is what it covers
    generation: int = 1  # of that count
    clean: bool = True  # the owner before gave it back, or there was none; else it was lost

    @property
    def place(self) -> tuple[str, int]:
        """Which partition it is, whoever owns it: the role and the number."""
        return self.role, self.partition


class TenureState(Enum):
    """Where a tenure stands. It only moves down this list, and may end at any time.

    TAKING    messages that the bus does not have come from the log; then the bus is read
    SERVING   its actors run, and what got lost is looked for every few seconds
    LEAVING   no task begins any more; those at work end, or come to wait
    ENDED     nothing that belongs to it has an effect any more
    """

    TAKING = 1
    SERVING = 2
    LEAVING = 3
    ENDED = 4


class Tenure:
    """One time that a process holds a partition: begun when it takes the partition, and ended once.

    Every delivery, feed, takeover and settlement carries its tenure, and asks after each await whether it is still
    `held`. A process that lets go of a partition and gets it back under the same epoch begins another tenure: their
    leases are equal, the tenures are not, and nothing that was under way in the former can reach into the latter.

    `entries` has what the bus delivered in this tenure and nobody has settled, by the entry's id, in the order in which
    it came; `missing` are those of them that were not found in memory at the last look. `feeding` is held by the one
    feed from the log that may run at a time: two at once would bring messages out of order.
    """

    __slots__ = ("entries", "feeding", "lease", "missing", "state")

    def __init__(self, lease: Lease) -> None:
        self.lease: Final = lease
        self.state = TenureState.TAKING
        self.entries: dict[str, Delivery | Undecodable | Gap] = {}
        self.missing: set[str] = set()
        self.feeding = asyncio.Lock()

    def __repr__(self) -> str:
        lease = self.lease
        return f"Tenure({lease.role}:{lease.partition}@{lease.epoch} {self.state.name}, {len(self.entries)} entries)"

    @property
    def place(self) -> tuple[str, int]:
        """Which partition: the role and the number."""
        return self.lease.place

    @property
    def held(self) -> bool:
        """Whether the process has the partition, as far as it knows."""
        return self.state is not TenureState.ENDED

    @property
    def serving(self) -> bool:
        """Whether tasks may begin, and what was lost has been found."""
        return self.state is TenureState.SERVING

    @property
    def leaving(self) -> bool:
        """Whether it is being given away."""
        return self.state is TenureState.LEAVING

    def serve(self) -> None:
        """The partition was taken over. No effect on one that is leaving or has ended meanwhile."""
        if self.state is TenureState.TAKING:
            self.state = TenureState.SERVING

    def leave(self) -> None:
        """The partition is being given away."""
        if self.held:
            self.state = TenureState.LEAVING

    def end(self) -> None:
        """The partition is not this process's any more."""
        self.state = TenureState.ENDED
        self.entries.clear()


class Member(Struct, frozen=True):
    """A process that serves a role, as anybody sees it."""

    role: str
    process: str
    expires_in_s: float  # its last heartbeat counts for so long; negative: it is taken for dead
    idle_s: float  # since its last heartbeat that told of progress


class PartitionState(Struct, frozen=True):
    """A partition as anybody sees it. `expires_in_s` is negative for an expired lease."""

    role: str
    partition: int
    epoch: int
    owner: str | None
    expires_in_s: float | None


class Leases(Protocol):
    """The register of roles, and who owns which of their partitions.

    The time is the store's own (so that no process's clock matters). A partition's epoch grows with each new owner.
    """

    async def register(self, route: Route) -> Route:
        """Make a role known, or renew what is known of it. The partition count of a known role stays as it is."""
        ...

    async def routes(self) -> dict[str, Route]:
        """All roles ever registered, by name."""
        ...

    async def heartbeat(self, process: str, roles: Sequence[str], *, lease_s: float, progress: int = 0) -> list[Lease]:
        """Renew this process's leases, take free or expired partitions up to its even share, and list what it owns.

        The share: partitions are divided evenly among the role's live processes; the first processes by name
        get the remainder. What is owned above the share is marked surplus, and stays owned until released.
        While partitions of a former generation are owned, they are surplus, and none of the new one is given.
        `progress` is any number that grows as the process gets on with its work.
        """
        ...

    async def renew(self, process: str, *, lease_s: float) -> None:
        """Renew the leases that this process still owns, and its membership; take nothing.

        For a process that can't act on a heartbeat's answer right now. What somebody else has taken stays theirs.
        """
        ...

    async def repartition(self, role: str, partitions: int) -> Route:
        """Spread a role's messages over another number of partitions: a new generation, unless it is that already.

        Raises UnknownRole.
        """
        ...

    async def members(self) -> list[Member]:
        """The processes whose last heartbeat still counts, by role and name."""
        ...

    async def release(self, process: str, leases: Sequence[Lease]) -> None:
        """Give partitions back; one that this process no longer owns at that epoch is left alone."""
        ...

    async def leave(self, process: str) -> None:
        """Give everything back and stop counting as a live process."""
        ...

    async def partitions(self) -> list[PartitionState]:
        """All partitions of all roles."""
        ...


# -- bus ---------------------------------------------------------------------------------------------------


class Delivery(Struct, frozen=True):
    """A message that came over the bus. `fresh`: no process can have seen it before."""

    message: Message
    tenure: Tenure
    entry: str  # its id on the bus
    fresh: bool


class Undecodable(Struct, frozen=True):
    """An entry that is not a message."""

    role: str
    tenure: Tenure
    entry: str
    content: bytes
    reason: str


class Gap(Struct, frozen=True):
    """Messages that were sent before what comes next on a partition may be missing on the bus: the log has them.

    So it is after the bus was away or had forgotten, and where somebody's message could not be written.
    """

    tenure: Tenure
    entry: str = ""  # to be settled when they have been found, if it isn't empty


class Consumer(Protocol):
    """Reads the partitions that one process owns. `async with` owns its tasks; leaving it ends all reads at once.

    It hands each message to `deliver`, in the order of its partition, as long as `capacity()` is above zero; an
    entry stays on the bus until it is settled. `gap` hears of messages that may be missing, before what comes behind
    them is delivered. Neither may block.
    """

    @property
    def forgotten(self) -> int:
        """How often the bus lost a partition while it was read here; each time `gap` is told."""
        ...

    async def take(self, tenure: Tenure) -> None:
        """Begin to read a partition: what is unsettled on it comes first, in order, and is not fresh.

        Taken again in a later tenure, also of the same epoch, it is read from the beginning again. A tenure that has
        ended is not taken.
        """
        ...

    def reads(self, tenure: Tenure) -> bool:
        """Whether what is on a partition comes here, as far as is known: not while the bus is away, or refuses it."""
        ...

    async def drop(self, tenure: Tenure) -> None:
        """Stop reading a partition; unsettled entries stay for the next owner."""
        ...

    def settle(self, delivery: Delivery | Undecodable | Gap) -> None:
        """Take an entry off the bus, soon and together with others. No effect in a tenure that is not the last."""
        ...

    def wake(self) -> None:
        """Capacity came free: go on reading."""
        ...

    async def __aenter__(self) -> "Consumer": ...

    async def __aexit__(self, *exc: object) -> None: ...


class Bus(Protocol):
    """The fast path from one actor to another. It may forget anything at any time; the log knows."""

    def publish(self, messages: Iterable[Message], *, again: bool = False) -> None:
        """Queue messages; they are written together with others, soon. `again` marks what may be there already.

        What can't be written (no connection, no memory, an unknown role) is dropped: whoever owns the partition
        finds it in the log. What is published there later is written behind a mark that tells of it.
        """
        ...

    async def flush(self) -> None:
        """Return when all that was queued before is written or dropped."""
        ...

    @property
    def away(self) -> bool:
        """Whether the bus did not answer when it was last asked: what is published then is dropped."""
        ...

    async def check_room(self) -> None:
        """Raise Busy if the bus is so full that it takes no more messages. Asks it at most once a second."""
        ...

    def consumer(
        self,
        process: str,
        deliver: Callable[[Delivery], None],
        undecodable: Callable[[Undecodable], None],
        capacity: Callable[[], int],
        gap: Callable[[Gap], None] = lambda _: None,
    ) -> Consumer:
        """A consumer for one process. `process` must be unique to each start of a process."""
        ...

    async def backlog(self, role: str) -> dict[int, int]:
        """The number of unsettled entries of each partition of a role."""
        ...

    async def waiting(self, role: str, partition: int) -> list[str]:
        """The ids of the messages that are unsettled on a partition, in its order; one that is there twice twice."""
        ...

    async def forget(self, route: Route) -> None:
        """Delete the partitions of a former generation: nobody reads them, and the log has what was on them."""
        ...

    def show(self, run: str, piece: bytes) -> None:
        """Tell whoever watches a run of something provisional, such as a piece of an answer. It may get lost."""
        ...

    def watch(self, run: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """What `show` tells of a run, as long as the block lasts. The iterator never ends by itself.

        Who doesn't keep up misses some. While the bus is away nothing comes.
        """
        ...


# -- what processes share about others -----------------------------------------------------------------------


class Breaker(Struct, frozen=True, kw_only=True):
    """When a circuit breaker opens: after `threshold` failures in a row, each within `window_s` of the one before.

    It stays open for `open_s`; then one caller may try (half-open), and closes it, or opens it again for twice as long,
    up to `longest_s`.
    """

    threshold: int = 5
    window_s: float = 60.0
    open_s: float = 10.0
    longest_s: float = 300.0


class Throttle(Protocol):
    """Circuit breakers and rates, shared by all processes. While the bus is away each process has its own.

    A breaker guards a *target*: model:openai/gpt-5, tool:search, mcp:git.
    """

    async def enter(self, target: str, breaker: Breaker) -> float:
        """0: go on, and report what became of it; else the seconds after which it is worth asking again."""
        ...

    async def report(self, target: str, breaker: Breaker, *, ok: bool, retry_after_s: float | None = None) -> None:
        """A call that was let in ended. With `retry_after_s` (told by the target) it opens at once, for so long."""
        ...

    async def leave(self, target: str) -> None:
        """A call that was let in came to nothing that tells of the target: if it was the probe, another may be it."""
        ...

    async def state(self, target: str) -> str:
        """closed, open, or half-open."""
        ...

    async def take(self, bucket: str, amount: int, per_minute: int) -> float:
        """Take from what is allowed in a minute: 0, or the seconds after which there is enough, and nothing is taken.

        More than a minute's allowance at once is let in when the bucket is full. A bucket begins full.
        """
        ...


class Answers(Protocol):
    """Answers of models that may be used again, found by key."""

    async def find(self, key: str, since: datetime) -> str | None:
        """The address (stream@version) of the newest `model.completed` under this key that is not older."""
        ...


RouteLookup = Callable[[str], Route | None]
