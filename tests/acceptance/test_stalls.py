"""Handlers that block the event loop of their process, and processes that are told to end and whose tasks don't."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callboard.actors.process.ending import FORCED
from callboard.bootstrap import Stack
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from tests.cli_kit import environment, until
from tests.conftest import DEADLINE_S
from tests.faults.rest import becomes
from tests.forking import Forks
from tests.process_kit import Processes, ended, inside, log_of, processes, send
from tests.servers import Servers

DESK = '''
import asyncio, os, time
from pathlib import Path
from callboard import Actor, Context, Struct, TimeLimits

class Job(Struct):
    does: str

def mark(name):
    with open(name, "a") as file:
        file.write("x")

async def wait_for(name):
    mark(f"waiting-{name}")
    while not Path(name).exists():
        await asyncio.sleep(0.02)

def block_until(name):
    mark(f"blocked-{name}")
    while not Path(name).exists():
        time.sleep(0.02)

class Desk(Actor):
    """Waits as it should, or blocks its process."""
    limits = TimeLimits(blocking_s=float(os.environ.get("BLOCKING_S", "120")))
    async def handle(self, job: Job, ctx: Context) -> str:
        if job.does == "wait":
            await ctx.step(wait_for, "go")
        else:
            block_until(job.does)
        return "done"
'''


@pytest.fixture
def environ(servers: Servers, tmp_path: Path) -> Iterator[dict[str, str]]:
    with environment(servers, tmp_path) as environ:
        (tmp_path / "desk.py").write_text(DESK)
        environ["CALLBOARD_MODEL"] = "stand-in"
        yield environ


def renewals(environ: dict[str, str], times: int) -> None:
    """Return when the leases have been renewed so often."""
    seen: set[Any] = set()

    async def renewed(stack: Stack) -> None:
        async def often() -> bool:
            rows = await stack.store.pool.fetch("select max(expires_at) as at from partitions")
            seen.add(rows[0]["at"])
            return len(seen) > times

        await becomes(often, DEADLINE_S)

    inside(environ, renewed)


def owners(environ: dict[str, str]) -> set[str | None]:
    async def found(stack: Stack) -> set[str | None]:
        return {it.owner for it in await stack.leases.partitions()}

    return inside(environ, found)


def ended_one(serving: Processes) -> str:
    """The name of a process that has ended by itself; with the exit code of a forced end."""
    name = until(lambda: next(iter(serving.ended()), None))
    assert serving.wait(name) == FORCED
    return str(name)


def test_a_handler_that_blocks_for_many_leases_is_started_once_and_completes(
    environ: dict[str, str], forks: Forks, tmp_path: Path
) -> None:
    environ["CALLBOARD_LEASE_S"] = "1"
    with processes(forks, environ, "desk.py") as serving:
        serving.start("a", "b", "c")
        sent = send(environ, "desk", [{"does": "wait"}] * 4)
        until(lambda: (tmp_path / "waiting-go").exists() and len((tmp_path / "waiting-go").read_text()) == 4)
        before = owners(environ)
        sent += send(environ, "desk", [{"does": "free"}])
        until((tmp_path / "blocked-free").exists)
        renewals(environ, 12)  # three processes, three times a lease each
        renewals(environ, 12)
        (tmp_path / "free").touch()
        (tmp_path / "go").touch()
        assert {type(it) for it in ended(environ, sent).values()} == {e.TaskCompleted}
        assert (tmp_path / "blocked-free").read_text() == "x"
        assert owners(environ) == before
        types = [it.type for it in log_of(environ)]
        assert e.TaskResumed.TYPE not in types
        assert e.TaskStalled.TYPE not in types
        logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
        assert f"desk<{sent[-1].task}> blocks the event loop" in logs
        assert "in block_until (" in logs
        serving.stop()


def test_beyond_the_limit_only_the_task_that_blocks_is_a_suspect(
    environ: dict[str, str], forks: Forks, tmp_path: Path
) -> None:
    environ["BLOCKING_S"] = "1.5"
    with processes(forks, environ, "desk.py") as serving:
        serving.start("a", "b")
        neighbours = send(environ, "desk", [{"does": "wait"}] * 6)
        until(lambda: (tmp_path / "waiting-go").exists() and len((tmp_path / "waiting-go").read_text()) == 6)
        (blocker,) = send(environ, "desk", [{"does": "never"}])
        first = ended_one(serving)
        said = (tmp_path / f"{first}.log").read_text()
        assert f"desk<{blocker.task}> has blocked the event loop" in said
        assert "longer than blocking_s=1.5; the process is ended by force" in said
        (tmp_path / "go").touch()
        serving.start(first)
        while not any(it.type == e.MessageDeadLettered.TYPE for it in log_of(environ)):
            for name in serving.ended():
                assert serving.wait(name) == FORCED
                serving.start(name)
        assert {type(it) for it in ended(environ, neighbours).values()} == {e.TaskCompleted}
        log = log_of(environ)
        assert [it.meta.task for it in log if it.type == e.TaskStalled.TYPE] == [blocker.task] * 4
        assert {it.reason for it in map(body_of, log) if isinstance(it, e.TaskResumed)} == {"handed over"}


STUBBORN = '''
import asyncio, time
from pathlib import Path
from callboard import Actor, Context, Struct

class Job(Struct):
    does: str = ""

def sleep_for_ever():
    while True:
        time.sleep(1)

class Swallow(Actor):
    """Swallows its cancellation."""
    async def handle(self, job: Job, ctx: Context) -> None:
        Path("swallow").touch()
        while True:
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                pass

class Finally(Actor):
    """Waits for ever when it is cancelled."""
    async def handle(self, job: Job, ctx: Context) -> None:
        Path("finally").touch()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.Event().wait()

class Loop(Actor):
    """Blocks the event loop."""
    async def handle(self, job: Job, ctx: Context) -> None:
        Path("loop").touch()
        sleep_for_ever()
'''


def test_a_process_that_is_told_to_end_does_whatever_its_handlers_do(
    environ: dict[str, str], forks: Forks, tmp_path: Path
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    environ |= {"CALLBOARD_GRACE_S": "1", "CALLBOARD_LEASE_S": "30"}
    roles = ["swallow", "finally", "loop"]
    pids = {}
    try:
        for role in roles:
            arguments = ("actor", role, "--app", "stubborn.py")
            pids[role] = forks.start(arguments, environ, tmp_path / f"{role}.log")
        for role in roles:
            until(lambda: "ready: serves" in (tmp_path / f"{role}.log").read_text())  # noqa: B023
            send(environ, role, [{}])
        for role in roles:
            until((tmp_path / role).exists)
        for pid in pids.values():
            os.kill(pid, signal.SIGTERM)
        codes = {role: forks.wait(pids.pop(role)) for role in roles}
        logs = {role: (tmp_path / f"{role}.log").read_text() for role in roles}
        assert set(codes.values()) == {FORCED}, logs
        assert "it did not end within" in logs["loop"]
        assert "MainThread in sleep_for_ever" in logs["loop"]
        assert owners(environ) == {None}  # handed over
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
