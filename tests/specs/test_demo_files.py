"""Which files of a tree the demo's crew reviews."""

import os
import subprocess
from pathlib import Path

import pytest

from callboard.demo.files import MAX_BYTES, find_files, own_tree
from callboard.demo.run import choose_tree
from callboard.protocols.errors import BadFolder


def make(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make(tmp_path, "b.py", "a/c.py", "a/notes.txt", ".hidden/d.py", "a/__pycache__/e.py", "lib/site-packages/f.py")
    make(tmp_path, "env/lib/g.py", "env/pyvenv.cfg", "node_modules/h.py")
    return tmp_path


def test_a_walk_leaves_out_what_is_somebody_elses(tree: Path) -> None:
    found = find_files(str(tree))
    assert found.files == ("a/c.py", "b.py")
    assert not found.skipped
    assert "walk" in found.how


def test_in_a_checkout_git_says_what_is_source(tree: Path) -> None:
    git(tree, "init", "-q")
    (tree / ".gitignore").write_text("/a\n")
    make(tree, "new.py", ".tools/seen.py")
    git(tree, "add", "b.py", ".tools/seen.py", "-f")
    found = find_files(str(tree))
    assert "git" in found.how
    assert {"b.py", "new.py", ".tools/seen.py"} <= set(found.files)
    assert "a/c.py" not in found.files


def test_a_tracked_file_that_is_gone_is_not_listed(tree: Path) -> None:
    git(tree, "init", "-q")
    git(tree, "add", "b.py", "a/c.py")
    (tree / "b.py").unlink()
    assert "b.py" not in find_files(str(tree)).files


def test_a_folder_that_git_ignores_is_walked(tree: Path) -> None:
    git(tree, "init", "-q")
    (tree / ".gitignore").write_text("*\n")
    assert find_files(str(tree / "a")).files == ("c.py",)


def test_a_folder_named_as_site_packages_can_be_the_root(tree: Path) -> None:
    assert find_files(str(tree / "lib/site-packages")).files == ("f.py",)


def test_only_some_folders_can_be_chosen(tree: Path) -> None:
    make(tree, "ab/d.py")
    assert find_files(str(tree), ("a",)).files == ("a/c.py",)


def test_what_cannot_be_inspected_is_named_with_its_reason(tree: Path) -> None:
    (tree / "large.py").write_bytes(b"#" * (MAX_BYTES + 1))
    (tree / "link.py").symlink_to("b.py")
    (tree / os.fsdecode(b"odd\xff.py")).write_text("x = 1\n")
    found = find_files(str(tree))
    assert found.files == ("a/c.py", "b.py")
    reasons = {skipped.path: skipped.reason for skipped in found.skipped}
    assert reasons["large.py"] == "1,000,001 bytes are more than 1,000,000"
    assert reasons["link.py"] == "not a regular file"
    assert "UTF-8" in reasons["odd\\udcff.py"]


def test_callboards_own_tree_is_its_checkout() -> None:
    root, folders = own_tree()
    assert (root / "pyproject.toml").is_file()
    assert folders == ()


# -- what the command takes ----------------------------------------------------------------------------------


def test_a_bad_path_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("")
    (tmp_path / "empty").mkdir()
    for name, reason in [("gone", "does not exist"), ("file.py", "not a folder"), ("empty", "no Python file")]:
        with pytest.raises(BadFolder, match=reason):
            choose_tree(tmp_path / name, None)


def test_a_report_that_cannot_be_written_is_told_before_anything_starts(tree: Path) -> None:
    for report in (tree / "a", tree / "gone" / "report.md"):
        with pytest.raises(BadFolder, match="report"):
            choose_tree(tree, report)


def test_the_report_goes_into_the_present_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    chosen, files = choose_tree(Path("a"), None)
    assert (chosen.root, chosen.report, files) == (str(tree / "a"), str(tree / "callboard-review.md"), 1)
