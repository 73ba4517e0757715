"""Proves from the log alone, and from what the payment server saw, that nothing was lost and nothing done twice.

Each rule is a function that raises AssertionError with what is wrong; tests/specs/test_fault_checker.py shows for each
that it fails on a log that breaks it. It is strict: what a scenario makes legitimate, it says in `Allowed`.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import msgspec

from callboard.protocols import events as e
from callboard.protocols.codec import body_of, sent_messages
from callboard.protocols.events import Event
from callboard.protocols.messages import OPENS_TASK, Message
from callboard.protocols.names import RUN, role_of
from tests.faults.payments import Request

OUTCOMES = (e.StepCompleted, e.ToolCompleted, e.ModelCompleted, e.QuestionAnswered, e.QuestionFailed)
EFFECTS = (e.StepCompleted, e.ToolCompleted)
WELL: frozenset[str] = frozenset({"task.completed", "task.handed_off"})
AGAIN = ("task.started", "task.resumed", "timer.fired", "tool.requested")  # an effect may be tried anew after each


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario makes legitimate."""

    deaths: int = 0  # of processes: without one, no task is resumed as lost
    stalled: bool = False  # a process stood still: it may repeat a request, by the same key, after it was recorded
    ends: Collection[str] = ()  # types of events by which tasks may end, beside the good ones
    unordered: bool = False  # messages of one sender may overtake each other


def check(log: Sequence[Event], requests: Sequence[Request], allowed: Allowed) -> None:
    """All rules."""
    check_positions(log)
    check_messages(log)
    check_tasks(log, allowed)
    check_one_at_a_time(log)
    if not allowed.unordered:
        check_order(log)
    check_steps(log)
    check_effects(log, requests, allowed)


def check_positions(log: Sequence[Event]) -> None:
    """Positions and versions rise by one."""
    versions: Counter[str] = Counter()
    for position, it in enumerate(log, 1):
        versions[it.stream] += 1
        assert (it.position, it.version) == (position, versions[it.stream]), it.stream


def check_messages(log: Sequence[Event]) -> None:
    """Each message was handled once, after it was sent. A dead letter that is sent again is handled by that."""
    sent: set[str] = set()
    letters: set[str] = set()
    handled: Counter[str] = Counter()
    for it in log:
        if it.meta.handles is not None:
            known = it.meta.handles in sent or it.meta.handles in letters
            assert known, f"{it.meta.handles} was handled before it was sent"
            handled[it.meta.handles] += 1
        sent |= {message.id for message in sent_messages(it)}
        if it.type == "message.dead_lettered":
            letters.add(f"{it.stream}@{it.version}")
    assert not sent - handled.keys(), f"never handled: {sorted(sent - handled.keys())[:5]}"
    assert set(handled.values()) <= {1}, f"handled twice: {[it for it, times in handled.items() if times > 1][:5]}"


def check_tasks(log: Sequence[Event], allowed: Allowed) -> None:
    """Each task that was asked for began once at most, and ended once: well, or as the scenario allows. So each run
    has ended. Without a death no task was resumed as lost.
    """
    asked = {m.task for it in log for m in it.meta.sends if m.kind in OPENS_TASK}
    begun = Counter(it.meta.task for it in log if it.type == "task.started")
    ends = [it for it in log if it.type in e.ENDS_TASK and not _of_no_task(it)]
    ended = Counter(it.meta.task for it in ends)
    assert asked == ended.keys(), f"never ended: {list(asked - ended.keys())[:5]}"
    assert set(ended.values()) <= {1}, f"ended twice: {[it for it, times in ended.items() if times > 1][:5]}"
    assert set(begun.values()) <= {1}, f"begun twice: {[it for it, times in begun.items() if times > 1][:5]}"
    well = {it.meta.task for it in ends if it.type in WELL}
    assert well <= begun.keys(), f"ended, and never began: {list(well - begun.keys())[:5]}"
    badly = [(it.stream, it.type, it.data[:200]) for it in ends if it.type not in WELL | set(allowed.ends)]
    assert not badly, f"ended badly: {badly[:5]}"
    lost = [it.meta.task for it in log if isinstance(body := body_of(it), e.TaskResumed) and body.reason == "lost"]
    assert allowed.deaths or allowed.stalled or not lost, f"resumed as lost, and nobody died: {lost[:5]}"


