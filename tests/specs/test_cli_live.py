"""What `callboard live` makes of pieces and events."""

import io
import json

import pytest
from msgspec import Raw
from rich.console import Console

from callboard.cli.live import Answer, End, Failure, ForMachines, ForPeople, follow
from callboard.eventstore import MemoryEventStore
from callboard.projections.runs import RunRow, fold
from callboard.protocols import events as e
from callboard.protocols.codec import new_event
from callboard.protocols.events import NewEvent
from callboard.protocols.live import Piece
from callboard.protocols.messages import ErrorInfo
from callboard.protocols.ports import ANY
from tests.projection_kit import VALUE, Log, model_completed


class Noted:
    """A view that only notes what it is told."""

    def __init__(self) -> None:
        self.facts: list[Answer | Failure | End] = []

    def __enter__(self) -> "Noted":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def hear(self, piece: Piece) -> None:
        raise AssertionError("nothing was told")

    def add(self, fact: Answer | Failure | End) -> None:
        self.facts.append(fact)


def piece(text: str, *, attempt: int = 1, at: int = 0, step: str = "model#0") -> Piece:
    return Piece("r1", "t1", "writer/t1", step, attempt, text, at)


def answer(text: str = "The tide is high.", **fields: object) -> Answer:
    given = {"attempt": 1, "step": "model#0", "tools": ()} | fields
    return Answer(task="t1", actor="writer/t1", model="gpt-5", text=text, position=9, **given)  # type: ignore[arg-type]


def on_paper(view: ForPeople) -> str:
    """What a terminal would show of the answers that are coming."""
    console = Console(file=io.StringIO(), width=60)
    console.print(view.draw())
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def view() -> ForPeople:
    return ForPeople(Console(file=io.StringIO(), width=60))


def printed(view: ForPeople) -> str:
    return view._console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


async def recorded(log: Log) -> tuple[MemoryEventStore, RunRow]:
    """A store with a log, and its run as the first event leaves it."""
    store = MemoryEventStore()
    for event in log.events:
        new = NewEvent(type=event.type, data=event.data, meta=event.meta, schema_version=event.schema_version)
        await store.append(event.stream, [new], ANY)
    (row,) = fold(log.facts[:1], {})
    return store, row


async def test_answers_and_failures_come_in_the_logs_order_until_the_run_ends() -> None:
    log = Log()
    message = log.start_run()
    log.start_task("writer/t1", "t1", message)
    call = {"id": "1", "function": {"name": "tide", "arguments": "{}"}}
    said = e.Stored(inline=Raw(json.dumps({"content": "high", "tool_calls": [call]}).encode()))
    error = ErrorInfo("TimeoutError", "silent")
    failed = e.ModelFailed(step="model#0", attempt=1, model="gpt-5", error=error, duration_ms=1, kind="timeout")
    log.add("writer/t1", failed, task="t1")
    log.start_run("writer/t2", "t2", "r2")
    log.add("writer/t2", model_completed(), run="r2", task="t2")
    log.add("writer/t1", model_completed(step="model#0", attempt=2, message=said), task="t1")
    log.add("writer/t1", e.TaskCompleted(), task="t1", state="completed")
    log.add("writer/t1", e.StepCompleted(step="late", fingerprint="f", result=VALUE), task="t1")
    store, row = await recorded(log)
    noted = Noted()
    await follow(store, row, 1, noted)
    first, second, last = noted.facts
    assert isinstance(first, Failure)
    assert (first.kind, first.attempt) == ("timeout", 1)
    assert second == Answer("t1", "writer/t1", "model#0", 2, "gpt-5", "high", ("tide",), 6)
    assert last == End("r1", "TASK_STATE_COMPLETED")


async def test_of_a_run_that_has_ended_only_the_end_is_told() -> None:
    log = Log()
    log.start_run()
    log.add("writer/t1", e.TaskCanceled(reason="before it began"), task="t1")
    store, row = await recorded(log)
    fold(log.facts, {"r1": row})
    noted = Noted()
    await follow(store, row, 0, noted)
    assert noted.facts == [End("r1", "TASK_STATE_CANCELED")]


async def test_an_answer_of_an_older_schema_is_shown() -> None:
    log = Log()
    message = log.start_run()
    log.start_task("writer/t1", "t1", message)
    store, row = await recorded(log)
    meta = e.Meta(run="r1", task="t1")
    old = json.loads(new_event(model_completed(), meta).data)
    old["text"] = {"inline": "of old"}
    del old["message"]
    new = NewEvent(type="model.completed", data=json.dumps(old).encode(), meta=meta, schema_version=1)
    await store.append("writer/t1", [new], ANY)
    done = new_event(e.TaskCompleted(), meta)
    await store.append("writer/t1", [done], ANY)
    noted = Noted()
    await follow(store, row, 1, noted)
    assert isinstance(noted.facts[0], Answer)
    assert noted.facts[0].text == "of old"


def test_what_is_coming_is_drawn_until_it_is_in_the_log(view: ForPeople) -> None:
    view.hear(piece("The tide "))
    view.hear(piece("is hi", at=9))
    assert "The tide is hi" in on_paper(view)
    view.add(answer())
    assert on_paper(view).strip() == ""
    assert "The tide is high." in printed(view)


def test_pieces_that_come_late_draw_nothing(view: ForPeople) -> None:
    view.add(answer())
    view.hear(piece("late"))
    assert on_paper(view).strip() == ""


def test_another_attempt_begins_anew(view: ForPeople) -> None:
    view.hear(piece("half an ans"))
    view.add(Failure("t1", "writer/t1", "model#0", 1, "gpt-5", "cut_stream", "cut", 5))
    view.hear(piece("whole", attempt=2))
    assert "whole" in on_paper(view)
    assert "half" not in on_paper(view)
    assert "attempt 2" in on_paper(view)
    assert "attempt 1 failed, cut_stream: cut" in printed(view)


def test_who_comes_in_the_middle_is_told_so(view: ForPeople) -> None:
    view.hear(piece("and so on", at=1000))
    assert "without what came before" in on_paper(view)


def test_of_long_answers_the_last_lines_are_drawn_and_of_many_some(view: ForPeople) -> None:
    for number in range(20):
        view.hear(piece("\n".join(f"line {line}" for line in range(100)), step=f"model#{number}"))
    drawn = on_paper(view)
    assert "line 99" in drawn
    assert "line 50" not in drawn
    assert "and 14 more" in drawn


def test_nothing_in_an_answer_moves_the_terminals_cursor(view: ForPeople) -> None:
    view.hear(piece("\x1b[2Ja [bold]b\x9b"))
    assert "[2Ja [bold]b" in on_paper(view)
    view.add(answer("\x1b]0;title\x07c"))
    assert "\x1b" not in printed(view) + on_paper(view)


def test_machines_get_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ForMachines() as view:
        view.hear(piece("The tide\n", at=0))
        view.add(answer(tools=("tide",)))
        view.add(End("r1", "TASK_STATE_COMPLETED"))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["what"] for line in lines] == ["piece", "answer", "end"]
    place = {"task": "t1", "actor": "writer/t1", "step": "model#0", "attempt": 1}
    assert lines[0] == {"what": "piece", **place, "text": "The tide\n", "at": 0}
