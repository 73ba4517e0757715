"""The asyncio tasks that one run of a handler consists of, and whether any of them goes on.

A handler may have branches of its own: by `ctx.gather`, but also by asyncio's `gather`, `TaskGroup` and `create_task`.
What is created in the context of a handler is a branch of it, except inside an effect (a model call, a tool, a step):
there libraries create tasks of theirs. A branch waits if it is inside of a wait of `ctx`, or only waits for other
branches; any other goes on, also one that sleeps by `asyncio.sleep` or waits for an `asyncio.Event`.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CoroutineType
from typing import Any, Final

_branches: ContextVar["Branches | None"] = ContextVar("callboard_branches", default=None)
_in_effect: ContextVar[bool] = ContextVar("callboard_in_effect", default=False)

# Coroutines that wait for the asyncio tasks they were given, or have created: module and qualified name
_JOINS: Final = frozenset(
    {
        ("asyncio.taskgroups", "TaskGroup.__aexit__"),
        ("asyncio.taskgroups", "TaskGroup._aexit"),
        ("asyncio.tasks", "_wait"),
        ("asyncio.tasks", "wait_for"),
        ("anyio._backends._asyncio", "TaskGroup.__aexit__"),
    }
)


class Branches:
    """The branches of one run of a handler. `changed` is called when one of them ends."""

    __slots__ = ("_all", "_changed", "_going")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._all: set[asyncio.Task[Any]] = set()
        self._going: dict[asyncio.Task[Any], None] = {}  # those that are in no wait, the newest last
        self._changed = changed

    def __repr__(self) -> str:
        return f"Branches({len(self._all)}, {len(self._going)} not waiting)"

    def enter(self) -> None:
        """Make the current asyncio task, and all that it creates, branches."""
        _branches.set(self)
        if _in_effect.get():  # each variable that is set costs each task that waits a tenth of a kilobyte
            _in_effect.set(False)
        task = asyncio.current_task()
        assert task is not None
        self._all.add(task)
        self._going[task] = None

    def add(self, task: asyncio.Task[Any]) -> None:
        """A branch was created."""
        self._all.add(task)
        self._going[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._all.discard(task)
        self._going.pop(task, None)
        self._changed()

    def wait(self, task: "asyncio.Task[Any] | None") -> bool:
        """A branch begins to wait for a message; False if it is none."""
        if task is None or task not in self._going:
            return False
        del self._going[task]
        return True

    def go_on(self, task: "asyncio.Task[Any] | None") -> None:
        """A branch has what it waited for."""
        if task is not None and task in self._all and not task.done():
            self._going[task] = None

    def cancel(self) -> None:
        """Cancel all branches but the current one, and follow none any more."""
        branches = list(self._all)
        # No circle through the task at work or its asyncio tasks' contexts: nothing is left for the collector.
        self._changed = _nobody
        self._all.clear()
        self._going.clear()
        for task in branches:
            if task is not asyncio.current_task():
                task.cancel()

    def any_goes_on(self, besides: "asyncio.Task[Any] | None" = None) -> bool:
        """Whether any branch, besides one, neither waits for a message nor for other branches."""
        for task in reversed(self._going):  # noqa: SIM110 - it is asked at each event, and a generator costs more
            if task is not besides and not self._joins(task):
                return True
        return False

    def _joins(self, task: asyncio.Task[Any]) -> bool:
        waiter = getattr(task, "_fut_waiter", None)  # CPython's; without it a branch counts as one that goes on
        if waiter is None:
            return False
        if isinstance(waiter, asyncio.Task):
            return waiter in self._all
        children = getattr(waiter, "_children", None)  # of what asyncio.gather gives
        if children is not None:
            return all(child in self._all or child.done() for child in children)
        inner = task.get_coro()
        while isinstance(deeper := getattr(inner, "cr_await", None), CoroutineType):
            inner = deeper
        frame = getattr(inner, "cr_frame", None)
        return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_qualname) in _JOINS


def _nobody() -> None:
    """Nobody is told."""


def current() -> "Branches | None":
    """The run of a handler that the current asyncio task is a branch of."""
    return _branches.get()


@contextmanager
def no_branches() -> Iterator[None]:
    """What is created in here is no branch: libraries may create asyncio tasks that outlive a call of theirs."""
    token = _in_effect.set(True)
    try:
        yield
    finally:
        _in_effect.reset(token)


def follow_branches() -> None:
    """Let the running event loop tell `Branches` which asyncio tasks are created, from now on."""
    loop = asyncio.get_running_loop()
    former = loop.get_task_factory()
    if getattr(former, "follows_branches", False):
        return

    def create(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Future[Any]":
        task = asyncio.Task(coroutine, loop=loop, **options) if former is None else former(loop, coroutine, **options)
        context = options.get("context")
        if context is not None:
            branches = None if context.get(_in_effect) else context.get(_branches)
        else:
            branches = None if _in_effect.get() else _branches.get()
        if branches is not None and isinstance(task, asyncio.Task):
            branches.add(task)
        return task

    create.follows_branches = True  # type: ignore[attr-defined]
    loop.set_task_factory(create)
