"""`tools`: what the roles of an app may have called, what is true of it, and what the policies say."""

import fnmatch
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import anyio
from msgspec import Struct
from rich.text import Text

from callboard.actors.roles.definition import Definition
from callboard.actors.tools.declaration import ActorTool
from callboard.actors.tools.mcp import McpSessions, choose
from callboard.actors.tools.policy import Action, ToolPolicy, decide
from callboard.actors.tools.registry import (
    RegisteredTool,
    Source,
    ToolInfo,
    Tools,
    actor_as_tool,
    function_tool,
    may_use,
    tool_id,
)
from callboard.actors.tools.toolbox import ToolLike
from callboard.app import load_app
from callboard.cli.output import Listing, people, plain, write_json, write_text
from callboard.cli.serve import chosen
from callboard.cli.session import command_settings
from callboard.cli.words import NOTHING
from callboard.config import Config
from callboard.protocols.errors import BadOption, CallboardError
from callboard.protocols.redaction import redact

TRAITS: Final = ("writes", "idempotent", "parallel", "untrusted", "approval")
STYLES: Final = {"allow": "green", "approve": "yellow", "deny": "red"}


class Rule(Struct, frozen=True, kw_only=True):
    """A policy for calls with arguments that fit its patterns."""

    action: Action
    arguments: Mapping[str, str]
    note: str


class ToolReport(Struct, frozen=True, kw_only=True):
    """A tool of a role, or of an MCP server that no role names (`role` is None): `tools --json` lists them.

    `policy` is what is done with a call, and `why`, unless its arguments fit one of `by_arguments`, which are tried
    first; `after_untrusted` is the same once an untrusted result is in the conversation. A tool that is not `offered`
    is for other roles. Where `error` says something, the tool can't be had now, and what is not known of it is None.
    """

    role: str | None
    name: str
    id: int | None = None
    source: Source
    origin: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None  # JSON Schema
    writes: bool | None = None
    idempotent: bool | None = None
    parallel: bool | None = None
    untrusted: bool | None = None
    approval: bool | None = None
    roles: tuple[str, ...] = ()
    offered: bool = True
    policy: Action | None = None
    why: str = ""
    by_arguments: tuple[Rule, ...] = ()
    after_untrusted: Action | None = None
    error: str = ""


def tools(app: str | None, roles: str | None, *, as_json: bool) -> None:
    """The tools of an app's roles; and, unless roles are named, those of MCP servers that none of them names.

    Raises BadApp, BadName, BadOption, UnreadableConfig, BadConfig.
    """
    if roles is not None and app is None:
        raise BadOption("--role", roles, "name the app that it is a role of, too: --app APP")
    definitions = load_app(app) if app is not None else {}
    of = chosen(definitions, roles or "all") if definitions else {}
    config = Config.load(command_settings().config)
    logging.getLogger("callboard.actors.tools.mcp").setLevel(
        logging.ERROR
    )  # what is wrong with a server is in the listing
    found = anyio.run(_Survey(definitions, config).reports, of, roles is None)
    if as_json:
        write_json(found)
    elif found:
        people().print(_listing(found))
        for each in found:
            if each.error:
                people().print(f"[red]{plain(each.name)}:[/] {plain(each.error)}", soft_wrap=True)
    else:
        write_text("There are no tools: no role names any, and the configuration no MCP server.")


