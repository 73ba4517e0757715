"""What the tests of the command line share: an app in a folder, an environment of its own, and the command."""

from collections.abc import Iterator

import pytest

from tests.cli_kit import Callboard, command_in, environment
from tests.forking import Forks
from tests.servers import Servers


@pytest.fixture(scope="module")
def environ(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """An environment with a database of its own, and a folder with the module's APP: the name of a file, its text."""
    name, text = request.module.APP
    folder = tmp_path_factory.mktemp("app")
    (folder / name).write_text(text)
    with environment(servers, folder) as made:
        yield made


@pytest.fixture(scope="module")
def callboard(environ: dict[str, str], forks: Forks) -> Callboard:
    """Runs one command to its end."""
    return command_in(environ, forks)
