"""Choosing the real parts and putting them together, once a process."""

import gc
import logging
import os
import socket
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from math import inf
from typing import Final
from uuid import UUID

import anyio
import msgspec

from callboard import projections
from callboard.actors.models import library
from callboard.actors.outside.client import Client
from callboard.actors.process.ending import Ending
from callboard.actors.process.host import Host, Limits, Parts
from callboard.actors.process.lifeline import Aside
from callboard.actors.roles.definition import Definition
from callboard.actors.roles.directory import Directory
from callboard.config import Config
from callboard.eventstore.clock import DatabaseClock
from callboard.eventstore.connections import check_connections
from callboard.eventstore.leases import PostgresLeases
from callboard.eventstore.store import PostgresEventStore
from callboard.projections.answers import PostgresAnswers
from callboard.projections.runner import Runner
from callboard.protocols.errors import NameTaken
from callboard.protocols.names import new_id
from callboard.protocols.ports import Bus, Leases, Throttle
from callboard.services import LocalServices
from callboard.settings import Settings

LEASE_SLACK_S: Final = 0.5
LOOK_EVERY_S: Final = 0.1  # for heartbeats of a process with our name: more often than a process makes them

log = logging.getLogger("callboard")


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one process, connected."""

    store: PostgresEventStore
    leases: PostgresLeases
    directory: Directory
    bus: Bus
    throttle: Throttle
    runner: Runner
    clock: DatabaseClock
    settings: Settings
    process: str

    @property
    def config(self) -> Config:
        """What the operator's file says. Raises UnreadableConfig, BadConfig."""
        return Config.load(self.settings.config)

    def host(self, definitions: Mapping[str, Definition], ending: Ending | None = None) -> Host:
        """A host for these roles, and what ends its process. Raises UnreadableConfig, BadConfig."""
        url = self.settings.database_url
        assert url
        limits = msgspec.convert(self.settings, Limits, from_attributes=True)
        config = self.config
        parts = Parts(
            store=self.store,
            leases=self.leases,
            directory=self.directory,
            bus=self.bus,
            pool=self.store.pool,
            gateway=config.gateway(self.settings.model),
            throttle=self.throttle,
            answers=PostgresAnswers(self.store.pool),
            runner=self.runner,
            aside=lambda: aside(url),
            ending=ending,
            mcp=config.mcp,
            tool_policies=config.tools.policies,
            set_clock=lambda: self.clock.set(self.store.pool),
        )
        return Host(parts, definitions, limits, self.process, self.clock)

    def client(self) -> AbstractAsyncContextManager[Client]:
        """A client of these parts."""
        return Client.open(self.store, self.bus, self.directory, self.clock)


@contextmanager
def served(settings: Settings, ending: Ending | None = None) -> Iterator[Settings]:
    """The settings with the URLs of servers that run: the ones given, or else the local ones, kept up meanwhile, also
    if this process has an `ending` by force.
    """
    if settings.database_url and settings.redis_url:
        yield settings
        return
    services = LocalServices(settings.home)
    with services as urls:
        if ending is not None:
            ending.before(services.stop)
        yield msgspec.structs.replace(settings, database_url=urls.database_url, redis_url=urls.redis_url)


