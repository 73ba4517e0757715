"""The checker of the fault tests finds what it is there to find: each rule fails on a log that breaks it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Body, Event, Meta
from callboard.protocols.messages import ErrorInfo, Kind, Message
from tests.faults.checker import Allowed, check
from tests.faults.payments import Request

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
DONE = e.Stored(inline=msgspec.Raw(b"1"))


class Script:
    """A log in the making, and the requests at the payment server; a second passes with each event."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self.requests: list[Request] = []

    def add(self, stream: str, body: Body, task: str = "", handles: str = "", *sends: Message) -> str:
        """Append an event; gives its address."""
        version = sum(it.stream == stream for it in self.log) + 1
        new = new_event(body, Meta(run="r", task=task or None, handles=handles or None, sends=sends))
        self.log.append(
            Event(
                position=len(self.log) + 1,
                stream=stream,
                version=version,
                type=new.type,
                schema_version=new.schema_version,
                recorded_at=BEGINNING + timedelta(seconds=len(self.log)),
                data=new.data,
                meta=new.meta,
            )
        )
        return f"{stream}@{version}"

    def run(self, task: str, to: str = "clerk/one") -> str:
        """Somebody asks for a task; gives the message's id."""
        return self.add(f"run/{task}", e.RunStarted(task=task, to=to), "", "", message(task, to)) + ".0"

    def begin(self, task: str, handles: str, stream: str = "clerk/one") -> None:
        self.add(stream, e.TaskStarted(process="p"), task, handles)

    def resume(self, task: str, reason: str, stream: str = "clerk/one") -> None:
        self.add(stream, e.TaskResumed(process="q", epoch=2, attempt=2, reason=reason), task)

    def pay(self, task: str, times: int = 1) -> None:
        """The effect of a task, so many times, in the second before whatever is written next."""
        at = BEGINNING + timedelta(seconds=len(self.log) - 0.5)
        self.requests += [Request(f"{task}:pay#0", at.timestamp())] * times

    def record(self, task: str, stream: str = "clerk/one") -> None:
        self.add(stream, e.ToolCompleted(step="pay#0", tool="pay", result=DONE, duration_ms=1), task)

    def end(self, task: str, stream: str = "clerk/one") -> None:
        self.add(stream, e.TaskCompleted(), task)

    def whole(self, task: str, handles: str) -> None:
        """All that a clerk does."""
        self.begin(task, handles)
        self.pay(task)
        self.record(task)
        self.end(task)

    def check(self, **allowed: object) -> None:
        check(self.log, self.requests, Allowed(**allowed))  # type: ignore[arg-type]


def message(task: str, to: str = "clerk/one", kind: Kind = "assign") -> Message:
    return Message(kind=kind, to=to, sender="run/r", run="r", task=task)


def two_runs() -> Script:
    """Two tasks of one actor, as it should be."""
    script = Script()
    first, second = script.run("t1"), script.run("t2")
    script.whole("t1", first)
    script.whole("t2", second)
    return script


def dead(script: Script, task: str) -> str:
    """A task that killed its process too often; gives the address of its dead letter."""
    opening = script.run(task)
    script.begin(task, opening)
    return script.add("clerk/one", e.MessageDeadLettered(to="clerk/one", reason="", message=opening), task)


def test_a_log_as_it_should_be_passes() -> None:
    two_runs().check()


def test_what_was_in_flight_when_a_process_died_may_be_done_again() -> None:
    script = Script()
    script.begin("t1", script.run("t1"))
    script.pay("t1")
    script.resume("t1", "lost")
    script.pay("t1")
    script.record("t1")
    script.end("t1")
    script.check(deaths=1)
    with pytest.raises(AssertionError, match="nobody died"):
        script.check()


def test_a_redriven_dead_letter_passes_where_dead_letters_do() -> None:
    script = Script()
    letter = dead(script, "t1")
    again = script.add("dead/clerk", e.DeadLetterRedriven(letter="", by="dave"), "t1", letter, message("t2"))
    script.whole("t2", f"{again}.0")
    script.check(ends=("message.dead_lettered",))
    with pytest.raises(AssertionError, match="ended badly"):
        script.check()


def no_event(script: Script, place: int) -> None:
    del script.log[place]


def second_version(script: Script) -> None:
    script.log[-1] = replace(script.log[-1], version=9)


def never_handled(script: Script) -> None:
    script.add("clerk/one", e.MessageSent(step="", fingerprint=""), "t2", "", message("t2", kind="decision"))


