"""What a step of a task at work may do: write, have an effect, wait, and be woken."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from callboard.actors.log.journal import Journal
from callboard.actors.roles.definition import Definition
from callboard.actors.state.fold import ActorFold
from callboard.actors.task.branches import Branches, current, no_branches
from callboard.actors.task.services import OwnActor, Services
from callboard.actors.task.writing import Waiter, Writing
from callboard.protocols.messages import Message
from callboard.protocols.ports import EventStore

PREFIX = "cancel/"  # of a compensation's step


class Compensation(NamedTuple):
    """A call that undoes something, if the task is cancelled."""

    step: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Attempt(Writing):
    """A task at work, as far as its steps know it. `changed` counts anew whether it holds a slot."""

    __slots__ = (
        "actor",
        "begun",
        "canceled_at",
        "changed",
        "claimed",
        "compensations",
        "handler",
        "live",
        "models",
        "stopped",
    )

    def __init__(
        self,
        services: Services,
        actor: OwnActor,
        actor_fold: ActorFold,
        journal: Journal,
        definition: Definition,
        message: Message,
        *,
        resumed: bool,
    ) -> None:
        self.services = services
        self.actor = actor
        self.changed = actor.changed
        self.actor_fold = actor_fold
        self.journal = journal
        self.definition = definition
        self.message = message
        self.claimed = resumed
        self.begun = False  # the handler's asyncio task has come to run
        self.live = not resumed  # the handler has come to where the record of a former run of it ends
        self.stopped = False  # the handler was cancelled because a cancel message came
        self.since = services.clock.monotonic()  # when something was recorded last
        self.canceled_at = self.since if resumed and self.fold.cancel is not None else None
        self.models: tuple[str, ...] = ()  # of the role, for this input
        self.reserving = {}
        self.compensations: list[Compensation] = []
        self.effects = 0  # steps that run here right now
        self.waiters = {}
        self.branches = Branches(self._branch_ended)
        self.handler: asyncio.Task[None] | None = None
        self.ended = False

    @property
    def store(self) -> EventStore:
        """The log."""
        return self.services.store

    @property
    def parked(self) -> bool:
        """Whether all that the handler does is wait for messages."""
        return self.claimed and bool(self.waiters) and not self.effects and self.activity.waits

    @property
    def undecided(self) -> bool:
        """Whether some branches wait, and of others nobody tells when they begin to wait for those."""
        return bool(self.waiters) and not (self.effects or self.ended or self.parked)

    @property
    def deadline(self) -> datetime | None:
        """When the task has to have ended, as was fixed when it began."""
        return self.fold.deadline

    # -- what the handler waits for --------------------------------------------------------------------------------

    @contextmanager
    def effect(self) -> Iterator[None]:
        """While something runs here that must not be interrupted lightly."""
        self.effects += 1
        if self.waiters:
            self.changed()  # another branch only waits, and this one goes on
        try:
            with no_branches():
                yield
        finally:
            self.effects -= 1
            self.changed()

    def step(self, key: str) -> "StepUnderWay":
        """While a step of the handler's is under way. One whose branch is cancelled is given up: that is recorded, or
        it would stay open for ever, and a later run of the handler would not know that it went on without it.
        """
        return StepUnderWay(self, key)

    def interrupted(self, key: str) -> None:
        """The branch of a step was cancelled."""
        canceled = not self.ended and self.fold.cancel is not None and PREFIX not in key
        if not (self.ended or canceled) and current() is self.branches:
            self.give_up(key)

    async def wait(self, step: str) -> None:
        """Return when the message that ends this step has come."""
        task = asyncio.current_task()
        waiter = Waiter(asyncio.get_running_loop().create_future(), task)
        self.waiters[step] = waiter
        self.branches.wait(task)
        self.changed()
        try:
            await waiter.future
        finally:
            self.branches.go_on(task)
            if self.waiters.get(step) is waiter:
                del self.waiters[step]
                self.changed()

    def _branch_ended(self) -> None:
        if self.waiters and not self.ended:
            self.changed()

    def wake(self, key: str) -> None:
        """What a step waits for is recorded: let it go on."""
        waiter = self.waiters.pop(key, None)
        if waiter is not None and not waiter.future.done():
            waiter.future.set_result(None)
            self.branches.go_on(waiter.task)
            self.changed()  # before the next message is delivered: from now on the handler holds a slot


class StepUnderWay:
    """See `Attempt.step`. A class of its own: as a generator, each task that waits would hold half a kilobyte more."""

    __slots__ = ("_attempt", "_key")

    def __init__(self, attempt: Attempt, key: str) -> None:
        self._attempt = attempt
        self._key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._attempt.interrupted(self._key)