@asynccontextmanager
async def connected(settings: Settings, name: str, *, redis_needed: bool = True) -> AsyncIterator[Stack]:
    """All parts, connected to the servers that the settings name. `name` tells people which process this is.

    Who only sends can do without Redis: what it sends is in the log. Raises DatabaseUnavailable, DatabaseUnfit,
    RedisUnavailable, RedisUnfit, WrongEvictionPolicy, SchemaTooNew.
    """
    assert settings.database_url
    assert settings.redis_url
    from callboard.bus import RedisBus, RedisThrottle  # redis-py takes 0.3 s, and what only reads the log needs none

    process = process_name(name)
    async with PostgresEventStore.open(settings.database_url, connections=settings.connections) as store:
        leases = PostgresLeases(store.pool)
        directory = Directory(leases)
        await directory.refresh()
        clock = DatabaseClock()
        await clock.set(store.pool)
        keys = namespace_of(store.store_id)
        url, prefix = settings.redis_url, settings.redis_prefix
        async with (
            RedisBus.open(url, keys, directory.route, needed=redis_needed, prefix=prefix) as bus,
            RedisThrottle.open(url, keys, clock, prefix=prefix) as throttle,
        ):
            try:
                yield Stack(
                    store=store,
                    leases=leases,
                    directory=directory,
                    bus=bus,
                    throttle=throttle,
                    runner=Runner(store.pool, store, projections.ALL, process, lease_s=settings.lease_s),
                    clock=clock,
                    settings=settings,
                    process=process,
                )
            finally:
                await library.close()


async def check_room(stack: Stack, processes: int) -> None:
    """Warn of, or refuse, more processes than PostgreSQL has connections for; a pooler has its own bounds.

    Raises TooFewConnections.
    """
    if not stack.store.pooled:
        await check_connections(stack.store.pool, processes, stack.settings.connections)


async def warn_of_other_leases(leases: Leases, lease_s: float) -> None:
    """Warn of processes with a longer lease than this one's: when one of them is lost, its partitions wait longer.

    Nothing is lost with it: each process is judged by the lease that it took itself.
    """
    longest = max(await leases.members(), key=lambda member: member.expires_in_s, default=None)
    if longest is not None and longest.expires_in_s > lease_s + LEASE_SLACK_S:
        log.warning(
            "%s has a lease of at least %.0f s, and this process one of %g s: if it is lost, others wait that long for "
            "its partitions; give all processes the same CALLBOARD_LEASE_S",
            *(longest.process, longest.expires_in_s, lease_s),
        )


@asynccontextmanager
async def aside(database_url: str) -> AsyncIterator[Aside]:
    """The log and the leases, over connections of the event loop that runs. Raises DatabaseUnavailable."""
    async with PostgresEventStore.open(database_url, connections=2) as store:
        yield Aside(store, PostgresLeases(store.pool))


def collect_rarely() -> None:
    """For a process that serves actors: look for reference circles seldom, and never among what was imported.

    Messages make many objects that live for milliseconds, and no circles (measured: 10 to 20 % less CPU a message).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def namespace_of(store_id: UUID) -> str:
    """What a store's keys on the bus begin with, so that stores can share a Redis."""
    return store_id.hex[:12]


def process_name(name: str) -> str:
    """A name for this start of a process, unlike any other: what it is, where it runs, and a piece of an id."""
    return f"{name}@{socket.gethostname()}-{os.getpid()}-{new_id()[-6:]}"


def pid_in(process: str) -> int:
    """The process id in a name that `process_name` made."""
    return int(process.rsplit("-", 2)[1])


async def claim_name(leases: Leases, process: str, roles: Collection[str]) -> None:
    """Return when no other process of this one's name, on this machine, is taken to serve one of the roles.

    One that was killed a moment ago counts until its last heartbeat expires. Raises NameTaken if there is another
    heartbeat instead.
    """
    expires_in_s: dict[tuple[str, str], float] = {}
    while rivals := [it for it in await leases.members() if it.role in roles and _may_be_rivals(it.process, process)]:
        for it in rivals:
            if it.expires_in_s > expires_in_s.get((it.role, it.process), inf):
                raise NameTaken(it.process.rpartition("@")[0], it.role, it.process)
            expires_in_s[it.role, it.process] = it.expires_in_s
        await anyio.sleep(LOOK_EVERY_S)


def _may_be_rivals(other: str, process: str) -> bool:
    """Whether another process has this one's name, on this machine, and may still run."""
    if other.rsplit("-", 2)[0] != process.rsplit("-", 2)[0]:
        return False
    if pid_in(other) == os.getpid():  # a number that is used again: in a container that was started again, say
        return False
    try:
        os.kill(pid_in(other), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
