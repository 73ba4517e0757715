"""What is said of a Redis by what it refuses of the start-up check."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from callboard.bus.probe import commands, probe
from callboard.protocols.errors import RedisUnavailable, RedisUnfit

URL = "redis://dave:hunter2@cache:6379/0"
NAMES = list(commands("test", "cb:"))
INFO = b"maxmemory_policy:noeviction"

Refuse = Callable[[str], Exception | None]


class Answering:
    """In a Link's place: refuses some commands, and answers the others."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    async def call(self, packed: Sequence[bytes]) -> list[Any]:
        assert len(packed) == len(NAMES)
        replies = [self._refuse(name) or (INFO if name == "INFO" else 1) for name in NAMES]
        for reply in replies:
            if isinstance(reply, ReadOnlyError | BusyLoadingError):
                raise reply
        return replies


async def verdict(refuse: Refuse) -> str:
    try:
        info = await probe(Answering(refuse), URL, "test", "cb:")  # type: ignore[arg-type]
    except (RedisUnfit, RedisUnavailable) as error:
        return f"{type(error).__name__}: {error}"
    return f"fit: {info!r}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MovedError("42 other:6379"), "RedisUnfit.*Redis Cluster"),
        (AskError("42 other:6379"), "RedisUnfit.*Redis Cluster"),
        (ClusterCrossSlotError("Keys in request don't hash to the same slot"), "RedisUnfit.*Redis Cluster"),
        (ClusterDownError("The cluster is down"), "RedisUnfit.*Redis Cluster"),
        (ResponseError("unknown command 'XADD'"), "RedisUnfit.*it has no .*XADD.*version"),
        (NoPermissionError("no permissions"), "RedisUnfit.*user dave is refused .*ACL SETUSER dave"),
        (MasterDownError("Link with MASTER is down"), "RedisRefuses.*MASTER is down"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "RedisRefuses.*MISCONF"),
        (ResponseError("BUSY Redis is busy running a script"), "RedisRefuses.*BUSY"),
        (ResponseError("NOREPLICAS Not enough good replicas to write"), "RedisRefuses.*NOREPLICAS"),
        (ReadOnlyError("You can't write against a read only replica."), "RedisRefuses.*Name the primary"),
        (BusyLoadingError("Redis is loading the dataset in memory"), "RedisUnavailable.*loading"),
        (OutOfMemoryError("command not allowed"), "fit"),
    ],
    ids=lambda it: type(it).__name__ + str(it)[:9] if isinstance(it, Exception) else "",
)
async def test_every_refusal_is_told_as_what_it_is(error: Exception, told: str) -> None:
    needed = [name for name in NAMES if name not in ("INFO", "CLIENT UNBLOCK")]
    verdict_ = await verdict(lambda name: error if name in needed else None)
    assert re.match(told, verdict_)
    assert "hunter2" not in verdict_


@pytest.mark.parametrize("name", NAMES)
async def test_each_command_is_named_by_itself(name: str) -> None:
    told = await verdict(lambda it: NoPermissionError("no permissions") if it == name else None)
    if name == "INFO":
        assert told == "fit: None"
    elif name == "CLIENT UNBLOCK":
        assert told == f"fit: {INFO!r}"
    else:
        assert f"is refused {name.rstrip(' 0123456789')} (no permissions)" in told
