"""What each read model makes of a page, without a database."""

from datetime import timedelta
from decimal import Decimal, Inexact

import pytest

from callboard.projections import agents, audit, dead_letters, mailbox, runs, tasks, timers
from callboard.projections.base import MAX_TEXT, clean, fact_of
from callboard.protocols import events as e
from callboard.protocols.codec import sent_messages
from callboard.protocols.errors import UnknownEventType
from callboard.protocols.events import Event, Meta
from callboard.protocols.messages import ErrorInfo, Message
from callboard.protocols.money import add_amount
from callboard.protocols.names import key_hash
from tests.projection_kit import BEGINNING, VALUE, Log, model_completed, model_failed, opening

DUE = BEGINNING + timedelta(hours=1)


@pytest.fixture
def log() -> Log:
    return Log()


def task_rows(log: Log) -> dict[str, tasks.TaskRow]:
    return {row.task: row for row in tasks.fold(log.facts, {})}


def run_row(log: Log) -> runs.RunRow:
    (row,) = runs.fold(log.facts, {})
    return row


def timer_of(task: str, stream: str) -> Message:
    return Message(kind="timer", to=stream, sender=stream, run="r1", task=task, step="nap", due_at=DUE)


# -- what projections share --------------------------------------------------------------------------------


def test_an_event_of_an_unknown_type_is_refused_by_name() -> None:
    event = Event(
        position=1,
        stream="writer/a",
        version=9,
        type="task.dreamt",
        schema_version=1,
        recorded_at=BEGINNING,
        data=b"{}",
        meta=Meta(run="r1"),
    )
    with pytest.raises(UnknownEventType, match="writer/a@9"):
        fact_of(event)


def test_a_text_from_outside_loses_what_postgres_refuses() -> None:
    assert clean("a\0b") == "ab"
    assert len(clean("x" * 5000)) == MAX_TEXT


def test_a_sum_is_exact_or_an_error() -> None:
    assert str(add_amount({"USD": Decimal(10**40)}, "USD", Decimal("0.1"))["USD"]) == f"{10**40}.1"
    with pytest.raises(Inexact):
        add_amount({"USD": Decimal("1e90")}, "USD", Decimal("1e-90"))


# -- mailbox and timers ------------------------------------------------------------------------------------


def test_a_send_opens_a_message(log: Log) -> None:
    message = log.start_run(to="writer/dave")
    (row,) = mailbox.fold(log.facts).opened.values()
    assert (row.id, row.role, row.key, row.key_hash) == (message, "writer", "dave", key_hash("dave"))
    assert (row.position, row.place, row.opened_at) == (1, 0, BEGINNING)


