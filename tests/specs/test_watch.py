"""Who keeps the event loop from turning is named."""

import asyncio
import logging
import threading
import time
from typing import Any

import anyio
import pytest

from callboard.actors.process import watch
from callboard.actors.process.watch import Block, Look, LoopWatch
from tests.conftest import DEADLINE_S


async def test_a_handler_that_blocks_the_loop_is_named_while_it_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "BLOCKED_S", 0.2)
    stopped: list[float] = []
    seen: list[Block] = []

    async def stood_still(seconds: float) -> None:
        stopped.append(seconds)

    async def meanwhile(look: Look) -> None:
        while (block := look()) is not None:
            seen.append(block)
            await asyncio.sleep(0.01)  # on a loop that turns

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
            group.start_soon(LoopWatch(0.1, stood_still, meanwhile).run)
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
    assert stopped[0] >= 0.1
    assert {it.task for it in seen} == {"writer<0190>"}
    assert len(seen) > 1
    assert seen[-1].seconds > seen[0].seconds >= 0.1
    assert "block_here" in seen[-1].place


async def test_its_thread_ends_with_it() -> None:
    async def never(_: Any) -> None:
        raise AssertionError

    async with anyio.create_task_group() as group:
        group.start_soon(LoopWatch(60, never, never).run)
        await anyio.wait_all_tasks_blocked()
        assert any(thread.name == "loop watch" for thread in threading.enumerate())
        group.cancel_scope.cancel()
    deadline = time.monotonic() + DEADLINE_S
    while any(thread.name == "loop watch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await anyio.sleep(0.01)
