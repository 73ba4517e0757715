"""What a handler is given to act with. Every effect of a task goes through here, and so into the log.

Each method below that does something is a *step*: its outcome is recorded under a key, and when the task runs again
(after a crash, or after it was dropped from memory) the recorded outcome comes back and nothing is done.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec

from callboard.actors.log.values import large, load_value
from callboard.actors.roles.definition import Handoff
from callboard.actors.roles.inputs import ASKED, TOLD, TOLD_TO_TASK, check_kind
from callboard.actors.roles.outgoing import outgoing
from callboard.actors.state.steps import content_mark, enter_branch, fingerprint, in_own_task
from callboard.actors.task.asking import Asking
from callboard.actors.task.attempt import PREFIX, Compensation
from callboard.actors.task.cancellation import hand_on, new_ground
from callboard.actors.task.function_calls import ToolUse, call_step, repeatable, step_mark, use_tool
from callboard.actors.task.recorded import decode
from callboard.actors.tools.declaration import declared
from callboard.actors.tools.functions import function_name, return_type
from callboard.protocols import events as e
from callboard.protocols.a2a import Artifact, Part
from callboard.protocols.errors import ValueRefused
from callboard.protocols.messages import Kind, ReplyTo, encode_json, part_of
from callboard.protocols.money import ValueRule
from callboard.protocols.redaction import redact
from callboard.protocols.types import check_type
from callboard.protocols.values import encode_value

T = TypeVar("T")

MAX_GIVEN: Final = 200  # characters of a value from outside that the log keeps
BRANCHES_A_TURN: Final = 50  # begun before the event loop turns: a hundred thousand at once would stop it for seconds


class Received(msgspec.Struct, frozen=True):
    """A message that came for the task at work: its kind, the actor (or run) it is from, and its content."""

    kind: Kind
    sender: str
    content: Any


class Context(Asking):
    """The context of one task at work. It belongs to one run of the handler and can't be used after that."""

    __slots__ = ()

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

        A coroutine function is awaited; any other runs in a thread. The result must be JSON for msgspec or pydantic; it
        is given as `returns`, by default the function's annotated type. The step's name is the function's (of a
        partial, that of the function in it), unless given.
        Raises StepFailed with the function's error, also when the failure is an old one; ResultNotStored, where it has
        run and its result is nothing that can be stored; NotStorable, before it runs, for arguments and types that
        can't be; StepInputChanged.
        """
        called = name or function_name(function)
        mark = step_mark(function, args, kwargs, named=name is not None)
        key, record = await self._step(called, mark)
        returns = returns or return_type(function)
        if record is not None and record.done:
            return await self._outcome(key, record, returns)
        check_type(returns, f"the result of step {called!r}")
        with self._work.step(key):
            encoded = await call_step(self._work, key, mark, function, args, kwargs)
        return decode(encoded, returns)

    async def tool(
        self, function: Callable[..., Any], *, name: str | None = None, returns: Any = None, **arguments: Any
    ) -> Any:
        """Call a tool: a step whose request is in the log before it runs, with its arguments.

        A tool that has a parameter `idempotency_key` is given one: the same for every attempt of this step. When the
        process is lost in mid-call, such a tool is called again, and so is one marked `@tool(idempotent=True)`. With
        any other the task waits for a person to say what happened (`callboard resolve`).
        Raises StepFailed, ResultNotStored, NotStorable, StepInputChanged, as `step` does.
        """
        tool = name or function_name(function)
        check_type(returns or return_type(function), f"the result of tool {tool!r}")
        traits = declared(function)[0]
        use = ToolUse(
            tool=tool,
            function=function,
            arguments=arguments,
            repeatable=repeatable(function),
            untrusted=traits.untrusted,
        )
        key, _ = await self._step(tool, use.fingerprint)
        with self._work.step(key):
            result = await use_tool(self._work, key, use, self)
        return decode(result, returns or return_type(function))

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
        Raises TaskFailed or TaskCanceled if it did not end well, UnknownRole, BadOption for another kind,
        StepInputChanged, TooDeep, TooManyTasks.
        """
        check_type(Any if returns is None else returns, f"the answer of {to}")
        check_kind(kind, None, ASKED)
        mark = fingerprint((to, key, kind, payload))
        step, _ = await self._step(name or f"ask:{to}", mark)
        return await self._ask_actor(
            step, to, payload, key=key, kind=kind, returns=returns, timeout_s=timeout_s, mark=mark
        )

    async def _ask_actor(
        self,
        step: str,
        to: str,
        payload: Any,
        *,
        key: str | None,
        kind: Kind,
        returns: Any = None,
        timeout_s: float | None,
        mark: str = "",
    ) -> Any:
        work = self._work
        with work.step(step):
            record = work.fold.steps.get(step)
            if record is None or record.again:
                work.check_tasks(1)
                there = await work.services.directory.resolve_one(to, key)
                message = outgoing(
                    work.message,
                    kind,
                    there.stream,
                    there.task,
                    payload,
                    parent=self._task,
                    reply_to=ReplyTo(actor=work.message.to, task=self._task, step=step),
                    deadline=self._deadline(timeout_s),
                )
                sends = [message]
                if timeout_s is not None and message.deadline is not None:
                    sends.append(work.timer(step, message.deadline))
                mark = mark or fingerprint((to, key, kind, payload))
                asked = e.QuestionAsked(step=step, fingerprint=mark, to=there.stream, task=there.task)
                work.write(asked, sends=tuple(sends))
            return await self._outcome(step, await self._answered(step), returns)

    async def handoff(self, to: str, payload: Any, *, key: str | None = None) -> Handoff:
        """Give the task over: `return await ctx.handoff("editor", draft)`. Whoever asked gets the other's answer.

        Raises UnknownRole, TooManyHandoffs, TooManyTasks.
        """
        self._work.check_handoffs()
        there = await self._work.services.directory.resolve_one(to, key)
        return Handoff(there.stream, there.task, payload)

    async def tell(
        self, to: str, payload: Any, *, key: str | None = None, kind: Kind = "context-share", task: str | None = None
    ) -> None:
        """Send something that needs no answer: kind context-share, artifact or feedback.

        `to` is a role, role/key, or topic/NAME for every role that subscribes to it. With `task` it goes to that task
        of the actor, if it is at work; feedback, and a decision, always go to a task. Raises BadOption for another
        kind, UnknownRole, UnknownTopic, StepInputChanged, TooDeep, TooManyTasks.
        """
        check_kind(kind, task, TOLD if task is None else TOLD_TO_TASK)
        mark = fingerprint((to, key, kind, payload))
        step, record = await self._step(f"tell:{to}", mark)
        if record is not None and not record.again:
            return
        work = self._work
        with work.step(step):
            receivers = await work.services.directory.resolve(to, key)
            to_task = task is not None
            sends = tuple(
                outgoing(work.message, kind, there.stream, task or there.task, payload, to_task=to_task)
                for there in receivers
            )
            opens = sum(sent.opens_task for sent in sends)
            work.check_tasks(opens)
            work.write(e.MessageSent(step=step, fingerprint=mark, opens=opens), sends=sends)

    async def receive(self, kind: Kind, *, note: str = "", returns: Any = None) -> Received:
        """Wait for a message that names this task: its next feedback, context-share, artifact or decision.

        `note` tells people what the task waits for.
        """
        check_type(Any if returns is None else returns, f"the content of a {kind}")
        work = self._work
        count = self._received.get(kind, 0)  # of the task as a whole, whichever branch asks
        self._received[kind] = count + 1
        step = f"receive:{kind}#{count}"
        record = work.fold.steps.get(step)
        if record is not None and record.given_up:
            await self._given_up()
        message = work.fold.take_received(kind, step)
        if message is None:
            await new_ground(work)
            if record is None or record.again:
                work.write(e.WaitStarted(step=step, kind=kind, note=note))
            with work.step(step):
                await work.wait(step)
            message = work.fold.take_received(kind, step)
            assert message is not None
        return Received(message.kind, message.sender, decode(await load_value(work.store, message.content), returns))

    async def sleep(self, seconds: float) -> None:
        """Wait so long, by the wall clock; the time goes on while nothing of the system runs.

        Raises ValueError for less than 0 seconds.
        """
        if seconds < 0:
            raise ValueError(f"seconds={seconds}: at least 0")
        step, record = await self._step("sleep", "")
        if record is None or record.again:
            work = self._work
            due_at = work.services.clock.now() + timedelta(seconds=seconds)
            work.write(e.TimerSet(step=step, due_at=due_at), sends=(work.timer(step, due_at),))
        await self._answered(step)

    async def gather(self, *awaitables: Awaitable[T], limit: int | None = None) -> list[T]:
        """Await several steps at a time, at most `limit`; gives their results in order.

        The first error cancels the others and is raised. Raises ValueError for a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}: at least 1, or None for no limit")
        scope, apart = self._counter.next("gather"), in_own_task()
        results: list[Any] = [None] * len(awaitables)
        pending = iter(enumerate(awaitables))

        hand_on()

        async def worker() -> None:
            for branch, awaitable in pending:
                enter_branch(scope, branch, apart=apart)
                try:
                    results[branch] = await awaitable
                except (KeyboardInterrupt, SystemExit) as error:  # asyncio would end the loop, and the process with it
                    raise BaseExceptionGroup("a branch", [error]) from None

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(limit or len(awaitables), len(awaitables))):
                    group.create_task(worker(), name=self._name)
                    if number % BRANCHES_A_TURN == BRANCHES_A_TURN - 1:
                        await asyncio.sleep(0)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            for _, awaitable in pending:
                if inspect.iscoroutine(awaitable):
                    awaitable.close()
        return results

    def on_cancel(self, function: Callable[..., Any], *args: Any, name: str | None = None, **kwargs: Any) -> None:
        """Call this if the task is cancelled: a step, recorded and done once, like those of `step`.

        Of several, the last one is called first. What a handler does in its own `finally` is done before. All of it
        together gets the role's `limits.cancel_s`.
        """
        step = self._counter.next(f"{PREFIX}on_cancel:{name or function_name(function)}")
        self._work.compensations.append(Compensation(step, function, args, kwargs))

    # -- what others see -------------------------------------------------------------------------------------------

    async def artifact(self, name: str, content: Any, *, media_type: str | None = None, description: str = "") -> None:
        """Keep something that the task made: text, bytes, or what msgspec can make JSON of."""

        def part(of: Any) -> Part:
            return msgspec.structs.replace(part_of(of), media_type=media_type) if media_type else part_of(of)

        mark = content_mark(content, lambda it: encode_json((part(it), description)))
        step, record = await self._step(f"artifact:{name}", mark)
        if record is None:
            work = self._work
            made = Artifact(
                artifact_id=f"{self._task}:{step}", name=name, description=description or None, parts=(part(content),)
            )
            encoded = encode_json(made)
            if large(encoded):
                [blob] = await work.store.put_blobs([encoded])
                self._work.write(e.ArtifactAdded(step=step, fingerprint=mark, name=name, blob=blob))
            else:
                work.write(e.ArtifactAdded(step=step, fingerprint=mark, name=name, artifact=made))

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Tell how far the task is. Raises NotStorable for NaN."""
        encode_value({"done": done, "total": total, "note": note}, "progress")
        step, record = await self._step("progress", "")
        if record is None:
            self._work.write(e.TaskProgressed(step=step, done=done, total=total, note=note))

    async def check_value(self, name: str, given: str | int | Decimal, rule: ValueRule) -> Decimal:
        """Hold an amount or a measurement from outside against a rule; what was accepted or refused is on record.

        Gives the value as the rule rounds it. Raises ValueRefused, with the reason.
        """
        mark = fingerprint((name, str(given), str(rule)))
        key, record = await self._step(f"check:{name}", mark)
        if record is None:
            checked = rule.check(given)
            value = "" if checked.value is None else str(checked.value)
            body = e.ValueChecked(
                step=key,
                fingerprint=mark,
                name=name,
                given=redact(str(given))[:MAX_GIVEN],
                rule=str(rule),
                accepted=checked.accepted,
                value=value,
                reason=checked.reason,
            )
            self._work.write(body)
        else:
            assert isinstance(record.result, e.ValueChecked)
            body = record.result
        if not body.accepted:
            raise ValueRefused(name, body.given, body.reason, body.rule, key)
        return Decimal(body.value)

    async def trigger(self, trigger: str) -> str:
        """Move the role's own state machine; gives its new state. Raises IllegalTrigger."""
        step, record = await self._step(f"trigger:{trigger}", "")
        work = self._work
        if record is not None and isinstance(record.result, e.StateChanged):
            self._state = record.result.to
        else:
            self._state = work.trigger(step, trigger, self.state)
        return self._state

    @property
    def _name(self) -> str:
        """Of the asyncio tasks that run here."""
        return f"{self._work.definition.role}<{self._task}>"


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
