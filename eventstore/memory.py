"""The event store and the leases in memory: for tests, and for trying things out. Nothing outlives the process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import anyio
from msgspec.structs import replace

from eventstore.rules import Append, admit, failed
from protocols.codec import decode_meta, digest, sent_message
from protocols.errors import AppendRefused, BadName, BlobMissing, MessageNotInLog
from protocols.events import Event, NewEvent
from protocols.messages import Message
from protocols.names import parse_message_id
from protocols.ports import Appended, Clock, ExpectedVersion, Lease, PartitionState, Route, SystemClock


class MemoryEventStore:
    """`protocols.ports.EventStore` in memory. `clock` gives the events their times."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.store_id = uuid4()
        self._clock = clock or SystemClock()
        self._log: list[Event] = []
        self._streams: dict[str, list[Event]] = {}
        self._heads: dict[str, int] = {}
        self._handled: set[str] = set()
        self._blobs: dict[str, bytes] = {}
        self._news = anyio.Event()

    def __repr__(self) -> str:
        return f"<MemoryEventStore {len(self._streams)} streams, head {len(self._log)}>"

    @property
    def events(self) -> Sequence[Event]:
        """All events, in order."""
        return self._log

    async def append(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> Appended:
        """Append events; see the port."""
        return await self.submit(stream, events, expected)

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        """Append events; see the port."""
        outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            outcome.set_result(self._append(Append(stream, events, expected)))
        except AppendRefused as refusal:
            return failed(refusal)
        return outcome

    def _append(self, append: Append) -> Appended:
        version = admit(append, self._heads, self._handled)
        moment = self._clock.now()
        for type_, schema_version, data, meta, _ in append.events:
            version += 1
            event = Event(
                position=len(self._log) + 1,
                stream=append.stream,
                version=version,
                type=type_,
                schema_version=schema_version,
                recorded_at=moment,
                data=data,
                meta=decode_meta(meta),
            )
            self._log.append(event)
            self._streams.setdefault(append.stream, []).append(event)
        self._news.set()
        self._news = anyio.Event()
        return Appended(version, len(self._log))

    async def read_stream(
        self, stream: str, *, after: int = 0, before: int | None = None, backwards: bool = False
    ) -> AsyncIterator[Event]:
        """A stream's events; see the port."""
        await anyio.lowlevel.checkpoint()
        high = None if before is None else max(before - 1, 0)
        events = self._streams.get(stream, [])[max(after, 0) : high]
        for event in reversed(events) if backwards else events:
            yield event

    async def read_all(self, *, after: int = 0, page: int = 1000) -> AsyncIterator[list[Event]]:
        """The log up to the present head; see the port."""
        head = len(self._log)
        for first in range(after, head, page):
            await anyio.lowlevel.checkpoint()
            yield self._log[first : min(first + page, head)]

    async def subscribe(self, *, after: int = 0, page: int = 1000) -> AsyncIterator[list[Event]]:
        """The log, and what is appended to it; see the port."""
        while True:
            if after >= len(self._log):
                await self._news.wait()
            else:
                await anyio.lowlevel.checkpoint()
            events = self._log[after : after + page]
            if events:
                after += len(events)
                yield events

    async def head(self) -> int:
        """The newest event's position; see the port."""
        await anyio.lowlevel.checkpoint()
        return len(self._log)

    async def message(self, message: str) -> Message:
        """A message by its id; see the port."""
        await anyio.lowlevel.checkpoint()
        try:
            stream, version, place = parse_message_id(message)
        except BadName:
            raise MessageNotInLog(message) from None
        if not 0 < version <= len(self._streams.get(stream, [])):
            raise MessageNotInLog(message)
        return sent_message(self._streams[stream][version - 1], place)

    async def put_blobs(self, contents: Sequence[bytes]) -> list[str]:
        """Store bodies; see the port."""
        await anyio.lowlevel.checkpoint()
        digests = [digest(content) for content in contents]
        self._blobs.update(zip(digests, contents, strict=True))
        return digests

    async def get_blobs(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Read bodies; see the port."""
        await anyio.lowlevel.checkpoint()
        for wanted in digests:
            if wanted not in self._blobs:
                raise BlobMissing(wanted)
        return {wanted: self._blobs[wanted] for wanted in digests}


class _Partition:
    """One partition and who has it, until a time of the monotonic clock."""

    __slots__ = ("epoch", "expires_at", "owner")

    def __init__(self) -> None:
        self.epoch = 0
        self.owner: str | None = None
        self.expires_at = 0.0


class MemoryLeases:
    """`protocols.ports.Leases` in memory, on an injectable clock. Share one among all that play processes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._routes: dict[str, Route] = {}
        self._partitions: dict[str, list[_Partition]] = {}
        self._members: dict[str, dict[str, float]] = {}  # role -> process -> when it is taken for dead

    async def register(self, route: Route) -> Route:
        """Make a role known; see the port."""
        await anyio.lowlevel.checkpoint()
        known = self._routes.get(route.role)
        if known is None:
            self._partitions[route.role] = [_Partition() for _ in range(route.partitions)]
            self._members[route.role] = {}
        else:
            route = replace(route, partitions=known.partitions, generation=known.generation)
        self._routes[route.role] = route
        return route

    async def routes(self) -> dict[str, Route]:
        """All roles; see the port."""
        await anyio.lowlevel.checkpoint()
        return dict(self._routes)

    async def heartbeat(self, process: str, roles: Sequence[str], *, lease_s: float) -> list[Lease]:
        """Renew, take up to the share, and list; see the port."""
        await anyio.lowlevel.checkpoint()
        leases: list[Lease] = []
        for role in sorted(self._partitions.keys() & set(roles)):
            leases += self._heartbeat(process, role, lease_s)
        return leases

    def _heartbeat(self, process: str, role: str, lease_s: float) -> list[Lease]:
        now = self._clock.monotonic()
        partitions = self._partitions[role]
        members = {name: expiry for name, expiry in self._members[role].items() if expiry > now}
        members[process] = now + lease_s
        self._members[role] = members

        least, remainder = divmod(len(partitions), len(members))
        share = least + (sorted(members).index(process) < remainder)
        owned = sum(each.owner == process for each in partitions)
        for each in partitions:
            if each.owner != process and owned < share and (each.owner is None or each.expires_at <= now):
                each.owner = process
                each.epoch += 1
                owned += 1
            if each.owner == process:
                each.expires_at = now + lease_s
        mine = [(number, each.epoch) for number, each in enumerate(partitions) if each.owner == process]
        return [Lease(role, number, epoch, place >= share) for place, (number, epoch) in enumerate(mine)]

    async def release(self, process: str, leases: Sequence[Lease]) -> None:
        """Give partitions back; see the port."""
        await anyio.lowlevel.checkpoint()
        for lease in leases:
            for each in self._partitions.get(lease.role, [])[lease.partition : lease.partition + 1]:
                if (each.owner, each.epoch) == (process, lease.epoch):
                    each.owner = None

    async def leave(self, process: str) -> None:
        """Give everything back; see the port."""
        await anyio.lowlevel.checkpoint()
        for role, partitions in self._partitions.items():
            self._members[role].pop(process, None)
            for each in partitions:
                if each.owner == process:
                    each.owner = None

    async def partitions(self) -> list[PartitionState]:
        """All partitions; see the port."""
        await anyio.lowlevel.checkpoint()
        now = self._clock.monotonic()
        return [
            PartitionState(role, number, each.epoch, each.owner, None if each.owner is None else each.expires_at - now)
            for role in sorted(self._partitions)
            for number, each in enumerate(self._partitions[role])
        ]
