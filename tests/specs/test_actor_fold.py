"""The fold of an actor: what it makes of any sequence of events, and that the lifecycle allows what it asks for."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard.actors.state.fold import STATE_BY_FORM, ActorFold, TaskFold, fold
from callboard.actors.state.machine import LIFECYCLE_MACHINE
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Event
from callboard.protocols.messages import ErrorInfo
from callboard.protocols.states import AT_WORK
from tests.projection_kit import BEGINNING

STREAM = "writer/dave"
VALUE = e.Stored(inline=e.Raw(b"1"))
ERROR = ErrorInfo("ValueError", "no")
USAGE = e.Usage(input=1)


def requested(form: str, step: str) -> e.Body:
    """The event that opens a step of a form."""
    return {
        "tool": e.ToolRequested(step=step, fingerprint="f", tool="t", arguments=VALUE, idempotency_key="k"),
        "model": e.ModelRequested(step=step, fingerprint="f", attempt=1, model="m", messages=()),
        "question": e.QuestionAsked(step=step, fingerprint="f", to="x/y", task="t"),
        "timer": e.TimerSet(step=step, due_at=BEGINNING),
        "wait": e.WaitStarted(step=step, kind="feedback"),
        "review": e.WaitStarted(step=step, kind="decision"),
    }[form]


def ended(form: str, step: str, well: bool) -> e.Body:
    """An event that ends it."""
    model: dict[str, Any] = {"step": step, "attempt": 1, "model": "m", "duration_ms": 1}
    bodies: dict[str, tuple[e.Body, e.Body]] = {
        "tool": (
            e.ToolCompleted(step=step, tool="t", result=VALUE, duration_ms=1),
            e.ToolFailed(step=step, tool="t", error=ERROR, duration_ms=1),
        ),
        "model": (
            e.ModelCompleted(message=VALUE, usage=USAGE, cost=None, finish_reason="stop", **model),
            e.ModelFailed(error=ERROR, **model),
        ),
        "question": (e.QuestionAnswered(step=step, result=VALUE), e.QuestionFailed(step=step, error=ERROR)),
        "timer": (e.TimerFired(step=step), e.TimerFired(step=step)),
        "wait": (e.MessageReceived(kind="feedback", sender="x/y", content=VALUE, step=step),) * 2,
        "review": (e.MessageReceived(kind="decision", sender="x/y", content=VALUE, step=step),) * 2,
    }
    return bodies[form][0 if well else 1]


FORMS = ("tool", "model", "question", "timer", "wait", "review")
moves = st.lists(st.tuples(st.sampled_from(FORMS), st.integers(0, 2), st.booleans(), st.booleans()), max_size=40)


@given(moves)
def test_the_state_follows_from_the_open_steps_and_is_always_legal(sequence: list[tuple[str, int, bool, bool]]) -> None:
    actor = ActorFold()
    actor.take(e.TaskStarted(process="p"), "t", "m")
    state = "thinking"
    opened: dict[str, str] = {}
    for form, number, opens, well in sequence:
        step = f"{form}#{number}"
        if opens:
            known = actor.current.steps.get(step) if actor.current else None
            if known is not None and (form != "model" or known.error is None):  # only a failed model is tried again
                continue
            actor.take(requested(form, step), "t", None)
            opened[step] = form
        elif step in opened:
            actor.take(ended(form, step, well), "t", None)
            del opened[step]
        assert actor.current is not None
        trigger, dest = actor.current.working_state()
        asked_for = next((its for form, _, its in STATE_BY_FORM if form in opened.values()), "thinking")
        assert dest == asked_for
        assert {key for key, _ in actor.current.open_steps(*FORMS)} == opened.keys()
        if dest != state:
            change = LIFECYCLE_MACHINE.fire(trigger, state)
            assert change.dest == dest
            state = dest
        assert state in AT_WORK


def event(version: int, body: e.Body, *, task: str = "t", handles: str | None = None) -> Event:
    new = new_event(body, e.Meta(run="r", task=task, handles=handles))
    return Event(
        position=version,
        stream=STREAM,
        version=version,
        type=new.type,
        schema_version=1,
        recorded_at=BEGINNING,
        data=new.data,
        meta=new.meta,
    )


def task_events(task: str, version: int) -> list[Event]:
    return [
        event(version, e.TaskStarted(process="p", role_state=f"before {task}"), task=task, handles=f"{task}@1.0"),
        event(version + 1, e.StepCompleted(step=f"{task}#0", fingerprint="f", result=VALUE), task=task),
        event(version + 2, e.StateChanged(step="s#0", to=f"after {task}"), task=task),
        event(version + 3, e.TaskCompleted(), task=task),
    ]


def test_the_last_task_alone_makes_the_same_actor_as_the_whole_stream() -> None:
    first, second = task_events("a", 1), task_events("b", 5)
    whole, last = fold([*first, *second]), fold(second)
    assert (whole.version, whole.state, whole.role_state) == (last.version, last.state, last.role_state)
    assert whole.current is not None
    assert last.current is not None
    assert whole.current.steps.keys() == last.current.steps.keys() == {"b#0", "s#0"}
    assert whole.current.message == last.current.message == "b@1.0"
    assert not whole.at_work


def test_steps_and_messages_of_a_former_task_are_forgotten() -> None:
    actor = fold([*task_events("a", 1), task_events("b", 5)[0]])
    assert actor.current is not None
    assert actor.at_work
    assert (actor.current.task, actor.current.steps, list(actor.current.handled)) == ("b", {}, ["b@1.0"])
    assert actor.current.role_state == "before b"


def test_a_model_call_keeps_its_failures_over_its_attempts() -> None:
    task = TaskFold("t")
    actor = ActorFold()
    actor.current = task
    for attempt in (1, 2):
        body = e.ModelRequested(step="model#0", fingerprint="f", attempt=attempt, model="m", messages=())
        actor.take(body, "t", None)
        actor.take(ended("model", "model#0", well=False), "t", None)
    record = task.steps["model#0"]
    assert (record.failures, record.attempt, record.done) == (2, 2, True)
    actor.take(ended("model", "model#0", well=True), "t", None)
    assert isinstance(record.result, e.ModelCompleted)


def test_messages_are_received_by_kind_in_order() -> None:
    actor = ActorFold()
    actor.take(e.TaskStarted(process="p"), "t", "m")
    for number in range(3):
        content = e.Stored(inline=e.Raw(str(number).encode()))
        actor.take(e.MessageReceived(kind="feedback", sender="x/y", content=content), "t", f"m{number}")
    assert actor.current is not None
    assert [bytes(it.content.inline) for it in actor.current.received["feedback"]] == [b"0", b"1", b"2"]
    assert list(actor.current.handled) == ["m", "m0", "m1", "m2"]


def test_a_handed_over_task_remembers_to_whom() -> None:
    actor = fold([task_events("a", 1)[0], event(2, e.TaskHandedOff(to="editor/x", task="u"), task="a")])
    assert actor.current is not None
    assert actor.current.handed_to == ("editor/x", "u")
    assert not actor.at_work


def test_an_actor_begins_idle() -> None:
    actor = fold([])
    assert (actor.version, actor.state, actor.at_work, Counter(actor.role_state or "")) == (0, "idle", False, Counter())
