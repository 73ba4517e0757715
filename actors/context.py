"""What a handler is given to act with. Every effect of a task goes through here, and so into the log.

Each method below that does something is a *step*: its outcome is recorded under a key, and when the task runs again
(after a crash, or after it was dropped from memory) the recorded outcome comes back and nothing is done.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from actors.definition import Handoff
from actors.fold import StepRecord
from actors.function_calls import call_step, call_tool, return_type
from actors.model_calls import call_model
from actors.models import ModelReply, Prompt
from actors.steps import StepCounter, enter_branch, fingerprint
from actors.values import large, load_value
from protocols import events as e
from protocols.a2a import Artifact
from protocols.codec import digest
from protocols.errors import Detached, StepFailed, StepInputChanged, TaskCanceled, TaskFailed
from protocols.messages import ErrorInfo, Kind, ReplyTo, encode_json, part_of

if TYPE_CHECKING:
    from actors.work import Work

T = TypeVar("T")


class Received(msgspec.Struct, frozen=True):
    """A message that came for the task at work: its kind, the actor (or run) it is from, and its content."""

    kind: Kind
    sender: str
    content: Any


class Context:
    """The context of one task at work. It belongs to one run of the handler and can't be used after that."""

    __slots__ = ("_counter", "_live", "_received", "_state", "_task")

    def __init__(self, work: "Work") -> None:
        self._live: Work | None = work
        self._task = work.message.task
        self._counter = StepCounter()
        self._received: dict[Kind, int] = {}
        self._state: str | None = None  # of the role's machine, where the handler has come to; None: as it began

    def __repr__(self) -> str:
        return f"Context({self._live or self._task})"

    def detach(self) -> None:
        """From now on every call raises Detached."""
        self._live = None

    @property
    def _work(self) -> "Work":
        if self._live is None:
            raise Detached(self._task)
        return self._live

    # -- who and where -------------------------------------------------------------------------------------------

    @property
    def run(self) -> str:
        """The id of the run."""
        return self._work.message.run

    @property
    def task(self) -> str:
        """The id of the task."""
        return self._task

    @property
    def actor(self) -> str:
        """The actor's name: role/key."""
        return self._work.message.to

    @property
    def sender(self) -> str:
        """Who opened the task: an actor's name, or run/ID for somebody outside."""
        return self._work.message.sender

    @property
    def kind(self) -> Kind:
        """The kind of the message that opened the task."""
        return self._work.message.kind

    @property
    def attempt(self) -> int:
        """1, and one more for every time that the task was taken up again after a process was lost."""
        return self._work.fold.attempt

    @property
    def state(self) -> str | None:
        """The state of the role's own machine; None where the role declares none.

        When the handler runs again it is, at each line, what it was there the first time.
        """
        work = self._work
        machine = work.definition.machine
        return (self._state or work.fold.role_state or machine.initial) if machine else None

    # -- effects ---------------------------------------------------------------------------------------------------

    async def step(
        self, function: Callable[..., Any], *args: Any, name: str | None = None, returns: Any = None, **kwargs: Any
    ) -> Any:
        """Call a function of your own, once, and record what it returns.

        A coroutine function is awaited; any other runs in a thread. The result must be JSON for msgspec; it is given
        as `returns`, by default the function's annotated type. The step's name is the function's, unless given.
        Raises StepFailed with the function's error, also when the failure is an old one; StepInputChanged.
        """
        key = self._counter.next(name or function.__name__)
        mark = fingerprint((args, kwargs))
        returns = returns or return_type(function)
        record = self._recorded(key, mark)
        if record is not None and record.done:
            return await self._outcome(key, record, returns)
        encoded = await call_step(self._work, key, mark, function, args, kwargs)
        return _decode(encoded, returns)

    async def tool(
        self, function: Callable[..., Any], *, name: str | None = None, returns: Any = None, **arguments: Any
    ) -> Any:
        """Call a tool: a step whose request is in the log before it runs, with its arguments.

        A tool that has a parameter `idempotency_key` is given one: the same for every attempt of this step. A tool
        whose process was lost in mid-call is called again. Raises StepFailed, StepInputChanged.
        """
        tool = name or function.__name__
        key = self._counter.next(tool)
        mark = fingerprint(arguments)
        returns = returns or return_type(function)
        record = self._recorded(key, mark)
        if record is not None and record.done:
            return await self._outcome(key, record, returns)
        encoded = await call_tool(self._work, key, mark, tool, function, arguments, requested=record is not None)
        return _decode(encoded, returns)

    async def model(
        self, prompt: Prompt, *, model: str | Sequence[str] | None = None, name: str = "model", **parameters: Any
    ) -> ModelReply:
        """Ask a language model. `prompt` is a text, or chat messages as dicts with `role` and `content`.

        `model` names another model than the role's, or several that are tried in order; `parameters` (temperature,
        max_tokens ...) go to the provider. Raises ModelFailed when none answered, StepInputChanged.
        """
        work = self._work
        models = (model,) if isinstance(model, str) else tuple(model or work.definition.models)
        key = self._counter.next(name)
        record = self._recorded(key, fingerprint((prompt, parameters)))
        return await call_model(work, key, record, prompt, models, parameters)

    async def ask(
        self,
        to: str,
        payload: Any,
        *,
        key: str | None = None,
        kind: Kind = "assign",
        returns: Any = None,
        timeout_s: float | None = None,
        name: str | None = None,
    ) -> Any:
        """Ask another actor, and wait for its answer, for as long as it takes and wherever it runs.

        `to` is a role (a fresh actor, or its actor `key`) or role/key. `kind` is assign, query or review-request. The
        answer is given as `returns`, by default as plain data. With `timeout_s` it must come in time.
        Raises TaskFailed or TaskCanceled if it did not end well, UnknownRole, StepInputChanged.
        """
        step = self._counter.next(name or f"ask:{to}")
        mark = fingerprint((to, key, kind, payload))
        record = self._recorded(step, mark)
        if record is None:
            work = self._work
            there = await work.cell.runtime.directory.resolve_one(to, key)
            message = self._work.outgoing(
                kind,
                there.stream,
                there.task,
                payload,
                parent=self._task,
                reply_to=ReplyTo(actor=work.message.to, task=self._task, step=step),
                deadline=self._deadline(timeout_s),
            )
            sends = [message]
            if timeout_s is not None:
                sends.append(
                    work.outgoing("timer", work.message.to, self._task, None, step=step, due_at=message.deadline)
                )
            asked = e.QuestionAsked(step=step, fingerprint=mark, to=there.stream, task=there.task)
            self._work.write(asked, sends=tuple(sends))
        return await self._outcome(step, await self._answered(step), returns)

    async def handoff(self, to: str, payload: Any, *, key: str | None = None) -> Handoff:
        """Give the task over: `return await ctx.handoff("editor", draft)`. Whoever asked gets the other's answer."""
        there = await self._work.cell.runtime.directory.resolve_one(to, key)
        return Handoff(there.stream, there.task, payload)

    async def tell(
        self, to: str, payload: Any, *, key: str | None = None, kind: Kind = "context-share", task: str | None = None
    ) -> None:
        """Send something that needs no answer: kind context-share, artifact or feedback.

        `to` is a role, role/key, or topic/NAME for every role that subscribes to it. With `task` it goes to that task
        of the actor, if it is at work. Raises UnknownRole, UnknownTopic, StepInputChanged.
        """
        step = self._counter.next(f"tell:{to}")
        mark = fingerprint((to, key, kind, payload))
        if self._recorded(step, mark) is None:
            receivers = await self._work.cell.runtime.directory.resolve(to, key)
            work = self._work
            sends = tuple(work.outgoing(kind, there.stream, task or there.task, payload) for there in receivers)
            work.write(e.MessageSent(step=step, fingerprint=mark), sends=sends)

    async def receive(self, kind: Kind, *, note: str = "", returns: Any = None) -> Received:
        """Wait for a message that names this task: its next feedback, context-share, artifact or decision.

        `note` tells people what the task waits for.
        """
        work = self._work
        count = self._received.get(kind, 0)  # of the task as a whole, whichever branch asks
        self._received[kind] = count + 1
        arrived = work.fold.received.setdefault(kind, [])
        if len(arrived) <= count:
            step = f"receive:{kind}#{count}"
            if step not in work.fold.steps:
                work.write(e.WaitStarted(step=step, kind=kind, note=note))
            await work.wait(step)
        message = work.fold.received[kind][count]
        return Received(message.kind, message.sender, _decode(await load_value(work.store, message.content), returns))

    async def sleep(self, seconds: float) -> None:
        """Wait so long, by the wall clock; the time goes on while nothing of the system runs.

        Raises ValueError for less than 0 seconds.
        """
        if seconds < 0:
            raise ValueError(f"seconds={seconds}: at least 0")
        step = self._counter.next("sleep")
        if self._recorded(step, "") is None:
            work = self._work
            due_at = work.cell.runtime.clock.now() + timedelta(seconds=seconds)
            timer = work.outgoing("timer", work.message.to, self._task, None, step=step, due_at=due_at)
            work.write(e.TimerSet(step=step, due_at=due_at), sends=(timer,))
        await self._answered(step)

    async def gather(self, *awaitables: Awaitable[T], limit: int | None = None) -> list[T]:
        """Await several steps at a time, at most `limit`; gives their results in order.

        The first error cancels the others and is raised. Raises ValueError for a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}: at least 1, or None for no limit")
        scope = self._counter.next("gather")
        results: list[Any] = [None] * len(awaitables)
        pending = iter(enumerate(awaitables))

        async def worker() -> None:
            for branch, awaitable in pending:
                enter_branch(scope, branch)
                results[branch] = await awaitable

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(limit or len(awaitables), len(awaitables))):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            for _, awaitable in pending:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
        return results

    # -- what others see -------------------------------------------------------------------------------------------

    async def artifact(self, name: str, content: Any, *, media_type: str | None = None, description: str = "") -> None:
        """Keep something that the task made: text, bytes, or what msgspec can make JSON of."""
        step = self._counter.next(f"artifact:{name}")
        part = part_of(content)
        if media_type:
            part = msgspec.structs.replace(part, media_type=media_type)
        made = Artifact(artifact_id=f"{self._task}:{step}", name=name, description=description or None, parts=(part,))
        encoded = encode_json(made)
        mark = digest(encoded)
        if self._recorded(step, mark) is None:
            work = self._work
            if large(encoded):
                [blob] = await work.store.put_blobs([encoded])
                self._work.write(e.ArtifactAdded(step=step, fingerprint=mark, name=name, blob=blob))
            else:
                work.write(e.ArtifactAdded(step=step, fingerprint=mark, name=name, artifact=made))

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far the task is."""
        step = self._counter.next("progress")
        if self._recorded(step, "") is None:
            self._work.write(e.TaskProgressed(step=step, done=done, total=total, note=note))

    async def trigger(self, trigger: str) -> str:
        """Move the role's own state machine; gives its new state. Raises IllegalTrigger."""
        step = self._counter.next(f"trigger:{trigger}")
        work = self._work
        record = work.fold.steps.get(step)
        if record is not None and isinstance(record.result, e.StateChanged):
            self._state = record.result.to
        else:
            self._state = work.trigger(step, trigger, self.state)
        return self._state

    # -- inside ------------------------------------------------------------------------------------------------------

    def _recorded(self, key: str, mark: str) -> StepRecord | None:
        """What the log has of a step; raises StepInputChanged if it had another input (or logs it, by option)."""
        work = self._work
        record = work.fold.steps.get(key)
        if record is not None and record.fingerprint not in (mark, ""):  # an event without one fits any input
            if work.definition.actor.on_changed_input == "error":
                raise StepInputChanged(key)
            work.warn("step %s was recorded with another input; its recorded result stands", key)
        return record

    async def _answered(self, step: str) -> StepRecord:
        work = self._work
        record = work.fold.steps[step]
        if not record.done:
            await work.wait(step)
        return record

    async def _outcome(self, step: str, record: StepRecord, returns: Any) -> Any:
        """A recorded step's result, or its error raised again."""
        if record.error is not None:
            raise _failure(step, record.error, record.request)
        result: e.Stored | None = getattr(record.result, "result", None)
        return None if result is None else _decode(await load_value(self._work.store, result), returns)

    def _deadline(self, timeout_s: float | None) -> datetime | None:
        mine = self._work.message.deadline
        if timeout_s is None:
            return mine
        there = self._work.cell.runtime.clock.now() + timedelta(seconds=timeout_s)
        return there if mine is None else min(mine, there)


def _failure(step: str, error: ErrorInfo, request: e.Body | None) -> Exception:
    if not isinstance(request, e.QuestionAsked):
        return StepFailed(step, error.type, error.message)
    if error.type == TaskCanceled.__name__:
        return TaskCanceled(request.task, request.to, error.message)
    return TaskFailed(request.task, request.to, error.type, error.message)


def _decode(encoded: bytes, returns: Any) -> Any:
    return msgspec.json.decode(encoded, type=Any if returns is None else returns)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
