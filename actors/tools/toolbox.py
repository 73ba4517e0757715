"""The tools that a role names, found: functions, actors, and those of MCP servers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from callboard.actors.tools.declaration import ActorTool
from callboard.actors.tools.mcp import McpSessions, choose
from callboard.actors.tools.policy import ToolPolicy
from callboard.actors.tools.registry import RegisteredTool, ToolInfo, Tools, actor_info, bind_actor, function_tool
from callboard.protocols.errors import UnknownMcpServer, UnknownRole, listed
from callboard.protocols.ports import Route

# A function, `actor_tool(...)`, or the name of an MCP server or of tools of one: "git", "git__git_log", "git__*"
ToolLike = Callable[..., Any] | ActorTool | str
Step = Callable[..., Awaitable[Any]]  # `Context.step`


class Register(Protocol):
    """The register of roles, as far as their tools need it."""

    @property
    def roles(self) -> list[str]:
        """All known roles."""

    def route(self, role: str) -> Route | None:
        """How a role's messages are spread, and what it takes; None for a role that is not known here."""

    async def refresh(self) -> None:
        """Read the register anew."""


class Toolbox:
    """What one process knows of tools. `policies` are the operator's, `mcp` the servers in the configuration."""

    def __init__(
        self, directory: Register, *, policies: Sequence[ToolPolicy] = (), mcp: McpSessions | None = None
    ) -> None:
        self.policies = tuple(policies)
        self._directory = directory
        self._mcp = mcp

    def __repr__(self) -> str:
        return f"Toolbox({len(self.policies)} policies, {self._mcp})"

    async def resolve(self, tools: Sequence[ToolLike], role: str, step: Step) -> Tools:
        """The tools that these names and functions stand for.

        What other roles and servers say of themselves is looked up in a step, and so recorded: a task that goes on
        later, or elsewhere, offers the model the same tools again, whatever has changed since, and whoever is away.
        Raises BadTool, DuplicateTool, and StepFailed with UnknownRole, UnknownMcpServer, UnknownTool, McpFailed.
        """
        found = Tools(function_tool(each) for each in tools if not isinstance(each, ActorTool | str))
        others = [each for each in tools if isinstance(each, ActorTool | str)]
        if others:
            looked_up = await step(self._look_up, others, role, name="tools", returns=list[list[ToolInfo]])
            for each, infos in zip(others, looked_up, strict=True):
                for info in infos:
                    found.add(self._bind(each, info))
        return found

    async def _look_up(self, tools: Sequence[ActorTool | str], role: str) -> list[list[ToolInfo]]:
        return [
            await self._of_servers(each, role) if isinstance(each, str) else [await self._of_actor(each)]
            for each in tools
        ]

    async def _of_actor(self, tool: ActorTool) -> ToolInfo:
        route = self._directory.route(tool.role)
        if route is None:
            await self._directory.refresh()
            route = self._directory.route(tool.role)
        if route is None:
            raise UnknownRole(tool.role, listed(self._directory.roles))
        return actor_info(tool, route)

    async def _of_servers(self, name: str, role: str) -> list[ToolInfo]:
        server = name.partition("__")[0]
        if self._mcp is None:
            raise UnknownMcpServer(server, "none")
        return choose(await self._mcp.infos(server), name, role)

    def _bind(self, tool: ActorTool | str, info: ToolInfo) -> RegisteredTool:
        if isinstance(tool, ActorTool):
            return bind_actor(tool, info)
        return (self._mcp or McpSessions({})).bind(info)


def check_tools(tools: Sequence[ToolLike]) -> None:
    """Raise BadTool for what can't be a tool, before anything runs."""
    for each in tools:
        if not isinstance(each, ActorTool | str):
            function_tool(each)
