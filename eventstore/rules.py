"""What the store accepts: the same rules for the store on PostgreSQL and for its twin in memory."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from callboard.protocols.errors import AlreadyHandled, AppendRefused, BadEvent, BadOption, Conflict
from callboard.protocols.events import NewEvent
from callboard.protocols.ledger import Entry, Hold, SetBudget, Settle, TopUp
from callboard.protocols.messages import encode_json
from callboard.protocols.ports import NO_STREAM, STREAM_EXISTS, Appended, ExpectedVersion

MAX_NAME_BYTES: Final = 1000  # of streams, types and message ids: they are in indexes
MAX_EVENT_BYTES: Final = 64 * 1024 * 1024  # data and meta together; large bodies belong into blobs

MAX_PARTITIONS: Final = 256  # of a role

# Of amounts in the ledger: sums of 10^20 of them are exact still, in `callboard.protocols.money.EXACT` too. The price
# of a token may have 30 decimals, as it is a float's shortest text.
MAX_AMOUNT: Final = Decimal(10**30)
MAX_DECIMAL_PLACES: Final = 45

# type, schema version, data, meta, handles: an event as it is stored
Encoded = tuple[str, int, bytes, bytes, str | None]


class Append:
    """One call of `EventStore.append`, checked and encoded."""

    __slots__ = ("entries", "events", "expected", "news", "outcome", "size", "stream")

    outcome: "asyncio.Future[Appended]"  # who waits for it, where somebody waits

    def __init__(self, stream: str, events: Sequence[NewEvent], expected: ExpectedVersion) -> None:
        """Raises BadEvent."""
        self.stream = stream
        self.expected = expected
        self.news = events
        self.events: list[Encoded] = []
        self.entries: list[Entry] = []  # what the events mean for the ledger
        self.size = 0  # bytes
        for event in events:
            try:
                meta = encode_json(event.meta)
            except UnicodeEncodeError:
                raise BadEvent(stream, "half of a surrogate pair has no UTF-8") from None
            self.size += len(event.data) + len(meta)
            self.events.append((event.type, event.schema_version, event.data, meta, event.meta.handles))
            if event.entry is not None:
                self.entries.append(event.entry)
        reason = self._fault() or next(filter(None, map(_entry_fault, self.entries)), None)
        if reason:
            raise BadEvent(stream, reason)

    def _fault(self) -> str | None:
        if not self.events:
            return "an append has at least one event"
        if not is_name(self.stream):
            return f"a stream's name is 1 to {MAX_NAME_BYTES} bytes of UTF-8 without NUL"
        if isinstance(self.expected, int) and not 0 <= self.expected < 2**63 - len(self.events):
            return f"there is no version {self.expected}"
        for type_, schema_version, data, meta, handles in self.events:
            if not is_name(type_) or (handles is not None and not is_name(handles)):
                return f"types and message ids are 1 to {MAX_NAME_BYTES} bytes of UTF-8 without NUL"
            if not 0 <= schema_version < 2**31:
                return f"schema version {schema_version} is out of range"
            if len(data) + len(meta) > MAX_EVENT_BYTES:
                return f"{len(data) + len(meta)} bytes are more than {MAX_EVENT_BYTES}"
        return None

    @property
    def stated_version(self) -> int | None:
        """The version that the stream must have, if `expected` tells one."""
        if isinstance(self.expected, int):
            return self.expected
        return 0 if self.expected is NO_STREAM else None


def failed(refusal: AppendRefused) -> "asyncio.Future[Appended]":
    """The outcome of an append that is refused before it is queued."""
    outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
    outcome.set_exception(refusal)
    return outcome


def _entry_fault(entry: Entry) -> str | None:
    """What is wrong with what an event means for the ledger."""
    names: tuple[str | None, ...]
    match entry:
        case Hold(attempt, party, amount):
            names = (attempt, party.run, party.role, party.agent, party.tenant)
        case Settle(attempt, amount):
            names = (attempt,)
        case SetBudget(budget, amount, _) | TopUp(budget, _, amount, _):
            names = (budget.target, budget.currency)
        case _:
            return None
    if not all(is_name(name) for name in names if name):
        return f"names in the ledger are up to {MAX_NAME_BYTES} bytes of UTF-8 without NUL"
    if amount is None:
        return None
    exponent = amount.amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -MAX_DECIMAL_PLACES or not 0 <= amount.amount < MAX_AMOUNT:
        return f"{amount.amount} is no amount from 0 to below 1E+30 with at most {MAX_DECIMAL_PLACES} decimal places"
    return None if is_name(amount.currency) else "an amount has a currency"


def admit(append: Append, heads: dict[str, int], handled: set[str]) -> int:
    """The version that an append follows, given where the streams stand and which messages are handled.

    Raises AlreadyHandled and Conflict, in this order: who comes second with a message learns that there is nothing
    left to do.
    """
    closes: set[str] = set()
    for *_, handles in append.events:
        if handles is not None:
            if handles in handled or handles in closes:
                raise AlreadyHandled(append.stream, handles)
            closes.add(handles)
    head = heads.get(append.stream, 0)
    stated = append.stated_version
    if head == 0 if append.expected is STREAM_EXISTS else stated is not None and stated != head:
        raise Conflict(append.stream, describe(append.expected), head)
    return head


def count_in(append: Append, heads: dict[str, int], handled: set[str]) -> None:
    """Count an append in that was admitted, so that the next one can be asked for."""
    heads[append.stream] = heads.get(append.stream, 0) + len(append.events)
    handled.update(event[-1] for event in append.events if event[-1] is not None)


def describe(expected: ExpectedVersion) -> str:
    """An expected version in words."""
    return f"version {expected}" if isinstance(expected, int) else expected.value


def is_name(text: str) -> bool:
    """Whether text can stand in an indexed column."""
    if text.isascii():
        return 0 < len(text) <= MAX_NAME_BYTES and "\0" not in text
    try:
        return len(text.encode()) <= MAX_NAME_BYTES and "\0" not in text
    except UnicodeEncodeError:  # a lone surrogate
        return False


def check_partitions(count: int) -> None:
    """Raise BadOption if a role can't have so many partitions."""
    if not 1 <= count <= MAX_PARTITIONS:
        raise BadOption("partitions", str(count), f"a role has 1 to {MAX_PARTITIONS} of them")
