"""What Callboard reads from the environment: once, at the start of a process, and all in one place.

Each field of `Settings` is one variable, named CALLBOARD_ and the field's name in capitals. Its annotation says what
is allowed and what it means, and `describe` tells both to people.
"""

import difflib
import logging
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Protocol, get_args, get_type_hints
from urllib.parse import urlsplit

from msgspec import Struct, field, structs
from platformdirs import user_data_path

from callboard.protocols.errors import BadSetting

PREFIX: Final = "CALLBOARD_"
OURS: Final = (f"{PREFIX}TEST_", f"{PREFIX}FAULT_")  # read by the tests

log = logging.getLogger(__name__)


class Rule(Protocol):
    """How a variable's text becomes a value."""

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        ...

    def parse(self, text: str) -> object:
        """The value; raises ValueError."""
        ...


class Url(Struct, frozen=True):
    """A URL with one of these schemes. It may have a password in it, so it is never shown."""

    schemes: tuple[str, ...]
    example: str
    numbered: bool = False  # its databases are numbers

    @property
    def allowed(self) -> str:
        return f"a URL such as {self.example}"

    def parse(self, text: str) -> str:
        scheme, separator, rest = text.partition("://")
        if scheme not in self.schemes or not separator or not rest:
            raise ValueError
        parts = urlsplit(text)
        for host in parts.netloc.rpartition("@")[2].split(","):  # PostgreSQL takes several
            _ = urlsplit(f"//{host}").port  # raises ValueError
        if self.numbered and parts.netloc and not re.fullmatch(r"/?[0-9]*", parts.path):
            raise ValueError
        return text


class Folder(Struct, frozen=True):
    """A path, which need not exist; ~ is the user's home."""

    @property
    def allowed(self) -> str:
        return "a folder"

    def parse(self, text: str) -> Path:
        return Path(text).expanduser().absolute()


class File(Struct, frozen=True):
    """A path of a file; ~ is the user's home. Whether it is there is seen when it is read."""

    @property
    def allowed(self) -> str:
        return "a file"

    def parse(self, text: str) -> Path:
        return Path(text).expanduser().absolute()


class Number(Struct, frozen=True):
    """A number from low to high, both included; without a fraction if `whole`."""

    low: int
    high: int
    whole: bool = False

    @property
    def allowed(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low} to {self.high}"

    def parse(self, text: str) -> float:
        number = int(text) if self.whole else float(text)
        if not math.isfinite(number) or not self.low <= number <= self.high:
            raise ValueError
        return number


