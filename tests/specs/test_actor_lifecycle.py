"""A task from its claim to its end: the events, the states, the payloads and the answers."""

from typing import Any

import pytest

from callboard import Actor, Context, Message, Struct, handler
from callboard.eventstore.memory import MemoryEventStore
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from callboard.protocols.errors import TaskFailed
from callboard.testing import event, spec
from tests.actor_kit import worker


class Brief(Struct):
    topic: str
    words: int = 300


class Note(Struct):
    text: str


class Echo(Actor):
    """Gives back what it gets."""

    async def handle(self, payload: Any, ctx: Context) -> Any:
        return payload


class Broken(Actor):
    async def handle(self, payload: str, ctx: Context) -> str:
        raise ValueError(payload)


class Curious(Actor):
    """Asks the role that it is told."""

    async def handle(self, role: str, ctx: Context) -> Any:
        try:
            return await ctx.ask(role, "is it so?")
        except TaskFailed as error:
            return [error.type, error.message, error.actor.partition("/")[0]]


class Editor(Actor):
    """Has a handler for each thing that comes."""

    async def handle(self, brief: Brief, ctx: Context) -> str:
        return f"brief {brief.topic} {brief.words}"

    @handler()
    async def note(self, note: Note, ctx: Context) -> str:
        return f"note {note.text}"

    @handler("query")
    async def question(self, question: str, ctx: Context) -> str:
        return f"question {question}"

    @handler("artifact")
    async def made(self, message: Message, ctx: Context) -> str:
        return f"{message.kind} of {len(message.parts or ())} parts"


class Appends(MemoryEventStore):
    """Remembers how many events each append of an actor brought."""

    def submit(self, stream: str, events: Any, expected: Any) -> Any:
        if not stream.startswith("run/"):
            self.__dict__.setdefault("sizes", []).append(len(events))
        return super().submit(stream, events, expected)


async def test_a_task_without_effects_is_two_events_in_one_append() -> None:
    async with spec(Echo, store=Appends) as play:
        await play.when("echo", {"a": 1})
        play.then(
            event("task.started", attempt=1, state="thinking", handles=True),
            event("task.completed", result={"a": 1}, state="completed", sends=[], handles=False),
        )
        assert play.store.__dict__["sizes"] == [2]


async def test_a_question_is_two_events_more_and_the_answer_is_only_in_the_message() -> None:
    async with spec(Curious, Echo) as play:
        sent = await play.when("curious", "echo")
        play.then(
            "task.started",
            event("question.asked", sends=[("assign", "echo", "is it so?")], state="blocked"),
            event("question.answered", result="is it so?", handles=True, state="thinking"),
            event("task.completed", result="is it so?"),
        )
        assert play.types("echo") == ["task.started", "task.completed"]
        completed = play.bodies("echo")[1]
        assert completed == e.TaskCompleted()
        assert await play.result(sent) == "is it so?"


async def test_an_exception_is_recorded_with_its_traceback() -> None:
    async with spec(Broken) as play:
        sent = await play.when("broken", "no ink")
        play.then("task.started", event("task.failed", state="failed"))
        body = play.bodies("broken")[1]
        assert isinstance(body, e.TaskFailed)
        assert (body.error.type, body.error.message) == ("ValueError", "no ink")
        assert "raise ValueError(payload)" in body.error.traceback
        with pytest.raises(TaskFailed, match="ValueError: no ink"):
            await play.result(sent)


async def test_who_asked_gets_the_failure_at_once() -> None:
    async with spec(Curious, Broken) as play:
        sent = await play.when("curious", "broken")
        assert await play.result(sent) == ["ValueError", "is it so?", "broken"]
        play.then("task.started", "question.asked", event("question.failed", handles=True), "task.completed")


async def test_an_exception_that_no_one_can_print_fails_its_task_only() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Odd(Actor):
        async def handle(self, what: str, ctx: Context) -> str:
            if what == "surrogate":
                raise ValueError("\udc80")
            if what == "step":
                await ctx.step(fail, name="fail")
            raise Unprintable

    def fail() -> None:
        raise Unprintable

    async with spec(Odd, Echo) as play:
        for what in ("surrogate", "unprintable", "step"):
            sent = await play.when("odd", what)
            with pytest.raises(TaskFailed):
                await play.result(sent)
        assert await play.result(await play.when("echo", "still here")) == "still here"


async def test_a_result_that_is_no_json_fails_the_task() -> None:
    class Opaque(Actor):
        async def handle(self, payload: Any, ctx: Context) -> Any:
            return object()

    async with spec(Opaque) as play:
        sent = await play.when("opaque", None)
        with pytest.raises(TaskFailed, match="NotStorable: the result is of type object"):
            await play.result(sent)


async def test_a_cancelled_future_fails_the_task_that_awaited_it() -> None:
    class Awaits(Actor):
        async def handle(self, payload: Any, ctx: Context) -> Any:
            import asyncio

            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    async with spec(Awaits) as play:
        sent = await play.when("awaits", None)
        with pytest.raises(TaskFailed, match="CancelledError"):
            await play.result(sent)


@pytest.mark.parametrize(
    ("payload", "kind", "answer"),
    [
        (Brief("tides"), "assign", "brief tides 300"),
        ({"topic": "tides", "words": 5}, "assign", "brief tides 5"),
        (Note("hello"), "assign", "note hello"),
        ({"text": "hello"}, "context-share", "note hello"),
        ("why?", "query", "question why?"),
        (Note("hello"), "query", "note hello"),
        ({"any": "thing"}, "artifact", "artifact of 1 parts"),
    ],
)
async def test_a_message_goes_to_the_handler_that_takes_it(payload: Any, kind: Any, answer: str) -> None:
    async with spec(Editor) as play:
        assert await play.result(await play.when("editor", payload, kind=kind)) == answer


