"""The bus on Redis Streams."""

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import msgspec
from redis.exceptions import ResponseError

from callboard.bus.consumer import RedisConsumer
from callboard.bus.keys import DEFAULT_PREFIX, epoch_key, live_channel, stream_key
from callboard.bus.link import LINK_ERRORS, Link, Reach, owned_tasks, pack, redacted
from callboard.bus.live import Stage, watch
from callboard.bus.probe import probe
from callboard.bus.reader import READ_TIMEOUT_S, Intake
from callboard.bus.room import Room
from callboard.bus.writer import Writer
from callboard.protocols.errors import RedisUnavailable, WrongEvictionPolicy
from callboard.protocols.messages import Message, encode_message
from callboard.protocols.names import partition_of
from callboard.protocols.ports import Delivery, Gap, Route, RouteLookup, Undecodable

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 5.0
LAST_MESSAGES_S = 0.5
PAGE = 1000  # entries


class _IdOnly(msgspec.Struct):
    id: str = ""


_id_decoder = msgspec.json.Decoder(_IdOnly)


class RedisBus:
    """See `callboard.protocols.ports.Bus`. Made by `open`, which owns its connections and its tasks."""

    def __init__(self, url: str, namespace: str, routes: RouteLookup, *, prefix: str = DEFAULT_PREFIX) -> None:
        self._url = url
        self._namespace = namespace
        self._prefix = prefix
        self._routes = routes
        self._reach = Reach()
        self._commands = self._link(COMMAND_TIMEOUT_S)
        self._room = Room(self._commands, self._reach)
        self._writer = Writer(self._link(COMMAND_TIMEOUT_S), self._reach, self._room)
        self._stage = Stage(self._link(COMMAND_TIMEOUT_S), self._reach)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, namespace: str, routes: RouteLookup, *, needed: bool = True, prefix: str = DEFAULT_PREFIX
    ) -> "AsyncIterator[RedisBus]":
        """The bus of one store, for as long as the block lasts.

        `namespace` is the store's short id, `routes` tells how a role's messages are spread over partitions, and all
        keys begin with `prefix`. A process that only sends can do without Redis: if it is not `needed`, it may be
        away. Raises RedisUnavailable (also RedisRefuses), RedisUnfit, WrongEvictionPolicy.
        """
        bus = cls(url, namespace, routes, prefix=prefix)
        try:
            try:
                bus._check_eviction(await probe(bus._commands, url, namespace, prefix))
            except RedisUnavailable as error:
                if needed:
                    raise
                log.warning("%s What is sent now comes from the log.", error)
            async with owned_tasks() as tasks:
                tasks.start_soon(bus._writer.run)
                tasks.start_soon(bus._stage.run)
                try:
                    yield bus
                finally:
                    with anyio.move_on_after(LAST_MESSAGES_S, shield=True):
                        await bus.flush()
                        await bus._writer.settled()
        finally:
            await bus._commands.close()

    def publish(self, messages: Iterable[Message], *, again: bool = False) -> None:
        for message in messages:
            route = self._routes(message.role)
            if route is None:
                log.warning("message %s: its role is unknown", message.id)
                continue
            stream = self._stream(route, partition_of(message.key, route.partitions))
            self._writer.publish(stream, encode_message(message), again=again)

    async def flush(self) -> None:
        await self._writer.flush()

    @property
    def away(self) -> bool:
        return self._reach.away

    async def check_room(self) -> None:
        await self._room.check()

    def consumer(
        self,
        process: str,
        deliver: Callable[[Delivery], None],
        undecodable: Callable[[Undecodable], None],
        capacity: Callable[[], int],
        gap: Callable[[Gap], None] = lambda _: None,
    ) -> RedisConsumer:
        return RedisConsumer(
            process,
            self._namespace,
            Intake(deliver, undecodable, capacity, gap),
            self._writer,
            self._commands,
            lambda: self._link(READ_TIMEOUT_S),
            prefix=self._prefix,
        )

    async def backlog(self, role: str) -> dict[int, int]:
        """Unsettled entries by partition, 0 where they can't be read; empty for an unknown role. Raises
        RedisUnavailable.
        """
        route = self._routes(role)
        if route is None:
            return {}
        streams = [self._stream(route, partition) for partition in range(route.partitions)]
        return dict(enumerate(await self._call([pack("XLEN", stream) for stream in streams])))

    async def waiting(self, role: str, partition: int) -> list[str]:
        """Ids of the messages on a partition; empty for an unknown role. Raises RedisUnavailable."""
        found: list[str] = []
        route = self._routes(role)
        start = "-"
        while route is not None:
            stream = self._stream(route, partition)
            (entries,) = await self._call([pack("XRANGE", stream, start, "+", "COUNT", str(PAGE))])
            found.extend(filter(None, (_id_of(fields) for _, fields in entries)))
            if len(entries) < PAGE:
                break
            start = f"({entries[-1][0].decode()}"
        return found

    async def forget(self, route: Route) -> None:
        """Delete the partitions of a former generation. Raises RedisUnavailable."""
        streams = [self._stream(route, partition) for partition in range(route.partitions)]
        await self._call([pack("UNLINK", *streams, *map(epoch_key, streams))])

    def show(self, run: str, piece: bytes) -> None:
        self._stage.show(live_channel(self._namespace, run, self._prefix), piece)

    def watch(self, run: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return watch(self._url, live_channel(self._namespace, run, self._prefix))

    def _check_eviction(self, info: bytes | None) -> None:
        """Any policy but noeviction might drop unread messages."""
        policy = re.search(rb"maxmemory_policy:(\S+)", info or b"")
        if policy is None:
            log.warning("Redis at %s doesn't tell its maxmemory-policy; it must be noeviction", redacted(self._url))
        elif policy[1] != b"noeviction":
            raise WrongEvictionPolicy(redacted(self._url), policy[1].decode())

    def _stream(self, route: Route, partition: int) -> str:
        return stream_key(self._namespace, route, partition, self._prefix)

    def _link(self, timeout_s: float) -> Link:
        return Link(self._url, timeout_s=timeout_s, reach=self._reach)

    async def _call(self, commands: list[bytes]) -> list[Any]:
        """Replies that are no errors; raises RedisUnavailable."""
        try:
            replies = await self._commands.call(commands)
        except LINK_ERRORS as error:
            raise RedisUnavailable(redacted(self._url), str(error).rstrip(".") or type(error).__name__) from error
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise RedisUnavailable(redacted(self._url), str(reply)) from reply
        return replies

    def __repr__(self) -> str:
        return f"<RedisBus {redacted(self._url)} away={self.away} {self._writer!r}>"


def _id_of(fields: list[bytes]) -> str:
    """The id of the message in an entry; empty if it is none."""
    try:
        return _id_decoder.decode(fields[1]).id
    except (ValueError, RecursionError):
        return ""
