"""What people do while a system runs, from outside: look what is wrong, and put it right."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import Callboard, read, until, up

SHOP = '''
import asyncio
from pathlib import Path
from callboard import Actor, Context, Struct

class Order(Struct):
    item: str
    price: int = 1

    def __post_init__(self) -> None:
        if self.price < 0:
            raise ValueError("a price is not below zero")

class Cashier(Actor):
    """Takes orders."""
    async def handle(self, order: Order, ctx: Context) -> str:
        if order.item == "advice":
            return (await ctx.receive("feedback", note="a person's advice")).content
        return await ctx.tool(charge, item=order.item)

async def charge(item: str) -> str:
    """Charges a card; whoever asks for something slow sees its process die first."""
    first = not Path(item).exists()
    Path(item).touch()
    if first and item.startswith("slow"):
        await asyncio.sleep(3600)
    return f"charged for {item}"
'''
APP = ("shop.py", SHOP)


@pytest.fixture(scope="module")
def shop(environ: dict[str, str]) -> Iterator[Path]:
    """The app, served; gives the file of what its processes log."""
    with up(environ, "shop.py", ready="all 2 processes are ready") as log:
        yield log


def ended(callboard: Callboard, run: str) -> Any:
    """What `run` says of a run that has ended."""
    return until(lambda: report if (report := read(callboard, "run", run))["run"]["ended_at"] else None)


def doctor(callboard: Callboard) -> tuple[int, list[Any]]:
    """Its exit code, and what it found."""
    done = callboard("doctor", "--json")
    return done.returncode, json.loads(done.stdout)["findings"]


def order(callboard: Callboard, *options: str, **fields: object) -> Any:
    return read(callboard, "send", "cashier", json.dumps(fields), *options)


def test_a_dead_letter_is_seen_edited_and_sent_again_once_a_generation(shop: Path, callboard: Callboard) -> None:
    run = order(callboard, item="tea", price=-1)["run"]
    (first,) = until(lambda: read(callboard, "dead", "--run", run))
    assert (first["role"], first["attempts"], first["edited"], first["redriven_at"]) == ("cashier", 1, False, None)
    assert "a price is not below zero" in first["reason"]
    code, (finding,) = doctor(callboard)
    assert (code, finding["check"], finding["help"]) == (1, "dead-letter", f"callboard redrive {first['id']}")

    again = callboard("redrive", "--run", run, "--yes")  # as it is, it dies again: another letter
    assert re.search(r"goes to cashier/\w{8} again: run \w{8}, task \w{8}", again.stdout), again.stderr
    (second,) = until(lambda: read(callboard, "dead", "--run", run))
    assert second["id"] != first["id"]

    edited = callboard("dead", "edit", "last", '{"item": "tea", "price": 2}', "--reason", "a slip", "--by", "ann")
    assert edited.returncode == 0, edited.stderr
    shown = callboard("dead", "show", second["task"]).stdout
    for words in ('{"item":"tea","price":-1}', "ann gave dead letter", "a slip", '{"item":"tea","price":2}'):
        assert words in shown
    (redriven,) = read(callboard, "redrive", second["id"])["redriven"]
    assert redriven["run"] == run
    twice = callboard("redrive", second["id"])
    assert (twice.returncode, "was sent again already, by" in twice.stderr) == (2, True)
    assert ended(callboard, run)["result"] == "charged for tea"
    assert [each["id"] for each in read(callboard, "dead", "--run", run, "--all")] == [second["id"], first["id"]]
    assert " sent dead letter run/" in callboard("replay", run).stdout
    assert doctor(callboard) == (0, [])


def test_what_became_of_a_tool_call_is_said_by_a_person(shop: Path, callboard: Callboard) -> None:
    runs = [order(callboard, item=f"slow {number}")["run"] for number in range(2)]
    folder = shop.parent
    until(lambda: all((folder / f"slow {number}").exists() for number in range(2)))
    pids = re.findall(r"cashier \(pid (\d+)\) is ready", shop.read_text())
    os.kill(int(pids[-1]), signal.SIGKILL)
    waiting = until(lambda: found if len(found := read(callboard, "tasks", "--state", "waiting_review")) == 2 else None)
    code, findings = doctor(callboard)
    assert (code, {each["check"] for each in findings}) == (1, {"unknown-outcome"})
    tasks = {task["run"]: task["task"] for task in waiting}
    assert f"callboard resolve {tasks[runs[0]]} --happened RESULT" in "".join(each["help"] for each in findings)

    happened = callboard("resolve", tasks[runs[0]], "--happened", "by hand", "--by", "ann")
    assert happened.returncode == 0, happened.stderr
    assert read(callboard, "resolve", tasks[runs[1]], "--run")["tool"] == "charge"
    assert [ended(callboard, run)["result"] for run in runs] == ["by hand", "charged for slow 1"]
    assert "ann said that charge was done" in callboard("replay", runs[0]).stdout


def test_a_run_is_canceled_whole_also_what_is_due_only_later(shop: Path, callboard: Callboard) -> None:
    run = order(callboard, item="advice")["run"]
    order(callboard, "--run", run, "--delay", "3600", item="tea")
    until(lambda: read(callboard, "tasks", "--run", run, "--state", "input-required"))
    code, (finding,) = doctor(callboard)
    assert (code, finding["check"], finding["runs"]) == (1, "waits-for-somebody", [run])
    done = callboard("cancel", run, "--wait", "--reason", "enough")
    assert (done.returncode, done.stdout) == (0, f"2 tasks of run {run[-8:]} ended.\n")
    assert {task["state"] for task in read(callboard, "tasks", "--run", run)} == {"TASK_STATE_CANCELED"}
    assert read(callboard, "messages", "--run", run) == {"open": [], "timers": [], "dead": []}


def test_partitions_are_counted_anew_while_messages_flow(shop: Path, callboard: Callboard) -> None:
    runs = [order(callboard, item=f"before {number}")["run"] for number in range(2)]
    changed = read(callboard, "partitions", "cashier", "3")
    assert (changed["partitions"], changed["generation"]) == (3, 2)
    runs += [order(callboard, item=f"after {number}")["run"] for number in range(2)]
    results = [ended(callboard, run)["result"] for run in runs]
    assert results == [f"charged for {item}" for item in ("before 0", "before 1", "after 0", "after 1")]
    until(lambda: callboard("lag", "--check").returncode == 0)
    (role,) = read(callboard, "lag")["roles"]
    assert [each["partition"] for each in role["partitions"]] == [0, 1, 2]
    assert "has 3 partitions already" in callboard("partitions", "cashier", "3").stdout
