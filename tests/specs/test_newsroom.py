"""The example of the README: a writer whose reviewer is not pleased at once."""

from pathlib import Path

from callboard.app import load_app
from callboard.testing import ScriptedModels, spec

NEWSROOM = Path(__file__).parents[2] / "examples/newsroom.py"


async def test_the_writer_revises_by_the_reviewers_notes_and_her_states_tell_it() -> None:
    actors = [definition.actor for definition in load_app(str(NEWSROOM)).values()]
    script = [
        "Tides come.",
        '{"accepted": false, "notes": "And go?"}',
        "And go.",
        '{"accepted": true, "notes": "Fine."}',
    ]
    models = ScriptedModels(script)
    async with spec(*actors, models=models) as play:
        sent = await play.when("writer", {"topic": "tides"})
        article = await play.result(sent)
        states = [it.meta.state.dest for it in play.log if it.type == "state.changed" and it.meta.state]
    assert article == {"text": "And go.", "review": {"accepted": True, "notes": "Fine."}}
    assert states == ["drafting", "reviewing", "drafting", "reviewing", "done"]
    assert "And go?" in models.calls[2].messages[0]["content"]
    assert models.calls[1].returns is not None
