"""Stalls the event loops of a process, as a busy machine does: a few turns for some ms, now and then one for long.

Python imports this module by its name wherever it starts with this folder on PYTHONPATH. `pytest --stalls` sees to
that for all processes of the tests, its own included.
"""

import asyncio.base_events
import random
import time
from typing import Any

SHARE = 0.05  # of the turns
SHORT_S = 0.004  # at most
LONG_S = 0.8
LONG_EVERY_S = 15.0  # on average


def install() -> None:
    """Stall each loop of this process from now on. Once is enough."""
    if hasattr(asyncio.base_events.BaseEventLoop, "_run_once_at_once"):
        return
    chance = random.Random()
    run_once = asyncio.base_events.BaseEventLoop._run_once  # type: ignore[attr-defined]
    next_long = time.monotonic() + chance.expovariate(1 / LONG_EVERY_S)

    def stalled(self: Any) -> None:
        nonlocal next_long
        if time.monotonic() >= next_long:
            time.sleep(LONG_S)
            next_long = time.monotonic() + chance.expovariate(1 / LONG_EVERY_S)
        elif chance.random() < SHARE:
            time.sleep(SHORT_S * chance.random())
        run_once(self)

    asyncio.base_events.BaseEventLoop._run_once_at_once = run_once  # type: ignore[attr-defined]
    asyncio.base_events.BaseEventLoop._run_once = stalled  # type: ignore[attr-defined]


install()
