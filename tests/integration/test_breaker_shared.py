"""A circuit breaker is one for all processes: what one of them learns of a provider, the others go by."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from callboard.actors.outside.client import Sent
from callboard.protocols import events as e
from callboard.protocols.codec import body_of
from tests.cli_kit import environment, until
from tests.fake_provider import Play, failing, rate_limited
from tests.forking import Forks
from tests.process_kit import Processes, Provider, ended, inside, log_of, processes, provider, send
from tests.servers import Servers

FIRST, SECOND = "gpt-4o-mini", "gpt-4o"
APP = f'''
from callboard import Actor, Context

class Single(Actor):
    """Asks a model that has no second."""
    model = "openai/{FIRST}"
    async def handle(self, number: int, ctx: Context) -> str:
        return (await ctx.model(f"Question {{number}}")).text

class Chained(Single):
    """Asks another model if the first fails."""
    model = ("openai/{FIRST}", "openai/{SECOND}")
'''


class Company(NamedTuple):
    """Two processes, and the provider that they ask."""

    environ: dict[str, str]
    provider: Provider
    processes: Processes

    def until_open(self) -> None:
        """Return when the first model's breaker is open."""
        until(lambda: inside(self.environ, lambda stack: stack.throttle.state(f"model:openai/{FIRST}")) == "open")

    def all_end_well(self, sent: Sequence[Sent]) -> None:
        """Return when all these tasks have ended; all of them must have completed."""
        ends = ended(self.environ, sent)
        assert {type(body) for body in ends.values()} == {e.TaskCompleted}, ends

    def workers(self, sent: Sequence[Sent]) -> set[str]:
        """The names of the processes that have begun these tasks."""
        tasks = {each.task for each in sent}
        begun = [body_of(it) for it in log_of(self.environ) if it.meta.task in tasks and it.type == "task.started"]
        return {body.process.partition("@")[0] for body in begun if isinstance(body, e.TaskStarted)}


@contextmanager
def company(servers: Servers, forks: Forks, folder: Path, config: str) -> Iterator[Company]:
    (folder / "app.py").write_text(APP)
    (folder / "callboard.toml").write_text(config)
    with provider() as there, environment(servers, folder) as made:
        environ = made | there.env | {"CALLBOARD_CONFIG": str(folder / "callboard.toml")}
        with processes(forks, environ, "app.py") as serving:
            serving.start("a", "b")
            yield Company(environ, there, serving)


def test_a_provider_that_wants_a_pause_gets_it_from_all_processes_and_then_one_probe(
    servers: Servers, forks: Forks, tmp_path: Path
) -> None:
    pause_s, probe_s = 3.0, 1.5
    with company(servers, forks, tmp_path, "[breaker]\nopen_s = 2\n") as it:
        it.provider.play(rate_limited("3"), Play(silent_s=probe_s))
        sent = send(it.environ, "single", range(1))
        it.until_open()
        sent += send(it.environ, "single", range(1, 50))
        it.all_end_well(sent)
        assert it.workers(sent) == {"a", "b"}
        refused, probe, *others = (seen.at for seen in it.provider.seen())
        assert probe - refused >= pause_s
        assert min(others) - probe >= probe_s
        assert len(others) == 49


def test_a_provider_that_fails_is_left_alone_by_all_processes_which_ask_the_next_model(
    servers: Servers, forks: Forks, tmp_path: Path
) -> None:
    with company(servers, forks, tmp_path, "[breaker]\nthreshold = 3\nopen_s = 60\n") as it:
        it.provider.play(*[failing(500)] * 50, model=FIRST)
        first = send(it.environ, "chained", range(2))  # each asks twice
        it.all_end_well(first)
        it.until_open()
        asked = len(it.provider.seen(FIRST))
        assert 3 <= asked <= 4

        sent = send(it.environ, "chained", range(2, 32))
        it.all_end_well(sent)
        assert it.workers(sent) == {"a", "b"}
        assert len(it.provider.seen(FIRST)) == asked
        assert len(it.provider.seen(SECOND)) == 32
        tasks = {each.task for each in sent}
        requests = [body_of(each) for each in log_of(it.environ) if each.meta.task in tasks]
        skipped = [tuple(body.skipped) for body in requests if isinstance(body, e.ModelRequested)]
        assert skipped == [(f"openai/{FIRST}",)] * 30
