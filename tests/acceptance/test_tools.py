"""`callboard tools`, from outside. It needs no PostgreSQL and no Redis; MCP servers are real ones."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from callboard.actors.tools.registry import tool_id
from tests.cli_kit import Callboard, command_in
from tests.forking import Forks

TROUBLEMAKER = Path(__file__).parents[1] / "mcp_troublemaker.py"
APP = '''
from callboard import Actor, Context, ToolPolicy, actor_tool, tool

@tool(idempotent=True, untrusted=True)
def search(query: str, limit: int = 10) -> list[str]:
    """Search the web."""
    return []

@tool(roles=["boss"])
def fire(who: str) -> str:
    """End somebody's contract."""
    return who

def order(book: str, copies: int = 1) -> str:
    """Order a book."""
    return book

class Librarian(Actor):
    """Buys books."""
    tools = (
        search, order, fire, actor_tool("reviewer", "Says whether a book is good."), actor_tool("elsewhere"),
        "it__add", "it__f*", "it__*ail", "away", "nowhere",
    )
    tool_policy = (
        ToolPolicy(tool="order", arguments={"copies": "1"}, action="allow"),
        ToolPolicy(tool="order", action="approve", note="more than one copy"),
        ToolPolicy(tool="it__*", action="allow"),
    )
    async def handle(self, topic: str, ctx: Context) -> str:
        return (await ctx.run_tools(topic)).text

class Reviewer(Actor):
    """Reads books."""
    async def handle(self, book: str, ctx: Context) -> str:
        return "good"
'''
CONFIG = f"""
[mcp.it]
command = "{sys.executable}"
args = ["{TROUBLEMAKER}", "stdio"]
env = {{ KEY = "${{CANARY_KEY}}" }}

[mcp.away]
command = "no-such-program"

[mcp.time]
preset = "time"
options = {{ timezone = "UTC" }}

[[tools.policies]]
tool = "it__fail"
action = "deny"
note = "it fails anyway"
"""
CANARY = "sesame-0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("library")
    (made / "app.py").write_text(APP)
    (made / "callboard.toml").write_text(CONFIG)
    return made


@pytest.fixture
def callboard(forks: Forks, folder: Path) -> Callboard:
    """Runs `callboard tools` to its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    environ = kept | {"COLUMNS": "160", "CANARY_KEY": CANARY, "CALLBOARD_CONFIG": "callboard.toml", "PWD": str(folder)}
    return partial(command_in(environ, forks), "tools")


def read(callboard: Callboard, *arguments: str) -> dict[str, Any]:
    """What is listed, by name; nothing else is said."""
    done = callboard(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert CANARY not in done.stdout
    found = json.loads(done.stdout)
    assert len({(each["role"], each["name"]) for each in found}) == len(found)
    return {each["name"]: each for each in found}


def test_all_tools_of_an_app_are_listed_with_what_is_true_of_them(callboard: Callboard) -> None:
    tools = read(callboard, "--app", "app.py")
    search = tools["search"]
    assert (search["id"], search["source"]) == (tool_id("function", "search"), "function")
    assert search["origin"].endswith("app.search")
    assert search["parameters"]["required"] == ["query"]
    marks = ("writes", "idempotent", "parallel", "untrusted", "approval")
    assert [search[mark] for mark in marks] == [False, True, True, True, False]
    assert [tools["order"][mark] for mark in marks] == [True, False, False, False, False]
    assert (tools["fire"]["offered"], tools["fire"]["roles"]) == (False, ["boss"])
    reviewer = tools["reviewer"]
    assert (reviewer["source"], reviewer["origin"], reviewer["description"]) == (
        "actor",
        "reviewer",
        "Says whether a book is good.",
    )
    assert (tools["it__add"]["source"], tools["it__add"]["origin"], tools["it__add"]["writes"]) == (
        "mcp",
        "it/add",
        False,
    )
    assert {each["role"] for each in tools.values()} == {"librarian", None}
    spare = {name: each for name, each in tools.items() if each["role"] is None}
    assert set(spare) == {"time__get_current_time", "time__convert_time"}
    assert not spare["time__convert_time"]["untrusted"]


def test_what_the_policies_say_is_told_by_tool(callboard: Callboard) -> None:
    tools = read(callboard, "--app", "app.py", "--role", "librarian")
    said = {name: (each["policy"], each["after_untrusted"]) for name, each in tools.items() if not each["error"]}
    assert said == {
        "search": ("allow", "allow"),
        "order": ("approve", "approve"),
        "fire": ("allow", "approve"),
        "reviewer": ("allow", "approve"),
        "it__add": ("allow", "allow"),
        "it__fail": ("deny", "deny"),
    }
    assert tools["order"]["why"] == "more than one copy"
    assert tools["order"]["by_arguments"] == [{"action": "allow", "arguments": {"copies": "1"}, "note": ""}]
    assert tools["it__fail"]["why"] == "it fails anyway"


def test_what_can_t_be_had_is_a_row_with_the_reason(callboard: Callboard) -> None:
    tools = read(callboard, "--app", "app.py", "--role", "librarian")
    errors = {name: each["error"] for name, each in tools.items() if each["error"]}
    assert set(errors) == {"away", "nowhere", "elsewhere"}
    assert "'away' can't be started: there is no 'no-such-program'" in errors["away"]
    assert "There is no MCP server 'nowhere' in the configuration. There are away, it, time" in errors["nowhere"]
    assert "it is no role of this app" in errors["elsewhere"]


def test_without_an_app_the_servers_of_the_configuration_are_listed(callboard: Callboard) -> None:
    tools = read(callboard)
    assert {each["source"] for each in tools.values()} == {"mcp"}
    assert {each["role"] for each in tools.values()} == {None}
    assert {"it__add", "it__note_and_die", "time__get_current_time", "away"} <= set(tools)
    assert "no role names any, and the configuration no MCP server" in callboard(CALLBOARD_CONFIG="").stdout


def test_for_people_there_is_a_table_and_errors_below_it(callboard: Callboard) -> None:
    done = callboard("--app", "app.py")
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "approve: more than one copy; allow if copies is like '1'",
        "deny: it fails anyway",
        "only for boss",
        "can't be had: see below",
        "away: MCP server 'away' can't be started",
    ):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--app", "app.py", "--role", "writer"), "'writer'"),
        (("--role", "librarian"), "--app APP"),
        (("--app", "none.py"), "there is no such file"),
    ],
)
def test_bad_input_is_told_by_name(callboard: Callboard, arguments: tuple[str, ...], said: str) -> None:
    done = callboard(*arguments)
    assert done.returncode == 2
    assert said in done.stderr.replace("\n", " ")
