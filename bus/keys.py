"""The keys in Redis.

    cb:{<namespace>:<role>}:g<generation>:p<partition>          the stream of one partition
    cb:{<namespace>:<role>}:g<generation>:p<partition>:epoch    the epoch of whoever took it last
    cb:{<namespace>:breaker:<target>}                           a circuit breaker
    cb:{<namespace>:rate:<bucket>}                              what was taken of a rate
    cb:{<namespace>:live:<run>}                                 the channel of a run's answers as they come

The part in braces is the hash tag: on a cluster all keys of a role share a slot, so that a script may use a stream
and its epoch, and one call may read many streams. The namespace keeps stores that share a Redis apart.
"""

from typing import Final

from protocols.ports import Lease, Route

GAP: Final = "gap"  # the field of an entry that is no message, but marks a place before which messages may be missing


def stream_key(namespace: str, route: Route | Lease, partition: int) -> str:
    """The stream of a partition, in the route's or the lease's generation."""
    return f"cb:{{{namespace}:{route.role}}}:g{route.generation}:p{partition}"


def epoch_key(stream: str) -> str:
    """The epoch beside a stream."""
    return f"{stream}:epoch"


def breaker_key(namespace: str, target: str) -> str:
    """The circuit breaker of a target. No role has a colon in its name."""
    return f"cb:{{{namespace}:breaker:{target}}}"


def rate_key(namespace: str, bucket: str) -> str:
    """When a bucket is full again."""
    return f"cb:{{{namespace}:rate:{bucket}}}"


def live_channel(namespace: str, run: str) -> str:
    """The channel of what is shown of a run."""
    return f"cb:{{{namespace}:live:{run}}}"
