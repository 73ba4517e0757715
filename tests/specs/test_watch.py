"""Who keeps the event loop from turning is named."""

import asyncio
import logging
import threading
import time
from typing import Any

import anyio
import pytest

from actors import watch
from actors.watch import BEAT_S, LoopWatch, Stop
from tests.conftest import DEADLINE_S


async def test_a_handler_that_blocks_the_loop_is_named_while_it_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BLOCKED_S", 0.2)
    stopped: list[Stop] = []

    async def stood_still(stop: Stop) -> None:
        stopped.append(stop)

    def warned() -> bool:
        return any("blocks the event loop" in record.getMessage() for record in caplog.records)

    async def block_here() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("writer<0190>")
        deadline = time.monotonic() + DEADLINE_S
        while not warned() and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 - this is the offence

    with caplog.at_level(logging.WARNING):
        async with anyio.create_task_group() as group:
            group.start_soon(LoopWatch(0.1, stood_still).run)
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as inner:
                inner.start_soon(block_here)
            with anyio.fail_after(DEADLINE_S):
                while not stopped:  # noqa: ASYNC110 - what it waits for tells nobody
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
    [record] = [record for record in caplog.records if "blocks the event loop" in record.getMessage()]
    assert "writer<0190> blocks the event loop" in record.getMessage()
    assert "block_here" in record.getMessage()
    assert stopped[0].seconds >= 0.1
    assert stopped[0].ours


async def test_its_thread_ends_with_it() -> None:
    async def never(_: Any) -> None:
        raise AssertionError

    async with anyio.create_task_group() as group:
        group.start_soon(LoopWatch(60, never).run)
        await anyio.wait_all_tasks_blocked()
        assert any(thread.name == "loop watch" for thread in threading.enumerate())
        group.cancel_scope.cancel()
    deadline = time.monotonic() + DEADLINE_S
    while any(thread.name == "loop watch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("looks", "used_s", "ours"),
    [
        (0, 0.0, False),  # the process was stopped, or the machine
        (1, 0.3, False),  # it hardly ran
        (30, 0.0, True),  # something slept: the thread could look
        (0, 2.9, True),  # something computed, and kept the interpreter's lock
    ],
)
async def test_a_process_that_did_not_run_is_told_from_a_loop_that_was_kept(
    looks: int, used_s: float, ours: bool
) -> None:
    stops: list[Stop] = []

    async def stood_still(stop: Stop) -> None:
        stops.append(stop)

    it = LoopWatch(1.0, stood_still)
    it._beat = time.monotonic() - 3.0 - BEAT_S
    it._looks = looks
    await it._beaten(used_s)
    [stop] = stops
    assert 3.0 <= stop.seconds < 3.0 + DEADLINE_S
    assert stop.ours is ours