def handled_twice(script: Script) -> None:
    script.add("clerk/one", e.MessageDiscarded(kind="assign", reason=""), "t1", "run/t1@1.0")


def handled_before_it_was_sent(script: Script) -> None:
    script.add("clerk/one", e.MessageDiscarded(kind="assign", reason=""), "t3", "run/t3@1.0")
    script.run("t3")


def never_ended(script: Script) -> None:
    script.begin("t3", script.run("t3"))


def ended_twice(script: Script) -> None:
    script.end("t2")


def begun_twice(script: Script) -> None:
    script.begin("t2", "")
    script.log[-1] = replace(script.log[-1], stream="clerk/two", version=1)


def ended_and_never_began(script: Script) -> None:
    script.add("clerk/two", e.TaskCompleted(), "t3", script.run("t3", "clerk/two"))


def ended_badly(script: Script) -> None:
    script.begin("t3", script.run("t3"))
    script.add("clerk/one", e.TaskFailed(error=ErrorInfo("Oops", "")), "t3")


def redriven_twice(script: Script) -> None:
    letter = dead(script, "t3")
    for task in ("t4", "t5"):
        again = script.add("dead/clerk", e.DeadLetterRedriven(letter="", by=""), "t3", letter, message(task))
        script.whole(task, f"{again}.0")


def two_at_a_time(script: Script) -> None:
    third, fourth = script.run("t3"), script.run("t4")
    script.begin("t3", third)
    script.begin("t4", fourth)
    script.end("t3")
    script.end("t4")


def out_of_order(script: Script) -> None:
    third, fourth = script.run("t3"), script.run("t4")
    script.whole("t4", fourth)
    script.whole("t3", third)


def a_step_of_another_task(script: Script) -> None:
    third, fourth = script.run("t3", "clerk/three"), script.run("t4")
    script.begin("t3", third, "clerk/three")
    script.begin("t4", fourth)
    script.pay("t3")
    script.record("t3", "clerk/one")
    script.end("t4")
    script.end("t3", "clerk/three")


def recorded_twice(script: Script) -> None:
    script.begin("t3", script.run("t3"))
    script.pay("t3")
    script.record("t3")
    script.record("t3")
    script.end("t3")


def recorded_and_never_done(script: Script) -> None:
    script.begin("t3", script.run("t3"))
    script.record("t3")
    script.end("t3")


def done_and_never_recorded(script: Script) -> None:
    script.begin("t3", script.run("t3"))
    script.pay("t3")
    script.end("t3")


def done_again_after_it_was_recorded(script: Script) -> None:
    script.pay("t2")


def done_more_often_than_tried(script: Script) -> None:
    script.begin("t3", script.run("t3"))
    script.pay("t3", times=2)
    script.record("t3")
    script.end("t3")


@pytest.mark.parametrize(
    ("doctor", "complaint"),
    [
        (lambda script: no_event(script, 3), "clerk/one"),
        (second_version, "clerk/one"),
        (never_handled, "never handled"),
        (handled_twice, "handled twice"),
        (handled_before_it_was_sent, "before it was sent"),
        (never_ended, "never ended"),
        (ended_twice, "ended twice"),
        (begun_twice, "begun twice"),
        (ended_and_never_began, "ended, and never began"),
        (ended_badly, "ended badly"),
        (redriven_twice, "handled twice"),
        (two_at_a_time, "while t3 is at work"),
        (out_of_order, "after 10"),
        (a_step_of_another_task, "a task that is not at work"),
        (recorded_twice, "recorded twice"),
        (recorded_and_never_done, "recorded, and never done"),
        (done_and_never_recorded, "done, and never recorded"),
        (done_again_after_it_was_recorded, "done again after it was recorded"),
        (done_more_often_than_tried, "done more often than tried"),
    ],
    ids=lambda given: getattr(given, "__name__", "").strip("<>"),
)
def test_a_doctored_log_fails(doctor: Callable[[Script], None], complaint: str) -> None:
    script = two_runs()
    doctor(script)
    with pytest.raises(AssertionError, match=complaint):
        script.check()


def test_a_step_behind_the_end_of_its_task_fails() -> None:
    script = Script()
    opening = script.run("t1")
    script.begin("t1", opening)
    script.end("t1")
    script.pay("t1")
    script.record("t1")
    with pytest.raises(AssertionError, match="not at work"):
        script.check()
