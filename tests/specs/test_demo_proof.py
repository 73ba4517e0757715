"""What the log tells of a kill: the demo's proof and its timeline."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callboard.demo import timeline
from callboard.demo.proof import prove
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Body, Event, Meta, Stored, Usage
from callboard.protocols.messages import ErrorInfo

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ERROR = ErrorInfo("ConnectionError", "gone")


def log(*facts: tuple[str, Body] | tuple[str, Body, float]) -> list[Event]:
    """A log of (task, body), a second apart, or of (task, body, second)."""
    return [_event(number, *fact) for number, fact in enumerate(facts, 1)]


def _event(position: int, task: str, body: Body, second: float | None = None) -> Event:
    new = new_event(body, Meta(run="r", task=task, role="inspector"))
    return Event(
        position=position,
        stream=f"inspector/{task}",
        version=position,
        type=new.type,
        schema_version=new.schema_version,
        recorded_at=BEGIN + timedelta(seconds=position - 1 if second is None else second),
        data=new.data,
        meta=new.meta,
    )


def started(process: str = "inspector-1@here-11-aaaaaa") -> Body:
    return e.TaskStarted(process=process)


def resumed(process: str = "inspector-2@here-22-bbbbbb", attempt: int = 2) -> Body:
    return e.TaskResumed(process=process, epoch=2, attempt=attempt, reason="takeover")


def requested(step: str) -> Body:
    return e.ToolRequested(step=step, fingerprint="", tool=step, arguments=Stored(), idempotency_key="")


def completed(step: str) -> Body:
    return e.ToolCompleted(step=step, tool=step, result=Stored(), duration_ms=1)


def asked(attempt: int) -> Body:
    return e.ModelRequested(step="model#0", fingerprint="", attempt=attempt, model="m", messages=())


def answered(attempt: int) -> Body:
    fields: dict[str, Any] = {
        "message": Stored(),
        "usage": Usage(),
        "cost": None,
        "finish_reason": "",
        "duration_ms": 1,
    }
    return e.ModelCompleted(step="model#0", attempt=attempt, model="m", **fields)


def unanswered(attempt: int) -> Body:
    return e.ModelFailed(step="model#0", attempt=attempt, model="m", error=ERROR, duration_ms=1)


done = e.TaskCompleted()
tool = [requested("measure"), completed("measure")]


def of(task: str, *bodies: Body) -> list[tuple[str, Body]]:
    return [(task, body) for body in bodies]


def test_a_run_without_a_kill_has_each_outcome_once() -> None:
    proof = prove(log(*of("a", started(), *tool, e.StepCompleted(step="s", fingerprint="", result=Stored()), done)))
    assert proof.holds
    assert (proof.events, proof.tasks, proof.outcomes, proof.resumed) == (5, 1, 2, ())


def test_a_resumed_tasks_steps_are_told_apart() -> None:
    first, rest = [started(), *tool, requested("ruff")], [resumed(), completed("ruff"), asked(1), answered(1), done]
    proof = prove(log(*of("a", *first, *rest)))
    [task] = proof.resumed
    assert (task.kept, task.in_flight, task.after) == (["measure"], ["ruff"], ["model#0"])
    assert (task.before, task.process) == ("inspector-1@here-11-aaaaaa", "inspector-2@here-22-bbbbbb")
    assert proof.holds


def test_a_step_with_two_outcomes_is_found() -> None:
    proof = prove(log(*of("a", started(), *tool, resumed(), completed("measure"), done)))
    assert proof.repeated == ("a measure",)
    assert not proof.holds


def test_the_same_step_of_two_tasks_is_no_repetition() -> None:
    assert prove(log(*of("a", started(), *tool, done), *of("b", started(), *tool, done))).holds


@pytest.mark.parametrize("bodies", [[started()], [started(), *tool], [started(), *tool, resumed()]])
def test_a_task_without_an_end_is_found(bodies: Sequence[Body]) -> None:
    proof = prove(log(*of("a", *bodies)))
    assert proof.unended == ("a",)
    assert not proof.holds


def test_a_step_without_an_outcome_in_a_completed_task_is_found() -> None:
    assert prove(log(*of("a", started(), requested("ruff"), done))).unended == ("a ruff",)


def test_a_failed_or_canceled_task_may_leave_steps_open() -> None:
    for end in (e.TaskFailed(error=ERROR), e.TaskCanceled(reason="enough")):
        assert prove(log(*of("a", started(), requested("ruff"), end))).holds


def test_attempts_of_one_model_call_are_no_repetition() -> None:
    assert prove(log(*of("a", started(), asked(1), unanswered(1), asked(2), answered(2), done))).holds


def test_an_attempt_that_was_lost_is_superseded_by_the_next() -> None:
    proof = prove(log(*of("a", started(), asked(1), resumed(), asked(2), answered(2), done)))
    assert proof.holds
    assert proof.resumed[0].in_flight == ["model#0"]


def test_two_answers_of_one_model_call_are_found() -> None:
    assert prove(log(*of("a", started(), asked(1), answered(1), asked(2), answered(2), done))).repeated


def test_a_task_that_is_resumed_twice_is_told_twice() -> None:
    first, second = [started(), *tool, requested("ruff")], [resumed(), completed("ruff"), requested("third")]
    proof = prove(log(*of("a", *first, *second, resumed(attempt=3), completed("third"), done)))
    assert [(each.kept, each.in_flight) for each in proof.resumed] == [
        (["measure"], ["ruff"]),
        (["measure", "ruff"], ["third"]),
    ]


# -- the timeline ----------------------------------------------------------------------------------------------


def test_a_task_that_was_taken_away_ended_with_its_process_s_last_event() -> None:
    facts = [("a", started(), 0.0), ("b", started(), 1.0), ("b", done, 2.0), ("a", resumed(), 5.0), ("a", done, 8.0)]
    first, second = timeline.lanes(log(*facts))
    assert sorted(first.spans) == [(0.0, 2.0), (1.0, 2.0)]
    assert second.spans == [(5.0, 8.0)]


def test_a_bar_is_as_high_as_the_number_of_tasks_at_work() -> None:
    facts = [("a", started(), 0.0), ("b", started(), 4.0), ("b", done, 5.9), ("a", done, 9.9), ("c", started("p"), 0.0)]
    both, other = timeline.bars(timeline.lanes(log(*facts)), 10)
    assert both == "▄▄▄▄██▄▄▄▄"
    assert other == "▄         "


def test_a_run_without_events_has_no_bars() -> None:
    assert timeline.bars(timeline.lanes([]), 10) == []
