"""A name that was given to a process is its own, on its machine, as long as it lives."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from callboard.bootstrap import claim_name, process_name
from callboard.eventstore import PostgresEventStore, PostgresLeases
from callboard.names import held
from callboard.protocols.errors import NameTaken
from callboard.protocols.ports import Route
from tests.conftest import DEADLINE_S

HOST = socket.gethostname()
ME = f"poet@{HOST}-{os.getpid()}-000000"
LIVING = os.getppid()
APP = '''
from callboard import Actor, Context

class Poet(Actor):
    """Writes a line."""
    async def handle(self, topic: str, ctx: Context) -> str:
        return topic
'''


@pytest.fixture
async def leases(database_url: str) -> AsyncIterator[PostgresLeases]:
    async with PostgresEventStore.open(database_url) as store:
        leases = PostgresLeases(store.pool)
        for role in ("poet", "critic"):
            await leases.register(Route(role, 2))
        yield leases


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


async def test_a_name_is_taken_while_its_process_lives(leases: PostgresLeases) -> None:
    rival = f"poet@{HOST}-{LIVING}-abcdef"

    async def live() -> None:
        while True:
            await anyio.sleep(0.3)
            await leases.heartbeat(rival, ["poet"], lease_s=30)

    await leases.heartbeat(rival, ["poet"], lease_s=30)
    async with anyio.create_task_group() as group:
        group.start_soon(live)
        with (
            anyio.fail_after(DEADLINE_S),
            pytest.raises(NameTaken, match=f"named 'poet' serves 'poet' already: {rival}"),
        ):
            await claim_name(leases, ME, ["critic", "poet"])
        group.cancel_scope.cancel()


async def test_a_name_is_free_when_its_process_is_silent_for_a_lease(leases: PostgresLeases) -> None:
    await leases.heartbeat(f"poet@{HOST}-{LIVING}-abcdef", ["poet"], lease_s=1)
    with anyio.fail_after(DEADLINE_S):
        await claim_name(leases, ME, ["poet"])
    assert await leases.members() == []


async def test_a_name_is_free_at_once_when_its_process_has_ended(leases: PostgresLeases, ended: int) -> None:
    await leases.heartbeat(f"poet@{HOST}-{ended}-abcdef", ["poet"], lease_s=300)
    await leases.heartbeat(f"poet@{HOST}-{os.getpid()}-abcdef", ["poet"], lease_s=300)  # a number used again
    with anyio.fail_after(DEADLINE_S):
        await claim_name(leases, ME, ["poet"])


async def test_a_name_is_another_on_another_machine_and_for_another_role(leases: PostgresLeases) -> None:
    for process in (f"poet@else.where-{LIVING}-abcdef", f"poet-2@{HOST}-{LIVING}-abcdef"):
        await leases.heartbeat(process, ["poet"], lease_s=300)
    await leases.heartbeat(f"poet@{HOST}-{LIVING}-abcdef", ["critic"], lease_s=300)
    with anyio.fail_after(DEADLINE_S):
        await claim_name(leases, ME, ["poet"])


HOLDER = """
import sys
from callboard.names import held
with held("store", sys.argv[1], ["critic", "poet"]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, None], ids=["killed", "at its end"])
def test_of_two_processes_of_a_name_that_start_at_once_one_has_it(number: int | None) -> None:
    name = f"poet@{HOST}"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{name}-1-abcdef"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        taken = f"named 'poet' serves 'poet' already: {name}-1-abcdef"
        with pytest.raises(NameTaken, match=taken), held("store", f"{name}-2-abcdef", ["poet"]):
            raise AssertionError
        with held("store", f"poet-2@{HOST}-2-abcdef", ["poet"]), held("else", f"{name}-2-abcdef", ["poet"]):
            pass  # another name, another store
        if number is None:
            first.communicate("")
        else:
            first.send_signal(number)
            first.wait()
    with held("store", f"{name}-2-abcdef", ["poet"]):
        pass


def test_names_of_processes_that_start_in_the_same_second_differ() -> None:
    assert len({process_name("poet") for _ in range(20)}) == 20


@contextmanager
def poet(environ: dict[str, str], app: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that serves the poet."""
    command = (sys.executable, "-P", "-m", "callboard", "actor", "poet", "--app", str(app), *options)
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], what: str) -> str:
    """What a process has said, in one line, until it said this or ended."""
    assert process.stderr is not None
    text = ""
    for line in process.stderr:
        text = f"{text} {line.strip()}"
        if re.search(what, text):
            break
    return text


def test_a_second_process_of_a_name_ends_with_an_error_and_one_killed_is_no_obstacle(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CALLBOARD_")}
    environ = kept | {
        "CALLBOARD_DATABASE_URL": database_url,
        "CALLBOARD_REDIS_URL": redis_url,
        "CALLBOARD_LEASE_S": "2",
    }
    with poet(environ, app, "--name", "ada") as first:
        assert "ready" in said(first, "ready")
        with poet(environ, app, "--name", "ada") as second, poet(environ, app) as unnamed:
            assert "A process named 'ada' serves 'poet' already" in said(second, "another --name")
            assert second.wait(10) == 2
            assert "ready" in said(unnamed, "ready")
        first.send_signal(signal.SIGKILL)
        with poet(environ, app, "--name", "ada") as third:
            assert "ready" in said(third, "ready")
