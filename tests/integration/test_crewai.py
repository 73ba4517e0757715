"""Tools as objects of CrewAI. It needs an environment of its own, as it asks for another major version of mcp:

uv run --isolated --no-dev --extra crewai --with pytest pytest --noconftest -c /dev/null --rootdir . THIS_FILE
"""

import asyncio
from datetime import date
from typing import Any

import msgspec
import pytest

from callboard.actors.tools.declaration import tool
from callboard.actors.tools.export import to_crewai

crewai_tools = pytest.importorskip("crewai.tools", reason="CrewAI is not in this environment")


class Place(msgspec.Struct):
    city: str


@tool(idempotent=True)
async def forecast(place: Place, day: date, hours: int = 24) -> dict[str, Any]:
    """What the weather will be."""
    return {"in": place.city, "on": day.isoformat(), "for": hours}


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def test_a_tool_of_crewai_has_the_same_name_description_and_parameters() -> None:
    it = to_crewai(forecast)
    assert isinstance(it, crewai_tools.BaseTool)
    assert (it.name, it.description) == ("forecast", "What the weather will be.")
    shown = it.args_schema.model_json_schema()
    assert shown["required"] == ["place", "day"]
    assert set(shown["properties"]) == {"place", "day", "hours"}


def test_crewai_s_calls_are_decoded_and_give_text_as_for_a_model() -> None:
    given = {"place": {"city": "Rome"}, "day": "2026-11-21"}
    assert to_crewai(forecast).run(**given) == '{"in":"Rome","on":"2026-11-21","for":24}'
    assert asyncio.run(to_crewai(forecast).arun(**given, hours=3)) == '{"in":"Rome","on":"2026-11-21","for":3}'
    assert to_crewai(add).to_structured_tool().invoke({"a": 1}) == "2"


def test_arguments_that_do_not_fit_are_crewai_s_own_error() -> None:
    with pytest.raises(ValueError, match="Tool 'add' arguments validation failed"):
        to_crewai(add).run(a="one")
