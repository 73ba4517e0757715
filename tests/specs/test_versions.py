"""One lock has the versions of all that is installed, for tests and image alike."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lock() -> str:
    """The lock as it is committed: where uv is set up for a mirror, it writes that into the working copy."""
    command = ["git", "show", "HEAD:uv.lock"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return (ROOT / "uv.lock").read_text() if done.returncode else done.stdout


def test_the_lock_names_no_registry_but_the_public_one() -> None:
    hosts = set(re.findall(r"\w+://([^/\"]+)", lock()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_the_lock_is_made_for_pyproject_as_it_is() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for name, bounds in re.findall(r'^    "([a-z0-9-]+)((?:[<>]=?|==)[^"]+)"', project, re.MULTILINE):
        wanted = ",".join(sorted(bounds.split(",")))
        found = re.findall(rf'name = "{name}", .*?specifier = "([^"]+)"', (ROOT / "uv.lock").read_text())
        assert wanted in {",".join(sorted(each.split(","))) for each in found}, name


def test_the_image_takes_its_versions_from_the_lock() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^COPY .*\buv\.lock\b", text, re.MULTILINE)
    assert "uv sync --locked" in text
