"""The demo and the newsroom, from outside: what they promise, shown by what the log says afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CALLBOARD = Path(sys.executable).parent / "callboard"
LIMIT_S = 90.0
FILES = 48

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environ(database_url: str, redis_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    return kept | {"CALLBOARD_DATABASE_URL": database_url, "CALLBOARD_REDIS_URL": redis_url, "COLUMNS": "200"}


@pytest.fixture
def callboard(environ: dict[str, str], tmp_path: Path) -> Command:
    """Runs one command to its end."""

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CALLBOARD, *arguments],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    return command


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with something to say about every file, and two files with more than that."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for number in range(FILES - 2):
        (folder / f"part{number:02}.py").write_text(f"import os\n\n\ndef part{number}():\n    return {number}\n")
    (folder / "broken.py").write_text("def broken(:\n")
    (folder / "odd.py").write_bytes(b"# fine\n\n\nname = '\xff'\n")
    return folder


def outcome_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert not outcome["proof"]["repeated"]
    assert not outcome["proof"]["unended"]
    return outcome


def test_a_killed_inspector_s_tasks_go_on_and_no_recorded_step_is_repeated(
    callboard: Command, tree: Path, tmp_path: Path
) -> None:
    for _ in range(3):  # a kill may hit a process that has just ended all its tasks
        outcome = outcome_of(callboard("demo", tree, "--report", tmp_path / "review.md", "--json"))
        assert outcome["killed"]["process"].startswith("inspector-")
        if outcome["proof"]["resumed"]:
            break
    resumed = outcome["proof"]["resumed"]
    assert resumed
    for task in resumed:
        assert f"-{outcome['killed']['pid']}-" in task["before"]
        assert f"-{outcome['killed']['pid']}-" not in task["process"]
        assert not set(task["kept"]) & set(task["after"])
    assert outcome["summary"]["files"] == FILES
    assert outcome["proof"]["tasks"] == FILES + 2
    review = (tmp_path / "review.md").read_text(encoding="utf-8")
    assert review.index("## `broken.py`") < review.index("## `part00.py`")
    assert all(f"## `part{number:02}.py`" in review for number in range(FILES - 2))
    assert "- `odd.py`: UnicodeDecodeError" in review
    assert "> **stand-in** (no language model" in review
    [costs] = outcome["costs"]
    assert (costs["role"], costs["calls"], costs["stand_ins"]) == ("inspector", FILES - 1, FILES - 1)
    assert list(costs["amounts"]) == ["XTS"]


def test_without_a_kill_nothing_is_resumed_and_people_are_told_what_to_do_next(
    callboard: Command, tree: Path, tmp_path: Path
) -> None:
    done = callboard("demo", tree, "--no-kill")
    assert done.returncode == 0, done.stderr
    assert f"{FILES} of {FILES} files inspected" in done.stderr
    assert "Proved from the log" in done.stdout
    assert "KILLED" not in done.stderr
    assert "went on behind" not in done.stdout
    assert "demo" in next(line for line in done.stdout.splitlines() if "XTS" in line)
    [replay] = [line.partition("callboard ")[2] for line in done.stdout.splitlines() if "callboard replay" in line]
    assert (tmp_path / "callboard-review.md").is_file()
    replayed = callboard(*replay.split())
    assert replayed.returncode == 0
    assert "handed over" in replayed.stdout


@pytest.mark.parametrize(("path", "reason"), [("gone", "does not exist"), (".", "no Python file")])
def test_a_bad_path_is_told_before_anything_is_started(callboard: Command, path: str, reason: str) -> None:
    done = callboard("demo", path)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "ready" not in done.stderr


# -- the newsroom ------------------------------------------------------------------------------------------------


@pytest.fixture
def newsroom(environ: dict[str, str], callboard: Command) -> Iterator[None]:
    """The example, served."""
    command = [CALLBOARD, "up", ROOT / "examples/newsroom.py", "--model", "stand-in"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + LIMIT_S
            while callboard("lag", "--check", "--role", "writer", "--role", "reviewer").returncode:
                assert process.poll() is None
                assert time.monotonic() < deadline
            yield
        finally:
            process.send_signal(signal.SIGINT)


@pytest.mark.usefixtures("newsroom")
def test_the_newsroom_writes_and_has_it_reviewed(callboard: Command) -> None:
    for topic in ("tides", "moons"):  # the same writer twice: her states begin anew with each article
        done = callboard("send", "writer", json.dumps({"topic": topic}), "--key", "ann", "--wait")
        assert done.returncode == 0, done.stderr
        article = json.loads(done.stdout)
        assert topic in article["text"]
        assert topic in article["review"]["notes"]
    listed = json.loads(callboard("events", "writer/ann", "--json").stdout)
    states = [event["after"] for event in listed if event["type"] == "state.changed"]
    assert states == 2 * ["drafting", "reviewing", "done"]
    assert [event["type"] for event in listed].count("question.answered") == 2


@pytest.mark.usefixtures("newsroom")
def test_the_newsroom_refuses_a_brief_without_a_topic(callboard: Command) -> None:
    done = callboard("send", "writer", '{"words": 5}', "--wait")
    assert done.returncode == 2
    assert "topic" in done.stderr
