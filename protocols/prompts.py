"""Prompts in the log: lists of messages by content, so that a conversation that grows is stored once.

A prompt is a list of digests (see `callboard.protocols.codec.digest`), each of a blob that is one message's JSON. A
list longer than FAN is folded from its front: each full FAN digests become one blob, a JSON list, whose digest with the
mark "*" stands for them; and so on, level by level. A prompt that goes on where another ended shares all but the last
few blobs with it, and an event lists at most FAN - 1 entries a level.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec

from callboard.protocols.codec import digest
from callboard.protocols.messages import encode_json

FAN: Final = 8
LIST: Final = "*"  # before the digest of a blob that is a list

_entries = msgspec.json.Decoder(tuple[str, ...])

GetBlobs = Callable[[Sequence[str]], Awaitable[Mapping[str, bytes]]]


def fold(digests: Sequence[str]) -> tuple[tuple[str, ...], list[bytes]]:
    """A prompt's entries in an event, and the blobs of the lists that they name."""
    blobs: list[bytes] = []
    entries: list[str] = []  # of the levels below this one, that are not full
    level = list(digests)
    while level:
        full = len(level) // FAN * FAN
        entries = level[full:] + entries
        lists = [encode_json(level[start : start + FAN]) for start in range(0, full, FAN)]
        blobs += lists
        level = [LIST + digest(content) for content in lists]
    return tuple(entries), blobs


async def unfold(entries: Sequence[str], get_blobs: GetBlobs) -> list[str]:
    """The digests of a prompt's messages, in order. Raises BlobMissing."""
    level = list(entries)
    while lists := [entry.removeprefix(LIST) for entry in level if entry.startswith(LIST)]:
        blobs = await get_blobs(lists)
        level = [
            part
            for entry in level
            for part in (_entries.decode(blobs[entry.removeprefix(LIST)]) if entry.startswith(LIST) else (entry,))
        ]
    return level
