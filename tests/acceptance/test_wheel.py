"""What is built holds one name, `callboard`, and runs beside a project that has every other name for itself."""

import os
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.cli_kit import environment, until
from tests.conftest import DEADLINE_S
from tests.servers import Servers

ROOT = Path(__file__).parents[2]
ROOMS = ("actors", "bus", "eventstore", "projections", "protocols")
PROJECT = {
    "actors/__init__.py": "",
    "actors/chat.py": """
import bus
from callboard import Actor, Context


class Chat(Actor):
    async def handle(self, line: bus.Line, ctx: Context) -> str:
        return await ctx.step(line.text.upper)
""",
    "bus.py": """
from callboard import Struct


class Line(Struct):
    text: str
""",
    "eventstore.py": "",
    "projections.py": "",
    "protocols/__init__.py": "NAME = 'mine'\n",
    "tests/__init__.py": "",
    "tests/test_chat.py": """
import asyncio

import bus
import callboard.bus
import eventstore
import projections
import protocols
from actors.chat import Chat
from callboard.testing import spec


async def play() -> None:
    async with spec(Chat) as it:
        sent = await it.when("chat", bus.Line("tides"))
        assert await it.result(sent) == "TIDES"
        await it.crash()
        assert await it.result(sent) == "TIDES"


assert protocols.NAME == "mine"
assert callboard.bus is not bus
asyncio.run(play())
print("passed")
""",
    "app.py": "from actors.chat import Chat\n\nROLES = [Chat]\n",
}


def done(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a command prints; it has to end well."""
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
    return ended.stdout


def build(source: Path, target: str, into: Path) -> Path:
    done(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into, cwd=source)
    (built,) = into.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, int]:
    """The files of a wheel, with their checksums."""
    with ZipFile(wheel) as opened:
        return {info.filename: info.CRC for info in opened.infolist()}


def test_the_wheel_holds_callboard_and_what_describes_it_alone(wheel: Path) -> None:
    files = contents(wheel)
    tops = {name.partition("/")[0] for name in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"callboard"}
    assert len(tops) == 2
    assert {Path(name).suffix for name in files if name.startswith("callboard/")} == {".py", ".sql", ".typed"}


def test_the_wheel_holds_every_source_in_its_place(wheel: Path) -> None:
    known = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = done(*known, "--", "callboard", *ROOMS, cwd=ROOT).split("\0")
    sources = {path for path in listed if path and (ROOT / path).is_file() and not (ROOT / path).is_symlink()}
    expected = {path if path.startswith("callboard/") else f"callboard/{path}" for path in sources}
    assert {name for name in contents(wheel) if name.startswith("callboard/")} == expected


def test_the_wheel_of_an_unpacked_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert all((unpacked / room).is_dir() for room in ROOMS), "the rooms are where they are in the repository"
    assert not [room for room in ROOMS if (unpacked / "callboard" / room).exists()], "there are no links"
    assert contents(build(unpacked, "wheel", tmp_path / "again")) == contents(wheel)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that has the wheel, and the packages that it needs from this environment."""
    folder = tmp_path_factory.mktemp("venv")
    done("uv", "venv", "--quiet", "--offline", "--no-project", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    done("uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel, cwd=folder)
    site = done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A folder named in a .pth file goes on sys.path; .pth files in it, as that of the editable install, are not read.
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, str]:
    """An environment without anything of this repository in it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("CALLBOARD_", "PYTHON", "VIRTUAL_"))}
    return kept | {"CALLBOARD_HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}


def test_what_is_installed_is_the_wheel(python: Path, project: Path, clean: dict[str, str]) -> None:
    where = done(python, "-c", "import callboard.bus; print(callboard.bus.__file__)", cwd=project, env=clean).strip()
    assert Path(where).is_relative_to(python.parents[1])
    missing = "import importlib.util as u; print([n for n in ('benchmarks', 'examples') if u.find_spec(n)])"
    assert done(python, "-c", missing, cwd=project, env=clean).strip() == "[]"


def test_a_project_with_the_rooms_names_lists_its_tools(python: Path, project: Path, clean: dict[str, str]) -> None:
    by_name = done(python.with_name("callboard"), "tools", "--app", "app.py", cwd=project, env=clean)
    assert by_name == done(python, "-m", "callboard", "tools", "--app", "app.py", cwd=project, env=clean)


def test_a_project_with_the_rooms_names_plays_its_tests(python: Path, project: Path, clean: dict[str, str]) -> None:
    assert done(python, "-m", "tests.test_chat", cwd=project, env=clean) == "passed\n"


def test_a_project_with_the_rooms_names_is_served(
    python: Path, project: Path, clean: dict[str, str], servers: Servers
) -> None:
    callboard = (python, "-m", "callboard")
    log = project / "up.log"
    with environment(servers, project) as given, log.open("w") as out:
        env = clean | {name: value for name, value in given.items() if name.startswith("CALLBOARD_")}
        command = (*callboard, "up", "app.py", "--in-process")
        with subprocess.Popen(command, cwd=project, env=env, stdout=out, stderr=out) as up:
            try:
                until(lambda: "ready" in log.read_text() or up.poll() is not None)
                sent = done(*callboard, "send", "chat", '{"text": "tides"}', "--wait", cwd=project, env=env)
            finally:
                up.terminate()
        assert up.returncode == 0, log.read_text()
        assert "TIDES" in sent
        assert "chat" in done(*callboard, "runs", cwd=project, env=env)
