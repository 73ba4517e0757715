"""Loading an app: a Python file or module, and the roles that it defines."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from callboard.actors.roles.definition import Actor, Definition, define
from callboard.protocols.errors import BadApp, BadDefinition

FILE_MODULE: Final = "callboard_app_"  # and the file's name: the same module name in every process


def load_app(app: str) -> dict[str, Definition]:
    """The app's roles. `app` is the path of a Python file, or a module's dotted name. Raises BadApp.

    The roles are the module's list `ROLES`, or else the Actor classes that it defines, or, where it defines none, those
    that it imports. The file's folder (for a module, the present one) goes on sys.path, as it does when Python runs a
    file.
    """
    path = Path(app)
    module = _load_file(app, path) if path.suffix == ".py" or "/" in app else _load_module(app)
    try:
        return define(_actors(app, module))
    except BadDefinition as error:
        raise BadApp(app, str(error).rstrip(".").replace("Actor", "actor", 1)) from error


def _load_file(app: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise BadApp(app, "it is a folder" if path.is_dir() else "there is no such file")
    path = path.resolve()
    name = FILE_MODULE + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadApp(app, "it is no Python file")
    module = importlib.util.module_from_spec(spec)
    _search_in(path.parent)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an app's code may raise anything
        del sys.modules[name]
        raise BadApp(app, _reason(error)) from error
    return module


def _load_module(app: str) -> ModuleType:
    _search_in(Path.cwd())
    try:
        return importlib.import_module(app)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{app}.".startswith(f"{error.name}."):
            raise BadApp(app, _reason(error)) from error
        raise BadApp(app, f"there is no module {error.name!r}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # an app's code may raise anything
        raise BadApp(app, _reason(error)) from error


def _search_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _reason(error: BaseException) -> str:
    """Why a module can't be imported, and where."""
    if isinstance(error, SyntaxError):
        return f"syntax error at {error.filename}:{error.lineno}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    last = frames[-1]
    return f"{type(error).__name__} at {last.filename}:{last.lineno}: {error}".removesuffix(": ")


def _actors(app: str, module: ModuleType) -> list[type[Actor]]:
    roles = getattr(module, "ROLES", None)
    if roles is not None:
        if not isinstance(roles, list | tuple) or not all(_is_actor(role) for role in roles):
            raise BadApp(app, "its ROLES is not a list of Actor classes")
        found = list(roles)
    else:
        there = list(dict.fromkeys(each for each in vars(module).values() if _is_actor(each)))
        own = [each for each in there if _belongs(each, module)] or there
        found = [each for each in own if not _is_base(each, own)]
    if not found:
        raise BadApp(app, "it defines no Actor class, and imports none")
    return found


def _is_actor(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Actor) and value is not Actor


def _belongs(actor: type[Actor], module: ModuleType) -> bool:
    """Whether a class is defined in a module, or, where that is a package, in one of its modules."""
    return f"{actor.__module__}.".startswith(f"{module.__name__}.")


def _is_base(actor: type[Actor], others: list[type[Actor]]) -> bool:
    """Whether a class has no handler and only serves others as their base."""
    return not hasattr(actor, "handle") and any(other is not actor and issubclass(other, actor) for other in others)
