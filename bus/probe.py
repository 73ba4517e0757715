"""Whether a Redis will do: all that the bus asks of it is tried once, before anything depends on it.

What can't be allowed by mistake is tried too: a read over two streams in different slots, which a cluster refuses.
"""

import logging
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from redis.exceptions import (
    AskError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from callboard.bus import scripts
from callboard.bus.keys import epoch_key, probe_key
from callboard.bus.link import LINK_ERRORS, Link, pack, redacted
from callboard.protocols.errors import RedisRefuses, RedisUnavailable, RedisUnfit

log = logging.getLogger(__name__)

KEPT_MS: Final = "10000"  # what a probe leaves behind, should it be cut off in the middle
OPTIONAL: Final = ("INFO", "CLIENT UNBLOCK")

Commands = dict[str, bytes]  # by what people call them


def commands(namespace: str, prefix: str) -> Commands:
    """All that is tried: each by itself, since an error within a script doesn't tell which command was refused."""
    probe = uuid4().hex[:12]
    first, second, other, channel = (probe_key(namespace, probe, number, prefix) for number in range(4))
    left = enumerate((first, epoch_key(first), second))
    group = "probe"
    return {
        "XGROUP CREATE": pack("XGROUP", "CREATE", second, group, "0", "MKSTREAM"),
        "EVAL": scripts.claim(first, 1, group, ""),
        "XADD": pack("XADD", second, "*", "m", "probe"),
        "XREADGROUP": pack("XREADGROUP", "GROUP", group, group, "COUNT", "1", "STREAMS", first, second, ">", ">"),
        "XACK": pack("XACK", second, group, "0-1"),
        "XDEL": pack("XDEL", second, "0-1"),
        "XLEN": pack("XLEN", second),
        "XRANGE": pack("XRANGE", second, "-", "+", "COUNT", "1"),
        "XREVRANGE": pack("XREVRANGE", second, "+", "-", "COUNT", "1"),
        "XINFO GROUPS": pack("XINFO", "GROUPS", second),
        "XGROUP SETID": pack("XGROUP", "SETID", second, group, "0"),
        "XGROUP DESTROY": pack("XGROUP", "DESTROY", second, group),
        "SET": pack("SET", other, "1"),
        "GET": pack("GET", other),
        "EXISTS": pack("EXISTS", other),
        "PEXPIRE": pack("PEXPIRE", other, KEPT_MS),
        "DEL": pack("DEL", other),
        "HSET": pack("HSET", other, "field", "1"),
        "HGET": pack("HGET", other, "field"),
        "HMGET": pack("HMGET", other, "field"),
        "HEXISTS": pack("HEXISTS", other, "field"),
        "TIME": pack("TIME"),
        "UNLINK": pack("UNLINK", other),
        "INFO": pack("INFO", "memory"),
        "CLIENT UNBLOCK": pack("CLIENT", "UNBLOCK", "0"),
        "PUBLISH": pack("PUBLISH", channel, ""),
        "SUBSCRIBE": pack("SUBSCRIBE", channel),
        "UNSUBSCRIBE": pack("UNSUBSCRIBE", channel),
    } | {f"UNLINK {number}": pack("UNLINK", key) for number, key in left}


async def probe(link: Link, url: str, namespace: str, prefix: str) -> bytes | None:
    """Try all that is needed. Gives what INFO tells of the memory; None if it may not be asked.

    Raises RedisUnfit where something is missing for good, RedisRefuses for what may pass, RedisUnavailable.
    """
    tried = commands(namespace, prefix)
    place = redacted(url)
    try:
        replies = dict(zip(tried, await link.call(list(tried.values())), strict=True))
    except ReadOnlyError as error:
        raise RedisRefuses(place, _reason(error), "Name the primary in CALLBOARD_REDIS_URL, not a replica.") from error
    except LINK_ERRORS as error:
        raise RedisUnavailable(place, _reason(error)) from error
    refused = {name: reply for name, reply in replies.items() if isinstance(reply, ResponseError)}
    info = replies["INFO"] if "INFO" not in refused else None
    for name in OPTIONAL:
        if name in refused:
            log.warning("Redis at %s refuses %s, which is of use, but not needed: %s", place, name, refused.pop(name))
    _judge(place, urlsplit(url).username or "default", prefix, refused)
    return info


def _judge(place: str, user: str, prefix: str, refused: Mapping[str, ResponseError]) -> None:
    """Raise what is to be said of the commands that were refused."""
    for error in refused.values():
        if isinstance(error, AskError | ClusterCrossSlotError) or (
            isinstance(error, ClusterDownError) and not isinstance(error, MasterDownError)
        ):
            reason = f"it is a Redis Cluster ({_reason(error)}), and one read goes over streams in several slots"
            raise RedisUnfit(place, reason, "Name a Redis that is no cluster; it may have replicas.") from error
    forbidden = {name: error for name, error in refused.items() if isinstance(error, NoPermissionError)}
    if forbidden:
        rights = f"~{prefix}* &{prefix}* +@read +@write +@scripting +@pubsub +@connection +time +info"
        advice = f"Grant it: ACL SETUSER {user} {rights}; or set CALLBOARD_REDIS_PREFIX to a prefix that it may use."
        raise RedisUnfit(place, f"user {user} is refused {_listed(forbidden)}", advice)
    unknown = {name: error for name, error in refused.items() if "unknown command" in str(error).lower()}
    if unknown:
        raise RedisUnfit(place, f"it has no {_listed(unknown)}", "Name a Redis of version 6.2 or newer, or a Valkey.")
    if any(isinstance(error, OutOfMemoryError) for error in refused.values()):
        return  # full: actors go on, and what is sent from outside is refused until there is room
    for name, error in refused.items():
        raise RedisRefuses(place, f"{name}: {_reason(error)}", "Mend that, or try again when it is over.")


def _listed(refused: Mapping[str, ResponseError]) -> str:
    names = sorted({" ".join(word for word in name.split() if not word.isdecimal()) for name in refused})
    return f"{', '.join(names)} ({_reason(next(iter(refused.values())))})"


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
