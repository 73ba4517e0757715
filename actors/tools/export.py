"""Tools for other frameworks: objects of LangChain (which LangGraph takes, too) and of CrewAI.

They are described by the same schema, and check what they are called with in the same way. By default a call is the
function's and nothing is recorded. Inside of a handler, `run` makes each call a step:

    async def run(tool: RegisteredTool, arguments: dict[str, Any]) -> Any:
        return await ctx.tool(tool.function, name=tool.name, **arguments)

    graph = create_react_agent(model, [to_langchain(search, run)])
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from callboard.actors.tools.loop import result_text
from callboard.actors.tools.registry import RegisteredTool, function_tool
from callboard.actors.tools.schema import HIDDEN
from callboard.protocols.errors import BadTool, ExtraMissing, InvalidArguments
from callboard.protocols.messages import encode_json

if TYPE_CHECKING:
    from langchain_core.tools import StructuredTool

Run = Callable[[RegisteredTool, dict[str, Any]], Awaitable[Any]]


async def call_function(tool: RegisteredTool, arguments: dict[str, Any]) -> Any:
    """Call a tool's function, here and now; one that isn't asynchronous runs in a thread."""
    function = tool.function
    assert function is not None
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    return await anyio.to_thread.run_sync(lambda: function(**arguments))


def to_langchain(tool: RegisteredTool | Callable[..., Any], run: Run = call_function) -> "StructuredTool":
    """A StructuredTool (asynchronous only); a call raises ToolException for arguments that don't fit.

    Raises BadTool for what can't be called without `run`, and ExtraMissing.
    """
    try:
        from langchain_core.tools import StructuredTool, ToolException
    except ImportError as error:
        raise ExtraMissing("Tools for LangChain", "langchain-core", "langchain") from error
    it = _callable(tool, run)

    async def call(**arguments: Any) -> str:
        try:
            return await _call(it, arguments, run)
        except InvalidArguments as error:
            raise ToolException(str(error)) from error

    return StructuredTool.from_function(
        coroutine=call,
        name=it.name,
        description=it.info.description or it.name,
        args_schema=dict(it.info.schema),
        infer_schema=False,
    )


def to_crewai(tool: RegisteredTool | Callable[..., Any], run: Run = call_function) -> Any:
    """A BaseTool of CrewAI's. Raises BadTool for what can't be called without `run`, and ExtraMissing."""
    try:
        from crewai.tools import BaseTool
    except ImportError as error:
        raise ExtraMissing("Tools for CrewAI", "crewai", "crewai") from error
    it = _callable(tool, run)
    required = it.info.schema.get("required", ())

    class CallboardTool(BaseTool):  # type: ignore[misc] # CrewAI excludes the packages that the type checker runs with
        async def _run(self, **given: Any) -> str:
            # What was left out comes as None.
            arguments = {name: value for name, value in given.items() if value is not None or name in required}
            return await _call(it, arguments, run)

        _arun = _run

    return CallboardTool(name=it.name, description=it.info.description or it.name, args_schema=dict(it.info.schema))


async def _call(tool: RegisteredTool, arguments: Mapping[str, Any], run: Run) -> str:
    """The result's text. Raises InvalidArguments, and what the tool raises."""
    return result_text(encode_json(await run(tool, tool.decode(encode_json(arguments).decode()))))


def _callable(tool: RegisteredTool | Callable[..., Any], run: Run) -> RegisteredTool:
    """The tool, if it can be called so; raises BadTool."""
    it = tool if isinstance(tool, RegisteredTool) else function_tool(tool)
    if run is not call_function:
        return it
    if it.function is None:
        raise BadTool(it.name, "it is an actor, which only a task can ask: give `run`")
    for name, parameter in inspect.signature(it.function).parameters.items():
        if name in HIDDEN and parameter.default is parameter.empty:
            raise BadTool(it.name, f"its parameter {name!r} comes from the runtime: give `run`")
    return it
