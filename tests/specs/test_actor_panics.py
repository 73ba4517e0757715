"""What is raised and is no Exception (a panic of native code, sys.exit, KeyboardInterrupt) fails its task alone."""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from callboard import Actor, Context, Retry
from callboard.protocols import events as e
from callboard.protocols.errors import StepFailed, TaskFailed
from callboard.testing import spec
from tests.actor_kit import Echo, worker


class PanicError(BaseException):
    """As PyO3's PanicException: it derives from BaseException."""


KINDS = [PanicError, KeyboardInterrupt, SystemExit, GeneratorExit, BaseException]
kinds = pytest.mark.parametrize("kind", KINDS)


def raiser(kind: type[BaseException]) -> Callable[[], NoReturn]:
    def parse() -> NoReturn:
        raise kind("index out of bounds")

    return parse


async def fails_alone(role: type[Actor], type_: str, *, beside: bool = True) -> str:
    """A task of the role fails with an error of this type, and another actor goes on; gives the types of its events."""
    async with asyncio.timeout(20), spec(role, Echo) as play:
        bad = await play.send("worker", None)
        good = await play.send("echo", 7) if beside else None
        await play.quiet()
        assert good is None or await play.result(good) == 7
        with pytest.raises(TaskFailed, match="index out of bounds") as failed:
            await play.result(bad)
        assert failed.value.type == type_
        return " ".join(it.type for it in play.log if it.meta.task == bad.task)


@kinds
async def test_in_a_handler(kind: type[BaseException]) -> None:
    async def todo(_: Context) -> None:
        raise kind("index out of bounds")

    await fails_alone(worker(todo), kind.__name__)


@kinds
async def test_in_a_handler_by_a_future_that_it_awaits(kind: type[BaseException]) -> None:
    async def todo(_: Context) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(kind("index out of bounds"))
        await future

    await fails_alone(worker(todo), kind.__name__)


@kinds
async def test_in_a_step_that_runs_in_a_thread(kind: type[BaseException]) -> None:
    async def todo(ctx: Context) -> None:
        await ctx.step(raiser(kind))

    types = await fails_alone(worker(todo), "StepFailed")
    assert types.endswith("step.failed task.failed")


@kinds
async def test_in_an_asynchronous_step_whose_failure_the_handler_bears(kind: type[BaseException]) -> None:
    async def parse() -> None:
        raise kind("index out of bounds")

    async def todo(ctx: Context) -> str:
        try:
            await ctx.step(parse)
        except StepFailed as error:
            await ctx.step(lambda: None, name="tidy up")
            return f"{error.type}: {error.message}"
        return "no error"

    async with spec(worker(todo)) as play:
        assert await play.result(await play.when("worker", None)) == f"{kind.__name__}: index out of bounds"


@kinds
@pytest.mark.parametrize("in_thread", [True, False])
async def test_in_a_tool(kind: type[BaseException], in_thread: bool) -> None:
    async def parse() -> None:
        raise kind("index out of bounds")

    async def todo(ctx: Context) -> None:
        await ctx.tool(raiser(kind) if in_thread else parse)

    types = await fails_alone(worker(todo), "StepFailed")
    assert types.endswith("tool.requested tool.failed task.failed")


@kinds
async def test_in_a_branch_of_gather(kind: type[BaseException]) -> None:
    async def branch() -> None:
        await asyncio.sleep(0)
        raise kind("index out of bounds")

    async def todo(ctx: Context) -> None:
        await ctx.gather(branch(), ctx.sleep(3600))

    await fails_alone(worker(todo), kind.__name__)


@kinds
async def test_in_choose_model_and_in_the_constructor(kind: type[BaseException]) -> None:
    async def todo(_: Context) -> None:
        """Not reached."""

    class Chooser(worker(todo)):  # type: ignore[misc]
        def choose_model(self, _: Any) -> str:
            raiser(kind)()

    class Maker(worker(todo)):  # type: ignore[misc]
        def __init__(self) -> None:
            raiser(kind)()

    for role in (Chooser, Maker):
        role.__name__ = "Worker"
        await fails_alone(role, kind.__name__)


@kinds
async def test_in_what_is_called_when_a_task_is_canceled(kind: type[BaseException]) -> None:
    ran: list[str] = []

    async def todo(ctx: Context) -> None:
        ctx.on_cancel(ran.append, "first", name="first")
        ctx.on_cancel(raiser(kind), name="second")
        await ctx.sleep(3600)

    async with asyncio.timeout(20), spec(worker(todo), Echo) as play:
        sent = await play.when("worker", None)
        await play.cancel(sent, "no need")
        await play.quiet()
        (failed,) = [body for body in play.bodies("worker") if isinstance(body, e.StepFailed)]
        assert (failed.error.type, failed.error.message) == (kind.__name__, "index out of bounds")
        assert ran == ["first"]
        assert play.log[-1].type == e.TaskCanceled.TYPE


@kinds
async def test_in_the_text_of_an_error(kind: type[BaseException]) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise kind

    async def todo(_: Context) -> None:
        raise OddError

    async with spec(worker(todo)) as play:
        with pytest.raises(TaskFailed, match=f"its message can't be made: {kind.__name__}"):
            await play.result(await play.when("worker", None))


async def test_a_panic_is_tried_again_where_the_role_says_so() -> None:
    tries: list[int] = []

    async def todo(ctx: Context) -> str:
        tries.append(1)
        if len(tries) < 2:
            await ctx.step(raiser(PanicError))
        return "well"

    role = worker(todo)
    role.retry = Retry(attempts=2, transient=("PanicError",))
    async with spec(role) as play:
        sent = await play.when("worker", None)
        await play.advance(60)
        assert await play.result(sent) == "well"


async def test_a_cancelled_error_stays_what_it_is() -> None:
    async def parse() -> None:
        raise asyncio.CancelledError

    async def todo(ctx: Context) -> None:
        await ctx.step(parse)

    async with spec(worker(todo)) as play:
        sent = await play.when("worker", None)
        with pytest.raises(TaskFailed, match="CancelledError"):
            await play.result(sent)
        assert not [body for body in play.bodies("worker") if isinstance(body, e.StepFailed)]