class _Survey:
    """A look at the tools of an app, whose roles are all in `definitions`."""

    def __init__(self, definitions: Mapping[str, Definition], config: Config) -> None:
        self._definitions = definitions
        self._policies = config.tools.policies
        self._servers = tuple(config.mcp)
        self._sessions = McpSessions(config.mcp)
        self._listings: dict[str, Sequence[ToolInfo] | CallboardError] = {}  # of MCP servers, or why there is none

    async def reports(self, of: Mapping[str, Definition], all_servers: bool) -> list[ToolReport]:
        """The tools of these roles; and of the servers that none of them names, if all are wanted."""
        named = {it.partition("__")[0] for each in of.values() for it in each.actor.tools if isinstance(it, str)}
        spare = [name for name in self._servers if all_servers and name not in named]
        async with self._sessions, anyio.create_task_group() as group:
            for server in (*named, *spare):
                group.start_soon(self._ask, server)
        found = [report for each in of.values() for report in self._of_role(each)]
        return found + [report for name in spare for report in self._of_server(name)]

    async def _ask(self, server: str) -> None:
        try:
            self._listings[server] = await self._sessions.infos(server)
        except CallboardError as error:
            self._listings[server] = error

    def _of_role(self, definition: Definition) -> Iterator[ToolReport]:
        """All that a role names, in its order; what it names twice, once."""
        role, policies = definition.role, (*self._policies, *definition.actor.tool_policy)
        registry = Tools()
        for named in definition.actor.tools:
            if isinstance(named, ActorTool) and named.role not in self._definitions:
                yield _missing(role, named, "it is no role of this app: what it takes is known where it is served")
                continue
            try:
                for tool in self._found(named, role):
                    if registry.add(tool) is tool:
                        yield _report(role, tool, policies)
            except CallboardError as error:
                yield _missing(role, named, str(error))

    def _found(self, named: ToolLike, role: str) -> list[RegisteredTool]:
        """The tools that a role means. Raises CallboardError."""
        if isinstance(named, ActorTool):
            return [actor_as_tool(named, self._definitions[named.role].route(partitions=1))]
        if not isinstance(named, str):
            return [function_tool(named)]
        listing = self._listings[named.partition("__")[0]]
        if isinstance(listing, CallboardError):
            raise listing
        return [self._sessions.bind(info) for info in choose(listing, named, role)]

    def _of_server(self, server: str) -> Iterator[ToolReport]:
        """All tools of a server that no role names."""
        listing = self._listings[server]
        if isinstance(listing, CallboardError):
            yield _missing(None, server, str(listing))
        else:
            yield from (_report(None, self._sessions.bind(info), self._policies) for info in listing)


def _report(role: str | None, tool: RegisteredTool, policies: Sequence[ToolPolicy]) -> ToolReport:
    info, traits = tool.info, tool.traits
    verdict = decide(policies, tool, {}, tainted=False)
    return ToolReport(
        role=role,
        name=info.name,
        id=info.id,
        source=info.source,
        origin=info.origin,
        description=info.description,
        parameters=info.schema,
        writes=traits.writes,
        idempotent=traits.idempotent,
        parallel=traits.parallel,
        untrusted=traits.untrusted,
        approval=traits.approval,
        roles=traits.roles,
        offered=role is None or may_use(traits, role),
        policy=verdict.action,
        why=verdict.reason,
        by_arguments=tuple(_rules(policies, info.name)),
        after_untrusted=decide(policies, tool, {}, tainted=True).action,
    )


def _rules(policies: Iterable[ToolPolicy], name: str) -> Iterator[Rule]:
    """The policies for a tool that look at arguments, up to the first that doesn't."""
    for policy in policies:
        if fnmatch.fnmatchcase(name, policy.tool):
            if not policy.arguments:
                return
            yield Rule(action=policy.action, arguments=policy.arguments, note=policy.note)


def _missing(role: str | None, named: ToolLike, why: str) -> ToolReport:
    """What a role names, and can't be had."""
    said = redact(why)
    if isinstance(named, str):
        return ToolReport(role=role, name=named, source="mcp", origin=named.partition("__")[0], error=said)
    if isinstance(named, ActorTool):
        number = tool_id("actor", named.name)
        return ToolReport(role=role, name=named.name, id=number, source="actor", origin=named.role, error=said)
    info = function_tool(named).info
    return ToolReport(role=role, name=info.name, id=info.id, source="function", origin=info.origin, error=said)


# -- for people ------------------------------------------------------------------------------------------------


def _listing(found: Sequence[ToolReport]) -> Listing:
    shown = Listing(
        "role", "tool", "number", "from", "traits", "policy", right=("number",), wide="policy", spare=("number", "from")
    )
    for each in found:
        shown.add(
            each.role or NOTHING,
            each.name,
            str(each.id or NOTHING),
            f"{each.source} {each.origin}",
            ", ".join(name for name in TRAITS if getattr(each, name)) or NOTHING,
            _policy(each),
        )
    return shown


def _policy(report: ToolReport) -> Text:
    """What is done with a call."""
    if report.policy is None:
        return Text("can't be had: see below", "red")
    if not report.offered:
        return Text(f"only for {', '.join(report.roles)}", "dim")
    text = Text(report.policy, STYLES[report.policy])
    if report.why:
        text.append(f": {report.why}")
    for rule in report.by_arguments:
        fits = " and ".join(f"{name} is like {pattern!r}" for name, pattern in rule.arguments.items())
        text.append(f"; {rule.action} if {fits}")
    return text
