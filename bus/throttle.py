"""Circuit breakers and rates that all processes share, on Redis.

    closed --- `threshold` failures in a row, or one that tells when to come again ---> open
    open --- its time is over ---> half-open: one caller is let in, as a probe
    half-open --- the probe succeeded ---> closed
    half-open --- the probe failed ---> open for twice as long
    half-open --- the probe left, or has not reported within PROBE_S ---> the next caller is the probe

A success that was let in before it opened doesn't close it, and such a failure doesn't prolong it, unless the target
told for how long it wants to be left alone. A target that nobody asks for long is forgotten: it is closed then.

A rate is a bucket that begins full and fills evenly (GCRA: all that is kept is when it will be full again), so that in
any time t no more than a minute's allowance and what t brings is taken.

Times are those of Redis, in microseconds. Each operation is one script, and so is exact whoever else is at it. When
Redis doesn't answer, each process goes on by itself, and asks again every AGAIN_S.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from redis.exceptions import ResponseError

from callboard.bus.keys import DEFAULT_PREFIX, breaker_key, rate_key
from callboard.bus.link import LINK_ERRORS, Link, pack, redacted
from callboard.bus.memory_throttle import LONGEST_TOLD_S, MINUTE_US, PROBE_S, MemoryThrottle, cost_us
from callboard.protocols.ports import Breaker, Clock

ANSWER_S: Final = 0.5  # a Redis that takes longer doesn't keep a call waiting
AGAIN_S: Final = 1.0

log = logging.getLogger(__name__)

# ARGV[1] is empty, but in tests. Keys live a minute longer than they mean something.
_NOW = """
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local function whole(number) return string.format('%.0f', number) end
local function keep(us) redis.call('PEXPIRE', KEYS[1], whole(us / 1000 + 60000)) end
"""

# KEYS: circuit. ARGV: now, open, longest, probe. Gives 0, or how long to wait.
_ENTER = f"""{_NOW}
local circuit = redis.call('HMGET', KEYS[1], 'until', 'probe')
local till, probe = tonumber(circuit[1] or 0), tonumber(circuit[2] or 0)
local open, longest, patience = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if till == 0 then return 0 end
if now < till then return till - now end
if now < probe then return math.min(open, probe - now) end
redis.call('HSET', KEYS[1], 'probe', whole(now + patience))
keep(patience + math.max(longest, patience))
return 0
"""

# KEYS: circuit. ARGV: now, open, longest, probe, whether it went well, what the target told, threshold, window.
_REPORT = f"""{_NOW}
local circuit = redis.call('HMGET', KEYS[1], 'until', 'probe', 'open', 'failures', 'failed')
local till, probe, last = tonumber(circuit[1] or 0), tonumber(circuit[2] or 0), tonumber(circuit[3] or 0)
local failures, failed = tonumber(circuit[4] or 0), tonumber(circuit[5] or 0)
local open, longest, patience = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local told, threshold, window = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local function opens(us)
    redis.call('HSET', KEYS[1], 'until', whole(now + us), 'open', whole(us), 'probe', '0')
    keep(us + math.max(longest, patience))
end
if ARGV[5] == '1' then
    if till <= now then redis.call('DEL', KEYS[1]) end
elseif told > 0 then
    if now + told > till then opens(told) end
elseif now < till then
    return 0
elseif till > 0 then
    opens(math.min(longest, probe > 0 and last * 2 or last))
else
    failures = now - failed <= window and failures + 1 or 1
    redis.call('HSET', KEYS[1], 'failures', whole(failures), 'failed', whole(now))
    keep(window)
    if failures >= threshold then opens(open) end
