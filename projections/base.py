"""What all read models share: how they see the log, what they are made of, and how their rows are kept.

A read model is one file: the DDL of its tables, the event types it handles, `apply`, and its queries. `apply` folds
a page of the log in memory and writes the outcome with a few statements, each for many rows. How the log is cut into
pages makes no difference to the tables.
"""

# ruff: noqa: S608  # the names in statements are those of this package's tables and columns

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
from asyncpg import Connection, Pool
from msgspec import Struct

from callboard.protocols.codec import body_of, sent_messages
from callboard.protocols.errors import UnknownEventType
from callboard.protocols.events import BODIES, Event, ModelCompleted, ModelFailed
from callboard.protocols.messages import Message, encode_json
from callboard.protocols.money import add_amount

Row = TypeVar("Row", bound=Struct)
View = TypeVar("View", bound=Struct)
Database = Connection | Pool  # what a query runs on

MAX_TEXT: Final = 1000  # characters of a text from outside, such as an error's message, that a row keeps

_EMPTY: Final[dict[type, str]] = {dict: "{}", tuple: "[]"}  # what most rows have in their jsonb columns


class Fact(Struct, gc=False):
    """An event as projections see it: with the messages that it sends, and its body, decoded once when asked for."""

    event: Event
    sends: tuple[Message, ...] = ()
    _body: Any = None

    @property
    def body(self) -> Any:
        """The class of `callboard.protocols.events` that the event's type names; raises msgspec.DecodeError."""
        if self._body is None:
            self._body = body_of(self.event)
        return self._body


def fact_of(event: Event) -> Fact:
    """An event for projections; raises UnknownEventType."""
    if event.type not in BODIES:
        raise UnknownEventType(event.stream, event.version, event.type, event.schema_version)
    return Fact(event, tuple(sent_messages(event)) if event.meta.sends else ())


Page = Sequence[Fact]


class Projection(Struct, frozen=True, kw_only=True):
    """A read model. Another `version` than the one in the database drops its tables and folds them anew."""

    name: str
    version: int
    tables: tuple[str, ...]
    ddl: str
    handles: frozenset[str] | None  # the event types it wants to see; None: all
    apply: Callable[[Any, Page], Awaitable[None]]  # on a connection, inside a transaction

    def of(self, page: Page) -> Page:
        """What of a page concerns it."""
        handles = self.handles
        return page if handles is None else [fact for fact in page if fact.event.type in handles]


class Table(Generic[Row]):
    """A table whose rows are Structs: the fields are its columns, in the DDL's order; the first is the primary key.

    Fields named in `json` are jsonb columns. Rows go over as an array of the table's own composite type: half the
    CPU time of an array for each column.
    """

    def __init__(self, name: str, row: type[Row], *, json: Collection[str] = ()) -> None:
        self.name = name
        self.columns = row.__struct_fields__
        self._row = row
        types = {field.name: field.type for field in msgspec.structs.fields(row)}
        self._json = [(self.columns.index(column), msgspec.json.Decoder(types[column])) for column in sorted(json)]
        key, *others = self.columns
        self.insertion = f"insert into {name} select * from unnest($1::{name}[])"
        self._upsert = (
            f"{self.insertion} on conflict ({key}) do update "
            f"set ({', '.join(others)}) = ({', '.join(f'excluded.{column}' for column in others)})"
        )
        self._load = f"select * from {name} where {key} = any($1)"
        self._delete = f"delete from {name} where {key} = any($1)"

    async def load(self, connection: Connection, keys: Iterable[str]) -> dict[str, Row]:
        """The rows that there are of these keys."""
        wanted = list(keys)
        if not wanted:
            return {}
        return {record[0]: self.row(record) for record in await connection.fetch(self._load, wanted)}

    async def insert(self, connection: Connection, rows: Iterable[Row]) -> None:
        """Add new rows."""
        await self.write(connection, self.insertion, rows)

    async def save(self, connection: Connection, rows: Iterable[Row]) -> None:
        """Add rows, or replace those of the same key."""
        await self.write(connection, self._upsert, rows)

    async def delete(self, connection: Connection, keys: Iterable[str]) -> None:
        """Remove the rows that there are of these keys."""
        if gone := list(keys):
            await connection.execute(self._delete, gone)

    async def write(self, connection: Connection, statement: str, rows: Iterable[Row]) -> None:
        """Run a statement whose one parameter is these rows, unless there are none."""
        if records := [self._record(row) for row in rows]:
            await connection.execute(statement, records)

    def row(self, record: Iterable[Any]) -> Row:
        """A row from a database record of all columns."""
        return self.view(record, self._row)

    def view(self, record: Iterable[Any], view: type[View]) -> View:
        """A record of all columns as another class with the same first fields."""
        if not self._json:
            return view(*record)
        values = list(record)
        for place, decoder in self._json:
            values[place] = decoder.decode(values[place])
        return view(*values)

    def _record(self, row: Row) -> tuple[Any, ...]:
        if not self._json:
            return msgspec.structs.astuple(row)
        values = list(msgspec.structs.astuple(row))
        for place, _ in self._json:
            value = values[place]
            values[place] = encode_json(value).decode() if value else _EMPTY[type(value)]
        return tuple(values)


def clean(text: str) -> str:
    """A text from outside as Postgres takes it: without NUL, and cut to MAX_TEXT characters."""
    return text[:MAX_TEXT].replace("\0", "")


class Spender(Protocol):
    """A row that adds up what models used and cost."""

    input_tokens: int  # with those read from or written to a cache
    output_tokens: int  # with those of reasoning
    cost: dict[str, Decimal]
    unpriced: int


def add_usage(row: Spender, body: ModelCompleted | ModelFailed) -> None:
    """Add what an attempt used and cost, however it ended."""
    usage = body.usage
    row.input_tokens += usage.input + usage.cached_input + usage.cache_write
    row.output_tokens += usage.output + usage.reasoning
    if body.cost is not None:
        row.cost = add_amount(row.cost, body.cost.currency, body.cost.amount)
    elif isinstance(body, ModelFailed) or not body.cached:
        row.unpriced += 1