def test_what_is_opened_and_closed_in_one_page_leaves_no_trace(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    changes = mailbox.fold(log.facts)
    assert (changes.opened, changes.closed) == ({}, [])


def test_what_an_earlier_page_opened_is_closed_by_id(log: Log) -> None:
    message = log.start_run()
    log.start_task("writer/t1", "t1", message)
    assert mailbox.fold(log.facts[1:]).closed == [message]
    assert timers.fold(log.facts[1:]).closed == [message]


def test_a_message_with_a_due_time_is_a_timer_and_not_in_the_mailbox(log: Log) -> None:
    log.add("writer/t1", e.TimerSet(step="nap", due_at=DUE), task="t1", sends=[timer_of("t1", "writer/t1")])
    assert mailbox.fold(log.facts).opened == {}
    (timer,) = timers.fold(log.facts).opened.values()
    assert (timer.id, timer.due_at, timer.kind) == ("writer/t1@1.0", DUE, "timer")


def test_a_timer_that_fired_is_closed(log: Log) -> None:
    log.add("writer/t1", e.TimerSet(step="nap", due_at=DUE), task="t1", sends=[timer_of("t1", "writer/t1")])
    log.add("writer/t1", e.TimerFired(step="nap"), task="t1", handles="writer/t1@1.0")
    assert timers.fold(log.facts).opened == {}


# -- dead letters ------------------------------------------------------------------------------------------


def letter_rows(log: Log) -> dict[str, dead_letters.LetterRow]:
    rows: dict[str, dead_letters.LetterRow] = {}
    handled = dead_letters.PROJECTION.handles or frozenset()
    dead_letters.fold([fact for fact in log.facts if fact.event.type in handled], rows)
    return rows


def dies(log: Log, message: str, *, reason: str = "kills") -> Event:
    """A message becomes a dead letter before its task begins; gives the event."""
    body = e.MessageDeadLettered(to="writer/t1", reason=reason, attempts=3)
    return log.add("writer/t1", body, task="t1", handles=message)


def sent_again(log: Log, letter: str, died: Event, task: str = "t2") -> str:
    """A dead letter is sent again; gives the id of the new message."""
    event = log.add(
        "dead/writer",
        e.DeadLetterRedriven(letter=letter, by="ann"),
        task="t1",
        handles=f"{died.stream}@{died.version}",
        sends=[opening(f"writer/{task}", task)],
    )
    return next(sent_messages(event)).id


def test_a_message_that_can_t_be_handled_is_a_dead_letter_and_no_longer_open(log: Log) -> None:
    message = log.start_run()
    died = dies(log, message)
    (letter,) = letter_rows(log).values()
    assert mailbox.fold(log.facts).opened == {}
    assert (letter.id, letter.address, letter.position) == (message, "writer/t1@1", died.position)
    assert (letter.role, letter.key, letter.run, letter.task) == ("writer", "t1", "r1", "t1")
    assert (letter.reason, letter.attempts, letter.edited, letter.redriven_at) == ("kills", 3, False, None)


def test_the_letter_of_a_task_that_was_begun_is_named_by_its_message(log: Log) -> None:
    message = log.start_run()
    log.start_task("writer/t1", "t1", message)
    body = e.MessageDeadLettered(to="writer/t1", reason="kills", attempts=5, message=message)
    log.add("writer/t1", body, task="t1", state="failed")
    assert letter_rows(log)[message].address == "writer/t1@2"


def test_bytes_that_are_no_message_are_a_dead_letter_named_by_its_event(log: Log) -> None:
    log.add("dead/writer", e.MessageDeadLettered(to="writer", reason="no JSON", entry=b"{", at="bus"), run="")
    (letter,) = letter_rows(log).values()
    assert (letter.id, letter.address, letter.role) == ("dead/writer@1", "dead/writer@1", "writer")
    assert (letter.key, letter.run, letter.task) == (None, None, None)


def test_a_dead_letter_tells_that_it_was_edited_and_sent_again(log: Log) -> None:
    message = log.start_run()
    died = dies(log, message)
    log.add("dead/writer", e.DeadLetterEdited(letter=message, parts=(), by="ann"), task="t1")
    assert letter_rows(log)[message].edited
    sent_again(log, message, died)
    letter = letter_rows(log)[message]
    assert (letter.redriven_at, letter.redriven_by, letter.redriven_task) == (
        log.events[-1].recorded_at,
        "ann",
        "t2",
    )


def test_a_letter_sent_again_that_dies_again_is_another_letter(log: Log) -> None:
    message = log.start_run()
    second = sent_again(log, message, dies(log, message))
    body = e.MessageDeadLettered(to="writer/t2", reason="kills", attempts=3)
    log.add("writer/t2", body, task="t2", handles=second)
    rows = letter_rows(log)
    assert [(row.id, row.address, row.redriven_task) for row in rows.values()] == [
        (message, "writer/t1@1", "t2"),
        (second, "writer/t2@1", None),
    ]


def test_what_is_told_of_a_letter_that_there_is_not_changes_nothing(log: Log) -> None:
    log.add("dead/writer", e.DeadLetterEdited(letter="run/x@1.0", parts=(), by="ann"))
    assert letter_rows(log) == {}


# -- tasks -------------------------------------------------------------------------------------------------


def test_a_task_is_opened_by_the_send_of_its_message(log: Log) -> None:
    message = log.start_run()
    row = task_rows(log)["t1"]
    assert (row.state, row.actor_state, row.started_at) == ("TASK_STATE_SUBMITTED", "idle", None)
    assert (row.run, row.role, row.key, row.kind, row.message) == ("r1", "writer", "t1", "assign", message)


@pytest.mark.parametrize("kind", ["context-share", "artifact"])
def test_a_message_to_a_task_at_work_opens_none(log: Log, kind: str) -> None:
    first = log.start_run()
    log.start_task("writer/t1", "t1", first)
    log.add("a/b", e.MessageSent(step="s", fingerprint="f"), sends=[opening("writer/t1", "t1", kind)])  # type: ignore[arg-type]
    (row,) = task_rows(log).values()
    assert (row.message, row.kind, row.state) == (first, "assign", "TASK_STATE_WORKING")


def test_a_reply_opens_no_task(log: Log) -> None:
    reply = Message(kind="reply", to="writer/t1", sender="a/b", run="r1", task="t1")
    log.add("a/b", e.TaskCompleted(), task="t9", sends=[reply])
    assert task_rows(log) == {}


def test_a_started_task_says_who_is_at_work(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    row = task_rows(log)["t1"]
    assert (row.process, row.attempt, row.epoch, row.state) == ("p1", 1, 3, "TASK_STATE_WORKING")
    log.add("writer/t1", e.TaskResumed(process="p2", epoch=4, attempt=2, reason="takeover"), task="t1")
    row = task_rows(log)["t1"]
    assert (row.process, row.attempt, row.epoch) == ("p2", 2, 4)


@pytest.mark.parametrize(
    ("state", "a2a"),
    [
        ("executing", "TASK_STATE_WORKING"),
        ("blocked", "TASK_STATE_WORKING"),
        ("waiting_input", "TASK_STATE_INPUT_REQUIRED"),
        ("waiting_review", "TASK_STATE_INPUT_REQUIRED"),
    ],
)
def test_any_event_may_bring_a_state(log: Log, state: str, a2a: str) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.MessageSent(step="s", fingerprint="f"), task="t1", state=state)
    row = task_rows(log)["t1"]
    assert (row.actor_state, row.state) == (state, a2a)


def test_the_roles_own_machine_is_another_state(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.StateChanged(step="s", to="drafting"), task="t1", state="drafting")
    row = task_rows(log)["t1"]
    assert (row.actor_state, row.role_state) == ("thinking", "drafting")


def test_a_failed_task_keeps_the_errors_type_and_message_and_no_traceback(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    error = ErrorInfo("ValueError", "no\0 good", "Traceback of secrets")
    log.add("writer/t1", e.TaskFailed(error=error), task="t1", state="failed")
    row = task_rows(log)["t1"]
    assert (row.state, row.error_type, row.error_message) == ("TASK_STATE_FAILED", "ValueError", "no good")
    assert row.ended_at == log.events[-1].recorded_at


def test_a_task_handed_off_names_the_one_that_took_over(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    over = opening("editor/t2", "t2", "handoff")
    log.add("writer/t1", e.TaskHandedOff(to="editor/t2", task="t2"), task="t1", sends=[over], state="completed")
    rows = task_rows(log)
    assert (rows["t1"].handed_to, rows["t1"].state) == ("t2", "TASK_STATE_COMPLETED")
    assert (rows["t2"].kind, rows["t2"].state) == ("handoff", "TASK_STATE_SUBMITTED")


def test_a_task_whose_message_died_before_it_started_has_failed(log: Log) -> None:
    message = log.start_run()
    log.add("writer/t1", e.MessageDeadLettered(to="writer/t1", reason="kills", attempts=3), task="t1", handles=message)
    row = task_rows(log)["t1"]
    assert (row.state, row.error_type, row.error_message) == ("TASK_STATE_FAILED", "MessageDeadLettered", "kills")
    assert run_row(log).state == "TASK_STATE_FAILED"


def test_a_begun_task_whose_message_is_dead_lettered_has_failed(log: Log) -> None:
    message = log.start_run()
    log.start_task("writer/t1", "t1", message)
    body = e.MessageDeadLettered(to="writer/t1", reason="kills", attempts=5, message=message)
    log.add("writer/t1", body, task="t1", state="failed")
    row = task_rows(log)["t1"]
    assert (row.state, row.error_message, row.ended_at) == ("TASK_STATE_FAILED", "kills", log.events[-1].recorded_at)
    assert (run_row(log).state, run_row(log).ended_at) == ("TASK_STATE_FAILED", row.ended_at)


@pytest.mark.parametrize(
    ("stream", "end", "state", "error"),
    [
        ("writer/t1", e.TaskFailed(error=ErrorInfo("Deadlock", "a, b")), "TASK_STATE_FAILED", "Deadlock"),
        ("run/r1", e.TaskCanceled(reason="enough"), "TASK_STATE_CANCELED", "TaskCanceled"),
        ("writer/t1", e.MessageDiscarded(kind="assign", reason="late"), "TASK_STATE_CANCELED", "MessageDiscarded"),
    ],
)
def test_a_task_may_end_before_it_begins(log: Log, stream: str, end: e.Body, state: str, error: str) -> None:
    log.add(stream, end, task="t1", handles=log.start_run())
    row = task_rows(log)["t1"]
    assert (row.state, row.error_type, row.started_at) == (state, error, None)
    assert row.ended_at == log.events[-1].recorded_at
    assert (run_row(log).state, run_row(log).ended_at) == (state, row.ended_at)


def test_a_late_answer_that_is_discarded_ends_no_task(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.MessageDiscarded(kind="reply", reason="late"), task="t1", handles="a/b@1.0")
    assert task_rows(log)["t1"].ended_at is None
    assert run_row(log).ended_at is None


def test_a_retry_is_a_wait_that_its_timer_ends(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    error = ErrorInfo("TimeoutError", "slow")
    retry = e.TaskRetryScheduled(step="retry#0", error=error, due_at=DUE)
    log.add("writer/t1", retry, task="t1", sends=[timer_of("t1", "writer/t1")], state="blocked")
    (wait,) = task_rows(log)["t1"].waiting
    assert (wait.kind, wait.on, wait.until) == ("timer", "retry after TimeoutError", DUE)
    log.add("writer/t1", e.TimerFired(step="retry#0"), task="t1", handles="writer/t1@2.0", state="thinking")
    row = task_rows(log)["t1"]
    assert (row.waiting, row.actor_state, row.error_type) == ((), "thinking", None)


@pytest.mark.parametrize(
    "answer",
    [
        e.ToolCompleted(step="pay", tool="pay", result=VALUE, duration_ms=0, resolved_by="ann"),
        e.ToolRequested(step="pay", fingerprint="f", tool="pay", arguments=VALUE, idempotency_key="k"),
    ],
)
def test_an_unknown_outcome_waits_for_a_decision(log: Log, answer: e.Body) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.WaitStarted(step="ok", kind="decision"), task="t1")
    log.add("writer/t1", e.ToolOutcomeUnknown(step="pay", tool="pay"), task="t1", state="waiting_review")
    row = task_rows(log)["t1"]
    assert [(wait.kind, wait.on, wait.unknown_tool) for wait in row.waiting] == [
        ("decision", "decision", None),
        ("decision", "outcome of tool pay", "pay"),
    ]
    assert row.state == "TASK_STATE_INPUT_REQUIRED"
    log.add("writer/t1", answer, task="t1", handles="run/r1@2.0", state="thinking")
    assert [wait.step for wait in task_rows(log)["t1"].waiting] == ["ok"]


def test_a_task_that_is_to_stop_waits_for_nothing_that_it_waited_for_before(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.QuestionAsked(step="review", fingerprint="f", to="reviewer/t2", task="t2"), task="t1")
    log.add("writer/t1", e.TaskCancelRequested(reason="enough"), task="t1", handles="run/r1@2.0")
    assert task_rows(log)["t1"].waiting == ()


def test_a_task_does_not_wait_for_a_step_that_it_gave_up(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.QuestionAsked(step="ask#0", fingerprint="", to="x/y", task="t2"), task="t1")
    log.add("writer/t1", e.WaitStarted(step="receive:feedback#0", kind="feedback"), task="t1")
    log.add("writer/t1", e.StepGivenUp(step="ask#0"), task="t1")
    assert [wait.step for wait in task_rows(log)["t1"].waiting] == ["receive:feedback#0"]


def test_of_very_many_waits_some_are_listed(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    for number in range(tasks.MAX_WAITING + 100):
        log.add(
            "writer/t1", e.QuestionAsked(step=f"q#{number}", fingerprint="f", to="a/b", task=f"q{number}"), task="t1"
        )
    assert len(task_rows(log)["t1"].waiting) == tasks.MAX_WAITING
    for number in range(tasks.MAX_WAITING + 100):
        log.add("writer/t1", e.QuestionFailed(step=f"q#{number}", error=e.ErrorInfo("E", "")), task="t1")
    assert task_rows(log)["t1"].waiting == ()


def test_the_death_of_another_message_leaves_the_task_at_work(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.MessageDeadLettered(to="writer/t1", reason="odd"), task="t1", handles="a/b@1.0")
    assert task_rows(log)["t1"].ended_at is None


def test_a_task_names_all_that_it_waits_for(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    asked = log.add(
        "writer/t1",
        e.QuestionAsked(step="review", fingerprint="f", to="reviewer/t2", task="t2"),
        task="t1",
        sends=[opening("reviewer/t2", "t2", "query")],
    )
    log.add("writer/t1", e.TimerSet(step="nap", due_at=DUE), task="t1")
    log.add("writer/t1", e.WaitStarted(step="ok", kind="decision", note="may I?"), task="t1", state="waiting_review")
    waiting = task_rows(log)["t1"].waiting
    assert [wait.on for wait in waiting] == ["reviewer/t2", "timer until 2030-01-02T00:59:00+00:00", "decision: may I?"]
    assert [wait.kind for wait in waiting] == ["question", "timer", "decision"]
    assert [(wait.task, wait.until) for wait in waiting] == [("t2", None), (None, DUE), (None, None)]
    assert waiting[0].since == asked.recorded_at


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        (e.QuestionAnswered(step="review", result=VALUE), ["nap", "ok"]),
        (e.QuestionFailed(step="review", error=ErrorInfo("E", "m")), ["nap", "ok"]),
        (e.TimerFired(step="nap"), ["review", "ok"]),
        (e.MessageReceived(kind="decision", sender="run/r1", content=VALUE, step="ok"), ["review", "nap"]),
        (e.MessageReceived(kind="decision", sender="run/r1", content=VALUE), ["review", "nap", "ok"]),
        (e.TaskCanceled(reason="enough"), []),
    ],
)
def test_an_answer_ends_the_wait_for_it(log: Log, answer: e.Body, left: list[str]) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.QuestionAsked(step="review", fingerprint="f", to="reviewer/t2", task="t2"), task="t1")
    log.add("writer/t1", e.TimerSet(step="nap", due_at=DUE), task="t1")
    log.add("writer/t1", e.WaitStarted(step="ok", kind="decision"), task="t1")
    log.add("writer/t1", answer, task="t1")
    assert [wait.step for wait in task_rows(log)["t1"].waiting] == left


def test_a_task_counts_its_steps_calls_tokens_and_costs(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("writer/t1", e.StepCompleted(step="s", fingerprint="f", result=VALUE), task="t1")
    log.add("writer/t1", e.ToolCompleted(step="s", tool="x", result=VALUE, duration_ms=1), task="t1")
    usage = e.Usage(input=1, cached_input=2, cache_write=4, output=8, reasoning=16)
    log.add("writer/t1", model_completed("0.1", usage=usage), task="t1")
    log.add("writer/t1", model_completed("0.2"), task="t1")
    log.add("writer/t1", model_completed(None), task="t1")
    log.add("writer/t1", model_failed("0.05", usage=usage), task="t1")
    log.add("writer/t1", model_failed(None), task="t1")
    row = task_rows(log)["t1"]
    assert (row.steps, row.model_calls, row.input_tokens, row.output_tokens) == (5, 3, 34, 58)
    assert (row.cost, row.unpriced) == ({"USD": Decimal("0.35")}, 2)


def test_progress_is_the_newest(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    for done in (1.0, 2.0):
        log.add("writer/t1", e.TaskProgressed(step="s", done=done, total=3.0, note=f"page {done:.0f}"), task="t1")
    row = task_rows(log)["t1"]
    assert (row.progress_done, row.progress_total, row.progress_note) == (2.0, 3.0, "page 2")


# -- runs --------------------------------------------------------------------------------------------------


def test_a_run_ends_with_its_root_task(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    assert run_row(log).state == "TASK_STATE_WORKING"
    log.add("writer/t1", e.TaskCompleted(), task="t1", state="completed")
    row = run_row(log)
    assert (row.state, row.ended_at, row.events) == ("TASK_STATE_COMPLETED", log.events[-1].recorded_at, 3)


def test_a_run_handed_off_ends_with_the_last_that_took_over(log: Log) -> None:
    log.start_task("a/t1", "t1", log.start_run(to="a/t1"))
    for role, task, next_ in (("a", "t1", "t2"), ("b", "t2", "t3")):
        over = opening(f"c/{next_}", next_, "handoff")
        event = log.add(f"{role}/{task}", e.TaskHandedOff(to=over.to, task=next_), task=task, sends=[over])
        log.start_task(over.to, next_, next(sent_messages(event)).id)
    row = run_row(log)
    assert (row.root, row.answering, row.state, row.ended_at) == ("t1", "t3", "TASK_STATE_WORKING", None)
    log.add("c/t3", e.TaskFailed(error=ErrorInfo("E", "m")), task="t3")
    assert run_row(log).state == "TASK_STATE_FAILED"


def test_a_run_whose_dead_letter_was_sent_again_goes_on_with_the_new_task(log: Log) -> None:
    message = log.start_run()
    second = sent_again(log, message, dies(log, message))
    row = run_row(log)
    assert (row.answering, row.message, row.state, row.ended_at) == ("t2", second, "TASK_STATE_SUBMITTED", None)
    log.start_task("writer/t2", "t2", second)
    log.add("writer/t2", e.TaskCompleted(), task="t2", state="completed")
    assert (run_row(log).state, run_row(log).root) == ("TASK_STATE_COMPLETED", "t1")


def test_a_letter_of_another_task_sent_again_leaves_the_run_ended(log: Log) -> None:
    log.start_task("writer/t9", "t9", log.start_run("writer/t9", "t9"))
    log.add("writer/t9", e.TaskCompleted(), task="t9", state="completed")
    sent_again(log, "a/b@1.0", dies(log, "a/b@1.0"))
    assert (run_row(log).answering, run_row(log).state) == ("t9", "TASK_STATE_COMPLETED")


def test_another_tasks_end_is_not_the_runs(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    log.add("reviewer/t2", e.TaskCompleted(), task="t2", state="completed")
    assert run_row(log).ended_at is None


def test_what_belongs_to_no_run_is_no_run(log: Log) -> None:
    log.add("dead/writer", e.MessageDeadLettered(to="writer", reason="no JSON", entry=b"{"), run="")
    assert list(runs.fold(log.facts, {})) == []


# -- agents, audit -----------------------------------------------------------------------------------------


def test_an_actor_for_each_task_is_its_role_and_a_named_actor_is_itself(log: Log) -> None:
    log.start_task("writer/t1", "t1", "m1")
    log.start_task("writer/t2", "t2", "m2", process="p2")
    log.start_task("writer/dave", "t3", "m3")
    log.add("writer/t1", model_completed("0.5"), task="t1")
    log.add("writer/t1", model_failed("0.25"), task="t1")
    log.add("writer/t1", e.TaskCompleted(), task="t1", state="completed")
    log.add("writer/dave", e.TaskCanceled(reason="enough"), task="t3", state="canceled")
    rows: dict[str, agents.AgentRow] = {}
    agents.fold([fact for fact in log.facts if fact.event.type in agents.PROJECTION.handles], rows)  # type: ignore[operator]
    assert set(rows) == {"writer", "writer/dave"}
    writer, dave = rows["writer"], rows["writer/dave"]
    assert (writer.tasks, writer.completed, writer.model_calls, writer.cost) == (2, 1, 1, {"USD": Decimal("0.75")})
    assert (dave.role, dave.tasks, dave.canceled, dave.last_process) == ("writer", 1, 1, "p1")


def test_an_agent_counts_only_tasks_that_it_began(log: Log) -> None:
    message = log.start_run("writer/dave")
    log.start_task("writer/dave", "t1", message)
    letter = e.MessageDeadLettered(to="writer/dave", reason="kills", attempts=5, message=message)
    log.add("writer/dave", letter, task="t1", state="failed")
    log.add("writer/dave", e.TaskFailed(error=ErrorInfo("Deadlock", "m")), task="t2", handles="a/b@1.0")
    log.add("run/r1", e.TaskCanceled(reason="enough"), task="t3", handles="a/b@2.0")
    log.add("dead/writer", e.MessageDeadLettered(to="writer", reason="no JSON", entry=b"{"), run="")
    rows: dict[str, agents.AgentRow] = {}
    agents.fold([fact for fact in log.facts if fact.event.type in agents.PROJECTION.handles], rows)  # type: ignore[operator]
    assert [(row.agent, row.tasks, row.failed, row.canceled) for row in rows.values()] == [("writer/dave", 1, 1, 0)]


def test_the_audit_trail_tells_what_happened_and_no_contents(log: Log) -> None:
    log.start_task("writer/t1", "t1", log.start_run())
    secret = e.Stored(inline=e.Raw(b'"secret"'))
    request = e.ToolRequested(step="s", fingerprint="f", tool="search", arguments=secret, idempotency_key="k")
    log.add("writer/t1", request, task="t1")
    failed = e.ToolFailed(step="s", tool="search", error=ErrorInfo("OSError", "secret"), duration_ms=9)
    log.add("writer/t1", failed, task="t1")
    log.add("writer/t1", model_completed("0.1", message=secret), task="t1")
    log.add("writer/t1", e.MessageReceived(kind="reply", sender="a/b", content=secret), task="t1")
    log.add("writer/t1", e.MessageReceived(kind="decision", sender="run/r1", content=secret), task="t1")
    log.add("writer/t1", e.TaskFailed(error=ErrorInfo("ValueError", "secret")), task="t1")
    entries = audit.fold(log.facts)
    assert [(entry.what, entry.detail) for entry in entries] == [
        ("run.started", "task t1 to writer/t1, from test"),
        ("task.started", "attempt 1 by p1"),
        ("tool.requested", "search: arguments of 8 bytes"),
        ("tool.failed", "search: OSError after 9 ms"),
        ("model.completed", "gpt-5: 15 tokens, 0.1 USD, 7 ms, stop"),
        ("message.received", "decision from run/r1"),
        ("task.failed", "ValueError"),
    ]
