"""What an operator says about models, prices, rates, tools and MCP servers: one TOML file, CALLBOARD_CONFIG.

    [tiers]
    fast = ["openai/gpt-6-luna", "groq/openai/gpt-oss-20b"]

    [prices."hosted_vllm/qwen3"]       # for a million tokens
    input = 0.20
    output = 0.60

    [rates."openai/gpt-6-luna"]        # a minute, of each tenant
    requests = 500
    tokens = 200_000

    [deadlines]
    first_token_s = 120

    [breaker]
    threshold = 3

    [mcp.git]
    preset = "git"
    options = { repository = "/srv/repository" }

    [[tools.policies]]
    tool = "git__*"
    action = "approve"

docs/models.md and docs/tools.md say what each section may have.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from callboard.actors.models.call import Rates
from callboard.actors.models.deadlines import Deadlines
from callboard.actors.models.gateway import Gateway
from callboard.actors.models.prices import Override, PriceTable
from callboard.actors.models.stand_in import STAND_IN
from callboard.actors.models.tiers import Tiers
from callboard.actors.tools.mcp_server import McpServer
from callboard.actors.tools.policy import ToolPolicies
from callboard.protocols.errors import BadConfig, UnknownModel, UnreadableConfig
from callboard.protocols.ports import Breaker

T = TypeVar("T", bound=msgspec.Struct)

_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_TIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_DECIMAL: Final = ("Invalid decimal string", "it is a decimal number, such as 0.25")
_SECRET: Final = ("mcp",)  # sections whose values are never shown


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The file's sections; what it leaves out is as it is by default."""

    tiers: Mapping[str, tuple[str, ...]] = {}
    prices: Mapping[str, Override] = {}
    rates: Mapping[str, Rates] = {}
    deadlines: Deadlines = Deadlines()
    breaker: Breaker = Breaker()
    mcp: Mapping[str, McpServer] = {}
    tools: ToolPolicies = ToolPolicies()

    @classmethod
    def load(cls, path: Path | None) -> "Config":
        """The file's; the defaults where there is none to read. Raises UnreadableConfig; and BadConfig, with the
        file, the key, the value and what is allowed there.
        """
        if path is None:
            return cls()
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        except (OSError, UnicodeDecodeError) as error:
            raise UnreadableConfig(str(path), str(error)) from None
        except tomllib.TOMLDecodeError as error:
            raise UnreadableConfig(str(path), f"it is no TOML: {error}") from None
        return _Reader(str(path)).config(content)

    def gateway(self, override: str | None = None) -> Gateway:
        """A gateway as the file says. `override`, if set, takes the place of every model."""
        return Gateway(
            override,
            tiers=Tiers(self.tiers),
            prices=PriceTable(self.prices),
            rates=self.rates,
            breaker=self.breaker,
            deadlines=self.deadlines,
        )


