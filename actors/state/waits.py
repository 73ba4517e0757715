"""What a task waits for, and what becomes of a step: the one place that says it, for memory and for the log alike.

Pure: no I/O, no clock. `callboard.actors.state.fold` asks it what the log says, `callboard.actors.task.work` what is
true in memory.

A step's life. Each change is an event, or needs none: then it is done again in the same way after a loss.

    planned    -> requested    tool.requested, model.requested, question.asked, timer.set, wait.started,
                               approval.requested, task.retry_scheduled
    planned    -> in flight    a function of the handler's own: no event; after a loss it is called again
    planned    -> done         what is one event: value.checked, message.sent, artifact.added, task.progressed ...
    planned    -> failed       refused before it began: model.refused, tool.failed
    requested  -> in flight    no event: the effect begins when the request is durable
    requested, in flight -> done, failed
                               *.completed | *.answered | *.fired | *.decided | message.received; *.failed
    in flight  -> unknown      tool.outcome_unknown: a person has to say what happened
    unknown    -> in flight    tool.requested once more; or -> done, by tool.completed
    failed     -> planned      task.retry_scheduled: the handler runs again, and the step with it
    any but the above ends -> given up
                               step.given_up: its branch was cancelled (it timed out, or another branch failed)
    given up   -> planned      task.retry_scheduled
    whatever is open when its task ends, ends with it: no event but the task's own

A step that is given up stays so: an answer that comes late is discarded, and when the handler runs again it waits at
this step until the same thing cancels it that did so before.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class StepState(Enum):
    """What the log says of a step. One in flight is requested, for the log; a function of the handler's own planned."""

    PLANNED = "planned"
    REQUESTED = "requested"
    UNKNOWN = "unknown"  # whether a tool was called is not known: a person decides
    DONE = "done"
    FAILED = "failed"
    GIVEN_UP = "given up"

    @property
    def open(self) -> bool:
        """Whether it has begun and has no outcome."""
        return self in (StepState.REQUESTED, StepState.UNKNOWN)

    @property
    def ended(self) -> bool:
        """Whether it has an outcome that the handler gets."""
        return self in (StepState.DONE, StepState.FAILED)


class Activity(Enum):
    """What a task does. The values are the lifecycle states of `callboard.protocols.states` that the log has for it."""

    THINKING = "thinking"  # the handler runs, or a model does for it
    EXECUTING = "executing"  # a tool runs
    WAITING_REVIEW = "waiting_review"  # for a person's decision
    WAITING_INPUT = "waiting_input"  # for a message
    BLOCKED = "blocked"  # for another actor, or a due time
    ENDED = "ended"

    @property
    def runs(self) -> bool:
        """Whether nothing from outside is needed for it to go on: if its process is lost, it is resumed."""
        return self in (Activity.THINKING, Activity.EXECUTING)

    @property
    def waits(self) -> bool:
        """Whether only a message lets it go on: it holds no slot, and may be dropped from memory."""
        return self in (Activity.WAITING_REVIEW, Activity.WAITING_INPUT, Activity.BLOCKED)

    @property
    def waits_for_people(self) -> bool:
        """Whether somebody has to send, or to decide, something."""
        return self in (Activity.WAITING_REVIEW, Activity.WAITING_INPUT)


TRIGGERS: Final = {
    Activity.THINKING: "think",
    Activity.EXECUTING: "execute",
    Activity.WAITING_REVIEW: "await_review",
    Activity.WAITING_INPUT: "await_input",
    Activity.BLOCKED: "block",
}  # of the lifecycle machine, that lead to each

# What open steps of a form make of a task; the first form that is open decides.
BY_FORM: Final = (
    ("tool", Activity.EXECUTING),
    ("model", Activity.THINKING),
    ("review", Activity.WAITING_REVIEW),
    ("wait", Activity.WAITING_INPUT),
    ("question", Activity.BLOCKED),
    ("timer", Activity.BLOCKED),
)

_WAITS: Final = tuple((form, it) for form, it in BY_FORM if it.waits)


def activity(opened: Mapping[str, int], *, runs: bool, ended: bool = False) -> Activity:
    """What a task does that has so many open steps of each form, and of which something `runs`, or nothing.

    A task waits only if nothing of it runs: where some branches of a handler wait and others go on, it has to be
    resumed when its process is lost.
    """
    if ended:
        return Activity.ENDED
    if not runs:
        for form, waits in _WAITS:
            if opened.get(form):
                return waits
    return Activity.EXECUTING if opened.get("tool") else Activity.THINKING


def activity_in_log(opened: Mapping[str, int]) -> Activity:
    """What the open steps of a task tell by themselves: a call of a tool or a model that is open runs."""
    return activity(opened, runs=bool(opened.get("tool") or opened.get("model")))
