"""Processes that are kept up: restarts, orderly ends, and children that don't outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from callboard.actors.process.supervisor import LONGEST_DELAY_S, ProcessEvent, ProcessSpec, Supervisor
from callboard.protocols.errors import ProcessGaveUp
from callboard.protocols.ports import SystemClock
from tests.conftest import DEADLINE_S


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


# A tied child: it says that it is ready, and drains when it is told to or when its parent is gone.
TIED = """
import anyio, signal, sys
from pathlib import Path
from callboard.actors.process.supervisor import READY, Tie

async def on_signal(scope, *, task_status):
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()

async def main():
    tie = Tie()
    async with anyio.create_task_group() as group:
        await group.start(on_signal, group.cancel_scope)  # before anybody may tell it to end
        tie.say(READY)
        print("not for the parent")
        await tie.parent_gone()
        group.cancel_scope.cancel()
    Path(sys.argv[1]).write_text("drained")

anyio.run(main)
"""


class HastyClock(SystemClock):
    """A clock whose sleeps take no time; `age_s` is what a process seems to run for."""

    def __init__(self, age_s: float = 0.0) -> None:
        self.slept: list[float] = []
        self._age_s = age_s
        self._now = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        self._now += self._age_s
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await anyio.lowlevel.checkpoint()


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(0.01)


async def test_a_process_that_ends_unasked_is_started_again_after_growing_delays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    clock, stop = HastyClock(), anyio.Event()
    events: list[ProcessEvent] = []

    def watch(event: ProcessEvent) -> None:
        events.append(event)
        if len([e for e in events if e.what == "restarting"]) == 8:
            stop.set()

    spec = ProcessSpec("crasher", ("/bin/sh", "-c", "exit 7"))
    await Supervisor([spec], watch, clock).run(stop, grace_s=5.0)
    delays = [e.delay_s for e in events if e.what == "restarting"]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_DELAY_S, LONGEST_DELAY_S]
    assert {e.code for e in events if e.what == "exited"} == {7}
    assert events[0].what == "started"


async def test_a_process_that_ran_for_long_is_started_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)
    stop = anyio.Event()
    delays: list[float | None] = []

    def watch(event: ProcessEvent) -> None:
        if event.what == "restarting":
            delays.append(event.delay_s)
            if len(delays) == 3:
                stop.set()

    await Supervisor([ProcessSpec("steady", ("/bin/false",))], watch, HastyClock(age_s=31.0)).run(stop, grace_s=5.0)
    assert delays == [0.2, 0.2, 0.2]


async def test_a_killed_process_comes_back_under_its_name_and_is_told_to_end_at_the_stop(tmp_path: Path) -> None:
    stop, events = anyio.Event(), list[ProcessEvent]()
    log, drained = tmp_path / "child.log", tmp_path / "drained"
    spec = ProcessSpec("tied", (*python(TIED), str(drained)), log=log)
    supervisor = Supervisor([spec], events.append)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: supervisor.run(stop, grace_s=DEADLINE_S))
        await until(lambda: [e for e in events if e.what == "ready"])
        first = supervisor.pids()["tied"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: len([e for e in events if e.what == "ready"]) == 2)
        second = supervisor.pids()["tied"]
        stop.set()
    assert first != second
    assert drained.read_text() == "drained"
    assert [(e.what, e.code) for e in events] == [
        ("started", None),
        ("ready", None),
        ("exited", -signal.SIGKILL),
        ("restarting", -signal.SIGKILL),
        ("started", None),
        ("ready", None),
        ("exited", 0),
    ]
    assert log.read_text() == "not for the parent\n" * 2
    assert supervisor.pids() == {}


async def test_bad_input_ends_all_and_is_told_with_the_process_s_own_words() -> None:
    events: list[ProcessEvent] = []
    specs = [
        ProcessSpec("patient", ("/bin/sleep", "60")),
        ProcessSpec("confused", ("/bin/sh", "-c", "echo there is no such app; exit 2")),
    ]
    with pytest.raises(ProcessGaveUp, match="confused can't run: there is no such app"):
        await Supervisor(specs, events.append).run(anyio.Event(), grace_s=5.0)
    assert [e.what for e in events if e.name == "confused"] == ["started", "exited"]
    assert [e.code for e in events if e.name == "patient" and e.what == "exited"] == [-signal.SIGTERM]


async def test_bad_input_of_a_process_that_was_ready_before_ends_no_other_and_it_is_started_again(
    tmp_path: Path,
) -> None:
    stop, events = anyio.Event(), list[ProcessEvent]()
    flag = tmp_path / "was-ready"
    once = f"if [ -e {flag} ]; then echo the app is broken now; exit 2; fi; touch {flag}; echo ready; exit 7"

    def watch(event: ProcessEvent) -> None:
        events.append(event)
        if len([e for e in events if e.name == "broken" and e.code == 2 and e.what == "restarting"]) == 2:
            stop.set()

    specs = [ProcessSpec("patient", ("/bin/sleep", "600")), ProcessSpec("broken", ("/bin/sh", "-c", once))]
    with anyio.fail_after(DEADLINE_S):
        await Supervisor(specs, watch, HastyClock()).run(stop, grace_s=5.0)
    ends = [(e.code, e.words) for e in events if e.name == "broken" and e.what == "exited"]
    assert ends[:3] == [(7, ""), (2, "the app is broken now"), (2, "the app is broken now")]
    assert [e.code for e in events if e.name == "patient" and e.what == "exited"] == [-signal.SIGTERM]


async def test_a_command_that_does_not_exist_gives_up() -> None:
    with pytest.raises(ProcessGaveUp, match="/no/such/program can't be started: No such file or directory"):
        await Supervisor([ProcessSpec("lost", ("/no/such/program",))], lambda _: None).run(anyio.Event(), grace_s=1.0)


async def test_a_process_that_is_not_restarted_ends_the_run_with_its_own_end() -> None:
    events: list[ProcessEvent] = []
    once = ProcessSpec("once", ("/bin/true",), restart=False)
    with anyio.fail_after(DEADLINE_S):
        await Supervisor([once], events.append).run(anyio.Event(), grace_s=1.0)
    assert [e.what for e in events] == ["started", "exited"]


async def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.actors.process.supervisor.SECOND_GRACE_S", 0.1)
    stop, events = anyio.Event(), list[ProcessEvent]()
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )

    def watch(event: ProcessEvent) -> None:
        events.append(event)
        if event.what == "ready":
            stop.set()

    await Supervisor([ProcessSpec("deaf", python(deaf))], watch).run(stop, grace_s=0.1)
    assert [(e.what, e.code) for e in events] == [("started", None), ("ready", None), ("exited", -signal.SIGKILL)]


async def test_a_cancelled_supervisor_ends_its_children_first() -> None:
    events: list[ProcessEvent] = []
    supervisor = Supervisor([ProcessSpec("patient", ("/bin/sleep", "60"))], events.append)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: supervisor.run(anyio.Event(), grace_s=5.0))
        await until(supervisor.pids)
        (pid,) = supervisor.pids().values()
        group.cancel_scope.cancel()
    assert not _alive(pid)


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(999)"


async def test_a_supervisor_that_stops_and_is_cancelled_then_gives_no_second_grace_period() -> None:
    stop, events = anyio.Event(), list[ProcessEvent]()
    supervisor = Supervisor([ProcessSpec("deaf", python(DEAF))], events.append)
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: supervisor.run(stop, grace_s=100 * DEADLINE_S))
            await until(lambda: [e for e in events if e.what == "ready"])
            (pid,) = supervisor.pids().values()
            stop.set()
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    assert not _alive(pid)


async def test_a_child_that_is_told_to_end_while_it_starts_is_killed_in_the_end() -> None:
    stop, events = anyio.Event(), list[ProcessEvent]()
    never_ready = python(DEAF.replace("print('ready', flush=True)", "print('deaf', flush=True)"))

    def watch(event: ProcessEvent) -> None:
        events.append(event)
        stop.set()

    with anyio.fail_after(DEADLINE_S):
        await Supervisor([ProcessSpec("deaf", never_ready)], watch).run(stop, grace_s=0.1)
    assert [e.what for e in events] == ["started", "exited"]
    assert events[-1].code in (-signal.SIGTERM, -signal.SIGKILL)


async def test_all_that_runs_is_killed_at_once_with_what_it_started() -> None:
    events: list[ProcessEvent] = []
    supervisor = Supervisor([ProcessSpec("deaf", python(DEAF), restart=False)], events.append)
    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: supervisor.run(anyio.Event(), grace_s=5.0))
            await until(lambda: [e for e in events if e.what == "ready"])
            supervisor.kill()
    assert events[-1].code == -signal.SIGKILL


def test_no_child_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    drained = tmp_path / "drained"
    supervise = f"""
import anyio
from callboard.actors.process.supervisor import ProcessSpec, Supervisor
spec = ProcessSpec("tied", {(*python(TIED), str(drained))!r})
def show(event):
    print(event.what, event.pid, flush=True)
async def main():
    await Supervisor([spec], show).run(anyio.Event(), grace_s=5.0)
anyio.run(main)
"""
    with subprocess.Popen(python(supervise), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        _, pid = parent.stdout.readline().split()
        assert parent.stdout.readline().startswith("ready")
        parent.kill()
    deadline = time.monotonic() + DEADLINE_S
    while _alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(int(pid))
    assert drained.read_text() == "drained"


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