@pytest.mark.parametrize(
    ("payload", "kind", "reason"),
    [
        ({"topic": 5}, "assign", "Expected `str`, got `int` - at `$.topic`"),
        ({"topic": "tides", "colour": "blue"}, "assign", "unknown field `colour`"),
        ("why?", "assign", "Expected `object`, got `str`"),
        (b"bytes", "assign", "Expected"),
    ],
)
async def test_a_message_that_fits_no_handler_is_a_dead_letter_that_says_what_fits(
    payload: Any, kind: Any, reason: str
) -> None:
    async with spec(Editor) as play:
        sent = await play.when("editor", payload, kind=kind)
        with pytest.raises(TaskFailed) as failure:
            await play.result(sent)
        assert failure.value.type == "MessageDeadLettered"
        play.then("task.started", event("message.dead_lettered", message=sent.message, attempts=1, state="failed"))
        assert reason in failure.value.message
        assert "Brief(topic: str, words?: int)" in failure.value.message


async def test_a_message_of_a_kind_that_no_handler_takes_is_a_dead_letter() -> None:
    class Asked(Actor):
        @handler("query")
        async def question(self, question: str, ctx: Context) -> str:
            return question

    async with spec(Asked) as play:
        with pytest.raises(TaskFailed, match="no handler takes the kind 'assign'"):
            await play.result(await play.when("asked", "why?"))


async def test_a_union_takes_each_of_its_types() -> None:
    class Either(Actor):
        async def handle(self, payload: Brief | str | int | None, ctx: Context) -> str:
            return type(payload).__name__

    async with spec(Either) as play:
        for payload, name in [(Brief("x"), "Brief"), ("x", "str"), (3, "int"), (None, "NoneType")]:
            assert await play.result(await play.when("either", payload)) == name


async def test_a_message_without_parts_is_none() -> None:
    class Absent(Actor):
        async def handle(self, payload: str | None, ctx: Context) -> bool:
            return payload is None

    async with spec(Absent) as play:
        sent = await play.when("absent", None)
        assert await play.result(sent) is True


async def test_the_context_tells_who_and_where() -> None:
    class Who(Actor):
        async def handle(self, payload: str, ctx: Context) -> list[Any]:
            return [ctx.run, ctx.task, ctx.actor, ctx.sender, ctx.kind, ctx.attempt, ctx.state]

    async with spec(Who) as play:
        sent = await play.when("who", "?", key="dave")
        assert await play.result(sent) == [sent.run, sent.task, "who/dave", f"run/{sent.run}", "assign", 1, None]


async def test_every_event_of_a_task_names_its_run_its_cause_and_its_trace() -> None:
    async with spec(Curious, Echo) as play:
        sent = await play.when("curious", "echo", tenant="acme", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
        events = [it for it in play.log if it.stream != f"run/{sent.run}"]
        assert {it.meta.run for it in events} == {sent.run}
        assert {it.meta.tenant for it in events} == {"acme"}
        assert {(it.meta.traceparent or "")[:36] for it in events} == {f"00-{'a' * 32}-"}
        assert all(it.meta.causation for it in events)
        (question,) = [m for it in events for m in it.meta.sends if m.kind == "assign"]
        assert (question.parent, question.causation) == (sent.task, sent.message)
        (reply,) = [m for it in events for m in it.meta.sends if m.kind == "reply"]
        assert reply.correlation == f"{sent.actor}@2.0"


async def test_a_review_request_is_answered_by_feedback() -> None:
    class Asker(Actor):
        async def handle(self, draft: str, ctx: Context) -> str:
            return str(await ctx.ask("echo", draft, kind="review-request"))

    async with spec(Asker, Echo) as play:
        assert await play.result(await play.when("asker", "my draft")) == "my draft"
        assert [m.kind for it in play.log for m in it.meta.sends] == ["assign", "review-request", "feedback"]


async def test_a_deadline_that_has_passed_fails_the_task_before_it_runs() -> None:
    async with spec(Echo) as play:
        sent = await play.when("echo", 1, deadline=play.clock.now())
        with pytest.raises(TaskFailed, match="DeadlineExceeded"):
            await play.result(sent)


async def test_a_message_whose_entry_is_no_message_leaves_the_actors_alone() -> None:
    async with spec(Echo) as play:
        play.bus.add(play.directory.route("echo"), 0, b"\xff{")
        await play.quiet()
        assert [it.content for it in play.undecodable] == [b"\xff{"]
        assert await play.result(await play.when("echo", 1)) == 1


async def test_what_an_actor_says_is_in_the_log_as_typed_bodies() -> None:
    async with spec(Echo) as play:
        sent = await play.when("echo", 1)
        assert [type(body_of(it)) for it in play.log] == [e.RunStarted, e.TaskStarted, e.TaskCompleted]
        assert play.log[1].meta.handles == sent.message


async def test_a_handler_that_exits_fails_its_task_and_not_its_process() -> None:
    async def todo(ctx: Context) -> None:
        raise SystemExit(3)

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        with pytest.raises(TaskFailed, match="SystemExit"):
            await play.result(sent)


async def test_a_step_that_exits_fails_its_task_and_not_its_process() -> None:
    def leave() -> None:
        raise SystemExit(3)

    async with spec(worker(lambda ctx: ctx.step(leave))) as play:
        sent = await play.when("worker", None)
        with pytest.raises(TaskFailed, match="SystemExit"):
            await play.result(sent)
