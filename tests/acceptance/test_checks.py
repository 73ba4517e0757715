"""What tells whether the log, the ledger and the projections are as they should be, from outside."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator

import asyncpg
import pytest

from tests.cli_kit import CALLBOARD, Callboard, command_in, environment, read
from tests.forking import Forks
from tests.servers import Servers


@pytest.fixture
def environ(servers: Servers, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a database of its own, in which a role is known and some messages wait for it."""
    folder = tmp_path_factory.mktemp("app")
    with environment(servers, folder) as made:
        run = command_in(made, forks)
        assert run("runs").returncode == 0
        sql(made, "insert into roles (role, partitions, generation, topics) values ('clerk', 8, 1, '{}')")
        for number in range(3):
            done = run("send", "clerk", str(number))
            assert done.returncode == 0, done.stderr
        yield made


@pytest.fixture
def callboard(environ: dict[str, str], forks: Forks) -> Callboard:
    return command_in(environ, forks)


def sql(environ: dict[str, str], statement: str) -> object:
    async def work() -> object:
        connection = await asyncpg.connect(environ["CALLBOARD_DATABASE_URL"])
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(work())


def test_a_log_that_nobody_touched_verifies(callboard: Callboard) -> None:
    told = read(callboard, "verify")
    assert (told["intact"], told["events"], told["damages"]) == (True, 3, [])
    assert told["chain"] in callboard("verify").stdout


@pytest.mark.parametrize(
    ("tampering", "where"),
    [
        ("update events set data = convert_to('{}', 'utf8') where position = 2", "position 2: {stream} was changed"),
        ("delete from events where position = 2", "position 2: events are missing"),
        (
            """
            insert into events (position, recorded_at, stream, version, type, schema_version, data, meta)
            select 4, recorded_at, 'clerk/x', 1, type, schema_version, data, meta from events where position = 1
            """,
            "position 4: clerk/x@1 was inserted",
        ),
    ],
    ids=["changed", "deleted", "inserted"],
)
def test_the_first_row_that_was_tampered_with_is_named(
    environ: dict[str, str], callboard: Callboard, tampering: str, where: str
) -> None:
    stream = sql(environ, "select stream || '@' || version from events where position = 2")
    sql(environ, tampering)
    done = callboard("verify")
    assert done.returncode == 1
    assert where.format(stream=stream) in done.stdout
    told = json.loads(callboard("verify", "--json").stdout)
    assert not told["intact"]
    assert len(told["damages"]) == 1


def test_a_ledger_that_was_changed_is_named_and_repaired(environ: dict[str, str], callboard: Callboard) -> None:
    assert callboard("budgets", "set", "role", "clerk", "5 USD", "--per", "ever").returncode == 0
    assert read(callboard, "check-ledger")["intact"]
    sql(environ, "update budgets set ceiling = 500")
    done = callboard("check-ledger")
    assert done.returncode == 1
    assert "2 differences" in done.stdout
    assert "--repair" in done.stdout
    assert read(callboard, "check-ledger", "--repair")["repaired"]
    assert callboard("check-ledger").returncode == 0


def test_a_projection_is_rebuilt_from_the_log(environ: dict[str, str], callboard: Callboard) -> None:
    assert len(read(callboard, "runs")) == 3
    sql(environ, "delete from runs")
    assert read(callboard, "runs") == []
    done = callboard("rebuild", "runs")
    assert (done.returncode, done.stdout) == (0, "Made again from 3 events: runs.\n")
    assert len(read(callboard, "runs")) == 3


def test_a_projection_that_there_is_not_is_told_with_those_that_there_are(callboard: Callboard) -> None:
    done = callboard("rebuild", "rnus")
    assert done.returncode == 2
    assert "runs" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_listing_goes_into_any_encoding(environ: dict[str, str], encoding: str) -> None:
    def callboard(*words: str) -> subprocess.CompletedProcess[str]:
        """A process of its own: an interpreter chooses its encoding when it starts."""
        changed = environ | {"PYTHONIOENCODING": encoding}
        return subprocess.run([CALLBOARD, *words], env=changed, capture_output=True, encoding=encoding, check=False)

    text = "\N{CYRILLIC SMALL LETTER O} \N{SLIGHTLY SMILING FACE} \N{BOX DRAWINGS LIGHT HORIZONTAL}"
    callboard("send", "clerk", text)
    for words in ("runs", "run last", "messages", "events run/last --bodies", "replay last", "doctor", "cancel --help"):
        done = callboard(*words.split())
        assert "Traceback" not in done.stderr
        assert done.returncode == int(words == "doctor"), done.stderr
    shown = callboard("events", "run/last", "--bodies", "--json").stdout
    assert text in json.dumps(json.loads(shown), ensure_ascii=False)


def test_the_module_is_the_command(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "callboard", "cancel", "--help"], env=environ, capture_output=True, text=True, check=True
    )
    assert "Usage: callboard cancel" in done.stdout
