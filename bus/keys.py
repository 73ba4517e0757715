"""The keys and channels in Redis. All of them begin with a prefix, by default `cb:`.

    cb:{<namespace>:<role>}:g<generation>:p<partition>          the stream of one partition
    cb:{<namespace>:<role>}:g<generation>:p<partition>:epoch    the epoch of the process that took it last
    cb:{<namespace>:breaker:<target>}                           a circuit breaker
    cb:{<namespace>:rate:<bucket>}                              what was taken of a rate
    cb:{<namespace>:live:<run>}                                 the channel of a run's answers as they come
    cb:{<namespace>:probe:<id>:<number>}                        a start-up check's keys and channel

The namespace keeps stores that share a Redis apart; the prefix is what the rights of a Redis user may be limited to.
All processes of a store have to use the same prefix.
"""

from typing import Final

from callboard.protocols.ports import Lease, Route

DEFAULT_PREFIX: Final = "cb:"
GAP: Final = "gap"  # the field of an entry that is no message, but marks a place before which messages may be missing


def stream_key(namespace: str, route: Route | Lease, partition: int, prefix: str = DEFAULT_PREFIX) -> str:
    """The stream of a partition, in the route's or the lease's generation."""
    return f"{prefix}{{{namespace}:{route.role}}}:g{route.generation}:p{partition}"


def epoch_key(stream: str) -> str:
    """The epoch beside a stream."""
    return f"{stream}:epoch"


def breaker_key(namespace: str, target: str, prefix: str = DEFAULT_PREFIX) -> str:
    """The circuit breaker of a target. No role has a colon in its name."""
    return f"{prefix}{{{namespace}:breaker:{target}}}"


def rate_key(namespace: str, bucket: str, prefix: str = DEFAULT_PREFIX) -> str:
    """When a bucket is full again."""
    return f"{prefix}{{{namespace}:rate:{bucket}}}"


def live_channel(namespace: str, run: str, prefix: str = DEFAULT_PREFIX) -> str:
    """The channel of what is shown of a run."""
    return f"{prefix}{{{namespace}:live:{run}}}"


def probe_key(namespace: str, probe: str, number: int, prefix: str = DEFAULT_PREFIX) -> str:
    """A key of a start-up check. On a cluster, two that differ in their last digit are in different slots."""
    return f"{prefix}{{{namespace}:probe:{probe}:{number}}}"
