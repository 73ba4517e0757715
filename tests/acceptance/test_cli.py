"""The installed command `callboard`, from outside: an app is served, asked, looked into, and ended."""

import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.cli_kit import Callboard, read, until, up
from tests.conftest import run

NEWSROOM = '''
from callboard import Actor, Context, Struct

class Brief(Struct):
    topic: str
    words: int = 300

class Writer(Actor):
    """Writes a draft and has it reviewed."""
    model = "stand-in"
    async def handle(self, brief: Brief, ctx: Context) -> dict:
        if brief.topic == "nothing":
            raise ValueError("there is nothing [to] write on")
        draft = await ctx.model(f"Write {brief.words} words on {brief.topic}.")
        return {"draft": draft.text, "notes": await ctx.ask("reviewer", draft.text)}

class Reviewer(Actor):
    """Reviews a draft; what concerns war is reviewed by a person."""
    async def handle(self, draft: str, ctx: Context) -> str:
        if "war" in draft:
            return (await ctx.receive("feedback", note="a person's opinion")).content
        return "fine"
'''
APP = ("newsroom.py", NEWSROOM)


@pytest.fixture(scope="module")
def newsroom(environ: dict[str, str]) -> Iterator[Path]:
    """The app, served by a process for each role; gives the file of what they log."""
    with up(environ, "newsroom.py", ready="all 3 processes are ready") as log:
        yield log


def head(environ: dict[str, str]) -> int:
    """The position of the log's newest event."""

    async def fetch() -> None:
        connection = await asyncpg.connect(environ["CALLBOARD_DATABASE_URL"])
        try:
            found.append(await connection.fetchval("select position from head"))
        finally:
            await connection.close()

    found: list[int] = []
    run(fetch())
    return found[0]


# -- asking ----------------------------------------------------------------------------------------------------


def test_send_waits_and_its_output_is_the_result(newsroom: Path, callboard: Callboard) -> None:
    done = callboard("send", "writer", '{"topic": "tides"}', "--wait")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"draft": "[stand-in] Write 300 words on tides.", "notes": "fine"}
    assert re.search(r"sent to writer/\w{8}: run \w{8}, task \w{8}\n  callboard run \w{8} ", done.stderr)


def test_a_failed_task_is_told_with_its_error_and_exit_code_1(newsroom: Path, callboard: Callboard) -> None:
    done = callboard("send", "writer", '{"topic": "nothing"}', "--wait")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(r"^error: Task \w{8} of writer/\w{8} failed: ValueError: there is nothing \[to\] write on$",
                     done.stderr, re.MULTILINE)  # fmt: skip


def test_a_wait_may_have_an_end_that_the_task_does_not_share(newsroom: Path, callboard: Callboard) -> None:
    done = callboard("send", "reviewer", "war and peace", "--wait", "--timeout-s", "0.2")
    assert done.returncode == 1
    assert re.search(r"error: Task \w{8} has not ended within 0.2 s. It goes on: `callboard run \w{8}`", done.stderr)
    assert callboard("send", "reviewer", "enough", "--task", "last", "--kind", "cancel").returncode == 0


def test_a_killed_process_comes_back_and_its_task_ends_with_what_it_waited_for(
    newsroom: Path, callboard: Callboard
) -> None:
    sent = read(callboard, "send", "writer", '{"topic": "war"}')
    waiting = lambda: read(callboard, "tasks", "--run", sent["run"], "--state", "input-required")  # noqa: E731
    until(waiting)
    (task,) = waiting()
    assert task["role"] == "reviewer"
    pids = re.findall(r"reviewer \(pid (\d+)\) is ready", newsroom.read_text())
    os.kill(int(pids[-1]), signal.SIGKILL)
    until(lambda: len(re.findall(r"reviewer \(pid \d+\) is ready", newsroom.read_text())) == len(pids) + 1)
    assert "ended with SIGKILL" in newsroom.read_text()
    told = callboard("send", "reviewer", "no war", "--task", task["task"][-8:], "--kind", "feedback")
    assert told.returncode == 0, told.stderr
    until(lambda: read(callboard, "run", sent["run"])["run"]["state"] == "TASK_STATE_COMPLETED")
    assert read(callboard, "run", sent["run"])["result"]["notes"] == "no war"


def test_what_is_sent_while_redis_cannot_be_reached_comes_from_the_log(newsroom: Path, callboard: Callboard) -> None:
    sent = callboard("send", "reviewer", "peace", "--wait", CALLBOARD_REDIS_URL="redis://127.0.0.1:1/0")
    assert (sent.returncode, sent.stdout) == (0, "fine\n"), sent.stderr
    assert "can't be reached" in sent.stderr
    assert "What is sent now comes from the log." in sent.stderr


