"""What the command line says, in words: pure functions."""

import io
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.text import Text
from typer.models import CommandInfo
from typer.testing import CliRunner

from callboard.actors.roles.definition import Actor, Definition, Struct
from callboard.cli.errors import error_in, in_a_line
from callboard.cli.health import numbers
from callboard.cli.history import actors_at, up_to
from callboard.cli.main import app, main
from callboard.cli.output import Listing, Screen, plain, visible
from callboard.cli.send import Order, check, payload_of
from callboard.cli.serve import chosen, example_payload, process_counts
from callboard.cli.story import WORDS, line, tell
from callboard.cli.words import ago, bar, duration, money, one_line, short, span, state_of, tree, until
from callboard.projections import tasks
from callboard.protocols import events as e
from callboard.protocols.errors import BadName, BadOption, StoreUnavailable, TaskFailed, UnknownRun
from callboard.protocols.events import BODIES
from callboard.protocols.messages import part_of
from tests.projection_kit import Log, RandomLog, model_completed, opening

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
ID = "01a1f94de650778f8af20ad662398366"


# -- names, times, money ---------------------------------------------------------------------------------------


def test_ids_are_cut_wherever_they_stand_and_nothing_else_is() -> None:
    assert short(f"writer/{ID} asks reviewer/dave") == "writer/62398366 asks reviewer/dave"
    assert short(f"run/{ID}@3.0") == "run/62398366@3.0"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0421, "42 ms"),
        (1, "1.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (90_000, "25 h 00 min"),
        (200_000, "2 d 07 h"),
    ],
)
def test_a_length_of_time_has_the_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(min_value=0, max_value=1e9))
@example(0.9999)
@example(59.97)
@example(3599.9)
def test_a_length_of_time_never_has_sixty_of_a_smaller_unit(seconds: float) -> None:
    numbers_and_units = duration(seconds).split()
    for number, unit in zip(numbers_and_units[::2], numbers_and_units[1::2], strict=True):
        assert float(number) < {"ms": 1000, "s": 60, "min": 60, "h": 48, "d": 1e6}[unit]


def test_times_are_told_from_now() -> None:
    assert ago(NOW - timedelta(milliseconds=5), NOW) == "now"
    assert ago(NOW - timedelta(seconds=59.9), NOW) == "59 s ago"
    assert ago(NOW - timedelta(hours=47), NOW) == "1 d ago"
    assert until(NOW + timedelta(seconds=3), NOW) == "in 3.0 s"
    assert until(NOW - timedelta(seconds=3), NOW) == "due 3.0 s ago"


def test_what_is_not_known_is_never_zero() -> None:
    assert money({}) == "-"
    assert money({}, unpriced=2) == "2 unpriced"
    assert money({"USD": Decimal("1.5")}, unpriced=1) == "1.50 USD + 1 unpriced"
    assert money({"USD": Decimal("0.00000004")}) == "<0.000001 USD"
    assert money({"USD": Decimal(0)}) == "0.00 USD"


def test_demo_prices_are_named_as_such_and_stand_apart() -> None:
    assert money({"XTS": Decimal("0.000038"), "USD": Decimal("1234.5")}) == "1,234.50 USD + 0.000038 XTS (demo)"


@pytest.mark.parametrize("word", ["input-required", "input required", "INPUT_REQUIRED", "TASK_STATE_INPUT_REQUIRED"])
def test_a_state_may_be_written_in_any_way(word: str) -> None:
    assert state_of(word) == "TASK_STATE_INPUT_REQUIRED"
    assert state_of("lost") is None


def test_a_text_is_put_on_one_line_and_cut() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 10, 5) == "xxxx…"


# -- pictures --------------------------------------------------------------------------------------------------


@given(st.floats(min_value=0, max_value=1), st.integers(1, 60))
def test_a_bar_keeps_its_width_and_shows_what_is_not_nothing(share: float, width: int) -> None:
    drawn = bar(share, width)
    assert len(drawn) == width
    assert (drawn.strip() == "") == (share == 0)


