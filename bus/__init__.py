"""Redis: the fast path from one actor to another, and what processes share besides. It may forget anything at any time;
the log knows.
"""

from callboard.bus.memory import MemoryBus
from callboard.bus.memory_throttle import MemoryThrottle
from callboard.bus.redis import RedisBus
from callboard.bus.throttle import RedisThrottle

__all__ = ["MemoryBus", "MemoryThrottle", "RedisBus", "RedisThrottle"]
