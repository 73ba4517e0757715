"""What the command line writes: tables and pictures for people, JSON for machines, log lines on standard error."""

import logging
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from protocols.messages import encode_json

PIPE_WIDTH: Final = 200  # columns of a table that goes to no terminal
_STYLES: Final = {logging.DEBUG: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


def people(*, stderr: bool = False) -> Console:
    """A console for people. Without a terminal it writes plain text, wide enough for our tables."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def write_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(msgspec.json.format(encode_json(value), indent=2).decode() + "\n")


def write_text(text: str) -> None:
    """A text as it is on standard output."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def write_result(result: object) -> None:
    """A task's result: text as it is, anything else as JSON."""
    if isinstance(result, str):
        write_text(result)
    else:
        write_json(result)


def note(text: str) -> None:
    """A line for people on standard error, with markup."""
    people(stderr=True).print(text, soft_wrap=True)


def table(*columns: str, right: Sequence[str] = (), wide: str | None = None) -> Table:
    """A table. Numbers are in the columns named by `right`; the column `wide` takes what space is left."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column == wide else None,
        )
    made.expand = wide is not None
    return made


def add(to: Table, *cells: str | Text) -> None:
    """Add a row. Texts are shown as they are: brackets in them are no markup."""
    to.add_row(*(Text(each) if isinstance(each, str) else each for each in cells))


def plain(text: str) -> str:
    """A text for a line with markup, so that brackets in it are none."""
    return escape(text)


# -- logging -------------------------------------------------------------------------------------------------


class _Terminal(logging.Handler):
    """Log lines in colour: what is wrong stands out."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True, highlight=False)

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(self.format(record), style=_STYLES.get(record.levelno, "")), soft_wrap=True)


def log_to_stderr(level: str, who: str | None = None) -> None:
    """Log lines as `12:34:56 info who text`. `who` is this process's name; by default it is each logger's."""
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.addLevelName(number, logging.getLevelName(number).lower())
    handler = _Terminal() if sys.stderr.isatty() else logging.StreamHandler()
    speaker = "%(name)s" if who is None else who.replace("%", "%%")
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {speaker} %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("asyncio", "LiteLLM", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
