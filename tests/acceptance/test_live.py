"""`callboard live`, from outside: while a run goes on, and when it has ended."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.cli_kit import CALLBOARD, Callboard, command_in, environment, read, until, up
from tests.conftest import DEADLINE_S
from tests.forking import Forks
from tests.servers import Servers

TELLER = '''
from callboard import Actor, Context

class Teller(Actor):
    """Tells a story when somebody says so."""
    model = "stand-in"
    stream = True
    async def handle(self, topic: str, ctx: Context) -> str:
        await ctx.receive("feedback")
        return (await ctx.model(f"Tell of {topic}")).text
'''
STORY = "[stand-in] Tell of tides."


@pytest.fixture(scope="module")
def environ(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a database of its own, and the app served."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "teller.py").write_text(TELLER)
    with environment(servers, folder) as made, up(made, "teller.py", "--in-process", ready="ready: serves teller"):
        yield made


@pytest.fixture(scope="module")
def callboard(environ: dict[str, str], forks: Forks) -> Callboard:
    """Runs one command to its end."""
    return command_in(environ, forks)


def watched(environ: dict[str, str], run: str) -> bool:
    """Whether somebody watches a run."""
    redis: Redis = Redis.from_url(environ["CALLBOARD_REDIS_URL"])
    try:
        return bool(redis.pubsub_channels(f"*:live:{run}}}"))
    finally:
        redis.close()


def test_an_answer_is_seen_in_pieces_then_whole_and_then_the_runs_end(
    environ: dict[str, str], callboard: Callboard
) -> None:
    sent = read(callboard, "send", "teller", "tides")
    command = [CALLBOARD, "live", sent["run"], "--json"]
    with subprocess.Popen(command, env=environ, cwd=environ["PWD"], stdout=subprocess.PIPE, text=True) as live:
        until(lambda: watched(environ, sent["run"]) or live.poll() is not None)
        until(lambda: read(callboard, "tasks", "--state", "input-required"))
        assert callboard("send", "teller", "go on", "--kind", "feedback", "--task", sent["task"]).returncode == 0
        out, _ = live.communicate(timeout=DEADLINE_S)
    assert live.returncode == 0
    told = [json.loads(line) for line in out.splitlines()]
    pieces = "".join(it["text"] for it in told if it["what"] == "piece")
    assert pieces  # of the last ones, some may come later than the run's end
    assert STORY.startswith(pieces)
    (answer,) = [it for it in told if it["what"] == "answer"]
    assert (answer["text"], answer["task"], answer["model"]) == (STORY, sent["task"], "stand-in")
    assert told[-1] == {"what": "end", "run": sent["run"], "state": "TASK_STATE_COMPLETED"}
    assert not watched(environ, sent["run"])

    ended = callboard("live", "last")
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert "completed" in ended.stderr


def test_a_run_that_is_not_known_is_named(callboard: Callboard) -> None:
    done = callboard("live", "nosuchrun")
    assert done.returncode == 2
    assert "nosuchrun" in done.stderr
