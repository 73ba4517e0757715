"""Redis Streams: the fast path from one actor to another. It may forget anything at any time; the log knows."""

from bus.memory import MemoryBus
from bus.redis import RedisBus

__all__ = ["MemoryBus", "RedisBus"]
