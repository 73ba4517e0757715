"""A process that serves the crew of the fault tests, and does itself the harm that its plan says."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import anyio
import msgspec
import typer

from callboard.actors.roles.definition import define
from callboard.bootstrap import connected
from callboard.cli import serve
from callboard.protocols.ports import Appended, Consumer, EventStore, ExpectedVersion, NewEvent, SystemClock
from callboard.settings import Settings
from tests.faults import payments
from tests.faults.crew import DIED, ROLES, Till
from tests.faults.payments import Receipt

Boundary = Literal["before a commit", "after a commit", "after an effect", "before settling", "none"]
BOUNDARIES: tuple[Boundary, ...] = ("before a commit", "after a commit", "after an effect", "before settling")
SHORT_LEASE_S = 1.0  # for scenarios in which leases expire anyway
log = logging.getLogger(__name__)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to do: serve, and die when it comes to the boundary for the `nth` time."""

    name: str = ""
    database_url: str
    redis_url: str
    payments: str  # the socket of the payment server
    log: str  # a file, to which the process adds
    roles: tuple[str, ...] = ()  # those to serve; none: all
    boundary: Boundary = "none"
    nth: int = 0
    clock_off_s: float = 0.0  # by how much its clock is wrong
    lease_s: float = 5.0  # a busy machine stands still for a second or two, which has to cost nobody a lease
    partitions: int = 4
    slots: int = 16
    grace_s: float = 5.0
    run_slots: int = 12


class Fuse:
    """Ends the process at one place."""

    def __init__(self, plan: Plan) -> None:
        self._boundary = plan.boundary
        self._left = plan.nth

    def at(self, boundary: Boundary) -> None:
        """The process is at a boundary."""
        if boundary == self._boundary:
            self._left -= 1
            if self._left == 0:
                os._exit(DIED)


class Store:
    """An event store with a fuse. What it doesn't know, the real one does."""

    def __init__(self, store: EventStore, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> "asyncio.Future[Appended]":
        self._fuse.at("before a commit")
        outcome = self._store.submit(stream, events, expected)
        outcome.add_done_callback(lambda _: self._fuse.at("after a commit"))  # before any callback of the actor
        return outcome


class Settling:
    """A consumer with a fuse."""

    def __init__(self, consumer: Consumer, fuse: Fuse) -> None:
        self._consumer = consumer
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def settle(self, delivery: Any) -> None:
        self._fuse.at("before settling")
        self._consumer.settle(delivery)

    async def __aenter__(self) -> "Settling":
        await self._consumer.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._consumer.__aexit__(*exc)


class Bus:
    """A bus whose consumers have a fuse."""

    def __init__(self, bus: Any, fuse: Fuse) -> None:
        self._bus = bus
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def consumer(self, *arguments: Any) -> Settling:
        return Settling(self._bus.consumer(*arguments), self._fuse)


async def main(plan: Plan) -> None:
    """Serve until told to end, as `callboard actor` does."""
    fuse = Fuse(plan)

    async def act(key: str) -> Receipt:
        receipt = await payments.pay(plan.payments, key)
        fuse.at("after an effect")
        return receipt

    Till.charge = staticmethod(act)  # type: ignore[assignment]
    settings = Settings(
        database_url=plan.database_url,
        redis_url=plan.redis_url,
        lease_s=plan.lease_s,
        partitions=plan.partitions,
        slots=plan.slots,
        grace_s=plan.grace_s,
        run_slots=plan.run_slots,
    )
    definitions = {role: it for role, it in define(ROLES).items() if not plan.roles or role in plan.roles}
    async with connected(settings, plan.name) as stack:
        stack = msgspec.structs.replace(stack, store=Store(stack.store, fuse), bus=Bus(stack.bus, fuse))  # type: ignore[arg-type]
        await serve._until_told(stack.host(definitions).run, "ready", None)


def run(encoded: bytes) -> None:
    """The whole process, from its Plan as JSON to its exit code."""
    plan = msgspec.json.decode(encoded, type=Plan)
    logging.basicConfig(filename=plan.log, level=logging.INFO, format=f"%(asctime)s {plan.name} %(name)s %(message)s")
    if plan.clock_off_s:
        off = timedelta(seconds=plan.clock_off_s)
        SystemClock.now = lambda self: datetime.now(UTC) + off  # type: ignore[method-assign]
    try:
        anyio.run(main, plan)
    except typer.Exit as told:
        sys.exit(told.exit_code)
    except Exception:
        log.exception("the process fails")
        raise
