"""Reading one actor from its stream."""

import asyncio
from typing import Final

from actors.fold import ActorFold
from protocols.events import Event, TaskStarted
from protocols.ports import EventStore

EVENTS_A_TURN: Final = 1000  # folded before the event loop turns


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
