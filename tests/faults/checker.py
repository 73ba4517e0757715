"""Proves from the log alone, and the effects that were seen, that nothing was lost and nothing done twice."""

from collections import Counter
from collections.abc import Sequence

from protocols import events as e
from protocols.codec import body_of, sent_messages
from protocols.events import Event
from protocols.messages import OPENS_TASK
from tests.faults.process import Effect

OUTCOMES = (e.StepCompleted, e.StepFailed, e.ToolCompleted, e.ToolFailed, e.ModelCompleted, e.QuestionAnswered)


def check(log: Sequence[Event], effects: Sequence[Effect], *, runs: int, deaths: int) -> None:
    """Raises AssertionError with what is wrong. `runs` were started, and processes died `deaths` times."""
    check_positions(log)
    check_messages(log)
    check_tasks(log, runs)
    check_steps(log)
    check_effects(log, effects, deaths)


def check_positions(log: Sequence[Event]) -> None:
    """Positions and versions rise by one."""
    versions: Counter[str] = Counter()
    for position, it in enumerate(log, 1):
        versions[it.stream] += 1
        assert (it.position, it.version) == (position, versions[it.stream]), it.stream


def check_messages(log: Sequence[Event]) -> None:
    """Each message was handled once, after it was sent."""
    sent: set[str] = set()
    handled: Counter[str] = Counter()
    for it in log:
        if it.meta.handles is not None:
            assert it.meta.handles in sent, f"{it.meta.handles} was handled before it was sent"
            handled[it.meta.handles] += 1
        sent |= {message.id for message in sent_messages(it)}
    assert not sent - handled.keys(), f"never handled: {sorted(sent - handled.keys())[:5]}"
    assert set(handled.values()) == {1}


def check_tasks(log: Sequence[Event], runs: int) -> None:
    """Each task that was asked for began once and ended once, well; and there are so many runs."""
    asked = {m.task for it in log for m in it.meta.sends if m.kind in OPENS_TASK}
    begun = Counter(it.meta.task for it in log if it.type == "task.started")
    ended = Counter(it.meta.task for it in log if it.type in e.ENDS_TASK)
    assert asked == begun.keys() == ended.keys()
    assert set(begun.values()) == set(ended.values()) == {1}
    assert not [it for it in log if it.type in ("task.failed", "task.canceled", "message.dead_lettered")]
    assert sum(it.type == "run.started" for it in log) == runs


def check_steps(log: Sequence[Event]) -> None:
    """No step has two outcomes, and none is written behind the end of its task."""
    outcomes: Counter[tuple[str | None, str]] = Counter()
    ended: set[str | None] = set()
    for it in log:
        if isinstance(body := body_of(it), OUTCOMES):
            outcomes[it.meta.task, body.step] += 1
            assert it.meta.task not in ended
        if it.type in e.ENDS_TASK:
            ended.add(it.meta.task)
    twice = [step for step, times in outcomes.items() if times > 1]
    assert not twice, f"recorded twice: {twice[:5]}"


def check_effects(log: Sequence[Event], effects: Sequence[Effect], deaths: int) -> None:
    """Each recorded effect was done, none after it was recorded; more than once only where a process died on it."""
    recorded = {
        f"{it.meta.task}:{body.step}": it.recorded_at.timestamp()
        for it in log
        if isinstance(body := body_of(it), e.StepCompleted | e.ToolCompleted)
    }
    done = Counter(effect.key for effect in effects)
    assert recorded.keys() == done.keys()
    late = [effect.key for effect in effects if effect.at > recorded[effect.key]]
    assert not late, f"done again after it was recorded: {late[:5]}"
    attempts = Counter(it.meta.task for it in log if it.type in ("task.started", "task.resumed"))
    for key, times in done.items():
        assert times <= attempts[key.rpartition(":")[0]], f"{key} was done {times} times"
        assert times <= 1 + deaths
