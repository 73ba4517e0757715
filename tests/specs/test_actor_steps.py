"""Steps: own functions and tools, their keys, their records, and what a second run of the handler makes of them."""

import logging
import threading
from typing import Any

import pytest

from callboard import Actor, Context, Struct
from callboard.protocols import events as e
from callboard.protocols.errors import StepFailed, TaskFailed
from callboard.protocols.events import Event
from callboard.testing import event, spec


class Page(Struct):
    title: str


def double(number: int) -> int:
    return 2 * number


async def double_later(number: int) -> int:
    return 2 * number


def page(title: str) -> Page:
    return Page(title)


class Worker(Actor):
    """Does what the test gives it to do."""

    todo: Any = None

    async def handle(self, payload: Any, ctx: Context) -> Any:
        return await type(self).todo(ctx)


def worker(todo: Any) -> type[Worker]:
    """A class of workers whose handler is this function."""
    return type("Worker", (Worker,), {"todo": staticmethod(todo)})


async def result_of(todo: Any) -> Any:
    async with spec(worker(todo)) as play:
        return await play.result(await play.when("worker", None))


async def log_of(todo: Any) -> list[Event]:
    """The log of one task."""
    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        return list(play.log)


def up_to(log: list[Event], type_: str) -> list[Event]:
    """The beginning of a log, up to the first event of a type."""
    return log[: next(place for place, it in enumerate(log) if it.type == type_) + 1]


async def test_a_step_is_one_event_with_its_result() -> None:
    async with spec(worker(lambda ctx: ctx.step(double, 21))) as play:
        await play.when("worker", None)
        play.then(
            "task.started", event("step.completed", step="double#0", result=42), event("task.completed", result=42)
        )


@pytest.mark.parametrize("function", [double, double_later])
async def test_functions_and_coroutine_functions_are_steps(function: Any) -> None:
    assert await result_of(lambda ctx: ctx.step(function, 4)) == 8


async def test_a_step_that_is_no_coroutine_runs_in_a_thread() -> None:
    name = await result_of(lambda ctx: ctx.step(lambda: threading.current_thread().name, name="thread"))
    assert name != threading.current_thread().name


async def test_a_result_comes_as_the_type_that_the_function_declares() -> None:
    async def todo(ctx: Context) -> str:
        return str((await ctx.step(page, "tides")).title)

    assert await result_of(todo) == "tides"


async def test_steps_are_known_by_name_and_occurrence() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.step(double, 1)
        await ctx.step(double, 2)
        await ctx.step(double, 3, name="treble")

    keys = [body.step for body in map(e_body, await log_of(todo)) if isinstance(body, e.StepCompleted)]
    assert keys == ["double#0", "double#1", "treble#0"]


def e_body(it: Event) -> e.Body:
    from callboard.protocols.codec import body_of

    return body_of(it)


async def test_branches_of_gather_count_for_themselves() -> None:
    async def branch(ctx: Context, number: int) -> int:
        first = int(await ctx.step(double, number))
        return int(await ctx.step(double, first))

    async def todo(ctx: Context) -> list[int]:
        return await ctx.gather(*(branch(ctx, number) for number in range(3)))

    log = await log_of(todo)
    keys = {body.step for body in map(e_body, log) if isinstance(body, e.StepCompleted)}
    assert keys == {f"gather#0[{number}]/double#{nth}" for number in range(3) for nth in range(2)}


async def test_nested_gathers_have_nested_keys() -> None:
    async def todo(ctx: Context) -> Any:
        async def inner() -> list[int]:
            return await ctx.gather(ctx.step(double, 1), ctx.step(double, 2))

        return await ctx.gather(inner(), ctx.step(double, 3))

    keys = {body.step for body in map(e_body, await log_of(todo)) if isinstance(body, e.StepCompleted)}
    assert keys == {"gather#0[0]/gather#0[0]/double#0", "gather#0[0]/gather#0[1]/double#0", "gather#0[1]/double#0"}


async def test_a_recorded_step_does_not_run_again() -> None:
    runs = []

    async def todo(ctx: Context) -> list[int]:
        return [await ctx.step(lambda: runs.append("a") or len(runs), name="a"), await ctx.step(double, 5)]

    log = await log_of(todo)
    async with spec(worker(todo)) as play:
        await play.given_log(up_to(log, "step.completed"))
        assert runs == ["a"]
        assert play.types("worker") == [
            "task.started",
            "step.completed",
            "task.resumed",
            "step.completed",
            "task.completed",
        ]
        assert play.log[-1].data == b'{"result":[1,10]}'


async def test_a_failed_step_is_a_recorded_outcome_too() -> None:
    runs = []

    def fail() -> None:
        runs.append(1)
        raise KeyError("gone")

    async def todo(ctx: Context) -> str:
        try:
            await ctx.step(fail)
        except StepFailed as error:
            caught = [error.step, error.type, error.message]
        return f"{caught} {await ctx.step(double, 1)}"

    log = await log_of(todo)
    async with spec(worker(todo)) as play:
        await play.given_log(up_to(log, "step.failed"))
        assert len(runs) == 1
        play.then(
            "task.resumed",
            "step.completed",
            event("task.completed", result="""['fail#0', 'KeyError', "'gone'"] 2"""),
            of="worker",
        )