# -- looking ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent(newsroom: Path, callboard: Callboard) -> Any:
    """A run that has completed: what `send --json` says of it."""
    return read(callboard, "send", "writer", '{"topic": "tides", "words": 20}', "--wait")


def test_send_for_machines_tells_ids_and_result(sent: Any) -> None:
    (receipt,) = sent["sent"]
    assert len(sent["run"]) == len(sent["task"]) == 32
    assert receipt["actor"] == f"writer/{sent['task']}"
    assert receipt["result"] == {"draft": "[stand-in] Write 20 words on tides.", "notes": "fine"}


@pytest.mark.parametrize(
    ("listing", "fields"),
    [
        (["runs"], {"run", "state", "tasks", "cost", "unpriced"}),
        (["tasks", "--role", "writer"], {"task", "run", "state", "waiting", "error_type"}),
        (["agents"], {"agent", "role", "tasks", "cost", "last_process"}),
        (["costs", "--by", "model"], {"by", "calls", "unpriced", "stand_ins", "amounts"}),
        (["audit"], {"position", "at", "actor", "what", "detail"}),
        (["events", "run/last"], {"position", "stream", "version", "type", "words"}),
    ],
)
def test_listings_are_arrays_of_objects_for_machines(
    sent: Any, callboard: Callboard, listing: Sequence[str], fields: set[str]
) -> None:
    listed = read(callboard, *listing)
    assert listed
    assert all(fields <= set(each) for each in listed)


def test_dead_letters_are_an_array_for_machines(sent: Any, callboard: Callboard) -> None:
    assert read(callboard, "dead") == []


def test_reports_are_objects_for_machines(sent: Any, callboard: Callboard) -> None:
    assert set(read(callboard, "run", sent["run"])) == {"run", "tasks", "costs", "result"}
    assert set(read(callboard, "replay", sent["run"])) == {"run", "at", "events", "actors"}
    assert set(read(callboard, "messages")) == {"open", "timers", "dead"}
    lag = read(callboard, "lag")
    assert [role["role"] for role in lag["roles"]] == ["reviewer", "writer"]
    assert all(partition["owner"] for role in lag["roles"] for partition in role["partitions"])


def test_ids_may_be_shortened_from_either_side(sent: Any, callboard: Callboard) -> None:
    run_id = sent["run"]
    for given in (run_id, run_id[-8:], run_id[:20]):
        assert read(callboard, "run", given)["run"]["run"] == run_id
    assert read(callboard, "events", f"writer/{sent['task'][-8:]}")[0]["task"] == sent["task"]
    assert callboard("run", "0").stderr.startswith("error: '0' could be any of ")


def test_replay_goes_to_a_position_and_shows_the_actors_there(sent: Any, callboard: Callboard) -> None:
    whole = read(callboard, "replay", sent["run"])
    positions = [event["position"] for event in whole["events"]]
    assert positions == sorted(positions)
    asked = next(event for event in whole["events"] if event["type"] == "question.asked")
    assert (asked["before"], asked["after"]) == ("thinking", "blocked")
    there = read(callboard, "replay", sent["run"], "--at", str(asked["position"]))
    (writer,) = there["actors"]
    assert (writer["state"], writer["ended"]) == ("blocked", False)
    assert [(step["form"], step["state"]) for step in writer["steps"]] == [("model", "done"), ("question", "open")]
    assert {actor["state"] for actor in whole["actors"]} == {"completed"}


def test_bodies_show_the_prompt_that_a_model_was_asked(sent: Any, callboard: Callboard) -> None:
    stream = f"writer/{sent['task']}"
    assert "tides" not in json.dumps(read(callboard, "events", stream))
    (asked,) = [e for e in read(callboard, "events", stream, "--bodies") if e["type"] == "model.requested"]
    assert list(asked["blobs"].values()) == [{"role": "user", "content": "Write 20 words on tides."}]


