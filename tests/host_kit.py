"""Hosts on the real stack, in this process: started, stopped in order, or abandoned as a crash would leave them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import asyncpg
from redis.asyncio import Redis

from callboard.actors.outside.client import Client
from callboard.actors.process.host import Host
from callboard.actors.roles.definition import Actor, define
from callboard.bootstrap import Stack, connected
from callboard.bus.keys import stream_key
from callboard.protocols.events import Event
from callboard.settings import Settings
from tests.conftest import DEADLINE_S

SHORT_LEASE_S = 1.0  # where one has to expire; else a busy machine that stands still for a second costs nobody a lease


async def becomes(condition: Callable[[], Awaitable[bool]], within_s: float = DEADLINE_S) -> None:
    """Return when the condition holds; fails after the deadline."""
    with anyio.fail_after(within_s):
        while not await condition():  # noqa: ASYNC110 - what it waits for tells nobody
            await anyio.sleep(0.01)


class Running:
    """A host that serves."""

    def __init__(self, stack: Stack, host: Host, group: anyio.abc.TaskGroup) -> None:
        self.stack = stack
        self.host = host
        self._stop = anyio.Event()
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope()
        self._group = group

    async def start(self) -> None:
        """Serve, from now on."""
        await self._group.start(self._run)

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            with self._scope:
                await self.host.run(self._stop, task_status=task_status)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Let it drain and end."""
        self._stop.set()
        with anyio.fail_after(DEADLINE_S):
            await self._ended.wait()

    async def abandon(self) -> None:
        """End it where it is: nothing is finished, nothing handed over."""
        self._scope.cancel()
        await self._ended.wait()

    def owned(self) -> int:
        """How many partitions it has taken over."""
        return len(self.host.runtime.partitions.serving)


class Stage:
    """Hosts on one store and one Redis, and a client."""

    def __init__(self, settings: Settings, actors: tuple[type[Actor], ...], exits: AsyncExitStack, group: Any) -> None:
        self._settings = settings
        self._definitions = define(actors)
        self._exits = exits
        self._group = group
        self._hosts: list[Running] = []
        self.client: Client
        self.stack: Stack

    async def begin(self) -> None:
        self.stack = await self._exits.enter_async_context(connected(self._settings, "client"))
        self.client = await self._exits.enter_async_context(self.stack.client())

    async def host(self, name: str) -> Running:
        """A further host that serves all the roles."""
        stack = await self._exits.enter_async_context(connected(self._settings, name))
        running = Running(stack, stack.host(self._definitions), self._group)
        await running.start()
        self._hosts.append(running)
        return running

    async def end(self) -> None:
        """Abandon the hosts that still run."""
        for running in self._hosts:
            await running.abandon()

    async def log(self) -> list[Event]:
        """All events."""
        return [it async for page in self.stack.store.read_all() for it in page]

    async def types(self, role: str) -> list[str]:
        """The types of a role's events, in order."""
        return [it.type for it in await self.log() if it.stream.startswith(f"{role}/")]

    async def reach(self, role: str, type_: str, times: int = 1) -> None:
        """Return when a role has so many events of a type."""

        async def reached() -> bool:
            return (await self.types(role)).count(type_) >= times

        await becomes(reached)

    async def settled(self) -> None:
        """Return when nothing is on the bus any more; fails after the deadline."""

        async def empty() -> bool:
            return not any([any((await self.stack.bus.backlog(role)).values()) for role in self._definitions])

        await becomes(empty)

    async def forget(self) -> None:
        """Lose everything that Redis has of this store."""
        async with self.redis() as redis:
            namespace = self.stack.store.store_id.hex[:12]
            keys = [key async for key in redis.scan_iter(f"cb:{{{namespace}:*")]
            await redis.delete(*keys)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        """A connection of the test's own."""
        assert self._settings.redis_url
        redis = Redis.from_url(self._settings.redis_url)
        try:
            yield redis
        finally:
            await redis.aclose()

    def stream(self, role: str, partition: int) -> str:
        """The key of a partition's stream."""
        route = self.stack.directory.route(role)
        assert route is not None
        return stream_key(self.stack.store.store_id.hex[:12], route, partition)

    async def database(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a statement on the store's database."""
        return list(await self.stack.store.pool.fetch(statement, *arguments))


@asynccontextmanager
async def stage(database_url: str, redis_url: str, *actors: type[Actor], **options: Any) -> AsyncIterator[Stage]:
    """A store and a Redis with these roles to serve; `options` are settings. Hosts that still run are abandoned."""
    settings = Settings(
        database_url=database_url,
        redis_url=redis_url,
        model="stand-in",
        **{"lease_s": 5.0, "partitions": 4, "grace_s": 5.0, **options},
    )
    async with anyio.create_task_group() as group, AsyncExitStack() as exits:
        on_stage = Stage(settings, actors, exits, group)
        await on_stage.begin()
        try:
            yield on_stage
        finally:
            with anyio.CancelScope(shield=True):
                await on_stage.end()
