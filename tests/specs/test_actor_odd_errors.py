"""Whatever a handler raises ends its task, and nothing else: also exceptions that are made to be in the way."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import Context, Retry
from callboard.protocols import events as e
from callboard.protocols.causes import MAX_CAUSES, causes, leaves, name_of
from callboard.protocols.errors import StepFailed
from callboard.protocols.messages import MAX_ERROR_CHARACTERS, encode_json, error_info
from callboard.testing import spec
from tests.actor_kit import Echo, bodies, worker


class UnhashableStep(ConnectionError):
    step = ["a", "list"]  # noqa: RUF012 - as somebody may write it


class RaisingStep(ConnectionError):
    @property
    def step(self) -> str:
        raise RuntimeError("no step")


class NoText(ConnectionError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class LeavesText(ConnectionError):
    def __str__(self) -> str:
        raise SystemExit(3)


class NumberAsText(ConnectionError):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - as somebody may write it


class Masked(ConnectionError):
    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise RuntimeError("no class")


class Disguised(ConnectionError):
    __class__ = dict  # type: ignore[assignment]


class NoCause(ConnectionError):
    @property
    def __cause__(self) -> Any:
        raise RuntimeError("no cause")


class OddMeta(type):
    @property
    def __name__(cls) -> Any:  # type: ignore[override]
        return 7


class OddName(ConnectionError, metaclass=OddMeta):
    pass


def its_own_cause() -> BaseException:
    error = ConnectionError("down")
    error.__cause__ = error
    return error


def causes_in_a_circle() -> BaseException:
    one, other = ConnectionError("one"), ConnectionError("other")
    one.__context__, other.__context__ = other, one
    return one


def many_causes() -> BaseException:
    error = ConnectionError("0")
    for number in range(3000):
        further = ConnectionError(str(number))
        further.__cause__ = error
        error = further
    return error


def nested_groups() -> BaseException:
    error: Exception = ConnectionError("down")
    for _ in range(300):
        error = ExceptionGroup("group", [error])
    return error


def group_of_itself() -> BaseException:
    group = ExceptionGroup("group", [ConnectionError("down")])
    group.exceptions[0].__cause__ = group
    return group


ODD: list[Callable[[], BaseException]] = [
    UnhashableStep,
    RaisingStep,
    NoText,
    LeavesText,
    NumberAsText,
    Masked,
    Disguised,
    NoCause,
    OddName,
    its_own_cause,
    causes_in_a_circle,
    many_causes,
    nested_groups,
    group_of_itself,
    lambda: ConnectionError("\ud800 half a character"),
    lambda: ConnectionError("x" * 10_000_000),
    lambda: ConnectionError("a\0b"),
    lambda: StepFailed(["a", "list"], {"no": "name"}, 7, [[]]),  # type: ignore[arg-type]
    lambda: SystemExit(1),
]


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("in_a_step", [False, True])
async def test_any_error_ends_its_task_and_no_other(
    make: Callable[[], BaseException], attempts: int, in_a_step: bool
) -> None:
    async def fail() -> None:
        raise make()

    async def todo(ctx: Context) -> None:
        await (ctx.step(fail) if in_a_step else fail())

    async with asyncio.timeout(20), spec(worker(todo, retry=Retry(attempts=attempts)), Echo) as play:
        await play.when("worker", None)
        await play.advance(120)
        [failed] = bodies(play.log, e.TaskFailed)
        assert failed.error.type == name_of(StepFailed if in_a_step else type(make()))
        assert await play.result(await play.when("echo", "still here")) == "still here"


async def test_a_fault_in_what_records_an_error_ends_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError("broken")

    monkeypatch.setattr("callboard.actors.task.work.error_info", broken)

    async def todo(ctx: Context) -> None:
        raise ValueError("no")

    async with spec(worker(todo), Echo) as play:
        await play.when("worker", None)
        [failed] = bodies(play.log, e.TaskFailed)
        assert failed.error.type == "LookupError"
        assert await play.result(await play.when("echo", "still here")) == "still here"


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_can_be_stored(text: str) -> None:
    assert encode_json(error_info(ValueError(text)))


def test_a_long_message_is_cut() -> None:
    assert len(error_info(ValueError("x" * 1_000_000)).message) == MAX_ERROR_CHARACTERS


def test_each_cause_is_told_once() -> None:
    assert len(list(causes(causes_in_a_circle()))) == 2
    assert len(list(causes(many_causes()))) == MAX_CAUSES
    assert [str(each) for each in leaves(nested_groups())] == ["down"]


# -- groups ------------------------------------------------------------------------------------------------------------


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", errors)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (group(ConnectionError("down")), True),
        (group(ConnectionError("down"), TimeoutError("late")), True),
        (group(group(ConnectionError("down"))), True),
        (group(StepFailed("fetch#0", "ConnectionError", "down")), True),
        (BaseExceptionGroup("several", [ConnectionError("down"), asyncio.CancelledError()]), True),
        (group(ValueError("no")), False),
        (group(ConnectionError("down"), ValueError("no")), False),
        (BaseExceptionGroup("several", [asyncio.CancelledError()]), False),
    ],
)
def test_a_group_is_transient_if_all_that_it_holds_is(error: BaseException, transient: bool) -> None:
    assert Retry(attempts=2).covers(error) is transient


def test_a_group_names_what_it_holds() -> None:
    info = error_info(group(ConnectionError("down"), group(ConnectionRefusedError("closed"))))
    assert info.message == "several (2 sub-exceptions): ConnectionError: down; ConnectionRefusedError: closed"
    assert {"ConnectionError", "OSError"} <= set(info.bases)
    assert error_info(group(*[ValueError(str(n)) for n in range(20)])).message.endswith("; ValueError: 9; ...")


async def test_steps_that_fail_in_a_task_group_are_tried_again() -> None:
    tries = []

    async def todo(ctx: Context) -> str:
        async def fetch() -> str:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError("down")
            return "up"

        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(ctx.step(fetch))
        return str(fetching.result())

    async with spec(worker(todo, retry=Retry(attempts=4))) as play:
        sent = await play.when("worker", None)
        await play.advance(300)
        assert await play.result(sent) == "up"
    assert len(tries) == 3
