"""One variable with a provider's key, and the examples use that provider."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import command_in, environment, read
from tests.fake_dialects import Play
from tests.forking import Forks
from tests.process_kit import Provider, processes, provider
from tests.servers import Servers

NEWSROOM = Path(__file__).parents[2] / "examples/newsroom.py"
REVIEW = json.dumps({"accepted": True, "notes": "It can be printed."})
KEYS = {
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
}


@pytest.fixture(scope="module")
def there() -> Iterator[Provider]:
    with provider() as made:
        made.otherwise(Play(text=REVIEW))
        yield made


@pytest.mark.parametrize("company", KEYS)
def test_with_one_providers_key_the_newsroom_asks_that_provider(
    company: str, there: Provider, servers: Servers, forks: Forks, tmp_path: Path
) -> None:
    (tmp_path / "newsroom.py").write_text(NEWSROOM.read_text())
    before = len(there.seen())
    with environment(servers, tmp_path) as made:
        kept = {name: value for name, value in made.items() if not name.endswith("_API_KEY")}
        environ = kept | {name: there.env[name] for name in KEYS[company]}
        with processes(forks, environ, "newsroom.py") as serving:
            serving.start("a")
            callboard = command_in(environ, forks)
            done: Any = read(callboard, "send", "writer", '{"topic": "tides"}', "--wait")
            (receipt,) = done["sent"]
            assert receipt["result"] == {"text": REVIEW, "review": json.loads(REVIEW)}
            models = {group["by"][0] for group in read(callboard, "costs", "--by", "model")}
    assert len(there.seen()) == before + 2
    assert len(models) == 2, "one of each tier"
