"""What a role may declare about retries and time."""

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import Context, Retry, TimeLimits
from callboard.actors.roles.definition import Actor, Definition
from callboard.protocols.errors import BadDefinition, BadOption, ModelFailed, StepFailed, TaskFailed


@given(
    tries=st.integers(1, 10_000),
    first_s=st.floats(0, 1e6),
    factor=st.floats(1, 100),
    longest_s=st.floats(0, 1e6),
)
def test_a_wait_is_between_nothing_and_the_backoff(tries: int, first_s: float, factor: float, longest_s: float) -> None:
    retry = Retry(attempts=5, first_s=first_s, factor=factor, longest_s=longest_s)
    backoff = min(longest_s, first_s * factor ** min(tries - 1, 64))
    assert timedelta(0) <= retry.wait(tries) <= timedelta(seconds=backoff) + timedelta(microseconds=1)


def test_the_wait_grows_and_is_spread_over_all_of_its_range() -> None:
    retry = Retry(attempts=9, first_s=1, factor=2, longest_s=60)
    for tries, longest_s in ((1, 1), (2, 2), (4, 8), (20, 60)):
        waits = sorted(retry.wait(tries).total_seconds() for _ in range(400))
        assert waits[0] < 0.1 * longest_s
        assert 0.9 * longest_s < waits[-1] <= longest_s


class Flaky(Exception):
    """An error of a user's own."""


@pytest.mark.parametrize(
    ("error", "transient", "covered"),
    [
        (ConnectionResetError(), (ConnectionError,), True),
        (TimeoutError(), (ConnectionError,), False),
        (Flaky(), (Flaky,), True),
        (Flaky(), ("Flaky",), True),
        (ValueError(), (Exception,), True),
        (ValueError(), (), False),
        (StepFailed("s#0", "ConnectionResetError", "", ("ConnectionError", "OSError")), (ConnectionError,), True),
        (StepFailed("s#0", "ValueError", ""), (ConnectionError,), False),
        (StepFailed("s#0", "ValueError", ""), (StepFailed,), True),
        (TaskFailed("t", "a/b", "Flaky", ""), (Flaky,), True),
        (ModelFailed("m", "RateLimitError", ""), Retry().transient, True),
    ],
)
def test_an_error_is_transient_by_its_class_or_by_that_of_what_failed(
    error: Exception, transient: Any, covered: bool
) -> None:
    assert Retry(attempts=2, transient=transient).covers(error) is covered


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attempts", 0),
        ("attempts", True),
        ("first_s", -1),
        ("first_s", math.nan),
        ("factor", 0.5),
        ("longest_s", -0.1),
        ("transient", (5,)),
        ("transient", (int,)),
    ],
)
def test_a_retry_out_of_range_is_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises(BadOption, match=f"Retry.{field} "):
        Retry(**{field: value})


@pytest.mark.parametrize("field", TimeLimits.__struct_fields__)
@pytest.mark.parametrize("value", [0, -1, math.nan, "1"])
def test_a_time_limit_out_of_range_is_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises(BadOption, match=f"TimeLimits.{field} "):
        TimeLimits(**{field: value})


@pytest.mark.parametrize(
    ("name", "value"), [("retry", 3), ("limits", {"task_s": 5}), ("max_at_work", 0), ("max_at_work", 1.5)]
)
def test_a_role_that_declares_something_else_is_refused(name: str, value: Any) -> None:
    async def handle(self: Any, payload: Any, ctx: Context) -> None: ...

    with pytest.raises(BadDefinition, match=name):
        Definition(type("Odd", (Actor,), {"handle": handle, name: value}))


def test_a_question_may_wait_for_people_as_long_as_it_takes() -> None:
    assert TimeLimits().blocked_s is None