async def test_a_step_with_another_input_fails_the_task() -> None:
    inputs = [1, 2]

    async def todo(ctx: Context) -> int:
        number = int(await ctx.step(double, inputs.pop(0)))
        return await ctx.step(double, number, name="second")

    log = await log_of(todo)
    async with spec(worker(todo)) as play:
        await play.given_log(up_to(log, "step.completed"))
        play.then("task.resumed", "task.failed", of="worker")
        failed = play.bodies("worker")[-1]
        assert isinstance(failed, e.TaskFailed)
        assert failed.error.type == "StepInputChanged"
        assert "double#0" in failed.error.message


async def test_by_option_a_step_with_another_input_keeps_its_result_and_a_warning_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inputs = [1, 2]

    async def todo(ctx: Context) -> Any:
        return await ctx.step(double, inputs.pop(0))

    tolerant = worker(todo)
    tolerant.on_changed_input = "warn"
    async with spec(tolerant) as play:
        await play.when("worker", None)
        log = list(play.log)
    async with spec(tolerant) as play:
        with caplog.at_level(logging.WARNING, "callboard.actors"):
            await play.given_log(up_to(log, "step.completed"))
        play.then("task.resumed", event("task.completed", result=2), of="worker")
    assert "double#0 was recorded with another input" in caplog.text
    assert caplog.records[-1].getMessage().startswith("worker<")


async def test_a_step_whose_arguments_are_no_json_fails() -> None:
    with pytest.raises(TaskFailed, match=r"NotStorable: the step's input\.args\[0\] is of type object"):
        await result_of(lambda ctx: ctx.step(double, object()))


async def test_a_step_whose_result_is_no_json_is_a_failed_step() -> None:
    async def todo(ctx: Context) -> str:
        try:
            await ctx.step(object, name="make")
        except StepFailed as error:
            return error.type
        return "no error"

    assert await result_of(todo) == "ResultNotStored"


async def test_the_handler_may_go_on_after_a_text_that_is_no_utf8() -> None:
    async def todo(ctx: Context) -> list[str]:
        caught = []
        for call in (
            lambda: ctx.step(double, 1, name="\udc80"),
            lambda: ctx.progress(1, note="\udc80"),
            lambda: ctx.receive("feedback", note="\udc80"),
            lambda: ctx.artifact("it", "\udc80"),
            lambda: ctx.tell("worker/other", "\udc80"),
        ):
            try:
                await call()
            except ValueError as error:
                caught.append(type(error).__name__)
        await ctx.step(double, 1)
        return caught

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        assert await play.result(sent) == [
            "NotStorable",
            "NotStorable",
            "UnicodeEncodeError",
            "NotStorable",
            "NotStorable",
        ]
        play.then("task.started", "step.completed", event("task.completed", state="completed"))


async def test_an_answer_that_is_no_utf8_fails_the_task_that_gave_it() -> None:
    class Bad(Actor):
        async def handle(self, payload: Any, ctx: Context) -> str:
            return "\udc80"

    async def todo(ctx: Context) -> str:
        try:
            return str(await ctx.ask("bad", None))
        except TaskFailed as error:
            return error.type

    async with spec(worker(todo), Bad) as play:
        assert await play.result(await play.when("worker", None)) == "NotStorable"


# -- tools -----------------------------------------------------------------------------------------------------------


def search(query: str, limit: int = 3) -> list[str]:
    return [query] * limit


async def test_a_tool_is_in_the_log_before_it_runs() -> None:
    seen = []

    async with spec(worker(lambda ctx: ctx.tool(look, at="here"))) as play:

        def look(at: str) -> str:
            seen.extend(play.types("worker"))
            return at.upper()

        await play.when("worker", None)
        play.then(
            "task.started",
            event("tool.requested", tool="look", arguments={"at": "here"}, state="executing"),
            event("tool.completed", tool="look", result="HERE", state="thinking"),
            event("task.completed", result="HERE"),
        )
    assert seen == ["task.started", "tool.requested"]


