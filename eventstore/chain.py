"""The digest of a batch, and the chain of digests that covers the whole log.

    digest = SHA-256 of the MessagePack of [writer, number, [[stream, version, type, schema version, data, meta,
             handles], ...]]
    chain  = SHA-256 of the former commit's chain and recorded_at (microseconds since 2000-01-01 UTC, 8 bytes,
             big-endian), the first position (8 bytes, big-endian) and the digest; computed by append_batch

A writer is one incarnation of a process; with its batch's number no two batches have the same digest.
"""

import hashlib
from collections.abc import Sequence
from uuid import UUID

import msgspec

# stream, version, type, schema version, data, meta, handles
Row = tuple[str, int, str, int, bytes, bytes, str | None]

_encoder = msgspec.msgpack.Encoder()


def batch_digest(writer: UUID, number: int, rows: Sequence[Row]) -> bytes:
    """The digest (32 bytes) of a batch."""
    return hashlib.sha256(_encoder.encode((writer.bytes, number, rows))).digest()
