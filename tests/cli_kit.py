"""The command `callboard`, run from outside: installed where it serves, forked where it is asked."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.conftest import DEADLINE_S, run
from tests.databases import administer, at, forget_keys
from tests.forking import Forks
from tests.servers import Servers

CALLBOARD = Path(sys.executable).parent / "callboard"

Callboard = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def environment(servers: Servers, folder: Path) -> Iterator[dict[str, str]]:
    """An environment with a database of its own, for commands in a folder."""
    name = f"callboard_test_{uuid4().hex}"
    run(administer(servers, f"create database {name}"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CALLBOARD_")}
    yield kept | {
        "CALLBOARD_DATABASE_URL": at(servers.database_url, name),
        "CALLBOARD_REDIS_URL": servers.redis_url,
        "CALLBOARD_LEASE_S": "5",
        "PWD": str(folder),
        "COLUMNS": "160",
    }
    run(forget_keys(servers.redis_url, at(servers.database_url, name)))
    run(administer(servers, f"drop database {name} with (force)"))


def command_in(environ: dict[str, str], forks: Forks) -> Callboard:
    """Runs one command to its end, in a process forked from one that has imported all of it."""

    def command(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return forks.run(arguments, environ | changed)

    return command


@contextmanager
def up(environ: dict[str, str], *arguments: str, ready: str) -> Iterator[Path]:
    """`callboard up`, ended by Ctrl-C; it has to end well, and leave no process behind."""
    log = Path(environ["PWD"]) / f"{uuid4().hex}.log"
    with (
        log.open("w") as out,
        subprocess.Popen([CALLBOARD, "up", *arguments], env=environ, cwd=environ["PWD"], stdout=out, stderr=out) as app,
    ):
        try:
            until(lambda: ready in log.read_text() or app.poll() is not None)
            assert ready in log.read_text(), log.read_text()
            yield log
            app.send_signal(signal.SIGINT)
            assert app.wait(DEADLINE_S) == 0, log.read_text()
        finally:
            app.kill()
    children = [int(pid) for pid in re.findall(r"\(pid (\d+)\) started", log.read_text())]
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives when it holds; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def read(callboard: Callboard, *arguments: str) -> Any:
    """What a listing gives to machines: JSON on standard output, and nothing on standard error."""
    done = callboard(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)