async def test_a_tool_with_that_parameter_gets_its_idempotency_key() -> None:
    keys = []

    async def pay(amount: int, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return "paid"

    async with spec(worker(lambda ctx: ctx.tool(pay, amount=3))) as play:
        sent = await play.when("worker", None)
        assert keys == [f"{sent.task}:pay#0"]
        (requested,) = [body for body in play.bodies() if isinstance(body, e.ToolRequested)]
        assert requested.idempotency_key == keys[0]
        assert bytes(requested.arguments.inline) == b'{"amount":3}'


async def test_a_tool_that_was_lost_in_mid_call_is_called_again_with_the_same_key() -> None:
    keys = []

    async def pay(amount: int, idempotency_key: str) -> str:
        keys.append(idempotency_key)
        return "paid"

    async def todo(ctx: Context) -> Any:
        return await ctx.tool(pay, amount=3)

    log = await log_of(todo)
    async with spec(worker(todo)) as play:
        await play.given_log(up_to(log, "tool.requested"))
        play.then("task.resumed", "tool.completed", event("task.completed", result="paid"), of="worker")
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_a_tool_that_raised_is_not_called_again() -> None:
    calls = []

    def broken() -> None:
        calls.append(1)
        raise OSError("no network")

    async def todo(ctx: Context) -> str:
        try:
            await ctx.tool(broken)
        except StepFailed as error:
            return f"{error.type}: {error.message}"
        return ""

    log = await log_of(todo)
    async with spec(worker(todo)) as play:
        await play.given_log(up_to(log, "tool.failed"))
        play.then("task.resumed", event("task.completed", result="OSError: no network"), of="worker")
    assert calls == [1]


async def test_a_large_result_is_a_blob_and_comes_back_whole() -> None:
    calls = []

    def many(n: int) -> str:
        calls.append(n)
        return "x" * n

    async def todo(ctx: Context) -> int:
        return len(await ctx.step(many, 20_000)) + len(await ctx.tool(many, n=30_000))

    log = await log_of(todo)
    completed = [body for body in map(e_body, log) if isinstance(body, e.StepCompleted | e.ToolCompleted)]
    assert all(body.result.blob and body.result.inline is e.UNSET for body in completed)
    assert max(len(it.data) for it in log) < 1000
    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        await play.crash()
        assert b"50000" in play.log[-1].data


async def test_small_things_are_kept_and_told() -> None:
    async def todo(ctx: Context) -> None:
        await ctx.progress(1, 2, "half")
        await ctx.artifact("report", "# Tides", media_type="text/markdown", description="what was found")
        await ctx.artifact("raw", "x" * 20_000)

    async with spec(worker(todo)) as play:
        await play.when("worker", None)
        play.then(
            "task.started",
            event("task.progressed", done=1, total=2, note="half"),
            event("artifact.added", name="report", blob=None),
            event("artifact.added", name="raw", artifact=None),
            "task.completed",
        )
        report = next(b for b in play.bodies() if isinstance(b, e.ArtifactAdded)).artifact
        assert report is not None
        assert (report.parts[0].text, report.parts[0].media_type) == ("# Tides", "text/markdown")


async def test_a_branch_of_gather_leaves_no_trace_in_the_next_task() -> None:
    class Named(Actor):
        async def handle(self, payload: int, ctx: Context) -> None:
            await ctx.gather(ctx.step(double, payload), ctx.step(double, payload))
            await ctx.step(double, payload)

    async with spec(Named) as play:
        for number in range(3):
            await play.send("named/dave", number)
        await play.quiet()
        keys = [body.step for body in play.bodies() if isinstance(body, e.StepCompleted)]
        assert sorted(keys) == sorted(["gather#0[0]/double#0", "gather#0[1]/double#0", "double#0"] * 3)


async def test_gather_keeps_its_limit() -> None:
    at_once = [0, 0]  # now, and the most

    async def count(number: int) -> int:
        at_once[0] += 1
        at_once[1] = max(at_once)
        for _ in range(5):
            import asyncio

            await asyncio.sleep(0)
        at_once[0] -= 1
        return number

    async def todo(ctx: Context) -> list[int]:
        return await ctx.gather(*(ctx.step(count, number) for number in range(7)), limit=2)

    assert await result_of(todo) == list(range(7))
    assert at_once == [0, 2]


async def test_gather_of_nothing_is_nothing() -> None:
    assert await result_of(lambda ctx: ctx.gather()) == []


async def test_the_first_error_of_gather_is_raised_and_the_rest_not_begun() -> None:
    ran = []

    def once(number: int) -> int:
        ran.append(number)
        if number == 1:
            raise ValueError("one")
        return number

    async def todo(ctx: Context) -> str:
        try:
            await ctx.gather(*(ctx.step(once, number) for number in range(4)), limit=1)
        except StepFailed as error:
            return error.message
        return "no error"

    assert await result_of(todo) == "one"
    assert ran == [0, 1]


async def test_a_result_too_large_for_the_log_fails_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.eventstore.rules.MAX_EVENT_BYTES", 50_000)

    class Verbose(Actor):
        async def handle(self, payload: int, ctx: Context) -> str:
            return "x" * payload

    async def todo(ctx: Context) -> str:
        try:
            return str(await ctx.ask("verbose", 60_000))
        except TaskFailed as error:
            return error.type

    async with spec(worker(todo), Verbose) as play:
        with pytest.raises(TaskFailed, match="BadEvent"):
            await play.result(await play.when("verbose", 60_000))
        assert await play.result(await play.when("worker", None)) == "BadEvent"
        assert await play.result(await play.when("verbose", 3)) == "xxx"
