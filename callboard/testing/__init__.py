"""Tests of your own actors, without servers: given a past, when a message comes, then these events follow.

    from callboard.testing import event, spec

    async def test_a_draft_is_revised_once() -> None:
        async with spec(Writer, Reviewer, models=["a draft", "a better draft"]) as play:
            sent = await play.when("writer", Brief("tides"))
            play.then(
                "task.started",
                "model.requested",
                event("model.completed", message={"role": "assistant", "content": "a draft"}),
                event("question.asked", sends=[("assign", "reviewer", {"draft": "a draft"})]),
                "question.answered",
                "model.requested",
                "model.completed",
                event("task.completed", result="a better draft"),
            )

The actors run on the real runtime. The log and the bus are their twins in memory, models answer from a script, and the
clock stands still until `play.advance(seconds)` turns it. `play.crash()` ends the process as kill -9 would, and goes on
in a new one with the same log. Handlers need an event loop and nothing else: any runner of async tests will do.
"""

from callboard.testing.clock import ManualClock
from callboard.testing.expectations import event
from callboard.testing.models import ScriptedModels
from callboard.testing.play import Play, spec

__all__ = ["ManualClock", "Play", "ScriptedModels", "event", "spec"]
