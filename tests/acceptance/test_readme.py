"""The README's commands work, in the order in which they stand there."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
READY_S = 60.0
COMMAND_S = 120.0


def commands() -> list[str]:
    """The lines of all sh blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def environment(database_url: str, redis_url: str) -> dict[str, str]:
    given = {"CALLBOARD_DATABASE_URL": database_url, "CALLBOARD_REDIS_URL": redis_url, "NO_COLOR": "1"}
    return {**os.environ, **given}


def run(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )


@pytest.fixture
def served(environment: dict[str, str]) -> Iterator[list[str]]:
    """The rest of the commands, while the first one, which serves the newsroom, runs."""
    up, *rest = commands()
    assert " up " in up
    process = subprocess.Popen(up, shell=True, cwd=ROOT, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + READY_S
        while run("uv run callboard lag --check --role writer --role reviewer", environment).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline, "the newsroom is not served"
        yield rest
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(COMMAND_S)


def test_its_commands_work_as_they_stand_there(served: list[str], environment: dict[str, str]) -> None:
    assert len(served) > 5
    for command in served:
        done = run(command, environment)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout.strip(), command


@pytest.mark.parametrize("command", ["pip install uv && uv run callboard demo", "pip install uv && uv run pytest"])
def test_its_two_one_line_commands_are_run_by_ci(command: str) -> None:
    assert f"\n    {command}\n" in (ROOT / "README.md").read_text()
    assert f"\n{command.replace('install', 'install --quiet')}\n" in (ROOT / ".ci/run").read_text()
