"""Reading one actor from its stream."""

from actors.fold import ActorFold, fold
from protocols.events import Event, TaskStarted
from protocols.ports import EventStore


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
    return fold(reversed(last_task))
