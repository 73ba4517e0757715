"""The log on PostgreSQL and in memory: append, read, subscribe, blobs, the ledger, and the leases on partitions."""

from callboard.eventstore.leases import PostgresLeases
from callboard.eventstore.ledger import MemoryLedger
from callboard.eventstore.ledger_tables import PostgresLedger
from callboard.eventstore.memory import MemoryEventStore
from callboard.eventstore.memory_leases import MemoryLeases
from callboard.eventstore.store import PostgresEventStore

__all__ = [
    "MemoryEventStore",
    "MemoryLeases",
    "MemoryLedger",
    "PostgresEventStore",
    "PostgresLeases",
    "PostgresLedger",
]
