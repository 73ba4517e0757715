"""`callboard` in processes forked from one that has imported all of it, litellm too, which alone takes 6 s of CPU.

As a program it reads a command a line, as JSON, and answers each with a line; it ends with its input.

    {"start": [argument, ...], "environ": {...},    the pid of `callboard ARGUMENT...` in the folder PWD,
     "out": path, "err": path}                      its outputs added to these files
    {"wait": pid}                                   its exit code, negative for a signal
"""

import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NoReturn

SERVER: Final = (sys.executable, "-m", "tests.forking")


class Forks:
    """What forks. Who kills a process waits for it, too. For one thread."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        self._server = server

    def start(self, arguments: Sequence[str], environ: dict[str, str], log: Path) -> int:
        """Run `callboard` with these arguments, its output added to a file; gives its pid."""
        return self._ask({"start": arguments, "environ": environ, "out": str(log), "err": str(log)})

    def run(self, arguments: Sequence[str], environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        """Run `callboard` with these arguments to its end."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            pid = self._ask({"start": arguments, "environ": environ, "out": str(out), "err": str(err)})
            code = self.wait(pid)
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())

    def wait(self, pid: int) -> int:
        """Wait for its end; gives the exit code."""
        return self._ask({"wait": pid})

    def _ask(self, command: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{json.dumps(command)}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


@contextmanager
def forks() -> Iterator[Forks]:
    """What forks, until the block ends."""
    with subprocess.Popen(SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Forks(server)
        server.communicate("")


def _serve() -> None:
    from callboard.actors.models.library import load_now
    from callboard.cli import serve
    from callboard.cli.main import main

    load_now()
    for module in ("callboard.bus.redis", "callboard.bus.throttle", "callboard.actors.process.host"):
        __import__(module)
    assert serve
    warnings.simplefilter("ignore", DeprecationWarning)  # a thread of litellm's is lost, and nobody needs it
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            answer = os.fork()
            if not answer:
                _become(main, command)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


def _become(main: Any, command: dict[str, Any]) -> NoReturn:
    os.environ.clear()
    os.environ.update(command["environ"])
    os.chdir(os.environ["PWD"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, to in (("out", 1), ("err", 2)):
        os.dup2(os.open(command[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), to)
    sys.argv = ["callboard", *command["start"]]
    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - as the interpreter does it
        traceback.print_exc()
    else:
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