@given(st.floats(min_value=0, max_value=1), st.floats(min_value=0, max_value=1))
def test_a_span_lies_within_the_whole_and_can_be_seen(one: float, other: float) -> None:
    drawn = span(min(one, other), max(one, other), 28)
    assert len(drawn) == 28
    assert "━" in drawn
    assert " " not in drawn.strip()


def test_a_run_s_tasks_stand_below_those_that_asked_for_them() -> None:
    def task(name: str, parent: str | None, second: int) -> tasks.Task:
        at = NOW + timedelta(seconds=second)
        return tasks.Task(name, "r", "writer", name, 0, "assign", "m", parent, opened_at=at, updated_at=at)

    rows = [task("c", "a", 3), task("b", "a", 1), task("d", "b", 2), task("a", "gone", 0), task("e", None, 4)]
    assert [(lines, each.task) for lines, each in tree(rows)] == [
        ("", "a"),
        ("├─ ", "b"),
        ("│  └─ ", "d"),
        ("└─ ", "c"),
        ("", "e"),
    ]


def test_numbers_are_drawn_together() -> None:
    assert numbers([5, 0, 1, 2, 7, 8]) == "0-2, 5, 7-8"


# -- events in words -------------------------------------------------------------------------------------------


def test_every_event_has_words() -> None:
    assert set(WORDS) == set(BODIES)
    assert all(tell(event) for event in RandomLog(Random(7), 3000).events)


def test_contents_are_told_only_when_they_are_asked_for() -> None:
    log = Log()
    sent = opening("writer/t1", "t1", parts=(part_of("the secret plan"),))
    event = log.add("run/r1", e.RunStarted(task="t1", to="writer/t1", origin="test"), sends=[sent])
    assert "secret" not in str(line(event))
    whole = line(event, {})
    assert whole.messages[0].parts == (part_of("the secret plan"),)
    assert whole.messages[0].id == "run/r1@1.0"


def test_a_model_s_answer_tells_tokens_and_cost() -> None:
    unpriced = Log().add("writer/t1", model_completed(cost=None))
    assert tell(unpriced) == "model: gpt-5 answered, 15 tokens, unpriced, 7 ms"


def test_actors_are_folded_up_to_a_position() -> None:
    log = Log()
    message = log.start_run()
    log.start_task("writer/t1", "t1", message)
    asked = e.QuestionAsked(step="ask#0", fingerprint="f", to="reviewer/t2", task="t2")
    log.add("writer/t1", asked, task="t1", state="blocked")
    log.add("writer/t1", e.TaskCanceled(reason="enough"), task="t1", state="canceled")
    (before,) = actors_at(up_to(3, log.events))
    assert (before.state, before.ended, [(s.step, s.state) for s in before.steps]) == (
        "blocked",
        False,
        [("ask#0", "open")],
    )
    (after,) = actors_at(up_to(None, log.events))
    assert (after.state, after.ended, after.version) == ("canceled", True, 3)
    with pytest.raises(BadOption, match="positions 1 to 4"):
        up_to(5, log.events)


# -- texts from elsewhere ----------------------------------------------------------------------------------------


def test_control_characters_in_a_text_are_shown_and_not_obeyed() -> None:
    evil = "hi \x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b2Jthere\r\nnext\tline"
    assert visible(evil) == "hi \\x1b]52;c;ZXZpbA==\\x07\\x1b[2J\\x9b2Jthere\nnext\tline"
    shown = io.StringIO()
    screen = Screen(file=shown, force_terminal=True, width=200)
    screen.print(Text(evil, "red"))
    screen.print(f"[bold]{plain(evil)}[/]", soft_wrap=True)
    table = Listing("what")
    table.add(evil)
    screen.print(table)
    assert "\x1b[31m" in shown.getvalue()  # its own colours
    for command in ("\x1b]52", "\x1b[2J", "\x9b", "\x07"):
        assert command not in shown.getvalue()


# -- what is given by hand -------------------------------------------------------------------------------------