def test_people_see_trees_bars_and_demo_prices(sent: Any, callboard: Callboard) -> None:
    shown = callboard("run", sent["run"][-8:]).stdout
    for words in ("completed", "└─ reviewer", "━", "XTS (demo)", "█", "Write 20 words on tides."):
        assert words in shown
    assert "(no real model)" in callboard("costs", "--by", "model").stdout
    assert "thinking -> blocked" in callboard("replay", sent["run"]).stdout


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send", "poet", "x"], "No process has ever served a role 'poet'. Known roles: reviewer, writer."),
        (["send", "writer", '{"topic": 3}'], "The payload doesn't fit role 'writer': 3 is not of type 'string'."),
        (
            ["send", "writer", '{"topic": "x"}', "--run", "f" * 32],
            f"There is no run '{'f' * 32}'.",
        ),
        (["send", "writer", "{}", "--task", "zz"], "There is no task 'zz'."),
        (["send", "writer", "@none"], "PAYLOAD '@none' can't be used: No such file or directory."),
        (["send", "Writer!", "{}"], "'Writer!' is not a legal role"),
        (["run", "zz"], "There is no run 'zz'."),
        (["events", "writer/zz"], "There is no stream 'writer/zz'."),
        (["tasks", "--state", "lost"], "--state 'lost' can't be used"),
        (["replay", "last", "--at", "999999"], "the run's events are at positions"),
        (["send", "writer", "{}", "--delay", "-1"], "delay '-1' can't be used"),
        (["send", "writer", "{}", "--deadline", "2020-01-01T00:00:00Z"], "it is past: now it is"),
        (["send", "writer", "{}", "--deadline", "soon"], "it is neither a number of seconds nor a time such as"),
        (["redrive", "zz"], "There is no dead letter 'zz'"),
        (["redrive"], "name dead letters, or choose them by"),
        (["resolve", "last", "--run"], "has no tool call with an unknown outcome: it has ended, completed"),
        (["resolve", "last"], "say either --happened RESULT or --run"),
        (["cancel", "last"], "RUN 'last' can't be used: all its tasks have ended"),
        (["cancel", "zz"], "There is no run 'zz'."),
        (["partitions", "poet", "4"], "No process has ever served a role 'poet'"),
        (["partitions", "writer", "0"], "Invalid value for 'N'"),
        (["up", "none.py"], "'none.py' is not an app: there is no such file."),
        (["actor", "poet", "--app", "newsroom.py"], "'poet' is not a legal role of this app"),
        (["send", "writer", "{}", "--kind", "song"], "Invalid value for '--kind'"),
    ],
)
def test_bad_input_is_told_in_a_line_ends_with_2_and_writes_nothing(
    sent: Any, environ: dict[str, str], callboard: Callboard, arguments: list[str], words: str
) -> None:
    before = head(environ)
    done = callboard(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert head(environ) == before


def test_servers_that_cannot_be_reached_are_named_without_their_passwords(callboard: Callboard) -> None:
    lost = callboard("runs", CALLBOARD_DATABASE_URL="postgresql://u:secret@127.0.0.1:1/x")
    assert lost.returncode == 2
    assert lost.stderr.startswith("error: PostgreSQL at postgresql://u:***@127.0.0.1:1/x can't be reached")
    lost = callboard("lag", CALLBOARD_REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert lost.returncode == 2
    assert "secret" not in lost.stderr
    half = callboard("runs", CALLBOARD_REDIS_URL="")
    assert half.returncode == 2
    assert "CALLBOARD_REDIS_URL" in half.stderr


# -- serving ---------------------------------------------------------------------------------------------------


def test_one_process_may_serve_all_roles(environ: dict[str, str], callboard: Callboard) -> None:
    with up(environ, "newsroom.py", "--in-process", ready="ready: serves reviewer, writer") as log:
        done = callboard("send", "writer", '{"topic": "tides"}', "--wait")
        assert done.returncode == 0, done.stderr
    assert "ends when the tasks at work have come to rest" in log.read_text()
    assert 'callboard send writer \'{"topic":"..."}\' --wait' in log.read_text()


def test_a_message_for_a_role_that_nobody_serves_is_kept_and_said_to_wait(
    environ: dict[str, str], callboard: Callboard
) -> None:
    app = NEWSROOM.replace("class Reviewer", "class Hermit")
    (Path(environ["PWD"]) / "hermitage.py").write_text(
        app[: app.index("class Writer")] + app[app.index("class Hermit") :]
    )
    with up(environ, "hermitage.py", "--in-process", ready="ready: serves hermit"):
        assert callboard("lag", "--check", "--role", "hermit").returncode == 0
    done = callboard("send", "hermit", "later")
    assert done.returncode == 0
    assert "No process serves hermit now: the message waits in the log until one does." in done.stderr
    (waiting,) = read(callboard, "messages", "--role", "hermit")["open"]
    assert waiting["kind"] == "assign"
    checked = callboard("lag", "--check", "--role", "hermit", "--role", "poet")
    assert checked.returncode == 1
    assert checked.stderr.startswith("error: Not served: poet, hermit (partitions 0-7)")
