"""What a task at work knows of what is around it: the services of its process, and the actor that it belongs to."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec

from callboard.actors.log.prompts import Prompts
from callboard.actors.models.call import Models
from callboard.actors.roles.directory import Directory
from callboard.actors.task.bounds import RunTasks
from callboard.actors.tools.toolbox import Toolbox
from callboard.protocols.errors import CallboardError
from callboard.protocols.messages import Message
from callboard.protocols.ports import Answers, Clock, EventStore, Tenure, Throttle


class Spawn(Protocol):
    """Runs a coroutine in an asyncio task that the process owns, and as no part of what runs now."""

    def __call__(self, coroutine: Coroutine[Any, Any, None], *, name: str | None = None) -> "asyncio.Task[None]": ...


class Services(msgspec.Struct, kw_only=True, eq=False):
    """What the tasks of one process share. `process` is its name; `show` shows a piece of an answer to those who watch
    the run.
    """

    process: str
    store: EventStore
    clock: Clock
    directory: Directory
    gateway: Models
    throttle: Throttle
    answers: Answers
    toolbox: Toolbox
    prompts: Prompts
    run_tasks: RunTasks
    show: Callable[[str, bytes], None]
    spawn: Spawn


class OwnActor(Protocol):
    """The actor whose task it is."""

    tenure: Tenure
    dropped: bool  # it is in memory no more

    def take_refusal(self) -> CallboardError | None:
        """What the task is to fail of as soon as it runs; given once."""

    def discard(self, message: Message, then: Callable[[], None], reason: str) -> None:
        """Close a message that nobody waits for; `then` is called when that is durable."""

    def reload(self, error: BaseException) -> None:
        """What is in memory can't go on: load the actor again."""

    def changed(self) -> None:
        """The task may have begun to run, or to wait only: count whether it holds a slot."""

    def ended(self) -> None:
        """The task's end is durable."""