def test_a_payload_is_json_or_else_text() -> None:
    assert payload_of('{"topic": "tides"}') == {"topic": "tides"}
    assert payload_of("write on tides") == "write on tides"
    with pytest.raises(BadOption, match="'@/no/such/file' can't be used: No such file"):
        payload_of("@/no/such/file")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\xffb", "it is no text: byte 2 is no UTF-8"),
        (b'{"x": "\xff"}', "it is no text: byte 8 is no UTF-8"),
        (b"[" * 100_000, "it is nested more than 200 levels deep"),
    ],
)
def test_bytes_that_are_no_text_are_refused_as_a_payload(
    content: bytes, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "payload").write_bytes(content)
    for payload in ("-", f"@{tmp_path}/payload"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(BadOption, match=says):
            payload_of(payload)


def test_an_argument_that_is_no_text_is_refused_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["send", "chat", "a\udcffb"], ["run", "\udcff"], ["send", "chat", "1", "--key", "\udcff"]):
        monkeypatch.setattr("sys.argv", ["callboard", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert f"error: Argument {len(arguments)} " in capsys.readouterr().err


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(BadOption, match="name that task with --task"):
        check(Order(to="writer", payload=None, kind="feedback"))
    with pytest.raises(BadOption, match="it needs --wait"):
        check(Order(to="writer", payload=None, timeout_s=3))


class Brief(Struct):
    topic: str
    pages: list[int]
    words: int = 300


class Writer(Actor):
    async def handle(self, brief: Brief, ctx: object) -> None: ...


class Echo(Actor):
    async def handle(self, text: str, ctx: object) -> None: ...


def test_an_example_payload_is_one_that_the_role_takes() -> None:
    assert example_payload(Definition(Writer)) == '{"topic":"...","pages":[]}'
    assert example_payload(Definition(Echo)) == "..."


def test_processes_are_counted_by_role() -> None:
    definitions = {"writer": Definition(Writer), "echo": Definition(Echo)}
    assert process_counts(["writer=3"], definitions) == {"writer": 3, "echo": 1}
    for bad in ("writer", "writer=0", "writer=65", "poet=1", "writer=-1"):
        with pytest.raises(BadOption, match="ROLE one of echo, writer"):
            process_counts([bad], definitions)
    assert list(chosen(definitions, "all")) == ["writer", "echo"]
    assert list(chosen(definitions, "echo, writer")) == ["echo", "writer"]
    with pytest.raises(BadName, match="'poet' is not a legal role of this app: one of echo, writer, or all"):
        chosen(definitions, "poet")


# -- help ------------------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, ...]]:
    """All commands, with those of groups."""
    groups = [(group.name, group.typer_instance) for group in app.registered_groups]
    return [
        *((_name(command),) for command in app.registered_commands),
        *((str(name), _name(command)) for name, group in groups if group for command in group.registered_commands),
    ]


def _name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert re.search(rf"Examples?: callboard {' '.join(command)}", shown.output)


def test_help_needs_no_database_and_no_model_library() -> None:
    code = "import sys, callboard.cli; print(*{'redis', 'asyncpg', 'litellm', 'rich.table'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# -- errors ----------------------------------------------------------------------------------------------------


def test_the_one_error_of_ours_is_found_in_what_task_groups_have_wrapped() -> None:
    error = UnknownRun("x")
    assert error_in(ExceptionGroup("", [ExceptionGroup("", [error])])) is error
    same = ExceptionGroup("", [StoreUnavailable("gone"), StoreUnavailable("gone")])
    assert isinstance(error_in(same), StoreUnavailable)
    assert error_in(ExceptionGroup("", [error, ValueError()])) is None
    assert error_in(ValueError()) is None


def test_an_error_is_one_line_and_what_the_user_gave_stays_whole() -> None:
    failed = TaskFailed(ID, f"writer/{ID}", "ValueError", "line 1\nline 2")
    assert in_a_line(failed) == "Task 62398366 of writer/62398366 failed: ValueError: line 1 line 2"
    assert ID in in_a_line(UnknownRun(ID))
