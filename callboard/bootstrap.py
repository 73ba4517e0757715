"""Choosing the real parts and putting them together, once a process."""

import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import msgspec

import projections
from actors.definition import Definition
from actors.directory import Directory
from actors.host import Host, Limits, Parts
from actors.models import Gateway
from callboard.services import LocalServices
from callboard.settings import Settings
from eventstore.leases import PostgresLeases
from eventstore.store import PostgresEventStore
from projections.runner import Runner
from protocols.names import new_id
from protocols.ports import Bus


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one process, connected."""

    store: PostgresEventStore
    leases: PostgresLeases
    directory: Directory
    bus: Bus
    runner: Runner
    settings: Settings
    process: str

    def host(self, definitions: Mapping[str, Definition]) -> Host:
        """A host for these roles."""
        limits = msgspec.convert(self.settings, Limits, from_attributes=True)
        parts = Parts(
            store=self.store,
            leases=self.leases,
            directory=self.directory,
            bus=self.bus,
            pool=self.store.pool,
            gateway=Gateway(self.settings.model),
            runner=self.runner,
        )
        return Host(parts, definitions, limits, self.process)


@contextmanager
def served(settings: Settings) -> Iterator[Settings]:
    """The settings with the URLs of servers that run: the ones given, or else the local ones, kept up meanwhile."""
    if settings.database_url and settings.redis_url:
        yield settings
        return
    with LocalServices(settings.home) as urls:
        yield msgspec.structs.replace(settings, database_url=urls.database_url, redis_url=urls.redis_url)


@asynccontextmanager
async def connected(settings: Settings, name: str) -> AsyncIterator[Stack]:
    """All parts, connected to the servers that the settings name. `name` tells people which process this is.

    Raises DatabaseUnavailable, RedisUnavailable, WrongEvictionPolicy, SchemaTooNew.
    """
    assert settings.database_url
    assert settings.redis_url
    from bus.redis import RedisBus  # redis-py takes 0.3 s, and what only reads the log needs none

    process = process_name(name)
    async with PostgresEventStore.open(settings.database_url) as store:
        leases = PostgresLeases(store.pool)
        directory = Directory(leases)
        await directory.refresh()
        async with RedisBus.open(settings.redis_url, namespace_of(store.store_id), directory.route) as bus:
            yield Stack(
                store=store,
                leases=leases,
                directory=directory,
                bus=bus,
                runner=Runner(store.pool, store, projections.ALL, process, lease_s=settings.lease_s),
                settings=settings,
                process=process,
            )


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
