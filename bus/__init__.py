"""Redis: the fast path from one actor to another, and what processes share besides. It may forget anything at any time;
the log knows.
"""

from bus.memory import MemoryBus
from bus.memory_throttle import MemoryThrottle
from bus.redis import RedisBus
from bus.throttle import RedisThrottle

__all__ = ["MemoryBus", "MemoryThrottle", "RedisBus", "RedisThrottle"]
