"""What the documents say is there, is there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml

from callboard.app import load_app
from callboard.cli.main import app
from callboard.settings import Description, describe

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> Iterator[str]:
    """Every command, groups with their subcommands."""
    for name, command in typer.main.get_group(app).commands.items():
        yield from (f"{name} {sub}" for sub in command.commands) if hasattr(command, "commands") else [name]


@pytest.mark.parametrize("command", list(commands()))
def test_every_command_is_documented(command: str) -> None:
    name, _, sub = command.partition(" ")
    rows = (ROOT / "docs/commands.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith((f"| `callboard {name} ", f"| `callboard {name}`"))]
    assert sub in row


@pytest.mark.parametrize("setting", describe(), ids=lambda setting: setting.variable)
def test_every_setting_is_documented_as_it_is(setting: Description) -> None:
    row = f"| `{setting.variable}` | {setting.default} | {setting.allowed} | {setting.meaning} |"
    assert row in (ROOT / "docs/settings.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_leads_nowhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_actors_of_the_five_minutes_are_actors(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/add-an-actor.md").read_text(), re.DOTALL)
    (tmp_path / "desk.py").write_text("\n".join(blocks))
    assert list(load_app(str(tmp_path / "desk.py"))) == ["fact-checker", "careful-checker"]


def test_the_readme_s_actor_is_an_actor(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "readme_app.py").write_text(block)
    assert list(load_app(str(tmp_path / "readme_app.py"))) == ["writer"]


def test_the_changelog_begins_with_what_is_next() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^## (Unreleased|{re.escape(version)})", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_compose_has_healthy_servers_and_a_service_for_each_role_of_the_newsroom() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    roles = load_app(str(ROOT / "examples/newsroom.py"))
    assert set(services) == {"postgres", "redis", "projections", *roles}
    assert all("healthcheck" in service for service in services.values())
    for role in roles:
        assert services[role]["command"] == ["callboard", "actor", role, "--app", "examples/newsroom.py"]
