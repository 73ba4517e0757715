"""The log on PostgreSQL and in memory: append, read, subscribe, blobs, and the leases on partitions."""

from eventstore.leases import PostgresLeases
from eventstore.memory import MemoryEventStore, MemoryLeases
from eventstore.store import PostgresEventStore

__all__ = ["MemoryEventStore", "MemoryLeases", "PostgresEventStore", "PostgresLeases"]
