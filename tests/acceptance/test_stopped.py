"""What people see when a read model meets an event that it can't take."""

import json
from pathlib import Path

from callboard.eventstore import PostgresEventStore
from callboard.protocols.events import Meta, NewEvent
from callboard.protocols.ports import ANY
from tests.cli_kit import command_in, environment
from tests.conftest import run
from tests.forking import Forks
from tests.servers import Servers


async def append(database_url: str) -> None:
    async with PostgresEventStore.open(database_url) as store:
        await store.append("x/y", [NewEvent(type="model.completed", data=b"{}", meta=Meta(run="r"))], ANY)


def test_a_read_model_that_stopped_is_told_and_the_others_are_read(
    servers: Servers, forks: Forks, tmp_path: Path
) -> None:
    with environment(servers, tmp_path) as environ:
        callboard = command_in(environ, forks)
        run(append(environ["CALLBOARD_DATABASE_URL"]))
        told = "can't take event x/y@1 (model.completed, position 1)"
        listed = callboard("runs", "--json")
        assert (listed.returncode, json.loads(listed.stdout)) == (0, [])
        assert "costs is not up to date: Projection 'costs' " + told in " ".join(listed.stderr.split())
        assert "costs is stopped: Projection 'costs' " + told in " ".join(callboard("lag").stdout.split())
        found = callboard("doctor", "--json")
        (finding,) = json.loads(found.stdout)["findings"]
        assert (found.returncode, finding["check"], finding["stuck"]) == (1, "projections", True)
        assert told in finding["what"]
