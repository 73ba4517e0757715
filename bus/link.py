"""One connection to Redis, and how to bear its loss."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import hiredis
from anyio.abc import TaskGroup
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

log = logging.getLogger(__name__)

CONNECT_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0

LINK_ERRORS = (RedisError, OSError)  # TimeoutError is an OSError


def pack(*words: str | bytes) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub takes tuples of one word only
    return packed


def connection_to(url: str) -> Any:
    """A connection of redis-py's, not yet connected, whose timeouts are the caller's; see `Link`."""
    options: dict[str, Any] = {**parse_url(url)}
    options.pop("max_connections", None)
    connection_class = options.pop("connection_class", Connection)
    options |= {
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_S,
        "protocol": 2,
        "decode_responses": False,
    }
    if connection_class is Connection:
        options["socket_keepalive"] = True
    return connection_class(**options)


class Reach:
    """Whether messages get through Redis, as all the connections that share this have found.

    Redis is `lost` when it did not answer last time. It may also answer and refuse: `unreadable` are the streams that
    could not be claimed or read last time, `unwritable` those that could not be written.
    """

    def __init__(self) -> None:
        self.lost = False
        self.unreadable: set[str] = set()
        self.unwritable: set[str] = set()
        self.on_failure: Callable[[], None] = lambda: None

    @property
    def away(self) -> bool:
        """Whether messages have to come from the log."""
        return self.lost or bool(self.unreadable or self.unwritable)

    def answered(self) -> None:
        self.lost = False

    def failed(self) -> None:
        self.lost = True
        self.on_failure()


class Link:
    """One connection to Redis; one batch of commands on it at a time.

    Nothing is ever sent twice. After any error or a cancellation the connection is closed, so that no reply can be
    taken for another's; the next call connects anew.

    This is redis-py's connection without its client and pool: their retries would write a message twice, and they
    are half of the cost of a batch. Its socket timeout is off, because with it a cancellation can get lost on
    Python 3.11; there is one timeout for a whole batch instead.
    """

    def __init__(self, url: str, *, timeout_s: float, reach: Reach | None = None) -> None:
        self._connection = connection_to(url)
        self.client_id: int | None = None  # the connection's id in Redis, if it may be asked for that
        self._timeout_s = timeout_s
        self.reach = reach or Reach()
        self._lock = asyncio.Lock()

    async def connect(self) -> None:
        """Connect, if it isn't. Raises one of LINK_ERRORS."""
        await self.call([])

    async def call(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands at once; their replies in order, bytes undecoded.

        An error reply is a ResponseError in the list. Raises one of LINK_ERRORS when it is not known which of the
        commands were carried out, or when the server is a replica by now.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._ensure_connected()
                    replies = await self._exchange(commands)
            except BaseException as error:
                if isinstance(error, LINK_ERRORS):
                    self.reach.failed()
                await self._connection.disconnect(nowait=True)
                raise
        self.reach.answered()
        return replies

    async def _ensure_connected(self) -> None:
        if self._connection.is_connected:
            # Connection.can_read() would do, but costs two turns of the loop a call.
            if not self._connection._reader.at_eof():
                return
            # It was closed while idle, and nothing got lost.
            await self._connection.disconnect(nowait=True)
        await self._connection.connect()
        (reply,) = await self._exchange([pack("CLIENT", "ID")])
        self.client_id = reply if isinstance(reply, int) else None

    async def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        if not commands:
            return []
        await self._connection.send_packed_command(b"".join(commands), check_health=False)
        return [await self._reply() for _ in commands]

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ReadOnlyError:
            raise
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Close the connection, if there is one."""
        with anyio.move_on_after(0.2, shield=True):
            await self._connection.disconnect()


class Trouble:
    """Something that may go wrong many times in a row: one line in the log when it begins, one when it is over."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._times = 0
        self._dropped = 0

    def note(self, reason: object, *, dropped: int = 0) -> None:
        """It went wrong (again), and so many messages were dropped."""
        if not self._times:
            log.warning("%s: %s", self._what, reason or type(reason).__name__)
        self._times += 1
        self._dropped += dropped

    def over(self) -> None:
        """It went well."""
        if self._times:
            log.info("%s: over; %d messages were dropped and are still in the log", self._what, self._dropped)
            self._times = self._dropped = 0

    async def pause(self, until: asyncio.Event | None = None) -> None:
        """Wait before the next attempt: longer each time, at most LONGEST_PAUSE_S, with jitter; not beyond `until`."""
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._times, 10))
        with anyio.move_on_after(longest * random.uniform(0.5, 1.0)):
            await (until or asyncio.Event()).wait()


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[TaskGroup]:
    """A task group whose tasks end with the body. A single error comes out as it is, not in a group."""
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise


def redacted(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
