"""Which partitions a process holds: at each place at most one tenure at a time."""

from collections.abc import Iterator

from callboard.protocols.names import parse_stream, partition_of
from callboard.protocols.ports import Lease, Tenure

Place = tuple[str, int]


class Partitions:
    """The tenures of one process that have not ended."""

    def __init__(self) -> None:
        self._held: dict[Place, Tenure] = {}
        self._spread: dict[str, int] = {}  # over how many partitions a role is spread, by the leases that are held

    def __repr__(self) -> str:
        return f"Partitions({len(self.serving)} of {len(self._held)} served)"

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Tenure]:
        return iter(list(self._held.values()))

    def begin(self, lease: Lease) -> Tenure:
        """A partition is this process's from now on. All of a role's partitions are of one generation."""
        assert lease.place not in self._held, f"{lease.place} is held already"
        tenure = self._held[lease.place] = Tenure(lease)
        self._spread[lease.role] = lease.partitions
        return tenure

    def end(self, tenure: Tenure) -> None:
        """A partition is not this process's any more."""
        tenure.end()
        if self._held.get(tenure.place) is tenure:
            del self._held[tenure.place]

    def at(self, place: Place) -> Tenure | None:
        """The tenure of a partition, if this process holds it."""
        return self._held.get(place)

    def of(self, stream: str) -> Tenure | None:
        """The tenure under which this process has an actor; None if it doesn't have it."""
        role, key = parse_stream(stream)
        count = self._spread.get(role)
        return self._held.get((role, partition_of(key, count))) if count else None

    @property
    def serving(self) -> list[Tenure]:
        """Those that were taken over and are not being given away."""
        return [tenure for tenure in self._held.values() if tenure.serving]
