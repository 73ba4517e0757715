"""What an actor in memory knows of its process."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from callboard.actors.log.journal import Idle
from callboard.actors.state.fold import TaskFold
from callboard.actors.task.services import Services
from callboard.protocols.events import NewEvent
from callboard.protocols.ports import Delivery, Tenure

Actor_contra = TypeVar("Actor_contra", contravariant=True)


class OwnProcess(Protocol[Actor_contra]):
    """The process that has actors of this class in memory."""

    services: Services
    idle: Idle
    resend: Callable[[str], Awaitable[None]]  # publishes what an actor sent and may not have arrived

    def why(self, tenure: Tenure, task: TaskFold) -> str:
        """Why a task that was at work is taken up again; see `callboard.protocols.events.TaskResumed`."""

    async def alone(self, actor: Actor_contra, /) -> None:
        """Return when nothing but this actor is at work here; it stays so for a while."""

    def send(self, stream: str, events: Sequence[NewEvent], first_version: int) -> None:
        """Events are durable: publish what they send."""

    def settle(self, delivery: Delivery) -> None:
        """A message is claimed: take it off the bus, if that is where it came from."""

    def busy_changed(self, actor: Actor_contra, /) -> None:
        """An actor may have begun to run, or to wait only: count whether it holds a slot."""

    def rested(self, actor: Actor_contra, /) -> None:
        """An actor has nothing to do."""

    def reload(self, actor: Actor_contra, /, held: Sequence[Delivery], error: BaseException) -> None:
        """An actor can't go on: its messages go to a new one, if its partition is still this process's."""
