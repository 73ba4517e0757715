"""The log on PostgreSQL and in memory: append, read, subscribe, blobs, the ledger, and the leases on partitions."""

from eventstore.leases import PostgresLeases
from eventstore.ledger import MemoryLedger
from eventstore.ledger_tables import PostgresLedger
from eventstore.memory import MemoryEventStore
from eventstore.memory_leases import MemoryLeases
from eventstore.store import PostgresEventStore

__all__ = [
    "MemoryEventStore",
    "MemoryLeases",
    "MemoryLedger",
    "PostgresEventStore",
    "PostgresLeases",
    "PostgresLedger",
]
