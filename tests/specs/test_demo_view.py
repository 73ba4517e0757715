"""What the demo's view shows."""

from datetime import UTC, datetime

from callboard.actors.process.supervisor import ProcessEvent
from callboard.demo.view import Board
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import Event, Meta


def resumed(number: int, pid: int) -> Event:
    body = e.TaskResumed(process=f"inspector@here-{pid}-aaaaaa", epoch=2, attempt=2, reason="takeover")
    new = new_event(body, Meta(run="r", task=f"t{number}", role="inspector"))
    return Event(
        position=number,
        stream=f"inspector/t{number}",
        version=2,
        type=new.type,
        schema_version=1,
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC),
        data=new.data,
        meta=new.meta,
    )


def test_however_many_tasks_go_on_the_kill_stays_in_view() -> None:
    said: list[str] = []
    board = Board(["inspector-1", "inspector-2"], 100, said.append)
    for name, pid in (("inspector-1", 11), ("inspector-2", 22)):
        board.process(ProcessEvent(name, "ready", pid))
    board.note("inspector-1 KILLED")
    for number in range(1, 21):
        board.record(resumed(number, 22 if number > 5 else 11))
    *_, killed, gone_on = board.moments
    assert "KILLED" in killed
    assert gone_on.endswith("20 tasks go on from the last step: 5 in inspector-1, 15 in inspector-2")
    assert len(gone_on) <= 80
    assert len([line for line in said if "takes up" in line]) == 20
