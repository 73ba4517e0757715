"""What the command line writes: tables and pictures for people, JSON for machines, log lines on standard error."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from callboard.cli.text import escaped
from callboard.protocols.messages import encode_json
from callboard.protocols.redaction import redact

PIPE_WIDTH: Final = 200  # of a table that goes to no terminal
LEAST_WIDTH: Final = 8  # of a column that is cut
GAP: Final = 2  # between columns
_STYLES: Final = {logging.DEBUG: "dim", logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "bold red"}


_VISIBLE: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def visible(text: str) -> str:
    """A text whose control characters are shown and not obeyed: an error or a result may come from anywhere."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


class Screen(Console):
    """A console that writes texts as `visible` has them; its own colours are none of theirs."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def people(*, stderr: bool = False) -> Console:
    """A console for people. Without a terminal it writes plain text, wide enough for our tables."""
    console = Screen(stderr=stderr, highlight=False)
    return console if console.is_terminal else Screen(stderr=stderr, highlight=False, width=PIPE_WIDTH)


def write_json(value: object) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(escaped(msgspec.json.format(encode_json(value), indent=2).decode()) + "\n")


def write_text(text: str) -> None:
    """A text on standard output, as it is; on a terminal, `visible`."""
    text = visible(text) if sys.stdout.isatty() else text
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


class Listing:
    """A table, each row on one line. Texts are shown as they are: brackets in them are no markup.

    Numbers stand in the columns named by `right`. Where the terminal is too narrow, the columns named by `spare` are
    left out, the first of them first; then the column `wide` is cut.
    """

    def __init__(
        self, *columns: str, right: Sequence[str] = (), wide: str | None = None, spare: Sequence[str] = ()
    ) -> None:
        self._columns = columns
        self._right = right
        self._wide = wide
        self._spare = spare
        self._rows: list[list[Text]] = []

    def add(self, *cells: str | Text) -> None:
        """Add a row: a cell for each column."""
        self._rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {
            place: max(len(name), *(row[place].cell_len for row in self._rows), 1)
            for place, name in enumerate(self._columns)
        }
        for name in self._spare:
            if _total(widths) > options.max_width:
                del widths[self._columns.index(name)]
        shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
        for place, width in widths.items():
            name = self._columns[place]
            if name == self._wide:
                width = max(LEAST_WIDTH, width - max(0, _total(widths) - options.max_width))  # noqa: PLW2901
            justify: JustifyMethod = "right" if name in self._right else "left"
            shown.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", max_width=width)
        for row in self._rows:
            shown.add_row(*(row[place] for place in widths))
        yield shown


def _total(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def plain(text: str) -> str:
    """A text for a line with markup, so that brackets in it are none."""
    return escape(text)


# -- logging -------------------------------------------------------------------------------------------------


class Redacting(logging.Formatter):
    """Log lines without secrets: neither in the message and its arguments, nor in a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _Terminal(logging.Handler):
    """Log lines in colour: what is wrong stands out."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Screen(stderr=True, highlight=False)

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text(self.format(record), style=_STYLES.get(record.levelno, "")), soft_wrap=True)


def log_to_stderr(level: str, who: str | None = None) -> None:
    """Log lines as `12:34:56 info who text`, without secrets. `who` is this process's name, or else each logger's."""
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.addLevelName(number, logging.getLevelName(number).lower())
    handler = _Terminal() if sys.stderr.isatty() else logging.StreamHandler()
    speaker = "%(name)s" if who is None else who.replace("%", "%%")
    handler.setFormatter(Redacting(f"%(asctime)s %(levelname)s {speaker} %(message)s", datefmt="%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("asyncio", "LiteLLM", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
