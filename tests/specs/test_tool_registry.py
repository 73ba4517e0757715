"""The registry of tools: numbers, names, who may use them; actors as tools; the marks of a function."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from callboard import Actor, Context, Struct, actor_tool, tool
from callboard.actors.roles.definition import Definition
from callboard.actors.tools.declaration import Traits, declared
from callboard.actors.tools.mcp import McpSessions
from callboard.actors.tools.registry import ToolInfo, Tools, actor_as_tool, function_tool, tool_id, tool_info
from callboard.protocols.errors import BadTool, DuplicateTool, InvalidArguments, UnknownTool


@tool(idempotent=True, untrusted=True)
def fetch(url: str) -> str:
    """Fetch a page."""
    return url


@tool(roles=["operator"], approval=True)
def deploy(version: str) -> None:
    """Deploy a version."""


def note(text: str) -> None:
    """Write something down."""


class Draft(Struct):
    text: str


class Reviewer(Actor):
    """Reviews a draft."""

    async def handle(self, draft: Draft, ctx: Context) -> str: ...


class Clerk(Actor):
    """Files what it gets."""

    async def handle(self, payload: Any, ctx: Context) -> str: ...


def test_an_unmarked_function_writes_may_not_be_called_twice_and_is_for_everybody() -> None:
    assert declared(note) == (Traits(), "")
    assert Traits() == Traits(idempotent=False, writes=True, parallel=False, untrusted=False, approval=False, roles=())


@pytest.mark.parametrize(
    ("marks", "traits"),
    [
        ({"idempotent": True}, Traits(idempotent=True, writes=False, parallel=True)),
        ({"idempotent": True, "writes": True}, Traits(idempotent=True, writes=True)),
        ({"writes": False}, Traits(writes=False, parallel=True)),
        ({"writes": False, "parallel": False}, Traits(writes=False)),
        ({"parallel": True}, Traits(parallel=True)),
        ({"untrusted": True}, Traits(untrusted=True)),
    ],
)
def test_what_only_reads_may_run_in_parallel_unless_it_says_otherwise(marks: dict[str, Any], traits: Traits) -> None:
    def it() -> None: ...

    assert declared(tool(**marks)(it))[0] == traits


def test_roles_are_a_list_not_a_text() -> None:
    with pytest.raises(TypeError, match="a list of names"):
        tool(roles="operator")


def test_a_tool_may_have_another_name_than_its_function() -> None:
    @tool(name="web-search")
    def search(query: str) -> None: ...

    assert function_tool(search).name == "web-search"


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "über", "a.b"])
def test_a_name_that_providers_do_not_take_is_an_error(name: str) -> None:
    def it() -> None: ...

    it.__name__ = name
    with pytest.raises(BadTool, match="1 to 64 of a-z, A-Z, 0-9, _ and -"):
        function_tool(it)


def test_a_lambda_has_no_name_and_is_told_so() -> None:
    with pytest.raises(BadTool, match="'<lambda>' can't be used: a name is"):
        function_tool(lambda: None)


def test_tools_are_found_by_name_and_by_number() -> None:
    tools = Tools([fetch, deploy, note])
    assert [it.name for it in tools] == ["fetch", "deploy", "note"]
    assert tools.get("fetch") is tools.get(tools.get("fetch").id)
    assert "fetch" in tools
    assert "nothing" not in tools
    assert repr(tools) == "Tools(fetch, deploy, note)"


def test_an_unknown_tool_is_an_error_that_lists_those_of_the_role() -> None:
    with pytest.raises(UnknownTool, match=r"no tool 'deploy' that role 'writer' may use. It may use fetch, note."):
        Tools([fetch, deploy, note]).get("deploy", "writer")


def test_a_role_has_the_tools_that_are_everybody_s_and_its_own() -> None:
    tools = Tools([fetch, deploy, note])
    assert [it.name for it in tools.for_role("writer")] == ["fetch", "note"]
    assert [it.name for it in tools.for_role("operator")] == ["fetch", "deploy", "note"]
    assert [it.name for it in tools.matching("*e*", "writer")] == ["fetch", "note"]
    assert [it.name for it in tools.matching("d*", "writer")] == []


def test_a_number_depends_on_source_and_name_alone() -> None:
    code = (
        "from callboard.actors.tools.registry import tool_id;"
        "print(tool_id('function', 'fetch'), tool_id('mcp', 'git__log'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2127379574", "122840069"]
    assert Tools([fetch]).get("fetch").id == Tools([note, fetch]).get("fetch").id == tool_id("function", "fetch")
    assert tool_id("actor", "fetch") != tool_id("function", "fetch")


def test_numbers_fit_into_any_integer_column() -> None:
    assert all(0 < tool_id("function", f"tool-{number}") < 2**31 for number in range(10_000))


def test_a_second_tool_of_the_same_name_is_an_error_that_names_both() -> None:
    def other(url: str) -> str: ...

    other.__name__ = "fetch"
    with pytest.raises(DuplicateTool, match=r"Tool 'fetch' is declared twice: the function \S+fetch .*, and the func"):
        Tools([fetch, other])


def test_a_second_tool_of_the_same_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard.actors.tools.registry.tool_id", lambda source, name: 7)
    with pytest.raises(DuplicateTool, match="number 7"):
        Tools([fetch, note])


def test_a_servers_tool_that_two_patterns_fit_is_one() -> None:
    sessions, schema = McpSessions({}), {"type": "object", "properties": {}}
    info = tool_info("mcp", "git__log", "The log.", schema, "git/log", Traits())
    tools = Tools([sessions.bind(info), sessions.bind(info)])
    assert [it.name for it in tools] == ["git__log"]
    with pytest.raises(DuplicateTool):
        tools.add(sessions.bind(tool_info("mcp", "git__log", "Another.", schema, "git/log", Traits())))


def test_the_same_tool_twice_is_one() -> None:
    assert len(Tools([fetch, fetch])) == 1


def test_what_is_known_of_a_tool_can_be_stored_and_goes_to_models_in_openai_s_form() -> None:
    info = function_tool(fetch).info
    assert msgspec.json.decode(msgspec.json.encode(info), type=ToolInfo) == info
    assert info.for_model() == {
        "type": "function",
        "function": {"name": "fetch", "description": "Fetch a page.", "parameters": info.schema},
    }


def test_a_description_is_no_longer_than_providers_take() -> None:
    def it() -> None: ...

    it.__doc__ = "word " * 1000
    assert len(function_tool(it).info.description) == 1024


# -- actors as tools ----------------------------------------------------------------------------------------------


def test_an_actor_is_a_tool_that_takes_what_its_handler_takes() -> None:
    asked = actor_as_tool(actor_tool("reviewer"), Definition(Reviewer).route(1))
    assert asked.info.description == "Reviews a draft."
    assert asked.info.schema["properties"] == {"text": {"type": "string"}}
    assert asked.payload(asked.decode('{"text": "Tides."}')) == {"text": "Tides."}
    with pytest.raises(InvalidArguments, match="'text' is a required property"):
        asked.decode("{}")


def test_an_actor_that_takes_anything_is_a_tool_with_one_argument() -> None:
    asked = actor_as_tool(actor_tool("clerk", "File something."), Definition(Clerk).route(1))
    assert asked.info.description == "File something."
    assert list(asked.info.schema["properties"]) == ["input"]
    assert asked.payload(asked.decode('{"input": [1, 2]}')) == [1, 2]


def test_an_actor_may_have_several_tools_under_names_of_their_own() -> None:
    route = Definition(Reviewer).route(1)
    kind = actor_tool("reviewer", name="ask-dave", key="dave", kind="review-request")
    tools = Tools([actor_as_tool(actor_tool("reviewer"), route), actor_as_tool(kind, route)])
    assert [it.name for it in tools] == ["reviewer", "ask-dave"]
    assert tools.get("ask-dave").actor == kind
