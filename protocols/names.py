"""Names of roles, actors and streams, and the ids that are made of them.

Every stream name and message id in the system is made and taken apart here:

    role          writer                      letters, digits, - and _
    actor         writer/dave                 role/key; also the name of the actor's event stream
    run stream    run/0192f0c1...             what came from outside into a run
    dead stream   dead/writer                 what could not be delivered to a role
    budget stream budget/tenant:acme:day:USD  what people say of a budget
    message id    writer/dave@7.0             the first message that the event writer/dave@7 sends
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple
from zlib import crc32

from uuid_utils import uuid7

from callboard.protocols.errors import BadName

MAX_KEY_LENGTH = 200
MAX_TENANT_LENGTH = 200
RUN, DEAD, TOPIC, BUDGET = "run", "dead", "topic", "budget"
RESERVED_ROLES = frozenset({RUN, DEAD, TOPIC, BUDGET})

_ID = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}")
_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_KEY = re.compile(rf"[^\s\x00-\x1f@]{{1,{MAX_KEY_LENGTH}}}")


class ActorName(NamedTuple):
    """One actor: a role and the key that tells it from the role's other actors."""

    role: str
    key: str


class MessageAddress(NamedTuple):
    """Where a message stands in the log: the event that sends it, and its place among that event's messages."""

    stream: str
    version: int
    place: int


def new_id() -> str:
    """A new id for a run or a task: a UUIDv7 (RFC 9562) in hex, so that ids sort by time."""
    return uuid7().hex


def time_of(name: str) -> datetime | None:
    """When an id of `new_id` was made, in UTC; None for any other name."""
    if not _ID.fullmatch(name):
        return None
    try:
        return datetime.fromtimestamp(int(name[:12], 16) / 1000, UTC)
    except (OverflowError, ValueError):
        return None


def check_role(role: str) -> str:
    """The role, if it is a legal name for one; raises BadName."""
    if role in RESERVED_ROLES or not _ROLE.fullmatch(role):
        allowed = f"a-z, then up to 62 of a-z, 0-9, - and _; not {', '.join(sorted(RESERVED_ROLES))}"
        raise BadName("role", role, allowed)
    return role


def check_key(key: str) -> str:
    """The key, if it is legal; raises BadName."""
    if not _KEY.fullmatch(key):
        raise BadName("key", key, f"1 to {MAX_KEY_LENGTH} characters, without @, white space and control characters")
    return key


def check_tenant(tenant: str) -> str:
    """The tenant, if it is a legal name for one; raises BadName."""
    if not 0 < len(tenant) <= MAX_TENANT_LENGTH or not tenant.isprintable() or tenant == "*":
        raise BadName("tenant", tenant, f"1 to {MAX_TENANT_LENGTH} characters that can be printed; not *")
    return tenant


def actor_stream(role: str, key: str) -> str:
    """The stream of an actor: role/key."""
    return f"{role}/{key}"


def run_stream(run: str) -> str:
    """The stream of what came from outside into a run."""
    return f"{RUN}/{run}"


def dead_stream(role: str) -> str:
    """The stream of what could not be delivered to a role."""
    return f"{DEAD}/{role}"


def budget_stream(scope: str, target: str, period: str, currency: str) -> str:
    """The stream of a budget."""
    return f"{BUDGET}/{scope}:{target}:{period}:{currency}"


def parse_stream(stream: str) -> ActorName:
    """The two halves of a stream's name; raises BadName."""
    role, slash, key = stream.partition("/")
    if not (role and slash and key):
        raise BadName("stream", stream, "role/key, such as writer/dave")
    return ActorName(role, key)


def role_of(stream: str) -> str:
    """The part of a stream's name before the slash."""
    return stream.partition("/")[0]


def message_id(stream: str, version: int, index: int) -> str:
    """The id of the message that event `stream@version` sends at place `index`."""
    return f"{stream}@{version}.{index}"


def event_id(stream: str, version: int) -> str:
    """The address of an event in the log."""
    return f"{stream}@{version}"


def parse_event_id(event: str) -> tuple[str, int]:
    """The stream and the version of an event; raises BadName."""
    stream, at, version = event.rpartition("@")
    if not (at and version.isdecimal()):
        raise BadName("event id", event, "stream@version, such as writer/dave@7")
    return stream, int(version)


def parse_message_id(message: str) -> MessageAddress:
    """Where a message stands in the log; raises BadName."""
    stream, at, place = message.rpartition("@")
    version, dot, index = place.partition(".")
    if not (at and dot and version.isdecimal() and index.isdecimal()):
        raise BadName("message id", message, "stream@version.index, such as writer/dave@7.0")
    return MessageAddress(stream, int(version), int(index))


def key_hash(key: str) -> int:
    """A stable 32-bit hash of an actor's key (CRC-32, unsigned)."""
    return crc32(key.encode())


def partition_of(key: str, count: int) -> int:
    """The partition, 0 to count - 1, that an actor's messages go to."""
    return key_hash(key) % count
