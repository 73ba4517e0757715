"""The demo as a whole: starts the crew's processes, sends the tree, kills an inspector on the way, and looks back."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from msgspec import Struct
from rich.console import Console
from rich.live import Live

from callboard.actors.models.stand_in import STAND_IN
from callboard.actors.outside.client import Client
from callboard.actors.process.supervisor import ProcessEvent, ProcessSpec, Supervisor
from callboard.bootstrap import Stack
from callboard.cli.words import count, model_word
from callboard.demo import timeline
from callboard.demo.files import find_files, own_tree
from callboard.demo.findings import Summary, Tree
from callboard.demo.proof import Proof, prove
from callboard.demo.view import Board, shown
from callboard.projections import costs
from callboard.protocols import events as e
from callboard.protocols.errors import BadFolder

APP: Final = "callboard.demo.crew"
COUNTS: Final = {"planner": 1, "inspector": 2, "reporter": 1}  # processes of each role
REPORT: Final = "callboard-review.md"
LEASE_S: Final = 2.0  # so long the crew waits for the process that was killed
KILL_AT: Final = 0.4  # of the files
GRACE_S: Final = 3.0
SHARE_S: Final = 3 * LEASE_S  # what is shared out later is no harm
POLL_S: Final = 0.05
REFRESH_S: Final = 0.1


class Killed(Struct, frozen=True):
    """The process that was killed, when (seconds from the start of the demo), and the tasks that it had at work."""

    process: str
    pid: int
    at_s: float
    tasks: tuple[str, ...]


class RoleCost(Struct, frozen=True):
    """What the models cost that a role asked; amounts by currency."""

    role: str
    calls: int
    failed: int
    unpriced: int
    stand_ins: int
    tokens: int
    amounts: dict[str, Decimal]


class Outcome(Struct, frozen=True):
    """All that there is to say at the end. `run_s` is from the request to the report, `total_s` with all starts."""

    run: str
    tree: str
    model: str
    summary: Summary
    run_s: float
    total_s: float
    killed: Killed | None
    proof: Proof
    costs: tuple[RoleCost, ...]
    lanes: tuple[timeline.Lane, ...]


def choose_tree(path: Path | None, report: Path | None) -> tuple[Tree, int]:
    """The tree to review (Callboard's own, if none is given) and its number of Python files. Raises BadFolder."""
    root, folders = own_tree() if path is None else (path.expanduser().resolve(), ())
    if not root.is_dir():
        raise BadFolder(str(root), "it is not a folder" if root.exists() else "it does not exist")
    files = len(find_files(str(root), folders).files)
    if not files:
        raise BadFolder(str(root), "there is no Python file in it")
    target = (report or Path(REPORT)).expanduser().absolute()
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise BadFolder(str(target.parent), f"the report can't be written to {target}")
    return Tree(str(root), str(target), folders), files


class Demo:
    """One run of the crew."""

    def __init__(
        self,
        stack: Stack,
        specs: Sequence[ProcessSpec],
        tree: Tree,
        files: int,
        *,
        kill: bool,
        say: Callable[[str], None],
    ) -> None:
        self._stack = stack
        self._tree = tree
        self._begun = time.monotonic()
        self._kill_at = int(files * KILL_AT) if kill else None
        self._killed: Killed | None = None
        self._seen = 0  # the position that the view has come to
        self._more_seen = anyio.Event()
        self._ready: set[str] = set()
        self._all_ready = anyio.Event()
        self.model = stack.settings.model or STAND_IN
        self.board = Board([spec.name for spec in specs], files, say)
        self._supervisor = Supervisor(specs, self._process)

    async def run(self, console: Console) -> Outcome:
        """From the start of the processes to their end. Raises ProcessGaveUp, TaskFailed (in an ExceptionGroup)."""
        title = f"Reviewing {self._tree.root} with {model_word(self.model)}"
        with shown(title, self.board, console) as live:
            async with anyio.create_task_group() as group:
                group.start_soon(_refresh, live)
                async with anyio.create_task_group() as crew:
                    stop = anyio.Event()
                    crew.start_soon(partial(self._supervisor.run, stop, grace_s=GRACE_S))
                    outcome = await self._review()
                    stop.set()
                group.cancel_scope.cancel()
        return outcome

    async def _review(self) -> Outcome:
        store = self._stack.store
        await self._all_ready.wait()
        with anyio.move_on_after(SHARE_S):
            await self._shared()
        async with (
            Client.open(store, self._stack.bus, self._stack.directory) as client,
            anyio.create_task_group() as group,
        ):
            sent_at = time.monotonic()
            (sent,) = await client.send("planner", self._tree, origin="demo")
            group.start_soon(self._follow, sent.run, sent.position - 1)
            summary = await client.wait(sent, returns=Summary)
            run_s = time.monotonic() - sent_at
            await self._seen_up_to(await store.head())
            group.cancel_scope.cancel()
        return await self._look_back(sent.run, sent.position - 1, summary, run_s)

    async def _shared(self) -> None:
        """Return when the inspectors have divided their role's partitions: the first to start had taken all."""
        while True:
            owners = {it.owner for it in await self._stack.leases.partitions() if it.role == "inspector"}
            if len(owners) >= COUNTS["inspector"] and None not in owners:
                return
            await anyio.sleep(POLL_S)

    async def _follow(self, run: str, after: int) -> None:
        """See the run's events as they are appended, and choose the moment of the kill."""
        async for page in self._stack.store.subscribe(after=after):
            for event in page:
                if event.meta.run == run:
                    self.board.record(event)
                    self._perhaps_kill(event)
            self._seen = page[-1].position
            self._more_seen.set()
            self._more_seen = anyio.Event()

    async def _seen_up_to(self, position: int) -> None:
        """Return when the view has come to a position of the log; the result may be here before it."""
        while self._seen < position:
            await self._more_seen.wait()

    def _perhaps_kill(self, event: e.Event) -> None:
        """Kill the inspector that has just begun to use a tool, once enough files are inspected."""
        if self._kill_at is None or self.board.inspected < self._kill_at or event.type != e.ToolRequested.TYPE:
            return
        victim = self.board.owner(event.meta.task or "")
        if victim is None or self._supervisor.pids().get(victim.name) != victim.pid:
            return
        self._kill_at = None
        os.kill(victim.pid, signal.SIGKILL)
        self._killed = Killed(victim.name, victim.pid, time.monotonic() - self._begun, tuple(sorted(victim.at_work)))
        victim.state = "killed"
        tasks = count(len(victim.at_work), "task")
        self.board.note(f"{victim.name} KILLED: SIGKILL to pid {victim.pid}, with {tasks} at work")

    def _process(self, event: ProcessEvent) -> None:
        self.board.process(event)
        if event.what == "ready":
            self._ready.add(event.name)
            if len(self._ready) == len(self.board.processes):
                self._all_ready.set()

    async def _look_back(self, run: str, after: int, summary: Summary, run_s: float) -> Outcome:
        """What the log and the projections say about a run that has ended."""
        store = self._stack.store
        head = await store.head()
        pages = [page async for page in store.read_all(after=after) if page[0].position <= head]
        events = [event for page in pages for event in page if event.meta.run == run]
        await self._stack.runner.wait_until(head)
        return Outcome(
            run=run,
            tree=self._tree.root,
            model=self.model,
            summary=summary,
            run_s=run_s,
            total_s=time.monotonic() - self._begun,
            killed=self._killed,
            proof=prove(events),
            costs=tuple(_role_cost(row) for row in await costs.costs(store.pool, ("role",), run=run)),
            lanes=tuple(timeline.lanes(events)),
        )


async def _refresh(live: Live | None) -> None:
    while live is not None:
        live.refresh()
        await anyio.sleep(REFRESH_S)


def _role_cost(row: costs.Costs) -> RoleCost:
    tokens = row.tokens_in + row.tokens_out
    unpriced = row.unpriced + row.unknown
    return RoleCost(row.by[0], row.calls, row.failed, unpriced, row.stand_ins, tokens, row.amounts)
