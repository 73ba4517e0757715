"""A TCP proxy on loopback that loses what it is told to: a reply, a request, its connections, or all for a while.

    async with proxy_to(server_url) as proxy:       # redis://HOST:PORT/..., unix:///PATH, or (HOST, PORT)
        connect to proxy.url, or to proxy.port      # the url is of the same scheme, with the proxy's address
        proxy.loses_reply_to = b"XADD"              # the reply to the next request with these bytes, and the connection
        proxy.loses_request = b"XACK"               # the next request with these bytes, and the connection
        await proxy.cut()                           # close all connections on both sides
        await proxy.abandon()                       # close them towards the client only: the server doesn't see it
        proxy.strand()                              # half-open: what is connected now carries nothing more, unseen
        proxy.refuses = True                        # from now on, and until it is False, it takes no new connections
        proxy.freeze(); ...; proxy.thaw()           # nothing passes meanwhile, and nothing is lost
        proxy.lost                                  # how many replies and requests it has lost

What is lost once is lost: `loses_reply_to` and `loses_request` are empty again then, and may be set anew.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

Address = str | tuple[str, int]
Connect = Callable[[], Awaitable[ByteStream]]

CLOSED = (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream)
NOTHING = b"*-1\r\n"  # what a blocking read of Redis gives when its time is over: nobody would miss that reply


class Connection:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: SocketStream, server: ByteStream) -> None:
        self.client = client
        self.server = server
        self.request = b""  # the last that was seen
        self.stranded = False


class Proxy:
    """See above. Made by `proxy_to`."""

    def __init__(self, connect: Connect, scheme: str) -> None:
        self.loses_reply_to = b""
        self.loses_request = b""
        self.refuses = False
        self.lost = 0
        self.port = 0
        self._connect = connect
        self._scheme = scheme
        self._connections: set[Connection] = set()
        self._open = anyio.Event()
        self._open.set()

    @property
    def url(self) -> str:
        """The proxy's, as a server's."""
        return f"{self._scheme}://127.0.0.1:{self.port}/0"

    async def cut(self) -> None:
        """Close all connections on both sides."""
        for connection in list(self._connections):
            await connection.server.aclose()
            await connection.client.aclose()

    async def abandon(self) -> None:
        """Close all connections towards the client; the server doesn't see it."""
        for connection in list(self._connections):
            connection.stranded = True
            await connection.client.aclose()

    def strand(self) -> None:
        """Let the connections that there are carry nothing more; neither side sees it. New ones work."""
        for connection in self._connections:
            connection.stranded = True

    def freeze(self) -> None:
        """Let nothing pass, until `thaw`."""
        self._open = anyio.Event()

    def thaw(self) -> None:
        """Let everything pass again, what came meanwhile first."""
        self._open.set()

    async def serve(self, client: SocketStream) -> None:
        """Carry one connection."""
        try:
            if self.refuses:
                raise ConnectionRefusedError
            server = await self._connect()
        except OSError:  # the server is away, and its clients shall see that
            await client.aclose()
            return
        async with client, server:
            connection = Connection(client, server)
            self._connections.add(connection)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._requests, connection, tasks.cancel_scope)
                    await self._replies(connection)
                    tasks.cancel_scope.cancel()
            finally:
                self._connections.discard(connection)

    async def _requests(self, connection: Connection, ended: anyio.CancelScope) -> None:
        with suppress(*CLOSED):
            async for chunk in connection.client:
                connection.request = chunk
                await self._passable(connection)
                if self.loses_request and self.loses_request in chunk:
                    self.loses_request = b""
                    self.lost += 1
                    break
                await connection.server.send(chunk)
        await self._hold_if_stranded(connection)
        ended.cancel()

    async def _replies(self, connection: Connection) -> None:
        with suppress(*CLOSED):
            async for chunk in connection.server:
                await self._passable(connection)
                if self.loses_reply_to and self.loses_reply_to in connection.request and chunk != NOTHING:
                    self.loses_reply_to = b""
                    self.lost += 1
                    return
                await connection.client.send(chunk)

    async def _passable(self, connection: Connection) -> None:
        await self._hold_if_stranded(connection)
        await self._open.wait()
        await self._hold_if_stranded(connection)

    @staticmethod
    async def _hold_if_stranded(connection: Connection) -> None:
        if connection.stranded:
            await anyio.sleep_forever()  # until the proxy ends; the server's side stays open that long


@asynccontextmanager
async def proxy_to(upstream: Address) -> AsyncIterator[Proxy]:
    """A proxy to the server at a URL or an address, for as long as the block lasts."""
    proxy = Proxy(*_reached_at(upstream))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        proxy.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, proxy.serve)
        try:
            yield proxy
        finally:
            tasks.cancel_scope.cancel()


def _reached_at(upstream: Address) -> tuple[Connect, str]:
    if isinstance(upstream, tuple):
        host, port = upstream
        return (lambda: anyio.connect_tcp(host, port)), "tcp"
    parts = urlsplit(upstream)
    if parts.scheme == "unix":
        return (lambda: anyio.connect_unix(parts.path)), "redis"
    assert parts.hostname, f"no host in {urlunsplit(parts)}"
    name, number = parts.hostname, parts.port or 6379
    return (lambda: anyio.connect_tcp(name, number)), parts.scheme
