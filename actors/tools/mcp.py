"""Tools of MCP servers: sessions that are kept open, and opened again when a server has died.

A session is opened when its first tool is listed or called. A server's tools are named SERVER__TOOL. What a server
listed is known from then on, also while it is away.

Whether a call that broke off was carried out is not known. Where the tool says that it may be called twice, it is, once
more; where it doesn't, OutcomeUnknown says so, and a person has to find out.
"""

import asyncio
import fnmatch
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import anyio

from callboard.actors.tools.declaration import Traits, tool
from callboard.actors.tools.mcp_server import McpServer, check_server_name, fits
from callboard.actors.tools.registry import RegisteredTool, ToolInfo, may_use, tool_info
from callboard.actors.tools.schema import SchemaParameters
from callboard.protocols.errors import (
    BadTool,
    ExtraMissing,
    McpFailed,
    NotStorable,
    OutcomeUnknown,
    UnknownMcpServer,
    UnknownTool,
    listed,
)
from callboard.protocols.messages import encode_json
from callboard.protocols.values import TOO_DEEP, check_depth, whole_text, whole_texts

if TYPE_CHECKING:
    from callboard.actors.tools.mcp_wire import Trouble

MAX_PAGES: Final = 100  # of a server's listing
MAX_NAME: Final = 64

log = logging.getLogger(__name__)


class McpSessions:
    """The MCP servers of one process. `async with` owns their sessions; leaving it ends them, and stdio servers."""

    def __init__(self, servers: Mapping[str, McpServer]) -> None:
        self._servers = {check_server_name(name): _Server(name, server.resolved()) for name, server in servers.items()}
        self._group = asyncio.TaskGroup()

    def __repr__(self) -> str:
        return f"McpSessions({', '.join(map(repr, self._servers.values()))})"

    async def __aenter__(self) -> "McpSessions":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        for server in self._servers.values():
            if server.session is not None:
                server.session.over.set()
        await self._group.__aexit__(*exc)

    @property
    def names(self) -> tuple[str, ...]:
        """The servers that there are."""
        return tuple(self._servers)

    def known(self) -> tuple[ToolInfo, ...]:
        """The tools that were listed so far, without asking any server."""
        return tuple(info for server in self._servers.values() for info in server.listing or ())

    async def tools(self, server: str, role: str = "") -> tuple[RegisteredTool, ...]:
        """A server's tools that a role may use. Raises McpFailed, UnknownMcpServer, ExtraMissing."""
        return tuple(self.bind(info) for info in await self.infos(server) if may_use(info.traits, role))

    async def infos(self, server: str) -> tuple[ToolInfo, ...]:
        """What is known of a server's tools; it is asked once, and again after it has said that there are others.

        Raises McpFailed, UnknownMcpServer, ExtraMissing.
        """
        it = self._server(server)
        if it.listing is None or it.stale:
            session = await self._open(it)
            session.connection.stale = False
            it.listing = tuple(await session.list_tools())
        return it.listing

    def bind(self, info: ToolInfo) -> RegisteredTool:
        """A tool of which all is known already, such as from the log; its server is not asked before it is called."""

        async def call(**arguments: Any) -> str:
            return await self.call(info, arguments)

        traits = info.traits
        mark = tool(idempotent=traits.idempotent, writes=traits.writes, name=info.name)
        return RegisteredTool(info, SchemaParameters(info.name, info.schema), function=mark(call))

    async def call(self, info: ToolInfo, arguments: dict[str, Any]) -> str:
        """Call a tool; gives its result as text.

        Raises McpFailed if it failed or wasn't called, OutcomeUnknown if that is not known and matters, and
        UnknownMcpServer, ExtraMissing.
        """
        name, _, own_name = info.origin.partition("/")
        server = self._server(name)
        session = await self._open(server)
        outcome = await session.attempt(own_name, arguments)
        harmless = info.traits.idempotent
        if not isinstance(outcome, str) and outcome.over and (harmless or not outcome.called):
            session = await self._open(server)
            outcome = await session.attempt(own_name, arguments)
        if isinstance(outcome, str):
            return outcome
        if outcome.called and not harmless:
            raise OutcomeUnknown(info.name, f"MCP server {name!r} {outcome.reason}")
        raise McpFailed(name, outcome.reason)

    def _server(self, name: str) -> "_Server":
        try:
            return self._servers[name]
        except KeyError:
            raise UnknownMcpServer(name, listed(list(self._servers))) from None

    async def _open(self, server: "_Server") -> "_Session":
        """The server's session; a new one, if there is none or it has ended. Raises McpFailed, ExtraMissing."""
        async with server.lock:
            if server.session is not None and not server.session.over.is_set():
                return server.session
            await anyio.to_thread.run_sync(_need_mcp)
            session = server.session = _Session(server)
            self._group.create_task(session.serve(), name=repr(session))
            try:
                await session.ready.wait()
            except asyncio.CancelledError:
                session.over.set()
                raise
            if session.failure is not None:
                raise session.failure
            return session


class _Server:
    """What is known of one server."""

    def __init__(self, name: str, config: McpServer) -> None:
        self.name = name
        self.config = config
        self.lock = asyncio.Lock()
        self.session: _Session | None = None
        self.listing: tuple[ToolInfo, ...] | None = None

    @property
    def stale(self) -> bool:
        """Whether it is there, and may have other tools than it had."""
        return self.session is not None and not self.session.over.is_set() and self.session.connection.stale

    def __repr__(self) -> str:
        state = "open" if self.session is not None and not self.session.over.is_set() else "closed"
        return f"{self.name}: {state}"


