"""What programs may import from Callboard: the names, their documentation, and that no document uses another one."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import callboard
import callboard.testing
from callboard import errors

ROOT = Path(__file__).parents[2]
API = (ROOT / "docs/api.md").read_text()
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
PUBLIC = [(module, name) for module in (callboard, callboard.testing) for name in module.__all__]
IMPORT = re.compile(r"\bfrom (callboard[\w.]*) import (\([^)]*\)|\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*)")


def documented(module: ModuleType) -> list[str]:
    """The names in a module's table."""
    section = API.split(f"## `{module.__name__}`\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("module", [callboard, callboard.testing], ids=lambda module: module.__name__)
def test_the_public_names_are_those_that_are_documented(module: ModuleType) -> None:
    assert sorted(documented(module)) == sorted(module.__all__)


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda each: getattr(each, "__name__", each))
def test_every_public_name_has_a_docstring(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    own = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    assert own
    assert not own.startswith(f"{name}("), "made by dataclass: it says nothing"


def test_every_public_method_of_a_public_class_has_a_docstring() -> None:
    classes = [getattr(module, name) for module, name in PUBLIC if inspect.isclass(getattr(module, name))]
    methods = {
        f"{each.__name__}.{name}": value
        for each in classes
        for name, value in inspect.getmembers(each, lambda it: inspect.isfunction(it) or isinstance(it, property))
        if not name.startswith("_")
    }
    assert {"Context.ask", "Play.advance", "Tools.get"} <= set(methods)
    assert [name for name, value in methods.items() if not value.__doc__] == []


def test_every_error_has_a_message_of_its_own() -> None:
    found = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]
    assert {errors.CallboardError, errors.StepFailed, errors.TaskFailed} <= set(found)
    assert all(issubclass(each, errors.CallboardError) and each.__dict__.get("__doc__") for each in found)


def test_what_a_type_checker_sees_is_what_is_imported() -> None:
    tree = ast.parse(Path(callboard.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {**callboard._MODULES, "errors": "callboard"}
    assert sorted(seen) == sorted(callboard.__all__)
    assert set(callboard.__all__) <= set(dir(callboard))


def test_a_name_that_is_not_there_is_an_attribute_error_with_its_name() -> None:
    with pytest.raises(AttributeError, match="'callboard' has no attribute 'Auteur'"):
        _ = callboard.Auteur


def test_all_public_names_come_at_once_in_a_fresh_process() -> None:
    code = "import callboard; from callboard import *; print(*(n for n in callboard.__all__ if n not in globals()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_documents_and_examples_import_public_names_only(path: Path) -> None:
    for module, names in IMPORT.findall(path.read_text()):
        assert module in ("callboard", "callboard.errors", "callboard.testing")
        public = vars(errors) if module == "callboard.errors" else sys.modules[module].__all__
        assert {name.split(" as ")[0].strip() for name in names.strip("()").split(",") if name.strip()} <= set(public)


def test_errors_that_documents_name_can_be_imported() -> None:
    rows = (ROOT / "docs/add-an-actor.md").read_text().split("| error | when |")[1].split("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert len(named) > 5
    assert named <= set(vars(errors))
