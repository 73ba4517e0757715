"""An MCP server for tests, with tools that misbehave: `python tests/mcp_troublemaker.py stdio | odd | http PORT`."""

import asyncio
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("troublemaker")
ODD = "odd.name/with too many characters in it: " + "x" * 40
READS = ToolAnnotations(read_only_hint=True)


@server.tool(annotations=READS)
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool(annotations=READS)
def whoami() -> str:
    """The server's process."""
    return str(os.getpid())


@server.tool(annotations=READS)
def environment(variable: str) -> str:
    """One of the environment's variables."""
    return os.environ.get(variable, "(not set)")


@server.tool()
def fail(why: str) -> str:
    """Fail."""
    raise ToolError(why)


@server.tool()
def note_and_die(file: str) -> str:
    """Write a line, and end the server before it can answer."""
    _note(file)
    sys.stderr.write("out of memory, token was sesame-12345\n")
    sys.stderr.flush()
    os._exit(1)


@server.tool(annotations=ToolAnnotations(idempotent_hint=True))
def die_once(file: str) -> str:
    """Write a line; the first time, end the server before it can answer."""
    _note(file)
    if len(Path(file).read_text().splitlines()) == 1:
        os._exit(1)
    return "the second time"


@server.tool(annotations=READS)
async def wait(seconds: float) -> str:
    """Take long."""
    await asyncio.sleep(seconds)
    return "at last"


def odd() -> str:
    """Have a name that no provider takes."""
    return "odd"


def _note(file: str) -> None:
    with Path(file).open("a") as lines:
        lines.write("called\n")


def main(mode: str, *arguments: str) -> None:
    """Be the server."""
    if mode == "odd":
        server.add_tool(odd, name=ODD)
    if mode == "http":
        server.run(transport="streamable-http", host="127.0.0.1", port=int(arguments[0]))
    else:
        server.run(transport="stdio")


if __name__ == "__main__":
    main(*sys.argv[1:])
