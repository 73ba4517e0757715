"""Text on its way in and out, whatever encoding a terminal, a pipe or a locale has."""

import io
import os
import re
import sys
from contextlib import suppress


def tolerate_any_encoding() -> None:
    """Write what an encoding lacks as `?`, and read arguments as UTF-8 where the locale can't."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    for place, word in enumerate(sys.argv):
        with suppress(UnicodeDecodeError):  # bytes that are no UTF-8: a file's name, say
            sys.argv[place] = os.fsencode(word).decode() if not word.isascii() else word


def read_stdin() -> str:
    """All of standard input, as UTF-8. Raises UnicodeDecodeError."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        content: bytes = sys.stdin.buffer.read()
        return content.decode("utf-8-sig")
    return sys.stdin.read()


def escaped(text: str) -> str:
    """A JSON document, in an encoding that has all of its characters: escaped, where standard output's has not."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return re.sub(r"[^\x00-\x7f]", _escape, text)  # they are in strings only
    return text


def _escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
