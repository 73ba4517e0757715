"""The register of roles and the leases in memory: for tests, and for trying things out."""

from collections.abc import Sequence

import anyio
from msgspec.structs import replace

from callboard.eventstore.rules import check_partitions
from callboard.protocols.errors import UnknownRole, listed
from callboard.protocols.ports import Clock, Lease, Member, PartitionState, Route, SystemClock


class _Partition:
    """One partition and who has it, until a time of the monotonic clock."""

    __slots__ = ("clean", "epoch", "expires_at", "owner")

    def __init__(self, epoch: int = 0, *, clean: bool = True) -> None:
        self.epoch = epoch
        self.owner: str | None = None
        self.expires_at = 0.0
        self.clean = clean  # owned: the owner before gave it back, or there was none; free: the same of its last owner

    def is_free(self, now: float) -> bool:
        return self.owner is None or self.expires_at <= now

    def may_be_taken(self, now: float, *, since: float, lease_s: float) -> bool:
        """Whether a process that has been here `since` may take it; see 0006_generations.sql."""
        here = since <= self.expires_at or since + lease_s <= now
        return self.owner is None or (self.expires_at <= now and here)

    def take(self, process: str) -> None:
        self.clean = self.clean and self.owner is None
        self.owner = process
        self.epoch += 1

    def give_back(self) -> None:
        self.owner = None
        self.clean = True


class _Process:
    """A process that serves a role; times of the monotonic clock."""

    __slots__ = ("expires_at", "joined_at", "progress", "progressed_at")

    def __init__(self, progress: int, now: float) -> None:
        self.progress = progress
        self.progressed_at = now
        self.joined_at = now  # since then no heartbeat was missed
        self.expires_at = now

    def renew(self, now: float, lease_s: float) -> None:
        if self.expires_at <= now:
            self.joined_at = now
        self.expires_at = now + lease_s


class _Role:
    """A role, its partitions, which may be of a former generation, and the processes that serve it."""

    __slots__ = ("generation", "members", "partitions", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.generation = route.generation  # of the partitions that there are
        self.partitions = [_Partition() for _ in range(route.partitions)]
        self.members: dict[str, _Process] = {}

    def begin_generation(self, now: float) -> None:
        """Replace the partitions of a former generation, if nobody owns one of them."""
        if self.generation == self.route.generation or not all(each.is_free(now) for each in self.partitions):
            return
        epoch = max(each.epoch for each in self.partitions)
        clean = all(each.clean and each.owner is None for each in self.partitions)
        self.partitions = [_Partition(epoch, clean=clean) for _ in range(self.route.partitions)]
        self.generation = self.route.generation

    def sign_in(self, process: str, lease_s: float, progress: int, now: float) -> None:
        self.members = {name: it for name, it in self.members.items() if it.expires_at > now or name == process}
        me = self.members.setdefault(process, _Process(progress, now))
        me.renew(now, lease_s)
        if me.progress != progress:
            me.progress, me.progressed_at = progress, now

    def share(self, process: str) -> int:
        """How many partitions a process should own."""
        if self.generation != self.route.generation:
            return 0
        least, remainder = divmod(len(self.partitions), len(self.members))
        return least + (sorted(self.members).index(process) < remainder)

    def renew(self, process: str, lease_s: float, now: float) -> list[_Partition]:
        """Renew what the process owns, and its membership; gives what it owns."""
        if process in self.members:
            self.members[process].renew(now, lease_s)
        owned = [each for each in self.partitions if each.owner == process]
        for each in owned:
            each.expires_at = now + lease_s
        return owned

    def heartbeat(self, process: str, lease_s: float, progress: int, now: float) -> list[Lease]:
        self.sign_in(process, lease_s, progress, now)
        owned = self.renew(process, lease_s, now)
        self.begin_generation(now)
        share = self.share(process)
        since = self.members[process].joined_at
        free = [each for each in self.partitions if each.may_be_taken(now, since=since, lease_s=lease_s)]
        for each in free[: max(share - len(owned), 0)]:
            each.take(process)
            each.expires_at = now + lease_s
        mine = [(number, each) for number, each in enumerate(self.partitions) if each.owner == process]
        return [
            Lease(
                role=self.route.role,
                partition=number,
                epoch=each.epoch,
                surplus=place >= share,
                partitions=len(self.partitions),
                generation=self.generation,
                clean=each.clean,
            )
            for place, (number, each) in enumerate(mine)
        ]


class MemoryLeases:
    """`callboard.protocols.ports.Leases` in memory, on an injectable clock. Share one among all that play processes."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._roles: dict[str, _Role] = {}

    async def register(self, route: Route) -> Route:
        """Make a role known; see the port."""
        await anyio.lowlevel.checkpoint()
        role = self._roles.setdefault(route.role, _Role(route))
        role.route = replace(route, partitions=role.route.partitions, generation=role.route.generation)
        return role.route

    async def routes(self) -> dict[str, Route]:
        """All roles; see the port."""
        await anyio.lowlevel.checkpoint()
        return {name: role.route for name, role in self._roles.items()}

    async def heartbeat(self, process: str, roles: Sequence[str], *, lease_s: float, progress: int = 0) -> list[Lease]:
        """Renew, take up to the share, and list; see the port."""
        await anyio.lowlevel.checkpoint()
        now = self._clock.monotonic()
        known = sorted(self._roles.keys() & set(roles))
        return [lease for name in known for lease in self._roles[name].heartbeat(process, lease_s, progress, now)]

    async def renew(self, process: str, *, lease_s: float) -> None:
        """Renew only; see the port."""
        await anyio.lowlevel.checkpoint()
        for role in self._roles.values():
            role.renew(process, lease_s, self._clock.monotonic())

    async def repartition(self, role: str, partitions: int) -> Route:
        """Begin a new generation; see the port. Raises also BadOption."""
        await anyio.lowlevel.checkpoint()
        check_partitions(partitions)
        it = self._roles.get(role)
        if it is None:
            raise UnknownRole(role, listed(list(self._roles)))
        if it.route.partitions != partitions:
            it.route = replace(it.route, partitions=partitions, generation=it.route.generation + 1)
            it.begin_generation(self._clock.monotonic())
        return it.route

    async def members(self) -> list[Member]:
        """The live processes; see the port."""
        await anyio.lowlevel.checkpoint()
        now = self._clock.monotonic()
        return [
            Member(name, process, it.expires_at - now, now - it.progressed_at)
            for name in sorted(self._roles)
            for process, it in sorted(self._roles[name].members.items())
            if it.expires_at > now
        ]

    async def release(self, process: str, leases: Sequence[Lease]) -> None:
        """Give partitions back; see the port."""
        await anyio.lowlevel.checkpoint()
        for lease in leases:
            partitions = self._roles[lease.role].partitions if lease.role in self._roles else []
            for each in partitions[lease.partition : lease.partition + 1]:
                if (each.owner, each.epoch) == (process, lease.epoch):
                    each.give_back()

    async def leave(self, process: str) -> None:
        """Give everything back; see the port."""
        await anyio.lowlevel.checkpoint()
        for role in self._roles.values():
            role.members.pop(process, None)
            for each in role.partitions:
                if each.owner == process:
                    each.give_back()

    async def partitions(self) -> list[PartitionState]:
        """All partitions; see the port."""
        await anyio.lowlevel.checkpoint()
        now = self._clock.monotonic()
        return [
            PartitionState(name, number, each.epoch, each.owner, None if each.owner is None else each.expires_at - now)
            for name in sorted(self._roles)
            for number, each in enumerate(self._roles[name].partitions)
        ]
