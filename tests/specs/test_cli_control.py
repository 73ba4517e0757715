"""What the commands that change something take, and what they refuse: pure functions."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callboard.cli import dead
from callboard.cli.control import target, unknown_outcome
from callboard.cli.dead import Choice, redrive
from callboard.cli.health import LagReport, PartitionLag, ProcessLag, RoleLag, unserved
from callboard.cli.send import Order, check, deadline_of
from callboard.projections.tasks import OUTCOME, Task, Waiting
from callboard.protocols.errors import BadOption, NothingToResolve

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def task(*waits: Waiting, **fields: Any) -> Task:
    return Task("t1", "r1", "writer", "t1", 0, "assign", "run/r1@1.0", None, NOW, NOW, waiting=waits, **fields)


def outcome(step: str) -> Waiting:
    return Waiting(step, "decision", f"{OUTCOME}pay", NOW)


# -- resolve ---------------------------------------------------------------------------------------------------


def test_the_one_unknown_outcome_needs_no_step() -> None:
    other = Waiting("ok", "decision", "decision: may I?", NOW)
    assert unknown_outcome(task(other, outcome("pay#0")), None).step == "pay#0"


def test_of_several_unknown_outcomes_one_has_to_be_chosen() -> None:
    both = task(outcome("pay#0"), outcome("pay#1"))
    assert unknown_outcome(both, "pay#1").step == "pay#1"
    for step in (None, "pay#2"):
        with pytest.raises(BadOption, match="these steps have an unknown outcome: pay#0, pay#1"):
            unknown_outcome(both, step)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (task(), "it is at work"),
        (task(Waiting("ok", "decision", "decision: may I?", NOW)), "it waits for decision: may I?"),
        (task(ended_at=NOW, actor_state="completed"), "it has ended, completed"),
    ],
)
def test_where_there_is_nothing_to_resolve_it_says_what_the_task_does(given: Task, words: str) -> None:
    with pytest.raises(NothingToResolve) as error:
        unknown_outcome(given, None)
    assert words in str(error.value)


# -- cancel ----------------------------------------------------------------------------------------------------


def test_only_a_task_that_is_due_later_and_has_not_begun_is_ended_from_outside() -> None:
    due = {"run/r1@1.0"}
    assert target(task(), due).opening == "run/r1@1.0"
    assert target(task(), set()).opening is None
    assert target(task(started_at=NOW), due).opening is None
    assert target(task(), due).actor == "writer/t1"


# -- redrive ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "choice"), [([], Choice()), (["x"], Choice(all=True)), (["x"], Choice(role="w"))])
def test_letters_are_named_or_chosen_and_not_both(given: list[str], choice: Choice) -> None:
    with pytest.raises(BadOption, match="name dead letters, or choose them by"):
        redrive(given, choice, yes=True, by=None, as_json=True)


@pytest.mark.parametrize("as_json", [True, False])
def test_many_are_sent_again_only_when_somebody_says_yes(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(BadOption, match="it would send 3 dead letters again: say so with --yes"):
        dead._ask(3, yes=False, as_json=as_json)
    dead._ask(3, yes=True, as_json=as_json)
    dead._ask(0, yes=False, as_json=as_json)


# -- send ------------------------------------------------------------------------------------------------------


def test_a_deadline_is_a_number_of_seconds_or_a_time() -> None:
    assert deadline_of(None, NOW) is None
    assert deadline_of("90", NOW) == NOW + timedelta(seconds=90)
    assert deadline_of("2030-01-02T00:00:00Z", NOW) == NOW + timedelta(hours=12)
    for bad in ("soon", "1e999", "nan"):
        with pytest.raises(BadOption, match="--deadline"):
            deadline_of(bad, NOW)


@pytest.mark.parametrize("order", [{"delay_s": -1}, {"deadline": "-5"}, {"deadline": "2020-01-01T00:00:00Z"}])
def test_times_that_can_not_be_met_are_refused_before_anything_is_connected(order: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        check(Order(to="writer", payload=None, **order))


# -- lag -------------------------------------------------------------------------------------------------------


def role(name: str, *, owner: str | None, processes: int, oldest_s: float | None = None, backlog: int = 0) -> RoleLag:
    lease_s = None if owner is None else 2.0
    partitions = tuple(
        PartitionLag(partition=number, epoch=1, owner=owner, lease_s=lease_s, backlog=backlog, open=0)
        for number in range(2)
    )
    live = tuple(ProcessLag(process=f"p{number}", idle_s=0.1) for number in range(processes))
    return RoleLag(role=name, generation=1, oldest_s=oldest_s, processes=live, partitions=partitions)


def report(*roles: RoleLag, runner: str | None = "p") -> LagReport:
    return LagReport(head=1, runner=runner, projections=(), roles=roles)


def test_a_role_that_was_dropped_and_has_nothing_to_do_need_not_be_served() -> None:
    dropped = role("hermit", owner=None, processes=0)
    assert unserved(report(dropped), []) == []
    assert unserved(report(dropped), ["hermit"]) == ["hermit (partitions 0-1)"]  # it was asked for


@pytest.mark.parametrize("still", [{"oldest_s": 3.0}, {"backlog": 1}, {"processes": 1}])
def test_a_role_with_messages_or_processes_has_to_be_served(still: dict[str, Any]) -> None:
    found = role("hermit", owner=None, **{"processes": 0, **still})
    assert unserved(report(found), []) == ["hermit (partitions 0-1)"]


def test_roles_that_were_never_served_and_projections_that_nobody_folds_are_named() -> None:
    served = role("writer", owner="p0", processes=1)
    assert unserved(report(served), ["writer", "poet"]) == ["poet"]
    assert unserved(report(served, runner=None), []) == ["the projections"]
