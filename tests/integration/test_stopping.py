"""How a process ends that is told to, whatever keeps it: signals, limits, and the end by force."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from callboard.actors.process.ending import FORCED
from tests.conftest import DEADLINE_S

# A process that serves by these functions, and says when it has come to be told to end.
SERVER = """
import asyncio, atexit, logging, multiprocessing, os, re, sys, threading, time
import anyio
from callboard.actors.process import ending as endings
from callboard.cli import serve, stopping

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
endings.LAST_S = stopping.LAST_S = 0.5
endings.LAST_WORDS_S = 0.5
ending = endings.Ending()

def say(word):
    print(word, flush=True)

def for_ever():
    while True:
        time.sleep(1)

{does}

with stopping.ended(ending):
    anyio.run(serve._until_told, serving, "ready", None, ending, 0.5)
say("ended")
"""
WELL = """
async def serving(stop, *, task_status):
    task_status.started()
    say("go")
    await stop.wait()
"""
STARTS = """
async def serving(stop, *, task_status):
    say("go")
    await anyio.sleep_forever()
"""
DEAF_AS_IT_STARTS = """
async def serving(stop, *, task_status):
    say("go")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""
BLOCKS = """
async def serving(stop, *, task_status):
    task_status.started()
    await anyio.sleep(0)
    ending.before(lambda: say("handed over"))
    say("go")
    for_ever()
"""
LEAVES_A_THREAD = WELL + "threading.Thread(target=for_ever).start()\n"
LEAVES_A_WORKER = """
async def serving(stop, *, task_status):
    async with anyio.create_task_group() as group:
        async def block():
            await asyncio.get_running_loop().run_in_executor(None, for_ever)
        task = asyncio.create_task(block())
        await anyio.sleep(0.05)
        task_status.started()
        say("go")
        await stop.wait()
        task.cancel()
"""
WAITS_AT_EXIT = WELL + "atexit.register(for_ever)\n"


class Server:
    """A process, and what it says."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout is not None
        self.said: Callable[[], str] = lambda: process.stdout.readline().strip()  # type: ignore[union-attr]
        self.tell = process.send_signal

    def end(self) -> tuple[int, str]:
        """Its exit code and its log."""
        _, log = self._process.communicate(timeout=DEADLINE_S)
        return self._process.returncode, log


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Any:
    code = SERVER.format(does=request.param)
    command = (sys.executable, "-c", code)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            running = Server(process)
            assert running.said() == "go"
            yield running
        finally:
            process.kill()


@pytest.mark.parametrize("server", [WELL, STARTS], indirect=True, ids=["at work", "while it starts"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well(server: Server, number: int) -> None:
    server.tell(number)
    assert server.said() == "ended"
    code, log = server.end()
    assert (code, "by force" in log) == (0, False), log


FORKS = """
async def serving(stop, *, task_status):
    task_status.started()
    child = multiprocessing.get_context("fork").Process(target=for_ever)
    child.start()
    child.terminate()
    child.join()
    say("go")
    await anyio.sleep(0.3)  # for a signal that went astray
    say(f"{child.exitcode} {stop.is_set()}")
    await stop.wait()
"""


@pytest.mark.parametrize("server", [FORKS], indirect=True)
def test_a_process_that_a_tool_forks_hears_its_own_signals_and_no_other(server: Server) -> None:
    assert server.said() == f"-{signal.SIGTERM.value} False"
    server.tell(signal.SIGTERM)
    assert server.said() == "ended"
    assert server.end()[0] == 0


FORCED_ENDS = {
    "it swallows its cancellation as it starts": (DEAF_AS_IT_STARTS, "MainThread in"),
    "it blocks the loop": (BLOCKS, "MainThread in for_ever"),
    "a thread of its own runs": (LEAVES_A_THREAD, "Thread-1 (for_ever) in for_ever"),
    "a worker thread runs": (LEAVES_A_WORKER, "in for_ever"),
    "a function is called at exit": (WAITS_AT_EXIT, "MainThread in for_ever"),
}


@pytest.mark.parametrize(("server", "kept_by"), FORCED_ENDS.values(), ids=FORCED_ENDS, indirect=["server"])
def test_it_is_ended_by_force_and_says_what_kept_it(server: Server, kept_by: str) -> None:
    server.tell(signal.SIGTERM)
    code, log = server.end()
    assert code == FORCED, log
    assert "the process is ended by force" in log
    assert kept_by in log


FAILS_AT_LAST = BLOCKS.replace('say("go")', 'ending.before(lambda: 1 / 0); say("go")')


@pytest.mark.parametrize("server", [FAILS_AT_LAST], indirect=True)
def test_what_fails_then_keeps_nothing_from_ending(server: Server) -> None:
    server.tell(signal.SIGTERM)
    code, log = server.end()
    assert code == FORCED, log


@pytest.mark.parametrize("server", [BLOCKS], indirect=True)
def test_what_is_to_be_done_before_is_done(server: Server) -> None:
    server.tell(signal.SIGTERM)
    assert server.said() == "handed over"
    assert server.end()[0] == FORCED


LONG = WELL.replace("await stop.wait()", "await stop.wait(); say('stopping'); await anyio.sleep_forever()")


@pytest.mark.parametrize("server", [LONG], indirect=True)
def test_told_twice_it_ends_at_once(server: Server) -> None:
    server.tell(signal.SIGTERM)
    assert server.said() == "stopping"
    server.tell(signal.SIGTERM)
    code, log = server.end()
    assert "ends at once" in log
    assert code == 1, log  # typer.Exit, which only the command line makes an exit code of
    assert "by force" not in log


KEEPS_THE_LOCK = WELL.replace(
    "await stop.wait()", "await stop.wait(); say('stopping'); re.match('(a+)+$', 'a' * 99 + 'b')"
)


@pytest.mark.parametrize("server", [KEEPS_THE_LOCK], indirect=True)
def test_code_that_never_gives_the_interpreter_back_is_ended_by_the_operating_system(server: Server) -> None:
    server.tell(signal.SIGTERM)
    assert server.said() == "stopping"
    begun = time.monotonic()
    code, _ = server.end()
    assert code == -signal.SIGALRM
    assert time.monotonic() - begun < DEADLINE_S
