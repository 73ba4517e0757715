"""What the configuration may say of MCP servers, and what is never shown of it."""

import sys
import tomllib
from typing import Any

import msgspec
import pytest
import rich.pretty

from callboard.actors.tools.mcp import McpSessions, tool_name
from callboard.actors.tools.mcp_server import PRESETS, McpServer, filled, preset
from callboard.protocols.errors import ExtraMissing, McpFailed

CONFIG = """
[mcp.git]
preset = "git"
options = { repository = "/srv/repository" }

[mcp.files]
preset = "filesystem"
options = { folder = ["/srv/a", "/srv/b"] }
untrusted = false

[mcp.tracker]
url = "https://user:sesame-12345@tracker.example/mcp?key=sesame-12345"
headers = { Authorization = "Bearer sesame-12345" }
roles = ["planner"]
deny = ["delete_*"]

[mcp.own]
command = "python"
args = ["-m", "own", "--key", "sesame-12345"]
env = { KEY = "sesame-12345" }
"""


def servers() -> dict[str, McpServer]:
    return msgspec.convert(tomllib.loads(CONFIG)["mcp"], dict[str, McpServer])


def test_servers_are_read_from_the_configuration() -> None:
    read = servers()
    assert read["git"] == preset("git", repository="/srv/repository")
    assert read["git"].resolved().args[-2:] == ("--repository", "/srv/repository")
    assert read["files"].resolved().args[-2:] == ("/srv/a", "/srv/b")
    assert read["tracker"].roles == ("planner",)


def test_a_preset_says_whether_results_are_trusted_unless_the_configuration_does() -> None:
    read = servers()
    assert read["git"].resolved().untrusted is None  # which counts as untrusted
    assert read["files"].resolved().untrusted is False
    assert preset("time").resolved().untrusted is False
    assert McpServer(preset="time", untrusted=True).resolved().untrusted is True


def test_what_is_given_beside_a_preset_goes_along_with_it() -> None:
    server = McpServer(preset="git", options={"repository": "/a"}, args=("-v",), deny=("git_reset",), call_s=5)
    assert server.resolved().args[-3:] == ("--repository", "/a", "-v")
    assert server.resolved().call_s == 5
    assert not server.resolved().offers("git_reset")


@pytest.mark.parametrize(("name", "options"), [("git", {"repository": "/a"}), ("filesystem", {"folder": "/a"})])
def test_each_preset_is_a_server(name: str, options: dict[str, str]) -> None:
    assert preset(name, **options).resolved().command


def test_context7_is_asked_over_https_with_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = preset("context7", api_key="${CONTEXT7_API_KEY}").resolved()
    monkeypatch.setenv("CONTEXT7_API_KEY", "ctx7-1")
    assert server.url.startswith("https://")
    assert filled("docs", server.headers) == {"CONTEXT7_API_KEY": "ctx7-1"}
    assert set(PRESETS) == {"filesystem", "git", "time", "context7"}


def test_a_variable_that_is_not_set_is_an_error_that_names_server_and_variable() -> None:
    with pytest.raises(McpFailed, match="MCP server 'docs' needs the environment's variable NO_SUCH_VARIABLE"):
        filled("docs", {"key": "${NO_SUCH_VARIABLE}"})


def test_secrets_are_in_no_representation() -> None:
    read = servers()
    shown = [repr(read), repr(McpSessions(read)), rich.pretty.pretty_repr(read)]
    shown += [repr(server.resolved()) for server in read.values()]
    assert "sesame" not in "\n".join(shown)
    assert "McpServer(https://tracker.example)" in repr(read)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({}, "it has nothing: give it one of command, url and preset"),
        ({"command": "a", "url": "http://b"}, "it has command and url: give it one of command, url and preset"),
        ({"url": "ftp://a/mcp"}, "its url is none of http:// or https://"),
        ({"url": "https:///mcp"}, "its url is none of http:// or https://"),
        ({"preset": "gti"}, "there is no preset 'gti': there are filesystem, git, time, context7"),
        ({"preset": "git"}, "preset 'git' needs the option 'repository'"),
        ({"preset": "git", "options": {"repo": "/a"}}, "preset 'git' has no option 'repo'"),
        ({"command": "a", "options": {"b": "c"}}, "options belong to a preset"),
        ({"command": "a", "call_s": 0}, "its call_s is 0.0, not above 0"),
        ({"command": "a", "connect_s": "1"}, "Expected `float`, got `str` - at `$.connect_s`"),
        ({"command": "a", "arg": []}, "Object contains unknown field `arg`"),
    ],
)
def test_what_makes_no_sense_is_an_error_that_says_what_does(written: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.convert(written, McpServer)
    assert says in str(error.value)


def test_names_of_tools_fit_providers() -> None:
    assert tool_name("git", "git_log") == "git__git_log"
    assert tool_name("git", "a.b").startswith("git__a_b-")
    assert len(tool_name("git", "x" * 100)) == 64


async def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    async with McpSessions({"it": McpServer(command="it")}) as sessions:
        with pytest.raises(ExtraMissing, match=r"MCP servers need the package mcp, .* pip install 'callboard\[mcp\]'"):
            await sessions.tools("it")