class _Session:
    """One session with a server. All of it happens in one task, `serve`, but for the calls."""

    def __init__(self, server: _Server) -> None:
        from callboard.actors.tools.mcp_wire import Connection

        self.server = server
        self.ready = asyncio.Event()  # or it never will be: see `failure`
        self.over = asyncio.Event()
        self.failure: McpFailed | None = None
        self.connection = Connection(server.name, server.config, self.over)

    def __repr__(self) -> str:
        return f"mcp:{self.server.name}"

    async def serve(self) -> None:
        """Be connected until it is over. What goes wrong is told to those who wait, and not raised."""
        try:
            async with asyncio.timeout(self.server.config.connect_s) as limit, self.connection.open():
                limit.reschedule(None)
                self.ready.set()
                log.info("%s: connected", self)
                await self.over.wait()
        except McpFailed as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - a transport may raise anything, and groups of it
            reason = self.connection.explain(error, self.server.config.connect_s)
            self.failure = McpFailed(self.server.name, reason + self.connection.last_words())
            log.warning("%s: it %s", self, reason)
        finally:
            self.over.set()
            self.ready.set()
            log.info("%s: closed", self)

    async def attempt(self, tool: str, arguments: dict[str, Any]) -> "str | Trouble":
        """Call a tool once; gives its result as text, or what went wrong. Raises McpFailed if the tool failed."""
        from callboard.actors.tools.mcp_wire import Trouble

        try:
            result = await self.connection.call(tool, arguments)
        except Trouble as trouble:
            if trouble.over:
                self.over.set()
            return trouble
        text = _text(result)
        if result.is_error:
            raise McpFailed(self.server.name, f"says that {tool} failed: {text}")
        return text

    async def list_tools(self) -> list[ToolInfo]:
        """What the server offers, of what is wanted. Raises McpFailed."""
        config = self.server.config
        infos: list[ToolInfo] = []
        cursor: str | None = None
        try:
            async with asyncio.timeout(config.call_s):
                for _ in range(MAX_PAGES):
                    page = await self.connection.client.list_tools(cursor=cursor)
                    infos += self._usable(each for each in page.tools if config.offers(each.name))
                    cursor = page.next_cursor
                    if cursor is None:
                        return infos
        except Exception as error:
            self.over.set()
            raise McpFailed(self.server.name, self.connection.explain(error, config.call_s)) from error
        raise McpFailed(self.server.name, f"lists its tools on more than {MAX_PAGES} pages.")

    def _usable(self, offered: Iterable[Any]) -> Iterator[ToolInfo]:
        """What is known of tools; one that can't be used is left out, and the log says why."""
        for each in offered:
            try:
                yield _info(self.server.name, self.server.config, each)
            except (BadTool, NotStorable, RecursionError) as error:
                deep = isinstance(error, RecursionError)
                reason = f"the schema of {each.name!r} {TOO_DEEP}" if deep else str(error)
                log.warning("%s: a tool is left out: %s", self, reason)


def choose(infos: Sequence[ToolInfo], name: str, role: str) -> list[ToolInfo]:
    """Of a server's tools those for a role that a name stands for: the server's own, or a pattern on tools' names.

    Raises UnknownTool if there is none.
    """
    usable = [info for info in infos if may_use(info.traits, role)]
    chosen = [info for info in usable if "__" not in name or fnmatch.fnmatchcase(info.name, name)]
    if not chosen:
        raise UnknownTool(name, role, listed([info.name for info in usable]))
    return chosen


def tool_name(server: str, tool: str) -> str:
    """SERVER__TOOL, as providers take it: what they don't take is replaced, and what is too long is cut; then a few
    characters of its digest keep it apart from others.
    """
    whole = whole_text(f"{server}__{tool}")
    legal = re.sub(r"[^a-zA-Z0-9_-]", "_", whole)
    if legal == whole and len(whole) <= MAX_NAME:
        return whole
    mark = hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()
    return f"{legal[: MAX_NAME - len(mark) - 1]}-{mark}"


def _info(server: str, config: McpServer, offered: Any) -> ToolInfo:
    """What is known of a tool, by what its server says of it (mcp's Tool). Raises BadTool."""
    hints = offered.annotations if config.trust_hints else None
    read_only = fits(config.read_only, offered.name) or bool(hints and hints.read_only_hint)
    traits = Traits(
        idempotent=read_only or bool(hints and hints.idempotent_hint),
        writes=not read_only,
        parallel=read_only,
        untrusted=config.untrusted is not False,
        roles=config.roles,
    )
    name = tool_name(server, offered.name)
    schema = whole_texts(offered.input_schema)
    check_depth(encode_json(schema), f"the schema of {name}")
    parameters = SchemaParameters(name, schema)
    if parameters.wrapped:
        raise BadTool(name, "what it takes is not of type object")
    description = whole_text(offered.description or offered.title or "")
    return tool_info("mcp", name, description, parameters.schema, whole_text(f"{server}/{offered.name}"), traits)


def _text(result: Any) -> str:
    """A result (mcp's CallToolResult) for the model: its texts; of all else, that it is there."""
    parts = []
    for block in result.content:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "resource" and hasattr(block.resource, "text"):
            parts.append(block.resource.text)
        elif block.type == "resource_link":
            parts.append(f"[{block.uri}]")
        else:
            parts.append(f"[{block.type} {getattr(block, 'mime_type', None) or ''}]")
    if not parts and result.structured_content is not None:
        return encode_json(whole_texts(result.structured_content)).decode()
    return whole_text("\n".join(parts))


def _need_mcp() -> None:
    try:
        import mcp  # noqa: F401

        import callboard.actors.tools.mcp_wire  # noqa: F401
    except ImportError as error:
        raise ExtraMissing("MCP servers", error.name or "mcp", "mcp") from error