def _of_no_task(event: Event) -> bool:
    """Whether a dead letter is one of bytes that are no message."""
    body = body_of(event)
    return isinstance(body, e.MessageDeadLettered) and body.at == "bus"


def check_one_at_a_time(log: Sequence[Event]) -> None:
    """Within an actor, one task begins after the other has ended, and what a task does lies between the two."""
    at_work: dict[str, str | None] = {}
    for it in log:
        current = at_work.get(it.stream)
        where = f"{it.stream}@{it.version}: {it.type}"
        if it.type == "task.started":
            assert current is None, f"{where}, while {current} is at work"
            at_work[it.stream] = it.meta.task
        elif current is not None and it.meta.task == current:
            if it.type in e.ENDS_TASK:
                at_work[it.stream] = None
        elif isinstance(body_of(it), (e.TaskResumed, e.TaskCompleted, e.TaskHandedOff, *OUTCOMES)):
            raise AssertionError(f"{where} of a task that is not at work")


def check_order(log: Sequence[Event]) -> None:
    """What one actor, or the client outside, sent to one actor at one priority was begun in the order of sending."""
    sent: dict[str, tuple[tuple[str, str, str], tuple[int, int]]] = {}  # message -> its lane, and its place in the log
    begun: dict[tuple[str, str, str], tuple[int, int]] = {}
    for it in log:
        for place, message in enumerate(sent_messages(it)):
            if message.kind in OPENS_TASK:
                sent[message.id] = _lane(message), (it.position, place)
        if it.type == "task.started" and it.meta.handles in sent:
            lane, place_in_log = sent[it.meta.handles]
            later = begun.get(lane, (0, 0))
            assert later < place_in_log, f"{it.meta.handles} (position {place_in_log[0]}) for {lane} after {later[0]}"
            begun[lane] = place_in_log


def _lane(message: Message) -> tuple[str, str, str]:
    return message.to, message.priority, "outside" if role_of(message.sender) == RUN else message.sender


def check_steps(log: Sequence[Event]) -> None:
    """No step has two outcomes, and none is written behind the end of its task."""
    outcomes: Counter[tuple[str | None, str]] = Counter()
    ended: set[str | None] = set()
    for it in log:
        if isinstance(body := body_of(it), OUTCOMES):
            outcomes[it.meta.task, body.step] += 1
            assert it.meta.task not in ended, f"{it.stream}@{it.version}: {it.type} behind the end of its task"
        if it.type in e.ENDS_TASK:
            ended.add(it.meta.task)
    twice = [step for step, times in outcomes.items() if times > 1]
    assert not twice, f"recorded twice: {twice[:5]}"


def check_effects(log: Sequence[Event], requests: Sequence[Request], allowed: Allowed) -> None:
    """Each recorded effect was done, none again after it was recorded, and none more often than its outcome was
    unknown. One that is not recorded was done by a task that ended badly, in a scenario that allows that.
    """
    recorded = {
        f"{it.meta.task}:{body.step}": it.recorded_at.timestamp()
        for it in log
        if isinstance(body := body_of(it), EFFECTS)
    }
    done = Counter(request.key for request in requests)
    assert recorded.keys() <= done.keys(), f"recorded, and never done: {sorted(recorded.keys() - done.keys())[:5]}"
    badly = {it.meta.task for it in log if it.type in allowed.ends}
    unrecorded = [key for key in done.keys() - recorded.keys() if _task_of(key) not in badly]
    assert not unrecorded, f"done, and never recorded: {unrecorded[:5]}"
    late = [it.key for it in requests if it.key in recorded and it.at > recorded[it.key]]
    assert allowed.stalled or not late, f"done again after it was recorded: {late[:5]}"
    tries: defaultdict[str | None, int] = defaultdict(int)
    for it in log:
        tries[it.meta.task] += it.type in AGAIN[:2]
        tries[it.meta.task] += it.type == "timer.fired" and getattr(body_of(it), "step", "").startswith("retry#")
    often = [key for key, times in done.items() if times > tries[_task_of(key)] + allowed.stalled]
    assert not often, f"done more often than tried: {often[:5]}"


def _task_of(key: str) -> str:
    return key.rpartition(":")[0]
