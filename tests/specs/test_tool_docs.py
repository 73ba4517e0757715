"""What docs/tools.md shows works as it says, and so does the example."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callboard.actors.roles.definition import define
from callboard.actors.tools.declaration import Traits
from callboard.actors.tools.loop import LoopLimits
from callboard.actors.tools.mcp_server import PRESETS, McpServer
from callboard.actors.tools.policy import ToolPolicies
from callboard.app import load_app
from callboard.protocols import events as e
from callboard.testing import spec
from tests.actor_kit import bodies

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tools.md").read_text()


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """All of the page's Python, run."""
    names: dict[str, Any] = {"__name__": "tools_page"}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, names)
    return names


def test_its_actors_are_actors(shown: dict[str, Any]) -> None:
    assert list(define([shown["Librarian"], shown["CarefulLibrarian"]])) == ["librarian", "careful-librarian"]


async def test_its_test_passes(shown: dict[str, Any]) -> None:
    await shown["test_the_librarian_searches"]()


async def test_its_langchain_tool_is_called_in_a_step(shown: dict[str, Any]) -> None:
    from tests.actor_kit import result_of

    assert await result_of(shown["answer"]) == "[]"


def test_its_configuration_is_one() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    content = tomllib.loads(block)
    servers = msgspec.convert(content["mcp"], dict[str, McpServer])
    assert list(servers) == ["git", "time", "docs", "tracker", "own"]
    [policy] = msgspec.convert(content["tools"], ToolPolicies).policies
    assert (policy.tool, policy.action) == ("git__*", "deny")


@pytest.mark.parametrize("name", [*PRESETS, *McpServer.__struct_fields__])
def test_every_preset_and_every_key_of_a_server_is_in_it(name: str) -> None:
    assert f"`{name}`" in TEXT or f"{name} = " in TEXT


@pytest.mark.parametrize("mark", Traits.__struct_fields__)
def test_every_mark_of_a_tool_is_in_it(mark: str) -> None:
    assert re.search(rf"^\| `{mark}=", TEXT, re.MULTILINE)


def test_its_limits_are_those_of_the_code() -> None:
    limits = LoopLimits()
    assert f"`turns` of the model ({limits.turns})" in TEXT
    assert f"`errors` in a row ({limits.errors})" in TEXT
    assert f"({limits.result_bytes:,};" in TEXT


async def test_the_help_desk_pays_back_what_a_person_approved_and_nothing_before() -> None:
    roles = [definition.actor for definition in load_app(str(ROOT / "examples/helpdesk.py")).values()]
    script = [
        [("orders", {"customer": "ann"})],
        [("expert", {"item": "kettle", "complaint": "broken"})],
        "Refund it.",  # the expert's
        [("refund", {"order": "A-17", "amount": "39.90"})],
        "You get 39.90 EUR back.",
    ]
    async with spec(*roles, models=script) as play:
        sent = await play.when("helpdesk", {"customer": "ann", "text": "My kettle is broken."})
        [asked] = bodies(play.log, e.ApprovalRequested)
        assert asked.tool == "refund"
        assert [body.tool for body in bodies(play.log, e.ToolCompleted)] == ["orders"]
        decision = {"by": "bob", "outcome": "approve", "digest": asked.digest}
        await play.when(sent.actor, decision, kind="decision", task=sent.task, run=sent.run, step=asked.step)
        assert await play.result(sent) == "You get 39.90 EUR back."
        [_, paid] = bodies(play.log, e.ToolCompleted)
        assert b"39.90 EUR paid back for A-17" in bytes(paid.result.inline)
