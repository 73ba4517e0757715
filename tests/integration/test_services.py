"""The local services: PostgreSQL and Valkey, shared by processes that come, go and are killed."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from callboard.protocols.errors import BadFolder, ServicesFailed, ServicesMissing
from callboard.services import LocalServices, Urls, account, postgres, valkey
from tests.servers import REDIS_URL, servers

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# A process that uses the services until its standard input is closed.
USER = """
import sys
from pathlib import Path
from callboard.services import LocalServices

with LocalServices(Path(sys.argv[1]), durable=False) as urls:
    print(*urls, flush=True)
    sys.stdin.read()
"""


class User:
    """Another process that uses the services of a home."""

    def __init__(self, home: Path, *prefix: str, python: str = sys.executable) -> None:
        paths = f"{ROOT}:{sysconfig.get_path('purelib')}"
        self.process = subprocess.Popen(
            [*prefix, python, "-c", USER, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, "HOME": str(home)},
        )

    def __enter__(self) -> "User":
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate(timeout=60)

    def urls(self) -> Urls:
        """Where it found the services; waits for them."""
        assert self.process.stdout is not None
        return Urls(*self.process.stdout.readline().split())

    def leave(self) -> None:
        """End it in good order."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def empty_home() -> Iterator[Path]:
    """A home in which nothing has run; what is started in it is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="callboard-"))
    yield folder
    LocalServices(folder).stop(force=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def used_home() -> Iterator[Path]:
    """A home in which the servers have run: one for all tests, since the very first start takes the longest."""
    folder = Path(tempfile.mkdtemp(prefix="callboard-"))
    with LocalServices(folder, durable=False):
        pass
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(used_home: Path) -> Iterator[Path]:
    """A home in which the servers have run and are stopped, before each test and after it."""
    yield used_home
    LocalServices(used_home).stop(force=True)


def services(home: Path) -> LocalServices:
    return LocalServices(home, durable=False)


def running(home: Path) -> tuple[bool, bool]:
    status = services(home).status()
    return status.postgres, status.valkey


def pids(home: Path) -> list[int]:
    """The process ids of PostgreSQL and Valkey."""
    files = [*home.glob("pg*/postmaster.pid"), home / "valkey.pid"]
    return [int(file.read_text().split()[0]) for file in files]


def sockets(home: Path) -> Path:
    return Path(services(home).status().redis_url.removeprefix("unix://")).parent


async def remember(urls: Urls, fact: str) -> None:
    """Store a fact in both servers."""
    connection = await asyncpg.connect(urls.database_url)
    try:
        await connection.execute("drop table if exists facts; create table facts (fact text)")
        await connection.execute("insert into facts values ($1)", fact)
    finally:
        await connection.close()
    async with Redis.from_url(urls.redis_url) as redis:
        await redis.set("fact", fact)


async def remembered(urls: Urls) -> tuple[str, str]:
    """What `remember` stored in each."""
    connection = await asyncpg.connect(urls.database_url)
    try:
        fact = await connection.fetchval("select fact from facts")
    finally:
        await connection.close()
    async with Redis.from_url(urls.redis_url, decode_responses=True) as redis:
        return fact, str(await redis.get("fact"))


async def test_the_servers_are_there_between_start_and_stop_and_keep_their_data(empty_home: Path) -> None:
    first = services(empty_home)
    urls = first.start()
    assert running(empty_home) == (True, True)
    await remember(urls, "tides")
    assert first.stop()
    assert running(empty_home) == (False, False)

    with services(empty_home) as again:
        assert again == urls
        assert await remembered(again) == ("tides", "tides")


async def test_by_default_commits_are_durable_and_valkey_never_evicts(home: Path) -> None:
    with LocalServices(home) as urls:
        connection = await asyncpg.connect(urls.database_url)
        try:
            for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
                assert await connection.fetchval(f"show {name}") == "on", name
        finally:
            await connection.close()
        async with Redis.from_url(urls.redis_url) as redis:
            assert await redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert await redis.config_get("appendonly") == {"appendonly": "yes"}
            assert await redis.config_get("port") == {"port": "0"}


def test_nothing_is_open_to_other_users(home: Path) -> None:
    folder = home / "new"
    account.private_folder(folder, account.account_for(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()

    with services(home):
        assert stat.S_IMODE(sockets(home).stat().st_mode) == 0o700
        assert [stat.S_IMODE(data.stat().st_mode) for data in home.glob("pg*")] == [0o700]
    assert not sockets(home).exists()


def test_the_last_one_out_stops_the_servers(home: Path) -> None:
    with User(home) as first, User(home) as second:
        assert first.urls() == second.urls()
        at_work = pids(home)

        first.leave()
        assert running(home) == (True, True)
        assert pids(home) == at_work

        second.leave()
        assert running(home) == (False, False)


def test_eight_processes_at_once_share_the_same_servers(empty_home: Path) -> None:
    with ExitStack() as stack:
        users = [stack.enter_context(User(empty_home)) for _ in range(8)]
        assert len({user.urls() for user in users}) == 1
        at_work = pids(empty_home)
        for user in users:
            assert running(empty_home) == (True, True)
            assert pids(empty_home) == at_work
            user.leave()
    assert running(empty_home) == (False, False)


def test_pinned_servers_run_on_without_users(home: Path) -> None:
    up = services(home)
    up.start()
    up.pin()
    assert not up.stop()
    status = up.status()
    assert (status.postgres, status.valkey, status.pinned, status.in_use) == (True, True, True, False)

    down = services(home)
    down.unpin()
    assert down.stop()
    assert running(home) == (False, False)


def test_stop_leaves_the_servers_to_their_users_unless_forced(home: Path) -> None:
    with User(home) as user:
        user.urls()
        assert not services(home).stop()
        assert running(home) == (True, True)

        assert services(home).stop(force=True)
        assert running(home) == (False, False)
        assert services(home).status().in_use


def test_servers_whose_users_were_all_killed_are_adopted(home: Path) -> None:
    with User(home) as first, User(home) as second:
        assert first.urls() == second.urls()
        at_work = pids(home)
        first.kill()
        second.kill()
    assert not services(home).status().in_use
    assert running(home) == (True, True)

    with services(home):
        assert pids(home) == at_work
    assert running(home) == (False, False)


def test_a_user_killed_while_it_starts_leaves_nothing_in_the_way(empty_home: Path) -> None:
    with User(empty_home) as user:
        while not any(empty_home.glob("pg*")):  # initdb is at work
            assert user.process.poll() is None
        user.kill()

    with services(empty_home):
        assert running(empty_home) == (True, True)


async def test_killed_servers_come_back_with_their_data(home: Path) -> None:
    board = services(home)
    urls = board.start()
    await remember(urls, "tides")
    for pid in pids(home):
        os.kill(pid, signal.SIGKILL)

    assert board.start() == urls
    assert await remembered(urls) == ("tides", "tides")
    assert board.stop()


def test_a_pid_file_that_names_another_process_is_no_obstacle(home: Path) -> None:
    with services(home):
        (lock,) = home.glob("pg*/postmaster.pid")
        words = lock.read_text()
    lock.write_text(words.replace(words.split()[0], str(os.getpid()), 1))

    with services(home):
        assert running(home) == (True, True)
        assert os.getpid() not in pids(home)


def test_a_postgres_started_by_hand_on_the_same_data_is_left_alone(home: Path) -> None:
    (data,) = home.glob("pg*")
    program = next(postgres.binary_folders()) / "postgres"
    prefix = account.account_for(home).prefix
    by_hand = [*prefix, str(program), "-D", str(data), "-k", str(home), "-c", "listen_addresses="]
    with subprocess.Popen(by_hand, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready to accept connections" in line:
                break
        try:
            with pytest.raises(ServicesFailed, match="lock file"):
                services(home).start()
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def test_a_server_that_ends_at_once_is_an_error_with_its_own_words(home: Path) -> None:
    (data,) = home.glob("pg*")
    version = (data / "PG_VERSION").read_text()
    (data / "PG_VERSION").write_text("9\n")
    try:
        with pytest.raises(ServicesFailed) as failed:
            services(home).start()
    finally:
        (data / "PG_VERSION").write_text(version)

    assert failed.value.service == "PostgreSQL"
    assert "database files are incompatible" in failed.value.reason
    assert running(home) == (False, False)  # Valkey, which did start, has no user any more


@pytest.mark.parametrize(
    ("finder", "nothing", "service"),
    [
        ("callboard.services.postgres.binary_folders", lambda: iter(()), "PostgreSQL"),
        ("callboard.services.valkey.find_program", lambda: None, "Valkey"),
    ],
)
def test_missing_binaries_are_an_error_that_tells_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, finder: str, nothing: object, service: str
) -> None:
    monkeypatch.setattr(finder, nothing)

    with pytest.raises(ServicesMissing, match="Set CALLBOARD_DATABASE_URL and CALLBOARD_REDIS_URL") as missing:
        services(home).start()

    assert missing.value.service == service
    assert running(home) == (False, False)


def test_data_of_a_version_that_is_not_there_is_not_passed_over(empty_home: Path) -> None:
    (empty_home / "pg99").mkdir()

    with pytest.raises(ServicesMissing, match="has data of PostgreSQL 99"):
        services(empty_home).start()


def test_binaries_that_are_installed_serve_where_the_wheels_are_missing(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    if not any(postgres.binary_folders()) or valkey.find_program() is None:
        pytest.skip("needs PostgreSQL and Redis or Valkey installed")

    with services(empty_home):
        assert running(empty_home) == (True, True)


def test_a_socket_folder_that_others_may_write_to_is_refused(home: Path) -> None:
    folder = sockets(home)
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(BadFolder, match="others may write"):
        services(home).start()

    folder.rmdir()


def test_a_symbolic_link_as_socket_folder_is_refused(home: Path, tmp_path: Path) -> None:
    folder = sockets(home)
    folder.symlink_to(tmp_path)

    with pytest.raises(BadFolder, match="symbolic link"):
        services(home).start()

    folder.unlink()


def test_one_url_for_the_tests_without_the_other_is_an_error(tmp_path: Path) -> None:
    alone = servers(tmp_path, {REDIS_URL: "redis://r"})
    with pytest.raises(RuntimeError, match="CALLBOARD_TEST_REDIS_URL is set alone"), alone:
        raise AssertionError


@as_root
def test_a_socket_folder_of_another_user_is_refused(home: Path) -> None:
    folder = sockets(home)
    folder.mkdir()
    os.chown(folder, 12345, 12345)

    with pytest.raises(BadFolder, match="belongs to user 12345"):
        services(home).start()

    folder.rmdir()


@as_root
def test_root_starts_them_as_nobody_where_user_namespaces_are_not_allowed(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "IN_NAMESPACE", ("false",))

    with services(empty_home):
        assert running(empty_home) == (True, True)
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids(empty_home)} == {account.NOBODY}
    assert running(empty_home) == (False, False)


@as_root
def test_an_ordinary_user_starts_them(empty_home: Path) -> None:
    uid = next(user.pw_uid for user in pwd.getpwall() if user.pw_uid not in (0, account.NOBODY))
    prefix = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")
    python = next((found for found in _interpreters() if _imports(found, prefix)), None)
    if python is None:
        pytest.skip("needs a Python that an ordinary user can run")
    os.chown(empty_home, uid, uid)

    with User(empty_home, *prefix, python=python) as user:
        urls = user.urls()
        assert f"/callboard{uid}-" in urls.redis_url
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids(empty_home)} == {uid}
        user.leave()

    assert not Path(urls.redis_url.removeprefix("unix://")).exists()


def _interpreters() -> Iterator[str]:
    yield sys.executable
    if system := shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin"):
        yield system


def _imports(python: str, prefix: tuple[str, ...]) -> bool:
    paths = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    command = [*prefix, python, "-c", "import callboard.services"]
    return subprocess.run(command, capture_output=True, env=paths, cwd="/", check=False).returncode == 0
