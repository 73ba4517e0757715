"""Circuit breakers and rates in one process: the twin of those on Redis, and what stands in while Redis is away."""

from dataclasses import dataclass
from typing import Final

from callboard.protocols.ports import Breaker, Clock

MINUTE_US: Final = 60_000_000
PROBE_S: Final = 60.0  # a probe that has not reported for so long is given up, and another caller may try
LONGEST_TOLD_S: Final = 86_400.0  # of what a target asks for, as Retry-After
MAX_KEPT: Final = 10_000  # buckets and circuits; then those that mean nothing any more are dropped


@dataclass(slots=True)
class _Circuit:
    """A target that has failed. Times are those of the clock, in seconds; 0: not."""

    failures: int = 0  # in a row
    failed_at: float = 0.0
    until: float = 0.0  # it is open until then, and half-open afterwards
    open_s: float = 0.0  # how long it is, or was, open
    probe_until: float = 0.0  # somebody tries, and has so long for it
    kept_until: float = 0.0

    def opens(self, now: float, seconds: float, longest_s: float) -> None:
        self.until, self.open_s, self.probe_until = now + seconds, seconds, 0.0
        self.kept_until = self.until + max(longest_s, PROBE_S)


class MemoryThrottle:
    """See `callboard.protocols.ports.Throttle`, and `callboard.bus.throttle` for the rules. Times are by the clock's
    `monotonic`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self._full_at_us: dict[str, int] = {}  # when each bucket is full again

    def __repr__(self) -> str:
        return f"<MemoryThrottle circuits={len(self._circuits)} buckets={len(self._full_at_us)}>"

    async def enter(self, target: str, breaker: Breaker) -> float:
        circuit, now = self._circuit(target), self._clock.monotonic()
        if circuit is None or not circuit.until:
            return 0.0
        if now < circuit.until:
            return circuit.until - now
        if now < circuit.probe_until:
            return min(breaker.open_s, circuit.probe_until - now)
        circuit.probe_until = now + PROBE_S
        circuit.kept_until = circuit.probe_until + max(breaker.longest_s, PROBE_S)
        return 0.0

    async def report(self, target: str, breaker: Breaker, *, ok: bool, retry_after_s: float | None = None) -> None:
        circuit, now = self._circuit(target), self._clock.monotonic()
        if ok:
            if circuit is not None and circuit.until <= now:
                del self._circuits[target]
            return
        if circuit is None:
            self._make_room(self._circuits)
            circuit = self._circuits[target] = _Circuit()
        self._fail(circuit, breaker, now, min(retry_after_s or 0.0, LONGEST_TOLD_S))

    @staticmethod
    def _fail(circuit: _Circuit, breaker: Breaker, now: float, told_s: float) -> None:
        opened = bool(circuit.until)
        if told_s > 0:
            if now + told_s > circuit.until:
                circuit.opens(now, told_s, breaker.longest_s)
        elif opened and now < circuit.until:
            pass  # it was let in before
        elif opened:
            again_s = circuit.open_s * 2 if circuit.probe_until else circuit.open_s
            circuit.opens(now, min(again_s, breaker.longest_s), breaker.longest_s)
        else:
            soon = now - circuit.failed_at <= breaker.window_s
            circuit.failures = circuit.failures + 1 if soon else 1
            circuit.failed_at = now
            circuit.kept_until = now + breaker.window_s
            if circuit.failures >= breaker.threshold:
                circuit.opens(now, breaker.open_s, breaker.longest_s)

    async def leave(self, target: str) -> None:
        circuit = self._circuit(target)
        if circuit is not None:
            circuit.probe_until = 0.0

    async def state(self, target: str) -> str:
        circuit = self._circuit(target)
        if circuit is None or not circuit.until:
            return "closed"
        return "open" if self._clock.monotonic() < circuit.until else "half-open"

    async def take(self, bucket: str, amount: int, per_minute: int) -> float:
        now_us = round(self._clock.monotonic() * 1e6)
        full_at_us = max(self._full_at_us.get(bucket, 0), now_us)
        allowed_us = full_at_us + cost_us(amount, per_minute) - MINUTE_US
        if amount > per_minute:
            allowed_us = full_at_us
        if allowed_us > now_us:
            return (allowed_us - now_us) / 1e6
        self._make_room(self._full_at_us)
        self._full_at_us[bucket] = full_at_us + cost_us(amount, per_minute)
        return 0.0

    def _circuit(self, target: str) -> _Circuit | None:
        circuit = self._circuits.get(target)
        if circuit is not None and self._clock.monotonic() > circuit.kept_until:
            del self._circuits[target]
            return None
        return circuit

    def _make_room(self, kept: dict[str, _Circuit] | dict[str, int]) -> None:
        if len(kept) < MAX_KEPT:
            return
        now = self._clock.monotonic()
        self._circuits = {name: it for name, it in self._circuits.items() if it.kept_until >= now}
        self._full_at_us = {name: at for name, at in self._full_at_us.items() if at > now * 1e6}


def cost_us(amount: int, per_minute: int) -> int:
    """How long a bucket takes to get back so much, in microseconds, rounded up."""
    return -(-amount * MINUTE_US // per_minute)
