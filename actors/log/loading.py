"""Reading one actor from its stream."""

import asyncio
from datetime import timedelta
from typing import Final

from callboard.actors.state.fold import ActorFold
from callboard.protocols.events import ENDS_TASK, Event, TaskStarted
from callboard.protocols.names import time_of
from callboard.protocols.ports import EventStore

EVENTS_A_TURN: Final = 1000  # folded before the event loop turns
CLOCKS_DIFFER: Final = timedelta(days=1)  # at most, between the process that made an id and the database


async def has_begun(store: EventStore, stream: str, task: str) -> bool:
    """Whether an actor has begun a task, or ended it without beginning it. The stream is read from its end back to the
    day on which the task's id was made.
    """
    made_at = time_of(task)
    earliest = None if made_at is None else made_at - CLOCKS_DIFFER
    async for event in store.read_stream(stream, backwards=True):
        if event.meta.task == task and (event.type == TaskStarted.TYPE or event.type in ENDS_TASK):
            return True
        if earliest is not None and event.recorded_at < earliest:
            break
    return False


async def load_actor(store: EventStore, stream: str) -> ActorFold:
    """An actor as the log has it: all of its last task, however old the actor is.

    A named actor's stream grows with every task, so it is read from its end back to the last task.started, which
    also tells the state of the role's own machine.
    """
    last_task: list[Event] = []
    async for event in store.read_stream(stream, backwards=True):
        last_task.append(event)
        if event.type == TaskStarted.TYPE:
            break
    actor = ActorFold()
    for number, each in enumerate(reversed(last_task), 1):
        actor.apply(each)
        if number % EVENTS_A_TURN == 0:
            await asyncio.sleep(0)
    return actor
