"""What the configuration says of an MCP server, and presets for well-known ones.

[mcp.git]
preset = "git"
options = { repository = "/srv/repository" }

[mcp.tracker]
url = "https://tracker.example/mcp"
headers = { Authorization = "Bearer ${TRACKER_TOKEN}" }
roles = ["planner"]
deny = ["delete_*"]
"""

import fnmatch
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from callboard.protocols.errors import BadName, McpFailed

_NAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]|_(?!_)){0,23}(?<!_)")
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class McpServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server: a program that is started (`command`, spoken to over stdio), or a `url` (streamable HTTP).

    `preset` names a well-known one instead, with `options` of its own; see `PRESETS`. In `env` and `headers`, ${NAME}
    stands for a variable of the environment, so that secrets need not be written down.

    Of its tools those are used that fit one of `allow` and none of `deny` (patterns on the server's own names), by the
    `roles` named, or by all. Results are `untrusted`, unless it says otherwise (None: what the preset says, else true).
    Whether a tool only reads, or may be called twice, is what the server says of it, if `trust_hints`; `read_only`
    names (patterns of) tools that only read, whatever it says.

    Seconds: `connect_s` until it is ready, `call_s` for one call. Raises ValueError for what makes no sense.
    """

    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = {}
    preset: str = ""
    options: Mapping[str, str | tuple[str, ...]] = {}
    roles: tuple[str, ...] = ()
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    untrusted: bool | None = None
    trust_hints: bool = True
    connect_s: float = 30.0
    call_s: float = 120.0

    def __post_init__(self) -> None:
        ways = [way for way in ("command", "url", "preset") if getattr(self, way)]
        if len(ways) != 1:
            raise ValueError(f"it has {' and '.join(ways) or 'nothing'}: give it one of command, url and preset")
        if self.url and (urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname):
            raise ValueError("its url is none of http:// or https://")
        if self.preset not in ("", *PRESETS):
            raise ValueError(f"there is no preset {self.preset!r}: there are {', '.join(PRESETS)}")
        if self.options and not self.preset:
            raise ValueError("options belong to a preset")
        for seconds in ("connect_s", "call_s"):
            if not 0 < getattr(self, seconds) <= 86_400:
                raise ValueError(f"its {seconds} is {getattr(self, seconds)!r}, not above 0 and up to 86400 seconds")
        if self.preset:
            self.resolved()

    def __repr__(self) -> str:
        """Without what may be secret: arguments, variables, headers, and the path of a URL."""
        return f"McpServer({self._where()})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("at", self._where())]

    def _where(self) -> str:
        return self.preset or self.command or f"{urlsplit(self.url).scheme}://{urlsplit(self.url).hostname}"

    def resolved(self) -> "McpServer":
        """The server with its preset filled in; what is given beside the preset counts. Raises ValueError."""
        if not self.preset:
            return self
        try:
            base = PRESETS[self.preset](**self.options)
        except TypeError as error:
            raise ValueError(f"preset {self.preset!r} {_misfit(str(error))}") from None
        return msgspec.structs.replace(
            self,
            preset="",
            options={},
            command=base.command,
            args=(*base.args, *self.args),
            url=base.url,
            headers={**base.headers, **self.headers},
            untrusted=base.untrusted if self.untrusted is None else self.untrusted,
        )

    def offers(self, tool: str) -> bool:
        """Whether a tool of the server's is used, by its own name for it."""
        return fits(self.allow, tool) and not fits(self.deny, tool)


def preset(name: str, **options: str | tuple[str, ...]) -> McpServer:
    """A well-known server: preset("git", repository="/srv/repository"). Raises ValueError."""
    return McpServer(preset=name, options=options)


def fits(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def check_server_name(name: str) -> str:
    """The name, if it is legal for an MCP server; raises BadName."""
    if not _NAME.fullmatch(name):
        allowed = "a letter or digit, then up to 23 letters, digits, - and _, without __ and not with _ at the end"
        raise BadName("name of an MCP server", name, allowed)
    return name


def filled(server: str, values: Mapping[str, str]) -> dict[str, str]:
    """Values with the environment's variables in their places; raises McpFailed for one that isn't set."""

    def variable(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise McpFailed(server, f"needs the environment's variable {found[1]}, which isn't set.")
        return value

    return {name: _VARIABLE.sub(variable, value) for name, value in values.items()}


# -- presets -------------------------------------------------------------------------------------------------


def _git(repository: str) -> McpServer:
    """Git in one repository; what others committed is no instruction."""
    return _python("mcp_server_git", "--repository", repository)


def _time(timezone: str = "") -> McpServer:
    """The time here and elsewhere; nobody else has written it."""
    server = _python("mcp_server_time", *(("--local-timezone", timezone) if timezone else ()))
    return msgspec.structs.replace(server, untrusted=False)


def _filesystem(folder: str | tuple[str, ...]) -> McpServer:
    """Files in one folder, or in several."""
    folders = (folder,) if isinstance(folder, str) else folder
    return McpServer(command="npx", args=("-y", "@modelcontextprotocol/server-filesystem", *folders))


def _context7(api_key: str = "") -> McpServer:
    """Documentation of libraries, as it is today; with a key (such as ${CONTEXT7_API_KEY}) more often."""
    headers = {"CONTEXT7_API_KEY": api_key} if api_key else {}
    return McpServer(url="https://mcp.context7.com/mcp", headers=headers)


def _python(module: str, *args: str) -> McpServer:
    """A server in Python: from where it is installed beside us, or else by uv, which fetches it."""
    if importlib.util.find_spec(module) is not None:
        return McpServer(command=sys.executable, args=("-m", module, *args))
    return McpServer(command="uvx", args=(module.replace("_", "-"), *args))


PRESETS: Final[dict[str, Callable[..., McpServer]]] = {
    "filesystem": _filesystem,
    "git": _git,
    "time": _time,
    "context7": _context7,
}


def _misfit(error: str) -> str:
    """What Python says of wrong options, in our words."""
    for said, ours in (
        ("missing 1 required positional argument: ", "needs the option "),
        ("unexpected keyword argument ", "has no option "),
    ):
        if said in error:
            return ours + error.rpartition(said)[2]
    return f"can't take these options ({error})"
