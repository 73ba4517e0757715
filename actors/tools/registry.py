"""The tools that there are: each with a number, a name, what it takes, and what is true of it."""

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal

import msgspec

from callboard.actors.tools.declaration import ActorTool, Traits, declared
from callboard.actors.tools.functions import function_name, return_type
from callboard.actors.tools.schema import (
    INPUT,
    FunctionParameters,
    Parameters,
    Schema,
    SchemaParameters,
    documentation,
)
from callboard.protocols.errors import BadTool, DuplicateTool, NotStorable, UnknownTool, listed
from callboard.protocols.ports import Route
from callboard.protocols.types import check_class

Source = Literal["function", "actor", "mcp"]
NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what all providers take
ANYTHING: Final[Schema] = {"description": "Anything that can be JSON."}
MAX_DESCRIPTION: Final = 1024  # characters: OpenAI takes no more


class ToolInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is known of a tool without it: it can be stored, and shown.

    `id` is made of source and name alone, so that it is the same in each process and each release, wherever the tool
    stands and whatever else there is: dashboards and other systems may keep it. `origin` tells where it comes from:
    module.function, the role, or server/tool. `wrapped`: what it takes is no object, and comes as the argument `input`.
    """

    id: int
    name: str
    description: str
    schema: Schema
    source: Source
    origin: str
    traits: Traits
    wrapped: bool = False

    def for_model(self) -> dict[str, Any]:
        """The tool as it is offered to a model, in OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}


class RegisteredTool:
    """A tool that can be called: with `function(**arguments)`, or, if it has an `actor`, by asking that one.

    `decode` makes arguments of the JSON that a model wrote, and raises InvalidArguments.
    """

    def __init__(
        self,
        info: ToolInfo,
        parameters: Parameters,
        *,
        function: Callable[..., Any] | None = None,
        actor: ActorTool | None = None,
    ) -> None:
        self.info = info
        self.id = info.id
        self.name = info.name
        self.traits = info.traits
        self.decode = parameters.decode
        self.function = function
        self.actor = actor

    def __repr__(self) -> str:
        return f"RegisteredTool({self.name}: {self.info.origin})"

    def payload(self, arguments: dict[str, Any]) -> Any:
        """What an actor is sent for these arguments."""
        return arguments[INPUT] if self.info.wrapped else arguments


class Tools:
    """A set of tools, by number and by name. Raises DuplicateTool for a second one of the same name or number."""

    def __init__(self, tools: Iterable[RegisteredTool | Callable[..., Any]] = ()) -> None:
        self._by_name: dict[str, RegisteredTool] = {}
        self._by_id: dict[int, RegisteredTool] = {}
        for each in tools:
            self.add(each)

    def __repr__(self) -> str:
        return f"Tools({', '.join(self._by_name)})"

    def __iter__(self) -> Iterator[RegisteredTool]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._by_id

    def add(self, tool: RegisteredTool | Callable[..., Any]) -> RegisteredTool:
        """Take a tool in; the same one twice is one. Raises DuplicateTool, BadTool."""
        new = tool if isinstance(tool, RegisteredTool) else function_tool(tool)
        for other in (self._by_name.get(new.name), self._by_id.get(new.id)):
            if other is None:
                continue
            if _same(other, new):
                return other
            raise DuplicateTool(new.name, _told(other), _told(new))
        self._by_name[new.name] = self._by_id[new.id] = new
        return new

    def get(self, tool: str | int, role: str = "") -> RegisteredTool:
        """A tool by its name or its number, that the role (if one is named) may use. Raises UnknownTool."""
        found = self._by_id.get(tool) if isinstance(tool, int) else self._by_name.get(tool)
        if found is None or not may_use(found.traits, role):
            raise UnknownTool(str(tool), role, listed([it.name for it in self.for_role(role)]))
        return found

    def for_role(self, role: str) -> tuple[RegisteredTool, ...]:
        """The tools that a role may use."""
        return tuple(it for it in self if may_use(it.traits, role))

    def matching(self, pattern: str, role: str = "") -> tuple[RegisteredTool, ...]:
        """The tools that a role may use whose names fit a pattern, such as git__*."""
        return tuple(it for it in self.for_role(role) if fnmatch.fnmatchcase(it.name, pattern))


def function_tool(function: Callable[..., Any]) -> RegisteredTool:
    """A Python function as a tool, with what `tool` says of it. Raises BadTool."""
    traits, name = declared(function)
    name = check_name(name or function_name(function))
    description, documented = documentation(function)
    parameters = FunctionParameters(name, function, documented)
    try:
        check_class(return_type(function), "what it returns")
    except NotStorable as error:
        raise BadTool(name, str(error)) from None
    origin = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', name)}"
    return RegisteredTool(
        tool_info("function", name, description, parameters.schema, origin, traits), parameters, function=function
    )


def actor_as_tool(tool: ActorTool, route: Route) -> RegisteredTool:
    """An actor as a tool; it takes what the role's handlers take. Raises BadTool."""
    return bind_actor(tool, actor_info(tool, route))


def actor_info(tool: ActorTool, route: Route) -> ToolInfo:
    """What is known of an actor as a tool. Raises BadTool."""
    schema = ANYTHING if route.input_schema is None else msgspec.json.decode(route.input_schema)
    description = tool.description or (route.card.description if route.card else "")
    name = check_name(tool.name)
    parameters = SchemaParameters(name, schema)
    return tool_info("actor", name, description, parameters.schema, tool.role, tool.traits, wrapped=parameters.wrapped)


def bind_actor(tool: ActorTool, info: ToolInfo) -> RegisteredTool:
    """An actor as a tool, of which all is known already."""
    return RegisteredTool(info, SchemaParameters(info.name, info.schema), actor=tool)


def tool_info(
    source: Source, name: str, description: str, schema: Schema, origin: str, traits: Traits, *, wrapped: bool = False
) -> ToolInfo:
    """What is known of a tool, with its number."""
    if len(description) > MAX_DESCRIPTION:
        description = description[: MAX_DESCRIPTION - 4] + " ..."
    return ToolInfo(
        id=tool_id(source, name),
        name=name,
        description=description,
        schema=schema,
        source=source,
        origin=origin,
        traits=traits,
        wrapped=wrapped,
    )


def tool_id(source: Source, name: str) -> int:
    """A tool's number: 1 to 2**31 - 1 (so that any integer column holds it), by BLAKE2b of source and name.

    Two tools of a thousand have the same one with a chance of 1 in 4,300; a registry refuses that.
    """
    hashed = hashlib.blake2b(f"{source}:{name}".encode(), digest_size=4).digest()
    return (int.from_bytes(hashed) & 0x7FFF_FFFF) or 1


def check_name(name: str) -> str:
    """The name, if it is legal for a tool; raises BadTool."""
    if not NAME.fullmatch(name):
        allowed = "1 to 64 of a-z, A-Z, 0-9, _ and -"
        raise BadTool(name or "(without a name)", f'a name is {allowed}: give it one with @tool(name="...")')
    return name


def may_use(traits: Traits, role: str) -> bool:
    """Whether a role may use a tool; a role without a name stands for everybody."""
    return not role or not traits.roles or role in traits.roles


def _same(one: RegisteredTool, other: RegisteredTool) -> bool:
    """Whether two are one tool. Those of MCP servers are called by what is known of them, through a function each."""
    mine = one.info.source == "mcp" or (one.function, one.actor) == (other.function, other.actor)
    return one.info == other.info and mine


def _told(tool: RegisteredTool) -> str:
    return f"the {tool.info.source} {tool.info.origin} (number {tool.id})"
