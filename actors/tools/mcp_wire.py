"""One connection to an MCP server, over stdio or streamable HTTP, and what its errors mean.

Imported only where servers are used: it needs the extra `mcp`, and takes half a second.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx2
import pydantic
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, PARSE_ERROR, REQUEST_TIMEOUT, ToolListChangedNotification

from callboard.actors.tools.mcp_server import McpServer, filled
from callboard.protocols.errors import McpFailed

logging.getLogger("mcp").setLevel(logging.CRITICAL)  # its lines quote what servers send
logging.getLogger("httpx2").setLevel(logging.WARNING)  # its lines have whole URLs

TAIL_BYTES: Final = 600  # of what a server wrote to its standard error last
MAX_TEXT: Final = 500  # characters of a server's own words in an error
MIN_SECRET: Final = 6  # characters: shorter ones are words
DYING_S: Final = 0.5  # to hear the last words of a server that ended
NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


@dataclass
class Wire:
    """What became of the HTTP requests of one call: how many may have arrived, and the last one's status."""

    arrived: int = 0
    status: int = 0


@dataclass
class Trouble(Exception):
    """A call failed: why, in words that go on behind a server's name; whether the tool may have been `called` all the
    same; and whether the connection is `over`.
    """

    reason: str
    called: bool
    over: bool = False


wire: ContextVar[Wire | None] = ContextVar("callboard_mcp_wire", default=None)


class Connection:
    """An open connection. `over` is set when the server has gone, or by whoever wants it closed."""

    def __init__(self, name: str, server: McpServer, over: asyncio.Event) -> None:
        self.name = name
        self.server = server
        self.over = over
        self.client: Client
        self.garbage = 0  # lines that are no messages
        self.stale = True  # the server has, or may have, other tools than it had
        self._tail = _Tail()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Be connected. Raises whatever a transport raises; `explain` knows what it means."""
        wire.set(Wire())  # of the handshake
        async with contextlib.AsyncExitStack() as stack:
            if self.server.url:
                http = await stack.enter_async_context(self._http())
                transport: Any = streamable_http_client(self.server.url, http_client=http)
            else:
                transport = self._stdio(await stack.enter_async_context(self._tail.listening()))
            client = Client(transport, read_timeout_seconds=self.server.call_s, message_handler=self._heard, cache=None)
            self.client = await stack.enter_async_context(client)
            yield

    async def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Call a tool by the server's own name for it; gives mcp's CallToolResult. Raises Trouble."""
        sent = Wire()
        wire.set(sent)
        try:
            return await self.client.call_tool(tool, arguments)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED and not self.server.url:
                await self._tail.ended()
            raise self._trouble(error, sent) from error
        except (pydantic.ValidationError, RuntimeError) as error:  # RuntimeError: not what its own schema says
            raise Trouble(f"gave an answer that is none ({type(error).__name__}).", called=True) from error

    def explain(self, error: BaseException, within_s: float) -> str:
        """What went wrong outside of a call, in words that go on behind the server's name."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sent = wire.get() or Wire()
        garbage = f", and wrote {self.garbage} lines that are no messages of MCP" if self.garbage else ""
        match error:
            case TimeoutError():
                return f"gave no answer within {within_s:g} s{garbage}."
            case FileNotFoundError():
                return f"can't be started: there is no {error.filename!r}."
            case OSError() if not self.server.url:
                return f"can't be started: {error.strerror}."
            case httpx2.HTTPError():
                return f"can't be reached: {self._safe(str(error)) or type(error).__name__}."
            case MCPError() if sent.status >= 400:
                return f"answers with HTTP status {sent.status}."
            case MCPError() if error.code == CONNECTION_CLOSED:
                return f"went away{garbage}."
            case MCPError():
                return f"can't be used: {self._safe(error.message)}"
        return f"doesn't speak MCP ({type(error).__name__}){garbage}."

    def _trouble(self, error: MCPError, sent: Wire) -> Trouble:
        http = bool(self.server.url)
        if http and not sent.arrived:
            return Trouble("can't be reached.", called=False, over=True)
        if error.code == CONNECTION_CLOSED:
            return Trouble(f"went away in the middle of the call.{self.last_words()}", called=True, over=not http)
        if error.code == REQUEST_TIMEOUT:
            return Trouble(f"gave no answer within {self.server.call_s:g} s.", called=True)
        if sent.status >= 400:
            reason = f"answered with HTTP status {sent.status}."
            return Trouble(reason, called=sent.status >= 500, over=sent.status == 404)  # 404: it forgot the session
        if error.code == PARSE_ERROR or (http and error.code == INVALID_REQUEST):
            return Trouble("gave an answer that is none.", called=True)
        return Trouble(f"refused the call: {self._safe(error.message)}", called=False)

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self.stale = True

    def _http(self) -> httpx2.AsyncClient:
        server = self.server
        timeout = httpx2.Timeout(server.connect_s, read=max(server.call_s, 300.0))
        return _NotingClient(headers=filled(self.name, server.headers), timeout=timeout)

    @contextlib.asynccontextmanager
    async def _stdio(self, errors: Any) -> AsyncIterator[Any]:
        server = self.server
        program = StdioServerParameters(
            command=server.command, args=list(server.args), env=filled(self.name, server.env), cwd=server.cwd
        )
        async with stdio_client(program, errlog=errors) as (read, write):
            errors.close()  # the server has its own
            yield _Watched(read, self), write

    def last_words(self) -> str:
        """The end of what a server wrote to its standard error, as a sentence for people."""
        said = self._safe(self._tail.last.decode(errors="replace").strip())
        return f" Its last words: {said}" if said else ""

    def _safe(self, text: str) -> str:
        """A server's own words, without the secrets that it was given."""
        for given in (self.server.env, self.server.headers):
            with contextlib.suppress(McpFailed):  # a variable that isn't set can't be said either
                for secret in " ".join(filled(self.name, given).values()).split():
                    text = text.replace(secret, "***") if len(secret) >= MIN_SECRET else text
        return text if len(text) <= MAX_TEXT else "... " + text[-MAX_TEXT:]


class _NotingClient(httpx2.AsyncClient):
    """Notes which requests may have arrived."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        noted = wire.get() or Wire()
        noted.arrived += 1
        try:
            response = await super().send(request, **options)
        except NOT_SENT:
            noted.arrived -= 1
            raise
        noted.status = response.status_code
        return response


class _Watched:
    """A connection's incoming messages: tells when they end, and counts those that are none."""

    def __init__(self, stream: Any, connection: Connection) -> None:
        self._stream = stream
        self._connection = connection

    async def __aenter__(self) -> "_Watched":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stream.__aexit__(*exc)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            item = await self._stream.__anext__()
        except BaseException:
            self._connection.over.set()
            raise
        self._connection.garbage += isinstance(item, Exception)
        return cast("SessionMessage | Exception", item)

    async def receive(self) -> SessionMessage | Exception:
        return await self.__anext__()


class _Tail(asyncio.Protocol):
    """The end of what a server writes to its standard error."""

    def __init__(self) -> None:
        self.last = b""
        self._lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.last = (self.last + data)[-TAIL_BYTES:]

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost.set()

    async def ended(self) -> None:
        """Return when all has been read, or soon: a process that the server started may go on writing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DYING_S):
                await self._lost.wait()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Any]:
        """A file for the server to write to; it is to be closed when the server has it."""
        reader, writer = os.pipe()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, os.fdopen(reader, "rb", 0))
        try:
            with os.fdopen(writer, "w") as file:
                try:
                    yield file
                finally:
                    file.close()
                    await self.ended()
        finally:
            transport.close()
