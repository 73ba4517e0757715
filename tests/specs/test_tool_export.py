"""Tools as objects of other frameworks."""

import sys
from datetime import date
from typing import Any

import pytest
from langchain_core.tools import ToolException

from callboard import Actor, Context, Struct, actor_tool, tool
from callboard.actors.roles.definition import Definition
from callboard.actors.tools.export import to_crewai, to_langchain
from callboard.actors.tools.registry import RegisteredTool, actor_as_tool
from callboard.protocols import events as e
from callboard.protocols.errors import BadTool, ExtraMissing
from tests.actor_kit import bodies, log_of


class Place(Struct):
    city: str


@tool(idempotent=True)
async def forecast(place: Place, day: date, hours: int = 24) -> dict[str, Any]:
    """What the weather will be.

    Args:
        day: Which day.
    """
    return {"in": place.city, "on": day.isoformat(), "for": hours}


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


async def test_a_tool_of_langchain_has_the_same_name_description_and_schema() -> None:
    it = to_langchain(forecast)
    assert (it.name, it.description) == ("forecast", "What the weather will be.")
    shown = it.tool_call_schema
    assert isinstance(shown, dict)
    assert shown["properties"]["day"] == {"type": "string", "format": "date", "description": "Which day."}
    assert shown["required"] == ["place", "day"]


async def test_langchain_s_call_is_decoded_and_gives_text_as_for_a_model() -> None:
    given = {"place": {"city": "Rome"}, "day": "2026-11-21"}
    assert await to_langchain(forecast).ainvoke(given) == '{"in":"Rome","on":"2026-11-21","for":24}'
    assert await to_langchain(add).ainvoke({"a": 1}) == "2"
    message = await to_langchain(add).ainvoke(
        {"type": "tool_call", "id": "c1", "name": "add", "args": {"a": 1, "b": 2}}
    )
    assert (message.tool_call_id, message.content) == ("c1", "3")


async def test_arguments_that_do_not_fit_are_langchain_s_own_error() -> None:
    with pytest.raises(ToolException, match="Tool 'add' can't take these arguments: Expected `int`, got `str`"):
        await to_langchain(add).ainvoke({"a": "one"})


async def test_in_a_handler_each_call_of_langchain_s_is_a_step() -> None:
    async def todo(ctx: Context) -> Any:
        async def run(tool: RegisteredTool, arguments: dict[str, Any]) -> Any:
            assert tool.function is not None
            return await ctx.tool(tool.function, name=tool.name, **arguments)

        return await to_langchain(add, run).ainvoke({"a": 2, "b": 3})

    [completed] = bodies(await log_of(todo), e.ToolCompleted)
    assert (completed.tool, bytes(completed.result.inline)) == ("add", b"5")


class Reviewer(Actor):
    """Reviews."""

    async def handle(self, text: str, ctx: Context) -> str: ...


def test_what_only_a_task_can_call_needs_its_run() -> None:
    def keyed(idempotency_key: str) -> None: ...

    with pytest.raises(BadTool, match="'reviewer' can't be used: it is an actor"):
        to_langchain(actor_as_tool(actor_tool("reviewer"), Definition(Reviewer).route(1)))
    with pytest.raises(BadTool, match="its parameter 'idempotency_key' comes from the runtime"):
        to_langchain(keyed)


@pytest.mark.parametrize(
    ("export", "module", "says"),
    [
        (to_langchain, "langchain_core.tools", "Tools for LangChain need the package langchain-core"),
        (to_crewai, "crewai.tools", "Tools for CrewAI need the package crewai"),
    ],
)
def test_without_the_extra_the_error_says_how_to_get_it(
    export: Any, module: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExtraMissing, match=says):
        export(add)
