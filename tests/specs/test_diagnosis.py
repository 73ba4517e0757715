"""What the doctor makes of a snapshot, without any server."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from callboard.diagnosis import STALLED_S, Finding, Folding, Snapshot, diagnose
from callboard.projections.dead_letters import DeadLetter
from callboard.projections.mailbox import Backlog
from callboard.projections.tasks import OUTCOME, Task, Waiting
from callboard.protocols.ledger import Account, Budget, Charge, Party
from callboard.protocols.money import Money
from callboard.protocols.ports import Member, PartitionState

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
BEFORE = NOW - timedelta(minutes=10)


def task(name: str, role: str = "writer", *waits: Waiting, begun: bool = True, **fields: Any) -> Task:
    """A live task of run r1: it runs or, with waits, is blocked; or its turn has not come yet."""
    fields.setdefault("actor_state", "blocked" if waits else "thinking" if begun else "idle")
    key = fields.pop("key", name)
    given = {"started_at": BEFORE if begun else None, "waiting": waits, **fields}
    return Task(name, "r1", role, key, 0, "assign", f"run/r1@{name}", None, BEFORE, NOW, **given)


def question(to: str) -> Waiting:
    return Waiting(f"ask-{to}", "question", f"reviewer/{to}", BEFORE, to)


def feedback() -> Waiting:
    return Waiting("wait#0", "feedback", "feedback: a person's opinion", BEFORE)


def outcome(step: str = "pay#0") -> Waiting:
    return Waiting(step, "decision", f"{OUTCOME}pay", BEFORE)


def member(role: str = "writer", *, idle_s: float = 0.1, expires_in_s: float = 3.0) -> Member:
    return Member(role, f"{role}@here-1-aaaaaa", expires_in_s, idle_s)


def owned(role: str, *partitions: int, expires_in_s: float | None = 3.0) -> list[PartitionState]:
    owner = None if expires_in_s is None else f"{role}@here-1-aaaaaa"
    return [PartitionState(role, partition, 1, owner, expires_in_s) for partition in partitions]


def letter(**fields: Any) -> DeadLetter:
    given = {"id": "run/r1@1.0", "address": "writer/t1@5", "run": "r1", "task": "t1", **fields}
    return DeadLetter(
        position=9, role="writer", key="t1", reason="it kills its process", attempts=5, died_at=BEFORE, **given
    )


SERVED = (member("writer"), member("reviewer"))


def found(**snapshot: Any) -> list[Finding]:
    return diagnose(Snapshot(now=NOW, **{"members": SERVED, **snapshot}))


def only(**snapshot: Any) -> Finding:
    (finding,) = found(**snapshot)
    return finding


# -- nothing to tell -------------------------------------------------------------------------------------------


def test_an_empty_system_is_well() -> None:
    assert diagnose(Snapshot(now=NOW)) == []


def test_tasks_that_run_or_wait_for_tasks_that_run_are_well() -> None:
    tasks = [task("t1", "writer", question("t2")), task("t2", "reviewer"), task("t3", "reviewer", begun=False)]
    assert found(tasks=tasks, backlogs={"reviewer": {0: Backlog(1, NOW)}}, partitions=owned("reviewer", 0)) == []


def test_a_task_that_sleeps_goes_on_by_itself() -> None:
    assert found(tasks=[task("t1", "writer", Waiting("nap", "timer", "timer until ...", BEFORE, until=NOW))]) == []


def test_a_task_whose_question_was_answered_goes_on_by_itself() -> None:
    assert found(tasks=[task("t1", "writer", question("gone"))]) == []


def test_a_role_with_nothing_to_do_need_not_be_served() -> None:
    assert diagnose(Snapshot(now=NOW, backlogs={"writer": {}})) == []
    waits = task("t1", "writer", Waiting("nap", "timer", "timer until ...", BEFORE, until=NOW))
    assert diagnose(Snapshot(now=NOW, tasks=[waits])) == []


# -- people ----------------------------------------------------------------------------------------------------


def test_a_task_that_waits_for_somebody_says_for_what_since_when_and_how_to_answer() -> None:
    finding = only(tasks=[task("t1", "writer", feedback(), actor_state="waiting_input")])
    assert finding == Finding(
        check="waits-for-somebody",
        stuck=True,
        what="writer t1: it waits for feedback: a person's opinion",
        help="callboard send writer/t1 ANSWER --task t1 --kind feedback",
        since=BEFORE,
        runs=("r1",),
        task="t1",
    )


def test_an_unknown_outcome_names_the_tool_and_both_answers() -> None:
    finding = only(tasks=[task("t1", "writer", outcome(), actor_state="waiting_review")])
    assert finding.check == "unknown-outcome"
    assert "tool pay" in finding.what
    assert finding.help == "callboard resolve t1 --happened RESULT, or callboard resolve t1 --run"


def test_of_several_unknown_outcomes_each_names_its_step() -> None:
    first, second = found(tasks=[task("t1", "writer", outcome("pay#0"), outcome("pay#1"))])
    assert ("--step 'pay#0'" in first.help, "--step 'pay#1'" in second.help) == (True, True)


def test_a_retry_is_told_and_goes_on_by_itself() -> None:
    wait = Waiting("retry#0", "timer", "retry after TimeoutError", BEFORE, until=NOW)
    finding = only(tasks=[task("t1", "writer", wait)])
    assert (finding.check, finding.stuck) == ("retry", False)
    assert "it tries again at 2030-01-01T12:00:00+00:00: retry after TimeoutError" in finding.what


# -- processes -------------------------------------------------------------------------------------------------


def test_a_role_without_a_live_process_is_named_with_what_waits_for_it() -> None:
    tasks = [task("t1", "writer"), task("t2", "writer", begun=False)]
    backlogs = {"writer": {1: Backlog(2, BEFORE), 3: Backlog(1, NOW)}, "reviewer": {}}
    finding = only(tasks=tasks, backlogs=backlogs, members=[member("reviewer"), member("writer", expires_in_s=-1)])
    assert finding.what == "no live process serves writer: 3 messages open, 1 task at work"
    assert (finding.help, finding.runs, finding.since) == ("callboard actor writer --app APP", ("r1",), BEFORE)


def test_messages_alone_are_enough_to_miss_a_process() -> None:
    finding = only(backlogs={"writer": {1: Backlog(1, NOW)}}, members=())
    assert (finding.check, finding.stuck, finding.since) == ("unserved", True, NOW)


@pytest.mark.parametrize("expires_in_s", [None, -2.0])
def test_a_partition_that_nobody_owns_is_named_when_messages_have_waited_on_it(expires_in_s: float | None) -> None:
    partitions = owned("writer", 0) + owned("writer", 1, expires_in_s=expires_in_s)
    backlogs = {"writer": {0: Backlog(9, NOW), 1: Backlog(4, BEFORE)}}
    finding = only(backlogs=backlogs, partitions=partitions)
    assert finding.what == "nobody owns partition 1 of writer, where 4 messages wait"
    assert found(backlogs={"writer": {1: Backlog(4, NOW)}}, partitions=partitions) == []  # a takeover takes a moment


def test_a_process_is_judged_by_its_progress_and_not_by_its_lease() -> None:
    stalled = {
        "members": [member(idle_s=STALLED_S + 30)],
        "partitions": owned("writer", 0, 1),
        "backlogs": {"writer": {0: Backlog(4, BEFORE), 2: Backlog(9, NOW)}},
    }
    finding = only(**stalled)
    assert finding.check == "no-progress"
    assert (
        "writer@here-1-aaaaaa renews its lease on writer and gets nothing done, while 4 messages wait" in finding.what
    )
    assert finding.since == NOW - timedelta(seconds=STALLED_S + 30)


@pytest.mark.parametrize(
    "changed",
    [
        {"members": [member(idle_s=STALLED_S / 2)]},
        {"backlogs": {"writer": {0: Backlog(4, NOW)}}},  # they have only just come
        {"backlogs": {}},
    ],
)
def test_a_process_that_has_nothing_to_do_or_gets_on_is_well(changed: dict[str, Any]) -> None:
    stalled = {
        "members": [member(idle_s=STALLED_S + 30)],
        "partitions": owned("writer", 0),
        "backlogs": {"writer": {0: Backlog(4, BEFORE)}},
    }
    assert found(**stalled | changed) == []


# -- dead letters ----------------------------------------------------------------------------------------------


def test_a_dead_letter_names_its_task_and_run_and_how_to_send_it_again() -> None:
    finding = only(letters=[letter()])
    assert finding.what == "dead letter run/r1@1.0 ended task t1 of run r1: it kills its process"
    assert (finding.help, finding.stuck, finding.since) == ("callboard redrive run/r1@1.0", True, BEFORE)


def test_bytes_that_are_no_message_keep_nothing_from_going_on() -> None:
    finding = only(letters=[letter(id="dead/writer@1", address="dead/writer@1", run=None, task=None)])
    assert (finding.stuck, finding.help) == (False, "callboard dead show dead/writer@1")
    assert finding.what == "dead letter dead/writer@1 is no message for writer: it kills its process"


# -- chains ----------------------------------------------------------------------------------------------------


def blocked(**snapshot: Any) -> list[Finding]:
    return [finding for finding in found(**snapshot) if finding.check == "blocked"]


def test_a_task_that_waits_for_a_stuck_one_names_the_cause() -> None:
    tasks = [
        task("t1", "writer", question("t2")),
        task("t2", "reviewer", question("t3")),
        task("t3", "reviewer", feedback(), actor_state="waiting_input"),
    ]
    (finding,) = blocked(tasks=tasks)  # one for the chain, not one for each link
    assert finding.what == (
        "writer t1 waits for reviewer t2, which waits for reviewer t3: it waits for feedback: a person's opinion"
    )
    assert (finding.task, finding.runs) == ("t1", ("r1",))
    assert finding.help == "callboard send reviewer/t3 ANSWER --task t3 --kind feedback"


def test_a_chain_ends_at_a_role_that_nobody_serves() -> None:
    tasks = [task("t1", "writer", question("t2")), task("t2", "reviewer", begun=False)]
    (finding,) = blocked(tasks=tasks, members=[member("writer")])
    assert finding.what == "writer t1 waits for reviewer t2: no live process serves reviewer"


def test_a_chain_follows_a_task_that_was_handed_over() -> None:
    tasks = [
        task("t1", "writer", question("t2")),
        task("t2", "reviewer", ended_at=NOW, handed_to="t3", actor_state="completed"),
        task("t3", "reviewer", feedback(), actor_state="waiting_input"),
    ]
    (finding,) = blocked(tasks=tasks)
    assert finding.what.startswith("writer t1 waits for reviewer t3: ")


def test_a_task_behind_a_stuck_one_of_the_same_actor_is_blocked() -> None:
    tasks = [
        task("t1", "writer", feedback(), key="dave", actor_state="waiting_input"),
        replace(task("t2", "writer", begun=False, key="dave"), run="r2"),
    ]
    (finding,) = blocked(tasks=tasks)
    assert finding.what.startswith("writer/dave (task t2) waits for writer/dave (task t1): it waits for feedback")
    assert finding.runs == ("r2", "r1")


def test_a_task_with_a_branch_that_goes_on_blocks_nobody() -> None:
    tasks = [task("t1", "writer", question("t2")), task("t2", "reviewer", feedback(), actor_state="thinking")]
    assert blocked(tasks=tasks) == []


def test_one_of_several_questions_is_enough_to_be_blocked() -> None:
    tasks = [
        task("t1", "writer", question("t2"), question("t3")),
        task("t2", "reviewer"),
        task("t3", "reviewer", outcome(), actor_state="waiting_review"),
    ]
    (finding,) = blocked(tasks=tasks)
    assert finding.help.startswith("callboard resolve t3")


def test_a_circle_is_no_finding_as_the_runtime_ends_it() -> None:
    tasks = [task("t1", "writer", question("t2")), task("t2", "writer", question("t1"))]
    assert found(tasks=tasks) == []


# -- servers ---------------------------------------------------------------------------------------------------


def test_projections_that_stand_still_are_named_with_who_holds_the_lease() -> None:
    finding = only(folding=Folding(behind=7, seconds=12.3, moves=False, holder="writer@here-1-a"))
    assert (
        finding.what
        == "the projections stand still behind the log, 7 events and 12 s behind; writer@here-1-a holds the lease"
    )
    assert (finding.stuck, finding.help) == (True, "restart writer@here-1-a")
    assert only(folding=Folding(behind=1, moves=False)).help == "callboard projections"


def test_projections_that_catch_up_only_take_their_time() -> None:
    finding = only(folding=Folding(behind=7000, seconds=12.3, moves=True, holder="p"))
    assert (finding.stuck, "catch up with the log" in finding.what) == (False, True)


def test_an_event_that_cannot_be_folded_stops_the_projections() -> None:
    finding = only(folding=Folding(behind=1, moves=True, error="Event a/b@1 is 'x.y'."))
    assert (finding.stuck, "have stopped: Event a/b@1 is 'x.y'." in finding.what) == (True, True)


def test_without_redis_everything_goes_on() -> None:
    finding = only(redis="Redis is full, and takes no more messages.")
    assert (finding.check, finding.stuck) == ("redis", False)


def test_what_is_stuck_is_told_first() -> None:
    findings = found(redis="Redis is full.", letters=[letter()])
    assert [finding.check for finding in findings] == ["dead-letter", "redis"]


# -- budgets ---------------------------------------------------------------------------------------------------


def account(left: str, *, scope: Any = "tenant", target: str = "acme", period: Any = "day", lost: str = "0") -> Account:
    window = {"day": "2030-01-01", "run": "run:r1", "ever": "ever"}[period]
    spent = Decimal(10) - Decimal(left) - Decimal(lost)
    budget = Budget(scope, "*", period, "USD")
    return Account(budget, target, window, Decimal(10), "wait", spent=spent, lost=Decimal(lost))


def room(window: str) -> Waiting:
    on = f"The budget of tenant acme ({window}) has 0 left of 10 USD, and the call may cost 0.5."
    return Waiting("model#1/budget#0", "timer", on, BEFORE, until=NOW)


@pytest.mark.parametrize(
    ("window", "stuck"), [("2030-01-01", False), ("2030-01", False), ("run:r1", True), ("ever", True)]
)
def test_a_task_that_waits_for_a_budget_is_named_with_it(window: str, *, stuck: bool) -> None:
    finding = only(tasks=[task("t1", "writer", room(window))])
    assert (finding.check, finding.stuck, finding.task) == ("budget", stuck, "t1")
    assert f"the budget of tenant acme ({window})" in finding.what.lower()
    assert finding.help.startswith("callboard budgets topup")


def test_a_budget_that_is_used_up_is_named_and_how_to_give_more() -> None:
    finding = only(accounts=[account("-0.5", lost="2"), account("0.01", target="other")])
    assert (finding.check, finding.stuck) == ("budget", False)
    assert "tenant acme (2030-01-01) is used up: 10.5 of 10 USD, 2 of that by calls of which nobody" in finding.what
    assert finding.help == "callboard budgets topup tenant acme AMOUNT --per day"


@pytest.mark.parametrize(("scope", "run"), [("run", ""), ("tenant", " --run r1")])
def test_more_for_a_window_of_one_run_names_the_run(scope: str, run: str) -> None:
    assert only(accounts=[account("0", scope=scope, period="run")]).help.endswith(f"--per run{run}")


def test_calls_of_which_nobody_knows_what_they_cost_are_counted() -> None:
    party = Party("r1", "writer", "writer/a")
    held = Charge("t1/model#1@1", party, Money(Decimal(1), "USD"), "held", BEFORE)
    lost = replace(held, attempt="t2/model#1@1", state="lost")
    finding = only(charges=[lost, held])
    assert (finding.check, finding.stuck, finding.runs, finding.since) == ("lost-calls", False, ("r1",), BEFORE)
    assert finding.what.startswith("1 model call with an unknown outcome")
