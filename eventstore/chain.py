"""The digest of a batch, and the chain of digests that covers the whole log.

    digest = SHA-256 of the MessagePack of [writer, number, [[stream, version, type, schema version, data, meta,
             handles], ...]]
    chain  = SHA-256 of the former commit's chain and recorded_at (microseconds since 2000-01-01 UTC, 8 bytes,
             big-endian), the first position (8 bytes, big-endian) and the digest; computed by append_batch

A writer is one incarnation of a process; with its batch's number no two batches have the same digest.
"""

import hashlib
import struct
from collections.abc import Sequence
from uuid import UUID

import msgspec

# stream, version, type, schema version, data, meta, handles
Row = tuple[str, int, str, int, bytes, bytes, str | None]

_encoder = msgspec.msgpack.Encoder()


def batch_digest(writer: UUID, number: int, rows: Sequence[Row]) -> bytes:
    """The digest (32 bytes) of a batch."""
    return hashlib.sha256(_encoder.encode((writer.bytes, number, rows))).digest()


class BatchDigest:
    """The same digest, of rows that come one by one: `rows` of them."""

    def __init__(self, writer: UUID, number: int, rows: int) -> None:
        three = b"\x93"  # MessagePack's header of an array of 3
        self._hash = hashlib.sha256(three + _encoder.encode(writer.bytes) + _encoder.encode(number) + _array(rows))

    def add(self, row: Row) -> None:
        """Add the next row."""
        self._hash.update(_encoder.encode(row))

    def value(self) -> bytes:
        """The digest (32 bytes) of what was added."""
        return self._hash.digest()


def _array(length: int) -> bytes:
    """MessagePack's header of an array."""
    if length < 16:
        return bytes([0x90 | length])
    return b"\xdc" + struct.pack(">H", length) if length < 1 << 16 else b"\xdd" + struct.pack(">I", length)