class _Reader:
    """Makes a Config of what a file has, and names what is wrong in it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def config(self, content: Mapping[str, Any]) -> Config:
        self._known("", content, Config.__struct_fields__)
        sections: dict[str, Any] = {name: self._table(name, value) for name, value in content.items()}
        breaker = self._struct("breaker", sections.get("breaker", {}), Breaker)
        tiers = self._tiers(sections.get("tiers", {}))
        rates = self._each("rates", sections, Rates)
        return Config(
            tiers=tiers,
            prices=self._each("prices", sections, Override),
            rates={
                model: msgspec.structs.replace(it, breaker=breaker) if "breaker" not in sections["rates"][model] else it
                for model, it in rates.items()
            },
            deadlines=self._struct("deadlines", sections.get("deadlines", {}), Deadlines),
            breaker=breaker,
            mcp=self._each("mcp", sections, McpServer),
            tools=self._struct("tools", sections.get("tools", {}), ToolPolicies),
        )

    def _each(self, section: str, sections: Mapping[str, Any], type_: type[T]) -> dict[str, T]:
        found: dict[str, T] = {}
        for name, value in sections.get(section, {}).items():
            key = f"{section}.{_quoted(name)}"
            if section in ("prices", "rates"):
                self._model(key, name)
            found[name] = self._struct(key, value, type_)
        return found

    def _tiers(self, given: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        for name, models in given.items():
            key = f"tiers.{_quoted(name)}"
            if not _TIER.fullmatch(name) or name == STAND_IN:
                raise BadConfig(self._path, key, _shown(models), "a tier's name is letters, digits, _ and -")
            if not isinstance(models, list) or not models or not all(isinstance(it, str) for it in models):
                raise BadConfig(
                    self._path, key, _shown(models), 'it is a list of models, such as ["openai/gpt-6-luna"]'
                )
            for model in models:
                self._model(key, model)
        return {name: tuple(models) for name, models in given.items()}

    def _model(self, key: str, name: str) -> None:
        try:
            if name != STAND_IN:
                Tiers().check(name)
        except UnknownModel as error:
            reason = f"{error.reason}; a model is named provider/model, such as openai/gpt-6-luna"
            raise BadConfig(self._path, key, _shown(name), reason) from None

    def _struct(self, key: str, value: Any, type_: type[T]) -> T:
        """A value as a struct; the first thing that is wrong is told by its own key."""
        self._known(key, self._table(key, value), type_.__struct_fields__)
        try:
            made = msgspec.convert(value, type_)
        except msgspec.ValidationError as error:
            reason, _, place = str(error).replace(*_DECIMAL).partition(" - at `$")
            inner = place.rstrip("`")
            reason += _allowed(type_, inner.rpartition(".")[2]) if "enum" in reason else ""
            raise BadConfig(self._path, key + inner, self._value(key, _at(value, inner)), reason) from None
        for name, number in _numbers(made):
            if reason := _out_of_range(number, zero=type_ is Override):
                raise BadConfig(self._path, f"{key}.{name}", str(number), reason)
        currency = getattr(made, "currency", "USD")
        if not _CURRENCY.fullmatch(currency):
            raise BadConfig(self._path, f"{key}.currency", _shown(currency), "it is three capital letters, such as EUR")
        return made

    def _table(self, key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise BadConfig(self._path, key, self._value(key, value), "it is a table")
        return value

    def _known(self, key: str, value: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
        for name in value:
            if name not in allowed:
                near = difflib.get_close_matches(name, allowed, n=1)
                reason = f"there is no such key{f'; is it {near[0]}?' if near else '.'} There are {', '.join(allowed)}"
                raise BadConfig(self._path, f"{key}.{name}".lstrip("."), self._value(key, value[name]), reason)

    def _value(self, key: str, value: Any) -> str:
        return "***" if key.startswith(_SECRET) else _shown(value)


def _numbers(made: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, float | Decimal]]:
    """All numbers in a struct and in those inside it, by key."""
    for name in made.__struct_fields__:
        value = getattr(made, name)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            yield prefix + name, value
        elif isinstance(value, msgspec.Struct):
            yield from _numbers(value, f"{prefix}{name}.")


def _allowed(type_: type[msgspec.Struct], key: str) -> str:
    """The words that a key may have, of a struct or of one inside it."""
    schema = msgspec.json.schema_components([type_])[1]
    words = [word for part in schema.values() for word in part.get("properties", {}).get(key, {}).get("enum", ())]
    return f"; it is one of {', '.join(words)}" if words else ""


def _out_of_range(number: float | Decimal, *, zero: bool) -> str:
    if math.isfinite(number) and (number > 0 or (zero and number == 0)):
        return ""
    return "it is a number from 0" if zero else "it is a number above 0"


def _at(value: Any, place: str) -> Any:
    """What stands at a place such as .env or [0].tool; the whole where that can't be told."""
    for name, index in re.findall(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]", place):
        try:
            value = value[int(index) if index else name]
        except (KeyError, IndexError, TypeError):
            return value
    return value


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, int | float | Decimal) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