class OneOf(Struct, frozen=True):
    """One of some words, in capitals or not."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.words)}"

    def parse(self, text: str) -> str:
        if text.upper() not in self.words:
            raise ValueError
        return text.upper()


class Text(Struct, frozen=True):
    """Any text."""

    @property
    def allowed(self) -> str:
        return "any name"

    def parse(self, text: str) -> str:
        return text


class KeyPrefix(Struct, frozen=True):
    """What the keys in Redis begin with: no pattern, no part of a hash tag, and printable."""

    @property
    def allowed(self) -> str:
        return "1 to 64 letters, digits and any of : . _ - /"

    def parse(self, text: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9:._/-]{1,64}", text):
            raise ValueError
        return text


POSTGRES_URL: Final = Url(("postgresql", "postgres"), "postgresql://user:password@host:5432/database")
REDIS_URL: Final = Url(("redis", "rediss", "unix"), "redis://:password@host:6379/0", numbered=True)
LOG_LEVELS: Final = OneOf(("DEBUG", "INFO", "WARNING", "ERROR"))


def _default_home() -> Path:
    return user_data_path("callboard", appauthor=False)


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of one process. Its repr shows no passwords."""

    database_url: Annotated[
        str | None, POSTGRES_URL, "The PostgreSQL to use. Set both URLs, or neither: then servers are started in HOME."
    ] = None
    connections: Annotated[
        int, Number(2, 100, whole=True), "Connections to PostgreSQL that one process may hold at a time."
    ] = 5
    redis_url: Annotated[str | None, REDIS_URL, "The Redis to use."] = None
    redis_prefix: Annotated[
        str, KeyPrefix(), "What all keys and channels in Redis begin with; the same for all processes of a database."
    ] = "cb:"
    home: Annotated[Path, Folder(), "Where the servers that Callboard starts by itself keep their data."] = field(
        default_factory=_default_home
    )
    lease_s: Annotated[float, Number(1, 300), "Seconds until a silent process loses its partitions to others."] = 5.0
    partitions: Annotated[
        int, Number(1, 256, whole=True), "Partitions of a role that is served for the first time."
    ] = 8
    slots: Annotated[int, Number(1, 4096, whole=True), "Tasks that one process works on at the same time."] = 64
    run_slots: Annotated[
        int, Number(1, 4096, whole=True), "Tasks of one run that one process works on at the same time."
    ] = 48
    run_tasks: Annotated[
        int, Number(1, 100_000_000, whole=True), "Tasks that a run may have in all; what goes beyond fails."
    ] = 200_000
    ahead: Annotated[
        int, Number(64, 100_000, whole=True), "Messages that one process takes off the bus ahead of its slots."
    ] = 4096
    passivate_after_s: Annotated[float, Number(0, 86_400), "Seconds until an idle actor is dropped from memory."] = 60.0
    grace_s: Annotated[float, Number(0, 3_600), "Seconds that tasks get to end when their process is told to end."] = (
        10.0
    )
    model: Annotated[
        str | None, Text(), 'The model that takes the place of every other; "stand-in" needs no key and no network.'
    ] = None
    config: Annotated[
        Path | None, File(), "A TOML file about models, prices, rates, tools and MCP servers (see models.md)."
    ] = None
    log_level: Annotated[str, LOG_LEVELS, "The least severe log lines that are shown."] = "INFO"

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Settings":
        """The settings in `environ` (mostly `os.environ`); an empty variable counts as not set. Raises BadSetting."""
        _warn_of_strangers(environ)
        given: dict[str, object] = {}
        for name, rule, _ in _fields():
            if text := environ.get(variable(name), "").strip():
                given[name] = _parse(variable(name), rule, text)
        settings = cls(**given)  # type: ignore[arg-type]  # the rules give the fields' types
        if (settings.database_url is None) != (settings.redis_url is None):
            missing = "redis_url" if settings.redis_url is None else "database_url"
            raise BadSetting(variable(missing), "", f"set both {variable('database_url')} and {variable('redis_url')}")
        return settings

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(rule, getattr(self, name))}" for name, rule, _ in _fields())
        return f"Settings({', '.join(shown)})"


class Description(Struct, frozen=True):
    """One variable, in words."""

    variable: str
    default: str
    allowed: str
    meaning: str


def describe() -> list[Description]:
    """Every variable, in the order of the fields of `Settings`."""
    defaults = {known.name: known.default for known in structs.fields(Settings)}
    defaults |= {"database_url": "not set", "redis_url": "not set", "home": "the user's data folder"}
    defaults |= {"model": "as the roles say", "config": "not set"}
    return [
        Description(variable(name), str(defaults[name]), rule.allowed, meaning) for name, rule, meaning in _fields()
    ]


def variable(name: str) -> str:
    """The environment variable of a field of `Settings`."""
    return PREFIX + name.upper()


def _warn_of_strangers(environ: Mapping[str, str]) -> None:
    """A variable that looks like a setting and is none may be a slip."""
    known = [variable(name) for name, _, _ in _fields()]
    for name in environ:
        if name.startswith(PREFIX) and name not in known and not name.startswith(OURS):
            near = difflib.get_close_matches(name, known, n=1)
            log.warning("%s is no setting, and has no effect%s", name, f"; is it {near[0]}?" if near else "")


@cache
def _fields() -> tuple[tuple[str, Rule, str], ...]:
    """Each field's name, rule and meaning."""
    hints = get_type_hints(Settings, include_extras=True)
    return tuple((name, *get_args(hints[name])[1:]) for name in Settings.__struct_fields__)


def _parse(name: str, rule: Rule, text: str) -> object:
    try:
        return rule.parse(text)
    except (ValueError, RuntimeError):  # RuntimeError: ~ of a user without a home
        raise BadSetting(name, _shown(rule, text), rule.allowed) from None


def _shown(rule: Rule, value: object) -> str:
    if isinstance(rule, Url) and value is not None:
        scheme, separator, _ = str(value).partition("://")
        return f"{scheme}://***" if separator else "***"
    return str(value)
