"""Finding the Python files of a tree: those that git knows of, or else all that are not obviously somebody else's."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import files as files_of_distribution
from pathlib import Path
from typing import Final

import callboard
from callboard.demo.findings import Found, Skipped

MAX_BYTES: Final = 1_000_000  # larger files are data or generated
GIT_LIMIT_S: Final = 20
NOT_SOURCE: Final = frozenset({"__pycache__", "node_modules", "site-packages"})


def find_files(root: str, folders: Sequence[str] = ()) -> Found:
    """The Python files below `root`, or only those in these folders directly below it.

    In a git checkout: what is tracked or could be. Elsewhere: all but what is in hidden folders, virtual
    environments, caches and site-packages. Links are not followed.
    """
    paths, skipped, how = _by_git(root), [], "git ls-files"
    if not paths:
        paths, skipped, how = *_by_walk(root), "a walk through its folders"
    chosen = []
    for path in sorted(set(paths)):
        if folders and path.partition("/")[0] not in folders:
            continue
        reason = _unfit(Path(root, path))
        if reason:
            skipped.append(Skipped(_printable(path), reason))
        else:
            chosen.append(path)
    return Found(tuple(chosen), tuple(skipped), how)


def own_tree() -> tuple[Path, tuple[str, ...]]:
    """Callboard's own source: its checkout, or else the folders that its installation put next to each other."""
    home = Path(callboard.__file__).resolve().parent.parent
    if (home / "pyproject.toml").exists():
        return home, ()
    installed = files_of_distribution("callboard") or []
    return home, tuple(sorted({file.parts[0] for file in installed if file.suffix == ".py"}))


def _by_git(root: str) -> list[str]:
    """What git lists, also of files that it doesn't track but wouldn't ignore; nothing where it can't tell."""
    # A checkout may come from anywhere: fsmonitor could name a program for git to run.
    command = ["git", "-C", root, "-c", "core.fsmonitor=false", "ls-files", "-z", "--cached", "--others"]
    try:
        done = subprocess.run(
            [*command, "--exclude-standard", "--", "*.py"], capture_output=True, check=True, timeout=GIT_LIMIT_S
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [path for path in os.fsdecode(done.stdout).split("\0") if path and Path(root, path).exists()]


def _by_walk(root: str) -> tuple[list[str], list[Skipped]]:
    closed: list[Skipped] = []

    def refused(error: OSError) -> None:
        closed.append(Skipped(_printable(os.path.relpath(error.filename, root)), error.strerror or str(error)))

    return list(_walk(root, refused)), closed


def _walk(root: str, refused: Callable[[OSError], None]) -> Iterator[str]:
    for folder, folders, names in os.walk(root, onerror=refused):
        folders[:] = [name for name in folders if _is_source(Path(folder, name))]
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in names if name.endswith(".py"))


def _is_source(folder: Path) -> bool:
    return not folder.name.startswith(".") and folder.name not in NOT_SOURCE and not (folder / "pyvenv.cfg").exists()


def _unfit(file: Path) -> str:
    """Why a file is not to be inspected; empty if it is."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if file.is_symlink() or not file.is_file():
        return "not a regular file"
    size = file.stat().st_size
    return f"{size:,} bytes are more than {MAX_BYTES:,}" if size > MAX_BYTES else ""


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