end
return 0
"""

# KEYS: circuit. ARGV: now.
_LEAVE = f"""{_NOW}
if redis.call('HEXISTS', KEYS[1], 'probe') == 1 then redis.call('HSET', KEYS[1], 'probe', '0') end
return 0
"""

# KEYS: circuit. ARGV: now.
_STATE = f"""{_NOW}
local till = tonumber(redis.call('HGET', KEYS[1], 'until') or 0)
if till == 0 then return 'closed' end
return now < till and 'open' or 'half-open'
"""

# KEYS: when the bucket is full again. ARGV: now, how long it takes to get back what is taken, the longest of that, and
# whether it is more than ever fits in. Gives 0, or how long to wait.
_TAKE = f"""{_NOW}
local full, cost = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now), tonumber(ARGV[2])
local allowed = full + cost - tonumber(ARGV[3])
if ARGV[4] == '1' then allowed = full end
if allowed > now then return allowed - now end
redis.call('SET', KEYS[1], whole(full + cost))
keep(full + cost - now)
return 0
"""


class RedisThrottle:
    """See `callboard.protocols.ports.Throttle`. Made by `open`, which owns its connection.

    `time_us` is for tests: the time that counts in place of that of Redis.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        clock: Clock,
        *,
        prefix: str = DEFAULT_PREFIX,
        time_us: Callable[[], int] | None = None,
    ) -> None:
        self._url = url
        self._namespace = namespace
        self._prefix = prefix
        self._time_us = time_us
        self._link = Link(url, timeout_s=ANSWER_S)
        self._own = MemoryThrottle(clock)
        self._away = False
        self._ask_again_at = 0.0

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, namespace: str, clock: Clock, *, prefix: str = DEFAULT_PREFIX
    ) -> "AsyncIterator[RedisThrottle]":
        """The throttle of one store, for as long as the block lasts. Redis may be away. `namespace` is the store's."""
        throttle = cls(url, namespace, clock, prefix=prefix)
        try:
            yield throttle
        finally:
            await throttle.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def enter(self, target: str, breaker: Breaker) -> float:
        wait_us = await self._ask(_ENTER, breaker_key(self._namespace, target, self._prefix), *_times(breaker))
        return await self._own.enter(target, breaker) if wait_us is None else wait_us / 1e6

    async def report(self, target: str, breaker: Breaker, *, ok: bool, retry_after_s: float | None = None) -> None:
        told_us = _us(min(retry_after_s or 0.0, LONGEST_TOLD_S))
        more = ("1" if ok else "0", told_us, str(breaker.threshold), _us(breaker.window_s))
        done = await self._ask(_REPORT, breaker_key(self._namespace, target, self._prefix), *_times(breaker), *more)
        if done is None:
            await self._own.report(target, breaker, ok=ok, retry_after_s=retry_after_s)

    async def leave(self, target: str) -> None:
        if await self._ask(_LEAVE, breaker_key(self._namespace, target, self._prefix)) is None:
            await self._own.leave(target)

    async def state(self, target: str) -> str:
        state = await self._ask(_STATE, breaker_key(self._namespace, target, self._prefix))
        return await self._own.state(target) if state is None else state.decode()

    async def take(self, bucket: str, amount: int, per_minute: int) -> float:
        over = "1" if amount > per_minute else "0"
        cost = str(cost_us(amount, per_minute))
        wait_us = await self._ask(_TAKE, rate_key(self._namespace, bucket, self._prefix), cost, str(MINUTE_US), over)
        return await self._own.take(bucket, amount, per_minute) if wait_us is None else wait_us / 1e6

    async def _ask(self, script: str, key: str, *arguments: str) -> Any:
        """What a script gives; None while Redis doesn't answer."""
        if self._away:
            if time.monotonic() < self._ask_again_at:
                return None
            self._ask_again_at = time.monotonic() + AGAIN_S  # others need not find out as well
        now = "" if self._time_us is None else str(self._time_us())
        try:
            async with asyncio.timeout(ANSWER_S):
                (reply,) = await self._link.call([pack("EVAL", script, "1", key, now, *arguments)])
        except LINK_ERRORS as error:
            return self._failed(error)
        if isinstance(reply, ResponseError):
            return self._failed(reply)
        if self._away:
            self._away = False
            log.info("throttle: Redis is back; breakers and rates are shared again")
        return reply

    def _failed(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            why = str(error) or type(error).__name__
            log.warning("throttle: no answer from Redis, so this process goes by what it knows itself: %s", why)
        self._ask_again_at = time.monotonic() + AGAIN_S

    def __repr__(self) -> str:
        return f"<RedisThrottle {redacted(self._url)} away={self._away}>"


def _times(breaker: Breaker) -> tuple[str, str, str]:
    return _us(breaker.open_s), _us(breaker.longest_s), _us(PROBE_S)


def _us(seconds: float) -> str:
    return str(math.ceil(seconds * 1e6))
