"""What is an app, and what is said of what is none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from callboard.app import load_app
from callboard.protocols.errors import BadApp

WRITER = '''
from callboard import Actor, Context

class Writer(Actor):
    """Writes."""
    async def handle(self, topic: str, ctx: Context) -> str:
        return topic
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty present folder; what a test imports from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def reason(app: str) -> str:
    with pytest.raises(BadApp) as raised:
        load_app(app)
    return raised.value.reason


def test_a_file_s_actor_classes_are_its_roles(folder: Path) -> None:
    (folder / "newsroom.py").write_text(WRITER + "class FactChecker(Writer): ...\n")
    definitions = load_app("newsroom.py")
    assert list(definitions) == ["writer", "fact-checker"]
    assert definitions["writer"].actor.__module__ == "callboard_app_newsroom"


def test_a_file_imports_its_neighbours_from_wherever_it_is_started(folder: Path) -> None:
    (folder / "app").mkdir()
    (folder / "app" / "neighbour_of_app.py").write_text("TOPICS = ('news',)\n")
    lines = "from neighbour_of_app import TOPICS\n" + WRITER + "    topics = TOPICS\n"
    (folder / "app" / "room.py").write_text(lines)
    assert load_app("app/room.py")["writer"].actor.topics == ("news",)


def test_a_module_and_a_package_are_apps(folder: Path) -> None:
    (folder / "pressroom").mkdir()
    (folder / "pressroom" / "__init__.py").write_text("from pressroom.roles import Writer\n")
    (folder / "pressroom" / "roles.py").write_text(WRITER)
    assert list(load_app("pressroom")) == list(load_app("pressroom.roles")) == ["writer"]


def test_imported_classes_are_roles_of_an_app_that_defines_none_or_lists_them(folder: Path) -> None:
    (folder / "common_roles.py").write_text(WRITER)
    (folder / "app1.py").write_text("from common_roles import Writer\n")
    (folder / "app2.py").write_text("from common_roles import Writer\nROLES = [Writer]\n")
    (folder / "app3.py").write_text("from common_roles import Writer\n" + WRITER.replace("Writer", "Editor"))
    assert list(load_app("app1.py")) == ["writer"]
    assert list(load_app("app2.py")) == ["writer"]
    assert list(load_app("app3.py")) == ["editor"]


def test_a_base_class_without_a_handler_is_no_role(folder: Path) -> None:
    base = "from callboard import Actor, Context\nclass Base(Actor):\n    model = 'm'\n"
    (folder / "app.py").write_text(base + WRITER.replace("(Actor)", "(Base)"))
    assert list(load_app("app.py")) == ["writer"]


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("nowhere.py", "there is no such file"),
        ("./", "it is a folder"),
        ("no_such_module", "there is no module 'no_such_module'"),
        ("no.such.module", "there is no module 'no'"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(app: str, why: str) -> None:
    assert reason(app) == why


def test_a_syntax_error_is_told_with_its_line(folder: Path) -> None:
    (folder / "app.py").write_text("x = 1\ndef f(:\n")
    assert reason("app.py") == f"syntax error at {folder / 'app.py'}:2: invalid syntax"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("import no_such_library", "ModuleNotFoundError at {app}:2: No module named 'no_such_library'"),
        ("1 / 0", "ZeroDivisionError at {app}:2: division by zero"),
        ("raise SystemExit", "SystemExit at {app}:2"),
        ("raise BaseException('a panic')", "BaseException at {app}:2: a panic"),
    ],
)
def test_an_app_that_raises_is_told_with_its_line(folder: Path, line: str, why: str) -> None:
    (folder / "app.py").write_text(f"\n{line}\n")
    assert reason("app.py") == why.format(app=folder / "app.py")
    assert not [name for name in sys.modules if name.startswith("callboard_app_app")]


@pytest.mark.parametrize("roles", ["'writer'", "[str]", "[1]", "[Actor]"])
def test_roles_must_be_actor_classes(folder: Path, roles: str) -> None:
    (folder / "app.py").write_text(f"{WRITER}\nROLES = {roles}\n")
    assert reason("app.py") == "its ROLES is not a list of Actor classes"


def test_a_bad_definition_names_the_class(folder: Path) -> None:
    (folder / "app.py").write_text(WRITER.replace("async def", "def"))
    assert reason("app.py") == "actor Writer.handle can't be used: a handler is an `async def`"


def test_two_classes_of_one_role_are_refused(folder: Path) -> None:
    (folder / "app.py").write_text(WRITER + "class Scribe(Writer):\n    role = 'writer'\n")
    assert reason("app.py") == "actor Scribe can't be used: its role 'writer' is Writer's already"
