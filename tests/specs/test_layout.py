"""Imports go one way, begin with `callboard`, and `import callboard` stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("actors", "bus", "eventstore", "projections", "protocols")
KNOWN = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py")
LISTED = subprocess.run(KNOWN, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
SOURCES = sorted(ROOT / path for path in LISTED if path and (ROOT / path).is_file())
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEAVY = ("asyncpg", "jsonschema", "litellm", "opentelemetry", "redis", "rich", "typer")

# A module of a room, where no package, folder or attribute goes before its name.
NAMED = re.compile(rf"(?<![\w./\\-])({'|'.join(ROOMS)})\.(\w+)")
FROM = re.compile(rf"\bfrom ({'|'.join(ROOMS)}) import \w")


def test_rooms_import_only_what_stands_below_them() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_rooms_of_actors_are_held_by_contracts_without_exceptions() -> None:
    """The contracts themselves are held by the test above."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = settings["contracts"]
    (rooms,) = [each for each in contracts if each.get("containers") == ["callboard.actors"]]
    (circles,) = [each for each in contracts if each.get("ancestors") == ["callboard.actors"]]
    assert rooms["type"] == "layers"
    assert rooms["exhaustive"] is True
    assert sorted(rooms["layers"]) == sorted(path.parent.name for path in (ROOT / "actors").glob("*/__init__.py"))
    assert circles["type"] == "acyclic_siblings"
    assert set(circles) == {"name", "type", "ancestors"}
    assert not settings.get("exclude_type_checking_imports")
    assert not any(each.get("ignore_imports") for each in contracts)


def test_every_file_of_actors_is_in_a_room() -> None:
    assert [path.name for path in (ROOT / "actors").glob("*.py")] == ["__init__.py"]


def test_no_file_of_actors_reaches_through_the_parts_of_another() -> None:
    found = []
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] == "actors":
            found += [f"{path}: {line}" for line in path.read_text().splitlines() if ".cell.runtime." in line]
    assert found == []


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh process has after some code."""
    code = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_callboard_brings_nothing_else_along() -> None:
    loaded = loaded_by("import callboard")
    assert loaded.isdisjoint(HEAVY)
    assert {name for name in loaded if name.partition(".")[0] == "callboard"} == {"callboard"}


def test_all_public_names_together_bring_nothing_heavy_along() -> None:
    loaded = loaded_by("from callboard import *")
    assert "callboard.actors.task.context" in loaded
    assert loaded.isdisjoint(HEAVY)


# -- one module, one name ------------------------------------------------------------------------------------
# With the repository's root on sys.path, `bus` and `callboard.bus` can both be imported, and are two modules whose
# classes are not each other's.


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_a_link_to_its_folder(room: str) -> None:
    link = ROOT / "callboard" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..", room)


def imported(node: ast.AST) -> Iterator[str]:
    """The modules that a statement imports, by their whole names; relative ones are left out."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield node.module or ""


def named(text: str) -> list[str]:
    """The modules of the rooms that a text names without `callboard.` before them."""
    found = [f"{room}.{module}" for room, module in NAMED.findall(text) if is_module(room, module)]
    return found + FROM.findall(text)


def is_module(room: str, name: str) -> bool:
    return (ROOT / room / f"{name}.py").is_file() or (ROOT / room / name / "__init__.py").is_file()


def test_no_source_imports_a_room_by_its_bare_name() -> None:
    assert len(SOURCES) > 300
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [name for name in imported(node) if name.partition(".")[0] in ROOMS]
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                modules = named(node.value)  # docstrings, programs of child processes, names for monkeypatch
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {module}" for module in modules]
    assert found == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_module_that_cannot_be_imported(path: Path) -> None:
    assert named(path.read_text()) == []


def test_no_room_imports_a_public_name() -> None:
    found = []
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] in ROOMS:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "callboard":
                    found += [f"{path}: {alias.name}" for alias in node.names if alias.name not in ROOMS]
    assert found == []


def test_this_process_has_no_room_by_its_bare_name() -> None:
    assert set(ROOMS).isdisjoint(sys.modules)
