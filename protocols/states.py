"""The lifecycle of every actor, as a table, and the A2A task state that follows from it.

    idle -> thinking (model) <-> executing (tool)
    thinking, executing -> waiting_input | waiting_review | blocked (on another actor, a timer, a budget) -> thinking
    any of these -> completed | failed | canceled -> thinking (the next task) ...

The table is data; `callboard.actors.state.machine` gives it to `transitions`, which guards it.
"""

from typing import Final, Literal

from msgspec import Struct

State = Literal[
    "idle",
    "thinking",
    "executing",
    "blocked",
    "waiting_input",
    "waiting_review",
    "completed",
    "failed",
    "canceled",
]
TaskState = Literal[
    "TASK_STATE_SUBMITTED",
    "TASK_STATE_WORKING",
    "TASK_STATE_INPUT_REQUIRED",
    "TASK_STATE_COMPLETED",
    "TASK_STATE_FAILED",
    "TASK_STATE_CANCELED",
]


class StateChange(Struct, frozen=True):
    """A change that an event brings: which trigger took the machine from one state to another."""

    trigger: str
    source: str
    dest: str


RUNNING: Final = ("thinking", "executing")  # nothing would wake the task: if its process is lost, it is resumed
WAITING: Final = ("blocked", "waiting_input", "waiting_review")  # until a message comes
AT_WORK: Final = RUNNING + WAITING
TERMINAL: Final = ("completed", "failed", "canceled")
AT_REST: Final = ("idle", *TERMINAL)

# trigger, the states in which it is legal, and the state that it leads to
LIFECYCLE: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    ("start", AT_REST, "thinking"),
    ("think", AT_WORK, "thinking"),
    ("execute", AT_WORK, "executing"),
    ("block", AT_WORK, "blocked"),
    ("await_input", AT_WORK, "waiting_input"),
    ("await_review", AT_WORK, "waiting_review"),
    ("complete", AT_WORK, "completed"),
    ("fail", AT_WORK, "failed"),
    ("cancel", AT_WORK, "canceled"),
)

_A2A: Final[dict[str, TaskState]] = {
    "idle": "TASK_STATE_SUBMITTED",
    "thinking": "TASK_STATE_WORKING",
    "executing": "TASK_STATE_WORKING",
    "blocked": "TASK_STATE_WORKING",
    "waiting_input": "TASK_STATE_INPUT_REQUIRED",
    "waiting_review": "TASK_STATE_INPUT_REQUIRED",
    "completed": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "canceled": "TASK_STATE_CANCELED",
}


def task_state(state: State) -> TaskState:
    """The A2A TaskState (protobuf name, A2A 1.0) of a task whose actor is in `state`."""
    return _A2A[state]
