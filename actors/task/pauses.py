"""Waits inside a step: for a provider, a rate, a budget, a person.

Each is an event with a due time, like any other timer: it outlives its process, and whoever waits holds no slot.
"""

from datetime import timedelta

from callboard.actors.task.attempt import Attempt
from callboard.protocols import events as e


async def pause(work: Attempt, key: str, seconds: float, note: str) -> None:
    """Wait once under this key; returns at once if that was done before."""
    record = work.fold.steps.get(key)
    if record is None or record.again:
        due_at = work.services.clock.now() + timedelta(seconds=seconds)
        work.write(e.TimerSet(step=key, due_at=due_at, note=note), sends=(work.timer(key, due_at),))
    elif not record.open:
        return
    with work.step(key):
        await work.wait(key)


def pauses_so_far(work: Attempt, step: str, kind: str) -> int:
    """How often a step has waited for something of a kind."""
    count = 0
    while (record := work.fold.steps.get(f"{step}/{kind}#{count}")) is not None and not (record.open or record.again):
        count += 1
    return count


async def pause_again(work: Attempt, step: str, kind: str, seconds: float, note: str) -> None:
    """Wait once more for something of a kind."""
    await pause(work, f"{step}/{kind}#{pauses_so_far(work, step, kind)}", seconds, note)


async def finish_pauses(work: Attempt, step: str) -> None:
    """Wait for what a step was waiting for when its process was lost."""
    for key, _ in work.fold.open_steps("timer"):
        if key.startswith(f"{step}/"):
            with work.step(key):
                await work.wait(key)
