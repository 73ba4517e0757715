"""The keys in Redis.

    cb:{<namespace>:<role>}:g<generation>:p<partition>          the stream of one partition
    cb:{<namespace>:<role>}:g<generation>:p<partition>:epoch    the epoch of whoever took it last

The part in braces is the hash tag: on a cluster all keys of a role share a slot, so that a script may use a stream
and its epoch, and one call may read many streams. The namespace keeps stores that share a Redis apart.
"""

from protocols.ports import Route


def stream_key(namespace: str, route: Route, partition: int) -> str:
    """The stream of a partition, in the route's generation."""
    return f"cb:{{{namespace}:{route.role}}}:g{route.generation}:p{partition}"


def epoch_key(stream: str) -> str:
    """The epoch beside a stream."""
    return f"{stream}:epoch"
