"""The command `demo`."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec

from callboard.bootstrap import connected, served
from callboard.cli.output import note, people, plain, write_json
from callboard.cli.serve import process_specs
from callboard.cli.session import command_settings
from callboard.demo.findings import Tree
from callboard.demo.run import APP, COUNTS, LEASE_S, Demo, Outcome, choose_tree
from callboard.demo.summary import epilogue
from callboard.settings import Settings, variable


def demo(path: Path | None, *, model: str | None, kill: bool, report: Path | None, as_json: bool) -> None:
    """Have the crew review a tree, and tell what happened. Raises BadFolder before anything is started."""
    tree, files = choose_tree(path, report)
    settings = msgspec.structs.replace(command_settings(), lease_s=LEASE_S)
    if model is not None:
        settings = msgspec.structs.replace(settings, model=model)
    with served(settings) as settings, _log() as log:
        outcome = anyio.run(_play, settings, log, tree, files, kill)
    if as_json:
        write_json(outcome)
    else:
        console = people()
        console.print(epilogue(outcome, console.width))
    if not outcome.proof.holds:
        sys.exit(1)


async def _play(settings: Settings, log: Path, tree: Tree, files: int, kill: bool) -> Outcome:
    env = {variable("lease_s"): str(LEASE_S), variable("log_level"): "WARNING"}
    specs = [
        msgspec.structs.replace(spec, env={**spec.env, **env}, log=log) for spec in process_specs(APP, COUNTS, settings)
    ]
    console = people(stderr=True)
    async with connected(settings, "demo") as stack:
        await stack.runner.prepare()
        return await Demo(stack, specs, tree, files, kill=kill, say=_say(console.is_terminal)).run(console)


def _say(terminal: bool) -> Callable[[str], None]:
    """What happens, as plain lines; on a terminal the view shows it."""
    return (lambda _line: None) if terminal else (lambda line: note(plain(line)))


@contextmanager
def _log() -> Iterator[Path]:
    """A file for what the crew's processes log, kept only if something goes wrong."""
    with tempfile.NamedTemporaryFile(prefix="callboard-demo-", suffix=".log", delete=False) as made:
        log = Path(made.name)
    try:
        yield log
    except BaseException:
        note(f"The crew's log is {plain(str(log))}")
        raise
    log.unlink()
